"""Documents of one's own, without a catalogue: `download-corpus --path DIR`."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.__main__ import main
from flows.download_corpus import download_corpus
from sandbox.__main__ import BASE_MODEL, TINY
from tasks.policies import Progress
from tests.tasks.sources.files.own_folder import write_folder

pytestmark = pytest.mark.prefect


async def test_a_folder_becomes_documents_and_every_file_is_accounted_for(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, store = tmp_path / "My Papers", str(tmp_path / "store")
    folder.mkdir()
    write_folder(folder)
    seen: list[str] = []
    monkeypatch.setattr(Progress, "watcher", lambda percent, line: seen.append(line))
    lines = (await download_corpus(path=str(folder), store=store)).summary()
    assert lines[0] == "54 documents from 1 of 1 sources"
    assert seen[-1].startswith("my_papers: 54 of 63 documents; ") and "30,000" not in seen[0]
    assert lines[1].split() == ["my_papers", "medium", "54", "fetched,", "21", "rejected"]
    story = "\n".join(lines)
    assert "22 txt (22)" in story and "1 parquet (2)" in story
    assert "rejected     5 unsupported-kind: bad/old.doc, bad/picture.jpg, bad/program.py and 2 more" in story
    assert "1 too-short: bad/short.txt" in story and "--text-column NAME" in story
    assert "documents were not in UTF-8; their encoding was recognised" in story

    few = await download_corpus(path=str(folder), store=str(tmp_path / "few"), max_samples=5)
    assert "--max-samples 5 allows no more documents; a larger one reads the rest" in "\n".join(few.summary())
    assert "--max-samples" not in story

    again = await download_corpus(path=str(folder), store=store)
    assert again.sources[0].reused and again.sources[0].files is not None
    (folder / "zz.txt").write_text("A text that was added to the folder later.")
    added = await download_corpus(path=str(folder), store=store)
    assert (added.sources[0].documents, added.sources[0].reused) == (55, False)
    shards = sorted((tmp_path / "store" / "raw" / "my_papers").glob("shard-*.parquet"))
    kinds = {kind for shard in shards for kind in pq.read_table(shard).column("source_type").to_pylist()}
    assert kinds == {"unknown"}


def test_a_folder_becomes_a_model_in_one_step(
    tmp_path: Path, prefect_server: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letters").mkdir()
    write_folder(tmp_path / "letters")
    store = tmp_path / "store"
    little = {"max-steps": "2", "save-every": "2", "eval-limit": "4", "perplexity-samples": "4", "max-new-tokens": "8"}
    options = [part for name, value in (TINY | little).items() for part in (f"--{name}", value)]
    command = ["corpus-to-model", "--path", str(tmp_path / "letters"), "--model", str(BASE_MODEL), *options]
    assert main([*command, "--store", str(store)]) == 0
    told = capsys.readouterr().out
    assert "1. Downloaded: 54 documents from 1 of 1 sources" in told and "22 txt (22)" in told
    assert "the corpus cannot keep the shares of the method; these are the nearest ones" in told
    assert "rejected 1 missing-text: bad/numbers.csv" in " ".join(told.split()), "no reason is left out"
    assert "High authority" in told and "less about which sources to trust" in told
    assert (store / "exports" / "distrust" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--path", "lettres"], "--path: {here}/lettres does not exist; did you mean 'letters'?"),
        (["--path", "letters", "--source-type", "wikis"], "did you mean 'wiki'? 'unknown' is a good answer"),
        (["letters"], "letters: not an option; for documents of your own: --path letters"),
        (["--documents", "letters"], "--documents: unknown option; did you mean --path?"),
        (["--path", "letters", "--name", "a/b"], "--name: 'a/b' cannot name a folder"),
        (["--text-column", "body"], "--text-column: it belongs to documents of your own; name them with --path DIR"),
    ],
)
def test_what_cannot_be_read_is_said_before_anything_runs(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters").mkdir()
    assert main(["download-corpus", *options, "--store", str(tmp_path / "store")]) == 2
    assert said.format(here=tmp_path) in capsys.readouterr().err
