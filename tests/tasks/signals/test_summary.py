from __future__ import annotations

from pathlib import Path

import pytest

from storage.parquet import write_shard
from storage.schemas import SCORED_SCHEMA
from tasks.signals.engine import score_table
from tasks.signals.summary import summarise_scores, summarise_tables
from tests.tasks.signals.agreement import Row, table_of
from tests.tasks.signals.raw_documents import raw_table

ROWS: list[Row] = [
    ("", "patent_pre1970", 1887, "metadata"),
    ("", "patent_pre1970", 2009, "metadata"),
    ("Filed in 1923.", "patent_pre1970", None, None),
    ("", "wiki", None, None),
]


def test_the_shards_of_a_source_are_counted_together(tmp_path: Path) -> None:
    shards = [tmp_path / f"shard-{n}.parquet" for n in range(2)]
    for shard in shards:
        write_shard(shard, score_table(table_of(ROWS), scoring="v1"), SCORED_SCHEMA)
    found = summarise_scores(shards)
    assert found.documents == 8
    assert found.counts == {
        **{"low": 4, "medium": 2, "high": 2},
        **{"grammar": 2, "logic": 6, "rhetoric": 0},
        **{"year_conflicts": 2, "years_unverified": 4, "overridden": 0, "refused": 0},
        **{"overruled": 0, "unscored_language": 0, "copied": 0},
    }
    assert found.year_evidence == {"metadata": 4, "text": 2, "none": 2}
    assert found.conflict_share == 0.25
    assert found.median_authority == pytest.approx(0.175, abs=0.02)


def test_refused_scores_are_not_given_ones() -> None:
    extras = [{"auth_weight": 0.2}, {"auth_weight": 2}, {"auth_weight": 0.2, "prov_entropy": "x"}, {}]
    found = summarise_tables([score_table(raw_table([""] * 4, extras=extras))])
    assert (found.overridden, found.refused) == (2, 2)


def test_no_documents_have_no_conflict() -> None:
    empty = summarise_tables([SCORED_SCHEMA.empty_table()])
    assert (empty.documents, empty.conflict_share, empty.median_bits) == (0, 0.0, 0.0)
