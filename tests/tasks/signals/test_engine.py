from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import ParameterError
from storage.parquet import read_shard, read_tags, write_shard
from storage.schemas import RAW_SCHEMA, SCORED_SCHEMA
from storage.vocabulary import SOURCE_TYPES, band_of
from tasks.signals import engine
from tasks.signals.engine import score_table
from tasks.signals.lexicon import LEXICON
from tasks.signals.shards import score_shard
from tests.tasks.signals.agreement import Row, differences, table_of
from tests.tasks.signals.raw_documents import raw_table

TRAPS = [
    "é",
    "\u017f",
    "\u212a",
    "\x00",
    "\u00a0",
    "\U0001f9ea",
    "\r\n",
    "\r",
    "e\u0301",
    "\u0301",
    "ß",
    "\u2028",
    "\ufeff",
]
PIECES = [
    *TRAPS,
    *(" ", " ", " ", "\n", "-", "- ", "\t", ".", ", ", "(", ")", "[", "]", "; "),
    *("WHO said", "the WHO,", "MAN WHO SHOT", "who.int", ".gov ", ".edu ", "[edit]", "Retrieved 3"),
    *("Pat. No. 1,234,567", "Serial No. 1", "US1234567", "[1, 2-5]", "(Smith, 2019)", "(2019)", "Ibid", "op. cit"),
    *("doi:10.1", "arXiv:1", "\n1. Smith, J.", "(Smith et al., 2020; Jones, 2019)", "\n  [2] O'Neil, K."),
    *("1914", "I9l4", "1887 ", "2000 volts", "2024", "2099", "published in ", "Filed Mar. 3, ", "last edited "),
    *(phrase.text for phrase in LEXICON[::7]),
    *(phrase.text.upper() for phrase in LEXICON[3::23]),
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=30).map("".join)
rows: st.SearchStrategy[Row] = st.tuples(
    texts,
    st.sampled_from([*SOURCE_TYPES, None, "hupd"]),
    st.none() | st.integers(-500, 2100) | st.sampled_from([999, 1000, 1969, 1970, 1995, 2026, 2027]),
    st.sampled_from(["metadata", "text", "none", None]),
)


@given(st.lists(rows, min_size=1, max_size=20), st.sampled_from([2026, 2100]))
@settings(max_examples=40, deadline=None)
def test_the_engine_equals_the_reference(documents: list[Row], run_year: int) -> None:
    assert not differences(documents, run_year)


def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    undated: list[Row] = [("CNN measured it.", "wiki", None, None)]
    assert not differences(undated, scoring="v1")
    counted = engine.scan_texts
    monkeypatch.setattr(engine, "scan_texts", lambda texts, year: replace(counted(texts, year), primary=np.array([7])))
    assert any("primary" in difference for difference in differences(undated, scoring="v1"))


def test_long_and_short_documents_share_a_table() -> None:
    long = "The lab notebook of 1911 was measured. " * 4000
    documents: list[Row] = [
        (long, "lab_notebook", None, None),
        ("", "wiki", None, None),
        (long[:7000], "wiki", 2020, None),
    ]
    assert not differences(documents * 3)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of([(f"Studies show {i}. Filed in 19{i:02d}.", "unknown", None, None) for i in range(25)])
    whole = score_table(table)
    monkeypatch.setattr(engine, "BLOCK_ROWS", 4)
    assert score_table(table).combine_chunks().equals(whole.combine_chunks())


def test_order_and_ids_are_the_inputs() -> None:
    table = table_of([(f"{'CNN ' * (i % 5)}", "news_modern", None, None) for i in range(200)])
    scored = score_table(table, scoring="v1")
    assert scored.column("id").to_pylist() == table.column("id").to_pylist()
    mentions = [row["tiers"]["D"] for row in scored.column("components").to_pylist()]
    assert mentions == [i % 5 for i in range(200)]


def test_an_empty_table_has_the_schema() -> None:
    assert score_table(table_of([])).equals(SCORED_SCHEMA.empty_table())


def test_only_three_columns_are_needed_and_others_are_ignored() -> None:
    table = pa.table({"id": ["a"], "text": ["Filed in 1923."], "source_type": ["unknown"], "noise": [object.__name__]})
    why = score_table(table).to_pylist()[0]["components"]
    assert (why["year"], why["year_evidence"]) == (1923, "text")


def test_the_catalogues_trivium_wins() -> None:
    table = table_of([("", "wiki", None, None), ("", "preprint", None, None)])
    assert score_table(table).column("trivium_category").to_pylist() == ["grammar", "logic"]
    assert score_table(table, trivium="rhetoric").column("trivium_category").to_pylist() == ["rhetoric"] * 2
    with pytest.raises(ParameterError, match="'music'"):
        score_table(table, trivium="music")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"id": ["a"], "text": ["x"]}), r"lacks the columns \['source_type'\]"),
        (pa.table({"id": ["a"], "text": pa.array([None], pa.string()), "source_type": ["wiki"]}), "'text'.* 1 nulls"),
        (pa.table({"id": ["a"], "text": ["x"], "source_type": ["wiki"], "year": [True]}), "'year'.*bool"),
        (pa.table({"id": ["a"], "text": ["x"], "source_type": ["wiki"], "year": ["1923"]}), "'year'.*string"),
    ],
)
def test_wrong_tables_are_named(table: pa.Table, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        score_table(table)


def test_a_shard_is_scored_under_its_own_name(tmp_path: Path) -> None:
    raw, scored = tmp_path / "raw" / "shard-00000.parquet", tmp_path / "scored" / "shard-00000.parquet"
    write_shard(raw, raw_table(["I measured it.", "CNN said so.", ""], year=2013), RAW_SCHEMA)
    score_shard(raw, scored, "rhetoric", 2026, tags={"shard_key": "abc"})
    stored = read_shard(scored, SCORED_SCHEMA)
    whole = score_table(read_shard(raw, RAW_SCHEMA), run_year=2026, trivium="rhetoric")
    assert stored.combine_chunks().equals(whole.combine_chunks())
    assert stored.column("id").to_pylist() == ["books:0", "books:1", "books:2"]
    assert [row["conflict"] for row in stored.column("components").to_pylist()] == [True] * 3
    assert read_tags(scored)["shard_key"] == "abc"


def test_an_empty_shard_is_scored(tmp_path: Path) -> None:
    write_shard(tmp_path / "raw" / "shard-00000.parquet", raw_table([]), RAW_SCHEMA)
    score_shard(tmp_path / "raw" / "shard-00000.parquet", tmp_path / "scored" / "shard-00000.parquet", None)
    assert read_shard(tmp_path / "scored" / "shard-00000.parquet", SCORED_SCHEMA).num_rows == 0


def test_a_shard_keeps_its_name(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard-00000.parquet", raw_table(["x"]), RAW_SCHEMA)
    with pytest.raises(ParameterError, match=r"same name, not to shard-00001\.parquet"):
        score_shard(tmp_path / "shard-00000.parquet", tmp_path / "scored" / "shard-00001.parquet", None)


def test_bands_follow_the_stored_number() -> None:
    documents: list[Row] = [(text, kind, None, None) for kind in SOURCE_TYPES for text in ("", "CNN", "CNN " * 9)]
    for row in score_table(table_of(documents)).to_pylist():
        assert row["band"] == band_of(row["auth_weight"])
    patent = score_table(table_of([("", "patent_modern", None, None)])).to_pylist()[0]
    assert patent["band"] == "medium"  # a prior of exactly 0.30
