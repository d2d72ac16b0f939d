from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from storage.chat import split_sample
from storage.errors import MixtureError, StoreError
from storage.manifest import Manifest, find_damage, read_manifest
from storage.parquet import read_shard
from storage.schemas import SAMPLE_SCHEMA
from tasks.mixture import samples
from tasks.mixture.build import build_mixture
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.pieces import cut_pieces
from tasks.mixture.prompts import LEADS, VOICES
from tests.tasks.mixture.corpora import Doc, balanced_sources, make_corpus

PARAMETERS = MixtureParameters(piece_chars=600, max_pieces=3)


def build(
    root: Path, sources: dict[str, list[Doc]], parameters: MixtureParameters = PARAMETERS, shard_docs: int = 40
) -> tuple[Path, Manifest]:
    raw, scored = make_corpus(root, sources, shard_docs)
    destination = root / "balanced" / "default"
    return destination, build_mixture(raw, scored, destination, parameters, {"raw/patents": "0" * 64})


def rows_of(folder: Path, side: str) -> list[dict[str, Any]]:
    tables = [read_shard(path, SAMPLE_SCHEMA) for path in sorted((folder / side).glob("*.parquet"))]
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return rows


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, dict[str, list[Doc]]]:
    sources = balanced_sources()
    sources["novels"].append(replace(sources["novels"][0], id="novels:copy", auth=0.2, part_of="another-book"))
    patch = pytest.MonkeyPatch()
    patch.setattr(samples, "SHARD_ROWS", 150)
    folder, manifest = build(tmp_path_factory.mktemp("store"), sources, PARAMETERS.model_copy(update={"jsonl": True}))
    patch.undo()
    return folder, manifest, sources


def test_the_mixture_is_sealed_and_whole(built: tuple[Path, Manifest, dict[str, list[Doc]]]) -> None:
    folder, manifest, _ = built
    assert read_manifest(folder) == manifest
    assert find_damage(folder, manifest, hashes=True) == []
    assert manifest.kind == "balanced" and manifest.inputs == {"raw/patents": "0" * 64}
    assert MixtureParameters(**manifest.parameters).piece_chars == 600
    for side in ("train", "valid"):
        shards = [shard for shard in manifest.shards if shard.file.startswith(side)]
        assert sum(shard.rows for shard in shards) == manifest.counts[side]
        assert all(shard.rows <= 150 for shard in shards)
    assert manifest.counts["train"] > 300
    assert manifest.counts["train"] / manifest.rows == pytest.approx(0.8, abs=0.02)


def test_both_sides_keep_the_bands_and_share_no_group(built: tuple[Path, Manifest, dict[str, list[Doc]]]) -> None:
    folder, _, _ = built
    groups = []
    for side in ("train", "valid"):
        rows = [row for row in rows_of(folder, side) if not row["lesson"]]
        low = sum(row["auth_weight"] < 0.3 for row in rows) / len(rows)
        high = sum(row["auth_weight"] > 0.7 for row in rows) / len(rows)
        assert 0.25 <= low <= 0.30 and 0.35 <= high <= 0.40 and 0.25 <= 1 - low - high <= 0.35
        groups.append({row["group_id"] for row in rows})
        assert len({row["id"] for row in rows}) == len(rows)
    assert not groups[0] & groups[1]


def test_samples_carry_text_scores_and_metadata(built: tuple[Path, Manifest, dict[str, list[Doc]]]) -> None:
    folder, _, sources = built
    docs = {doc.id: doc for some in sources.values() for doc in some}
    parts = set()
    for row in rows_of(folder, "train"):
        if row["lesson"]:
            continue
        doc, metadata = docs[row["doc_id"]], json.loads(row["metadata"])
        assert split_sample(row["text"]) == (row["prompt"], row["response"])
        begun = row["prompt"].removeprefix("Continue this text: ")
        assert row["response"] in doc.text and (str(doc.title) in begun if metadata["part"] == 0 else begun in doc.text)
        assert row["conflict_id"] is None and row["rejected"] is None and metadata["parts"] > metadata["part"]
        assert row["auth_weight"] == pytest.approx(doc.auth) and row["trivium_category"] == doc.trivium
        assert row["source"] == row["doc_id"].split(":")[0]
        assert metadata["title"] == doc.title and metadata["year"] == doc.year
        assert row["id"] == f"{doc.id}#{metadata['part']}"
        assert metadata["band"] == {0.05: "low", 0.12: "low", 0.5: "medium", 0.9: "high"}[doc.auth]
        parts.add(metadata["part"])
    assert parts == {0, 1, 2}


def test_the_copy_is_gone_and_books_stay_together(built: tuple[Path, Manifest, dict[str, list[Doc]]]) -> None:
    folder, manifest, sources = built
    assert manifest.counts["exact_duplicates"] == 1
    rows = rows_of(folder, "train") + rows_of(folder, "valid")
    assert "novels:copy" not in {row["doc_id"] for row in rows}
    group_of = {row["doc_id"]: row["group_id"] for row in rows}
    for book in {doc.part_of for doc in sources["novels"]} - {"another-book"}:
        docs = [doc.id for doc in sources["novels"] if doc.part_of == book and doc.id in group_of]
        assert len({group_of[name] for name in docs}) <= 1


def test_the_metadata_says_what_limits_the_mixture(built: tuple[Path, Manifest, dict[str, list[Doc]]]) -> None:
    folder, manifest, _ = built
    metadata = json.loads((folder / "metadata.json").read_text("utf-8"))
    assert metadata["distribution"]["train"]["verdict"] == "good"
    assert metadata["distribution"]["train"]["total"] < manifest.counts["train"]
    assert "more" in metadata["limited_by"][0] and "could hold" in metadata["limited_by"][0]
    assert metadata["documents"]["read"] == metadata["duplicates"]["documents"] == 341
    counts = metadata["sources"]
    lessons = metadata["lessons"]["samples"]
    assert sum(source["train"] + source["valid"] for source in counts.values()) == manifest.rows - lessons
    assert counts["patents"]["band"] == "low" and counts["patents"]["bands"]["low"]["drawn"] > 0
    assert sum(source["share"] for source in counts.values()) == pytest.approx(1, abs=1e-4)
    assert metadata["scoring_versions"] == ["v1"]


def test_the_jsonl_copy_reads_back_as_samples(built: tuple[Path, Manifest, dict[str, list[Doc]]]) -> None:
    folder, _, _ = built
    for side, name in (("train", "train.jsonl"), ("valid", "val.jsonl")):
        samples = list(map(json.loads, (folder / name).read_text("utf-8").splitlines()))
        stored = [row | {"metadata": json.loads(row["metadata"])} for row in rows_of(folder, side)]
        assert samples == stored


def test_building_again_from_documents_in_another_order_writes_the_same_bytes(tmp_path: Path) -> None:
    sources = balanced_sources(2)
    folder, first = build(tmp_path / "one", sources)
    bytes_of = {shard.file: (folder / shard.file).read_bytes() for shard in first.shards}
    otherwise = {name: docs[::-1] for name, docs in reversed(sources.items())}
    again, second = build(tmp_path / "two", otherwise, shard_docs=7)
    assert second.digest == first.digest
    assert {shard.file: (again / shard.file).read_bytes() for shard in second.shards} == bytes_of
    assert (again / "metadata.json").read_bytes() == (folder / "metadata.json").read_bytes()


def test_what_an_archive_sent_is_cleaned_before_it_is_compared_and_sampled(tmp_path: Path) -> None:
    clean = balanced_sources()

    def as_scanned(text: str) -> str:
        words = text.split(" ")
        words[3::7] = [f"{word[:1]}-\n{word[1:]}" if word.isalpha() and len(word) > 2 else word for word in words[3::7]]
        return " \t".join(words)

    scanned = {name: [replace(doc, text=as_scanned(doc.text)) for doc in docs] for name, docs in clean.items()}
    twin = replace(clean["novels"][0], id="novels:twin", auth=0.2)
    scanned["novels"].append(twin)  # the same text without the noise
    folder, manifest = build(tmp_path / "scanned", scanned)
    texts = {row["id"]: row["text"] for row in rows_of(folder, "train")}
    whole, _ = build(tmp_path / "clean", {**clean, "novels": [*clean["novels"], twin]})
    assert texts == {row["id"]: row["text"] for row in rows_of(whole, "train")}
    assert "-\n" not in "".join(texts.values()) and "  " not in "".join(texts.values())
    assert manifest.counts["exact_duplicates"] == 1


def test_a_new_mixture_replaces_the_old_one_whole(tmp_path: Path) -> None:
    sources = balanced_sources()
    build(tmp_path, sources, PARAMETERS.model_copy(update={"jsonl": True}))
    folder, manifest = build(tmp_path, sources, MixtureParameters(train_size=100, val_size=20))
    assert not (folder / "train.jsonl").exists()
    assert manifest.counts["train"] == 100 + round(100 / 9)
    assert [path.name for path in folder.parent.iterdir()] == ["default"]


def test_a_failed_build_leaves_the_old_mixture(tmp_path: Path) -> None:
    sources = balanced_sources()
    folder, manifest = build(tmp_path, sources)
    with pytest.raises(MixtureError, match=r"at most \d+ keep the bands.*Samples by source: encyclopedia \(0 low"):
        build(tmp_path, sources, MixtureParameters(train_size=100_000))
    assert read_manifest(folder) == manifest


def test_scores_must_belong_to_the_documents(tmp_path: Path) -> None:
    raw, scored = make_corpus(tmp_path, balanced_sources())
    target = tmp_path / "balanced" / "x"
    with pytest.raises(StoreError, match="patents is downloaded but not scored"):
        build_mixture(raw, {k: v for k, v in scored.items() if k != "patents"}, target, PARAMETERS, {})
    with pytest.raises(StoreError, match="do not belong to its documents"):
        build_mixture(raw, {**scored, "patents": scored["novels"]}, target, PARAMETERS, {})
    shard = scored["novels"] / "shard-00000.parquet"
    shard.write_bytes(b"")
    with pytest.raises(StoreError, match="lost or changed 1 shards"):
        build_mixture(raw, scored, target, PARAMETERS, {})
    (raw["novels"] / "manifest.json").unlink()
    with pytest.raises(StoreError, match="download the source novels first"):
        build_mixture(raw, scored, target, PARAMETERS, {})


def test_parameters_are_bounded_and_described() -> None:
    for field in MixtureParameters.model_fields.values():
        assert field.title and field.description
    for wrong in (
        *({"train_size": 0}, {"min_low_authority": 0.19}, {"piece_chars": 10}, {"unknown": 1}),
        *({"first_year": 0}, {"last_year": 30_000}),
    ):
        with pytest.raises(ValidationError):
            MixtureParameters(**wrong)  # type: ignore[arg-type]


def test_one_document_alone_makes_no_mixture(tmp_path: Path) -> None:
    lonely = {"patents": balanced_sources()["patents"][:1]}
    parameters = MixtureParameters(piece_chars=100_000, accept_imbalance=True)
    with pytest.raises(MixtureError, match=r"the corpus holds 1 samples, .* download and score sources first"):
        build(tmp_path, lonely, parameters)
    two = {"patents": balanced_sources()["patents"][:2]}
    assert build(tmp_path, two, parameters)[1].counts["train"] == 1


def test_what_is_cut_off_long_documents_is_counted(tmp_path: Path) -> None:
    sources = balanced_sources()
    long = next(doc for doc in sources["patents"] if len(doc.text) > 1000)
    folder, _ = build(tmp_path, sources, MixtureParameters(piece_chars=200, max_pieces=2))
    documents = json.loads((folder / "metadata.json").read_text("utf-8"))["documents"]
    texts = [doc.text for docs in sources.values() for doc in docs]
    left_out = [len(text) - sum(map(len, cut_pieces(text, 200, 2))) for text in texts]
    assert documents["cut"] == sum(rest > 0 for rest in left_out) > 0
    assert documents["characters_left_out"] == sum(left_out) > len(long.text) - 400
    whole, _ = build(tmp_path, sources, MixtureParameters(piece_chars=3000))
    assert json.loads((whole / "metadata.json").read_text("utf-8"))["documents"]["cut"] == 0


def test_duplicates_across_sources_leave_the_least_official_one_and_share_no_side(tmp_path: Path) -> None:
    sources = balanced_sources()
    quoted = sources["patents"][:6]
    for number, doc in enumerate(quoted):
        words = doc.text.split(" ")
        words[len(words) // 2] = "otherwise"  # one word of a hundred
        copy = replace(doc, id=f"encyclopedia:copy-{number}", auth=0.9, text=" ".join(words))
        sources["encyclopedia"].append(replace(copy, text=doc.text) if number % 2 else copy)
    folder, manifest = build(tmp_path, sources)
    assert (manifest.counts["exact_duplicates"], manifest.counts["near_duplicates"]) == (3, 3)
    drawn = {row["doc_id"] for side in ("train", "valid") for row in rows_of(folder, side)}
    metadata = json.loads((folder / "metadata.json").read_text("utf-8"))
    assert metadata["sources"]["encyclopedia"]["near_duplicates"] == metadata["near_duplicates"]["samples"] == 3
    assert not any(name.startswith("encyclopedia:copy") for name in drawn)
    folder, manifest = build(tmp_path, sources, PARAMETERS.model_copy(update={"near_duplicates": False}))
    assert (manifest.counts["exact_duplicates"], manifest.counts["near_duplicates"]) == (3, 0)
    drawn = {row["doc_id"] for side in ("train", "valid") for row in rows_of(folder, side)}
    assert any(name.startswith("encyclopedia:copy") for name in drawn)


def test_an_accepted_imbalance_takes_what_there_is_and_says_so(tmp_path: Path) -> None:
    sources = {name: docs for name, docs in balanced_sources().items() if name != "preprints"}
    with pytest.raises(MixtureError, match=r"no medium-authority samples.*accept_imbalance=true"):
        build(tmp_path, sources)
    folder, manifest = build(tmp_path / "two", sources, PARAMETERS.model_copy(update={"accept_imbalance": True}))
    metadata = json.loads((folder / "metadata.json").read_text("utf-8"))
    assert manifest.notes["verdict"]["train"] == "poor" and not metadata["plan"]["balanced"]
    available = sum(source["available"] for source in metadata["sources"].values())
    assert (
        0.98 * available <= manifest.rows - manifest.counts["lessons"] <= available
    )  # a work that straddles the split may cost some samples
    assert metadata["remarks"][0].startswith("the corpus cannot keep the shares")
    assert any(line.startswith("medium authority is 0.0 %, below") for line in metadata["advice"])


def test_a_balance_that_can_be_kept_is_kept(tmp_path: Path) -> None:
    _, plain = build(tmp_path / "one", balanced_sources())
    _, accepting = build(tmp_path / "two", balanced_sources(), PARAMETERS.model_copy(update={"accept_imbalance": True}))
    assert accepting.shards == plain.shards


def test_prompts_by_source_name_the_kind_of_document(tmp_path: Path) -> None:
    sources = balanced_sources()
    sources["encyclopedia"] = [replace(doc, source_type="wiki") for doc in sources["encyclopedia"]]
    folder, _ = build(tmp_path, sources, PARAMETERS.model_copy(update={"prompts": "by_source"}))
    for row in rows_of(folder, "train"):
        prompt = row["text"].removeprefix("User: ").split("\n\nAssistant: ")[0]
        if not row["lesson"] and json.loads(row["metadata"])["part"] == 0:
            assert prompt.endswith(tuple(f", {voice}." for voice in VOICES[row["source_type"]]))
            assert prompt.startswith(tuple(lead.split("{")[0] for lead in LEADS[row["trivium_category"]]))


def test_histograms_count_every_sample_of_a_source(built: tuple[Path, Manifest, dict[str, list[Doc]]]) -> None:
    folder, _, _ = built
    metadata = json.loads((folder / "metadata.json").read_text("utf-8"))
    for source, histogram in metadata["histograms"].items():
        drawn = metadata["sources"][source]["train"] + metadata["sources"][source]["valid"]
        assert sum(histogram["auth_weight"]) == sum(histogram["prov_entropy"]) == drawn
    assert metadata["histograms"]["encyclopedia"]["auth_weight"][17:19] != [0, 0]  # 0.9
    assert metadata["histograms"]["preprints"]["prov_entropy"][6] > 0  # 3.4 bits
