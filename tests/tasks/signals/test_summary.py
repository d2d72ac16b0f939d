from __future__ import annotations

import pyarrow as pa

from storage.schemas import SCORED_SCHEMA
from tasks.signals.engine import score_table
from tasks.signals.summary import conflict_share, count_conflicts
from tests.tasks.signals.agreement import table_of


def test_conflicts_are_counted_over_all_chunks() -> None:
    years = [1887, 2009, None, 1999]
    one = score_table(table_of([("", "patent_pre1970", year, None) for year in years]))
    both = pa.concat_tables([one, one])
    assert count_conflicts(both) == 4
    assert conflict_share(both) == 0.5


def test_an_empty_table_has_no_conflict() -> None:
    assert conflict_share(SCORED_SCHEMA.empty_table()) == 0.0
