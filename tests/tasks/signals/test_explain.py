from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import ParameterError
from storage.parquet import write_shard
from storage.schemas import RAW_SCHEMA, SCORED_SCHEMA, ScoringVersion
from tasks.signals.engine import score_table
from tasks.signals.explain import explain_document, explain_score, explain_source
from tests.tasks.signals.raw_documents import raw_table

TEXT = "Experts agree (Smith, 2019). I measured it; CNN said so. Letters patent. [edit]"


def explain(text: str, scoring: ScoringVersion = "v1", **fields: object) -> list[str]:
    raw = raw_table([text], **fields)
    return explain_score(raw.to_pylist()[0], score_table(raw, scoring=scoring).to_pylist()[0])


def numbers(line: str) -> list[float]:
    return [float(found) for found in re.findall(r"[-+]?\d+\.\d+", line)]


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([1887, 1950, 1980, 2020, None]), st.sampled_from(["preprint", "wiki", "historical_book"]))
def test_the_terms_shown_add_up_to_the_scores_shown(year: int | None, source_type: str) -> None:
    lines = explain(TEXT, year=year, source_type=source_type)
    authority, bits = numbers(lines[1])
    source = next(numbers(line) for line in lines if line.startswith("  source"))
    text = next(numbers(line) for line in lines if line.startswith("  text"))
    terms = [numbers(line)[:2] for line in lines if re.match(r"    \S", line)]
    assert sum(term[0] for term in terms) == pytest.approx(text[0], abs=0.01)
    assert sum(term[1] for term in terms) == pytest.approx(text[1], abs=0.05)
    assert source[2] + text[2] == pytest.approx(1, abs=0.011)
    assert source[0] * source[2] + text[0] * text[2] == pytest.approx(authority, abs=0.01)
    assert source[1] * source[2] + text[1] * text[2] == pytest.approx(bits, abs=0.06)


def test_what_was_found_is_quoted() -> None:
    found = explain(TEXT)[-1]
    for phrase in ("'experts agree' 1", "'cnn' 1", "'(Smith, 2019' 1", "'[edit]' 1", "'letters patent' 1"):
        assert phrase in found


def test_a_contradiction_and_a_guess_are_told() -> None:
    assert any("contradicts its source 'historical_book'" in line for line in explain("", year=2013))
    assert any("read in the text" in line for line in explain("Filed in 1801.", year=None))
    assert any("no year found" in line for line in explain("Nothing.", year=None, source_type="unknown"))
    assert explain("Nothing.")[-1] == "found in the text: nothing, so the source decides alone"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"year": 1999}, "year 1999, from its metadata; taken as 2001, the first of its source"),
        ({"year": 2001}, "year 2001, from its metadata"),
        ({"year": 1999, "year_evidence": "text"}, "year 1999, read in the text: nothing vouches for it; taken as 2001"),
        ({"year": None}, "year 1801, read in the text: nothing vouches for it; taken as 2001, the first of its source"),
    ],
)
def test_a_year_before_its_sources_first_is_told_with_what_it_counts_as(fields: dict[str, object], told: str) -> None:
    source = next(line for line in explain("Filed in 1801.", source_type="wiki", **fields) if "  source" in line)
    assert told in source and (told.count("taken as") == source.count("taken as"))


def test_what_was_given_and_what_was_refused_are_told_apart() -> None:
    raw = raw_table([""], extras=[{"auth_weight": 0.5, "prov_entropy": 11}])
    lines = explain_score(raw.to_pylist()[0], score_table(raw).to_pylist()[0])
    assert lines[-2:] == [
        "not computed: given with the document: auth_weight",
        "refused: prov_entropy 11: it must lie from 0 to 10.0",
    ]


def test_a_document_is_found_in_any_shard(tmp_path: Path) -> None:
    raw, scored = tmp_path / "raw", tmp_path / "scored"
    files = ["shard-0.parquet", "shard-1.parquet"]
    table = raw_table(["nothing", TEXT, "more"])
    for file, part in zip(files, (table.slice(0, 1), table.slice(1)), strict=True):
        write_shard(raw / file, part, RAW_SCHEMA)
        write_shard(scored / file, score_table(part, scoring="v1"), SCORED_SCHEMA)
    assert explain_document(raw, scored, files, "books:1") == [
        line.replace("books:0", "books:1") for line in explain(TEXT)
    ]
    with pytest.raises(ParameterError, match=r"no document 'books:9'.*look like 'books:0'"):
        explain_document(raw, scored, files, "books:9")


def test_the_sentences_that_moved_a_score_are_quoted_with_their_weight() -> None:
    text = "I measured it twice at 10:15 and wrote down 3.5 degrees. Experts agree that you should trust the agency."
    lines = explain(text, "v2", source_type="wiki")
    assert any(line.startswith("  +0.") and "I measured it twice" in line and "own_report" in line for line in lines)
    assert any(line.startswith("  -0.") and "Experts agree" in line and "consensus" in line for line in lines)


def test_a_language_that_is_not_scored_is_named() -> None:
    text = "Die Kommission hat am Montag bekannt gegeben, dass alle die neuen Regeln beachten. " * 6
    assert "  text    not scored" in "\n".join(explain(text, "v2", source_type="wiki"))


def test_the_documents_of_a_source_that_disagree_with_their_label_are_listed(tmp_path: Path) -> None:
    raw, scored = tmp_path / "raw", tmp_path / "scored"
    report = "I saw him at ten o'clock and I told Mr. Brown. We measured 3.5 inches with a gauge at 10:15. " * 3
    release = " ".join(
        f"The ministry announced today that citizens should follow guidance number {n} of the agency." for n in range(9)
    )
    table = raw_table([report, release, "Nothing."], source_type="historical_book")
    write_shard(raw / "shard-0.parquet", table, RAW_SCHEMA)
    write_shard(scored / "shard-0.parquet", score_table(table), SCORED_SCHEMA)
    lines = explain_source(raw, scored, ["shard-0.parquet"])
    assert "books:1" in lines[1]
    assert len(lines) == 4
