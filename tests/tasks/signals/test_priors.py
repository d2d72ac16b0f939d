from __future__ import annotations

from storage.schemas import SOURCE_TYPES
from tasks.signals.priors import PRIORS, known_type


def test_the_registry_covers_the_vocabulary_in_order() -> None:
    assert tuple(PRIORS) == SOURCE_TYPES


def test_every_prior_is_within_bounds() -> None:
    for prior in PRIORS.values():
        assert 0 <= prior.authority <= 0.99 and 0 <= prior.bits <= 10
        assert (prior.if_newer is not None) == (prior.last_year is not None)
        assert prior.first_year is None or prior.last_year is None or prior.first_year < prior.last_year


def test_a_newer_type_leads_no_further() -> None:
    assert all(PRIORS[prior.if_newer].if_newer is None for prior in PRIORS.values() if prior.if_newer)


def test_names_outside_the_registry_are_unknown() -> None:
    assert [known_type(name) for name in ("wiki", None, "", "WIKI", "hupd")] == ["wiki", *["unknown"] * 4]
