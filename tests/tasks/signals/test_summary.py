from __future__ import annotations

from pathlib import Path

import pytest

from storage.errors import StoreError
from storage.parquet import write_shard
from storage.schemas import SCORED_SCHEMA
from tasks.signals.engine import score_table
from tasks.signals.summary import summarise_scores, summarise_tables
from tests.tasks.signals.agreement import Row, table_of

ROWS: list[Row] = [
    ("", "patent_pre1970", 1887, "metadata"),
    ("", "patent_pre1970", 2009, "metadata"),
    ("Filed in 1923.", "patent_pre1970", None, None),
    ("", "wiki", None, None),
]


def test_the_shards_of_a_source_are_counted_together(tmp_path: Path) -> None:
    shards = [tmp_path / f"shard-{n}.parquet" for n in range(2)]
    for shard in shards:
        write_shard(shard, score_table(table_of(ROWS)), SCORED_SCHEMA)
    found = summarise_scores(shards)
    assert found.documents == 8
    assert found.counts == {
        **{"low": 4, "medium": 2, "high": 2},
        **{"grammar": 2, "logic": 6, "rhetoric": 0},
        **{"year_conflicts": 2, "years_unverified": 4, "overridden": 0},
    }
    assert found.year_evidence == {"metadata": 4, "text": 2, "none": 2}
    assert found.conflict_share == 0.25
    assert found.median_authority == pytest.approx(0.175, abs=0.02)


def test_no_documents_have_no_conflict() -> None:
    empty = summarise_tables([SCORED_SCHEMA.empty_table()])
    assert (empty.documents, empty.conflict_share, empty.median_bits) == (0, 0.0, 0.0)


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "shard-00000.parquet"
    broken.write_bytes(b"half a shard")
    with pytest.raises(StoreError, match="shard-00000"):
        summarise_scores([broken])
