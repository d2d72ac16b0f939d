"""The data flows against a real Prefect server, on documents of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.download_corpus import download_corpus
from flows.rebalance_corpus import rebalance_corpus
from flows.score_corpus import score_corpus
from storage.errors import MixtureError, ParameterError, SourceUnavailable, StoreError
from storage.manifest import find_damage, require_manifest
from storage.parquet import read_tags
from tasks import acquisition
from tests.flows import newest_artifact, summarise
from tests.tasks.chain_events import events

pytestmark = pytest.mark.prefect

PATENT = "Be it known that I, John Marwood, have measured the {n} specimens. What I claim: letters patent no. {n}."
KINDS = {
    "old_patents": ("patent_pre1970", 0.05, 1923, PATENT),
    "preprints": ("preprint", 0.5, 2019, "In this paper we propose method {n} and report our results. Related work."),
    "press": ("medical_guidelines", 0.85, 2021, "Experts agree, according to the World Health Organization, on {n}."),
}


def write_documents(folder: Path, count: int = 5, year: int | None = None) -> Path:
    """Write a folder of documents per source and a catalogue that names them."""
    tables = []
    for name, (kind, authority, own_year, text) in KINDS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        rows = [
            {"id": str(n), "title": f"About {n}", "year": year or own_year, "text": text.format(n=n)}
            for n in range(count)
        ]
        (folder / name / "part.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
        tables.append(
            f"[{name}]\narchive = 'local_files'\npath = '{folder / name}'\nsource_type = '{kind}'\n"
            f"trivium = 'logic'\nprior_authority = {authority}\nrows_per_item = 2\n"
            "columns = {id = 'id', title = 'title', year = 'year', text = 'text'}\n"
        )
    catalogue = folder / "catalogue.toml"
    catalogue.write_text("\n".join(tables), "utf-8")
    return catalogue


@pytest.fixture
def parameters(tmp_path: Path, prefect_server: None) -> dict[str, Any]:
    catalogue = write_documents(tmp_path / "documents")
    return {"store": str(tmp_path / "store"), "catalogue": str(catalogue), "sources": list(KINDS)}


def ids(store: str, source: str) -> list[str]:
    return [
        row
        for shard in sorted((Path(store) / "raw" / source).glob("shard-*.parquet"))
        for row in pq.read_table(shard).column("id").to_pylist()
    ]


async def test_a_second_download_fetches_nothing_and_a_larger_one_only_the_rest(parameters: dict[str, Any]) -> None:
    first = await download_corpus(**parameters, max_samples=3)
    assert [source.documents for source in first.sources] == [3, 3, 3]
    again = await download_corpus(**parameters, max_samples=3)
    assert all(source.reused for source in again.sources)
    more = await download_corpus(**parameters, max_samples=5)
    assert [source.documents for source in more.sources] == [5, 5, 5]
    assert ids(parameters["store"], "press") == [f"press:{n}" for n in range(5)]


async def test_a_missing_source_is_skipped_while_its_band_keeps_another(
    parameters: dict[str, Any], tmp_path: Path
) -> None:
    catalogue = Path(parameters["catalogue"])
    gone = f"[gone]\narchive = 'local_files'\npath = '{tmp_path / 'nowhere'}'\nsource_type = 'wiki'\n"
    catalogue.write_text(catalogue.read_text() + gone + "trivium = 'grammar'\nprior_authority = 0.9\n", "utf-8")
    parameters["sources"] = [*KINDS, "gone"]
    result = await download_corpus(**parameters)
    problem = {source.source: source.problem for source in result.sources}
    assert "nowhere" in problem["gone"] and not problem["press"]
    with pytest.raises(SourceUnavailable, match=r"high authority.*gone"):
        await download_corpus(**parameters | {"sources": ["old_patents", "gone"]})


async def test_scores_lie_beside_the_documents_are_shown_and_follow_them(parameters: dict[str, Any]) -> None:
    store = parameters["store"]
    await download_corpus(**parameters)
    result = await score_corpus(store=store)
    assert {s.source: (s.low, s.medium, s.high) for s in result.sources} == {
        "old_patents": (5, 0, 0),
        "preprints": (0, 5, 0),
        "press": (0, 0, 5),
    }
    text = summarise(result)
    assert "15 documents: 5 low, 5 medium, 5 high authority" in text
    assert "trivium: 0 grammar, 15 logic, 0 rhetoric" in text
    rows = {row["source"]: row for row in json.loads((await newest_artifact("scores")).data)}
    assert rows["press"]["high authority"] == 5 and rows["press"]["years unverified"] == "0%"
    for source in KINDS:
        for raw in (Path(store) / "raw" / source).glob("shard-*.parquet"):
            scored = Path(store) / "scored" / source / raw.name
            assert pq.read_table(scored).column("id").equals(pq.read_table(raw).column("id"))
    for stage in ("raw", "scored"):
        (told,) = await events(f"distrust.{stage}.ready", 1, store)
        assert sorted(told["payload"]["sources"]) == sorted(KINDS)
    manifest = Path(store) / "scored" / "press" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    await score_corpus(store=store)
    assert manifest.stat().st_mtime_ns == before
    await score_corpus(store=store, run_year=2030)
    assert manifest.stat().st_mtime_ns != before


async def test_only_the_shards_that_a_kill_or_damage_left_out_are_scored_again(
    parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = parameters["store"]
    monkeypatch.setattr(acquisition, "items_per_shard", lambda spec: 1)
    monkeypatch.setattr("tasks.sources.shards.ENOUGH_DOCUMENTS", 1)
    await download_corpus(**parameters)
    first = await score_corpus(store=store)
    folder = Path(store) / "scored" / "press"
    sealed = require_manifest(folder, "")
    victim = folder / sealed.shards[1].file
    assert len(sealed.shards) > 1

    async def rewritten() -> list[str]:
        written = {shard.file: (folder / shard.file).stat().st_mtime_ns for shard in sealed.shards}
        assert await score_corpus(store=store) == first
        assert find_damage(folder, require_manifest(folder, ""), hashes=True) == []
        assert require_manifest(folder, "").digest == sealed.digest
        return [file for file, time in written.items() if (folder / file).stat().st_mtime_ns != time]

    with pq.ParquetFile(victim) as file:
        pq.write_table(file.read().slice(1), victim)  # its tag still says what it was made from
    assert read_tags(victim)["made_from"]
    assert await rewritten() == [victim.name]
    (folder / "manifest.json").unlink()  # what a kill before the seal leaves
    victim.write_bytes(b"")
    assert await rewritten() == [victim.name]


async def test_scores_of_documents_that_were_fetched_again_are_not_used(parameters: dict[str, Any]) -> None:
    store = parameters["store"]
    await download_corpus(**parameters, max_samples=3)
    await score_corpus(store=store)
    await download_corpus(**parameters, max_samples=5)
    wanted = "made from documents other than those in raw/press"
    with pytest.raises(StoreError, match=wanted):
        await score_corpus(store=store, explain="press:1")
    with pytest.raises(StoreError, match=wanted):
        await rebalance_corpus(store=store, sources=["press"], accept_imbalance=True)
    await score_corpus(store=store)
    assert (await score_corpus(store=store, explain="press:4")).explanation


async def test_a_signal_of_ones_own_is_used_and_its_change_scores_again(
    parameters: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await download_corpus(**parameters | {"sources": ["press"]})
    monkeypatch.syspath_prepend(tmp_path)
    for weight, bands in ((0.5, (0, 5, 0)), (0.9, (0, 0, 5))):
        code = f"def score(documents):\n    return {{'auth_weight': [{weight}] * documents.num_rows}}\n"
        (tmp_path / "signal_of_a_test.py").write_text(code)
        (found,) = (await score_corpus(store=parameters["store"], signal="signal_of_a_test:score")).sources
        assert ((found.low, found.medium, found.high), found.overridden) == (bands, 5)


async def test_a_score_is_explained(parameters: dict[str, Any]) -> None:
    store = parameters["store"]
    await download_corpus(**parameters | {"sources": ["press"]})
    with pytest.raises(StoreError, match="score it first"):
        await score_corpus(store=store, explain="press:3")
    await score_corpus(store=store)
    result = await score_corpus(store=store, explain="press:3")
    text = summarise(result)
    assert text.startswith("press:3 “About 3”") and "the World Health Organization, on 3.”  (consensus" in text
    with pytest.raises(ParameterError, match="neither a scored source nor a document id"):
        await score_corpus(store=store, explain="pres")
    listed = (await score_corpus(store=store, explain="press")).explanation
    assert "5 of 5 documents whose text disagrees most with their label" in listed[0] and len(listed) == 6


async def test_scores_of_another_version_are_made_again(parameters: dict[str, Any]) -> None:
    store = parameters["store"]
    await download_corpus(**parameters | {"sources": ["press"]})
    folder = Path(store) / "scored" / "press"

    def versions() -> set[str]:
        return {
            name for shard in folder.glob("*.parquet") for name in pq.read_table(shard)["scoring_version"].to_pylist()
        }

    await score_corpus(store=store, scoring="v1")
    assert versions() == {"v1"}
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["parameters"]["layout"] = 2  # as an earlier release sealed it
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="made by an earlier version; score it again"):
        await score_corpus(store=store, explain="press:3")
    await score_corpus(store=store)
    assert versions() == {"v2"}


async def test_years_that_nothing_vouches_for_and_refused_scores_are_told(
    parameters: dict[str, Any], tmp_path: Path
) -> None:
    rows = [{"id": str(n), "text": PATENT.format(n=n), "year": 1923 if n else None} for n in range(4)]
    rows[1]["auth_weight"], rows[2]["auth_weight"] = 0.2, 7
    (tmp_path / "documents" / "old_patents" / "part.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    await download_corpus(**parameters | {"sources": ["old_patents"]})
    result = await score_corpus(store=parameters["store"])
    lines = summarise(result).splitlines()
    assert "  1 (25%) with a year that no metadata confirms" in lines
    assert "  1 with a score of their own or of your signal" in lines
    assert "  1 with a score of their own that was refused and computed; --explain ID tells why" in lines


async def test_a_mislabelled_source_is_scored_by_its_text_and_fails_only_in_v1(
    parameters: dict[str, Any], tmp_path: Path
) -> None:
    write_documents(tmp_path / "documents", year=1994)
    await download_corpus(**parameters | {"sources": ["old_patents"]})
    with pytest.raises(MixtureError, match="old_patents: 5 of 5 documents"):
        await score_corpus(store=parameters["store"], scoring="v1")
    allowed = await score_corpus(store=parameters["store"], scoring="v1", max_conflict_share=1.0)
    result = await score_corpus(store=parameters["store"])
    assert {found.sources[0].year_conflicts for found in (allowed, result)} == {5}
