from __future__ import annotations

import pytest

from tasks.sources.catalogue import load_catalogue
from tasks.sources.connection import Archives, Connection, Pace
from tasks.sources.survey import TYPICAL_BYTES, estimate
from tasks.sources.web import Web


@pytest.mark.parametrize(
    ("name", "update", "limit", "hours"),
    [
        # Two requests an item, at two a second.
        ("classical_philosophy", {}, 10_000, 10_000 * 2 / 2 / 3600),
        # 135 texts a minute, and a search for every hundred of them.
        ("historical_newspapers", {}, 15_000, 15_000 * 1.01 / 135 / 60),
        # Eight files, of which each must wait for its turn; the bytes take less.
        ("historical_newspapers", {"bulk": True}, 15_000, 8 / 0.9 / 60),
        ("wikipedia", {}, 30_000, 30_000 * 5_000 / 4e6 / 3600),
    ],
)
def test_hours_follow_from_the_pace_that_an_archive_allows(
    name: str, update: dict[str, bool], limit: int, hours: float
) -> None:
    spec = load_catalogue()[name].model_copy(update=update)
    found = estimate(spec, None, limit, Archives(Connection(), Pace(), Web()))
    assert (found.documents, found.bytes) == (None, limit * TYPICAL_BYTES[spec.archive])
    assert found.hours == pytest.approx(hours, abs=0.006)


def test_no_more_is_expected_than_is_offered() -> None:
    spec = load_catalogue()["classical_philosophy"]
    found = estimate(spec, 700, 10_000, Archives(Connection(), Pace(requests_per_second=1), Web()))
    assert (found.offered, found.documents, found.bytes) == (700, 700, 700 * 500_000)
    assert found.hours == pytest.approx(1400 / 3600, abs=0.006)
