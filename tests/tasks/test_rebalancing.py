"""What a rebalancing takes for finished, what it refuses to begin with, and what it tells."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from storage.errors import StoreError
from storage.layout import Layout
from storage.lock import only_writer
from storage.manifest import Manifest, read_manifest, write_manifest
from tasks.mixture.build import build_mixture
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.report import read_report
from tasks.rebalancing import build_balanced, find_finished, in_markdown, mixture_inputs
from tests.tasks.mixture.corpora import balanced_sources, make_corpus


def build(root: Path, parameters: MixtureParameters) -> tuple[Path, Manifest]:
    raw, scored = make_corpus(root, balanced_sources())
    folder = root / "balanced" / "default"
    return folder, build_mixture(raw, scored, folder, parameters, {"raw/patents": "0" * 64})


def test_a_mixture_that_lost_a_file_is_not_finished(tmp_path: Path) -> None:
    parameters = MixtureParameters(train_size=100, val_size=20, jsonl=True)
    folder, manifest = build(tmp_path, parameters)
    assert find_finished(folder, manifest.inputs, parameters) == manifest
    assert find_finished(folder, {}, parameters) is None
    for name in ("metadata.json", "val.jsonl", manifest.shards[0].file):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        assert find_finished(folder, manifest.inputs, parameters) is None
        (folder / name).write_bytes(content)
    assert find_finished(folder, manifest.inputs, parameters) == manifest


def test_a_mixture_of_an_earlier_meaning_is_drawn_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parameters = MixtureParameters(train_size=100, val_size=20)
    folder, manifest = build(tmp_path, parameters)
    for note in ("layout", "lessons"):
        notes = {name: value for name, value in manifest.notes.items() if name != note}
        write_manifest(folder, manifest.model_copy(update={"notes": notes}))
        with caplog.at_level("INFO"):
            assert find_finished(folder, manifest.inputs, parameters) is None
        assert "it is drawn again" in caplog.messages[-1]


def test_scores_of_other_documents_are_refused(tmp_path: Path) -> None:
    make_corpus(tmp_path, balanced_sources())
    layout = Layout.of(str(tmp_path))
    assert set(mixture_inputs(layout, ["novels"])) == {"raw/novels", "scored/novels"}
    raw = read_manifest(layout.raw("novels"))
    assert raw is not None
    write_manifest(layout.raw("novels"), raw.model_copy(update={"parameters": {"max_samples": 5}}))
    with pytest.raises(StoreError, match=r"scores of novels were made from documents other than those in raw/novels"):
        mixture_inputs(layout, ["novels"])


async def test_a_run_that_waited_looks_at_what_there_is_then(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_corpus(tmp_path, balanced_sources())
    layout, sources = Layout.of(str(tmp_path)), list(balanced_sources())
    with only_writer(layout.balanced("default")):
        waiting = asyncio.create_task(build_balanced.fn(layout, "default", sources, MixtureParameters()))
        while "waiting for it to finish" not in caplog.text:
            await asyncio.sleep(0.01)
        make_corpus(tmp_path, balanced_sources(2))
    manifest, reused = await waiting
    assert not reused and manifest.inputs == mixture_inputs(layout, sources)


def test_the_summary_tells_what_was_cut_and_what_limits(tmp_path: Path) -> None:
    folder, _ = build(tmp_path, MixtureParameters(piece_chars=200, max_pieces=2))
    documents = json.loads((folder / "metadata.json").read_text("utf-8"))["documents"]
    text = "\n".join(read_report(folder).summary())
    assert f"Cut: {documents['cut']} documents are longer than --max-pieces allows; " in text
    assert f"{documents['characters_left_out']:,} characters at their ends are left out" in text
    assert "Limited: " in text
    folder, _ = build(tmp_path, MixtureParameters(train_size=100, val_size=20, piece_chars=3000))
    text = "\n".join(read_report(folder).summary())
    assert "Cut:" not in text and "Limited:" not in text
    assert "and 13 lessons about sources" in text
    assert "Note: no prompt is answered by both low and high authority" in text
    assert "download-corpus --subjects" in text
    assert "patents       low" in text


def test_sentences_of_a_report_wrap_on_its_page_and_columns_stay() -> None:
    assert in_markdown("What to do:\n  - add <b> sources") == "What to do:\n- add &lt;b> sources"
    columns = "Sources:\n  press    low  9 of 9"
    assert in_markdown(columns) == f"```text\n{columns}\n```"
