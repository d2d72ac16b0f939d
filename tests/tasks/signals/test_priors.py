from __future__ import annotations

from storage.vocabulary import SOURCE_TYPES
from tasks.signals.priors import PRIORS, known_type
from tasks.sources.catalogue import load_catalogue


def test_the_registry_covers_the_vocabulary_in_order() -> None:
    assert tuple(PRIORS) == SOURCE_TYPES


def test_priors_are_those_of_the_guides_tables() -> None:
    guide = {
        **{"patent_pre1970": (0.05, 7.0), "classical_philosophy": (0.08, 7.5), "historical_book": (0.10, 6.0)},
        **{"classical_literature": (0.10, 6.5), "classical_rhetoric": (0.12, 6.0)},
        **{"historical_newspaper": (0.15, 6.0)},
        **{"preprint": (0.50, 3.5), "logic_training": (0.55, 3.2), "academic_paper": (0.60, 3.0)},
        **{"news_modern": (0.75, 1.5), "medical_guidelines": (0.85, 1.2), "wiki": (0.90, 1.0)},
    }
    assert {name: (prior.authority, prior.bits) for name, prior in PRIORS.items() if name in guide} == guide


def test_the_catalogue_states_the_priors_that_are_scored_with() -> None:
    for spec in load_catalogue().values():
        prior = PRIORS[spec.source_type]
        assert (spec.prior_authority, spec.prior_entropy) == (prior.authority, prior.bits), spec.name


def test_every_prior_is_within_bounds() -> None:
    for prior in PRIORS.values():
        assert 0 <= prior.authority <= 0.99 and 0 <= prior.bits <= 10
        assert (prior.if_newer is not None) == (prior.last_year is not None)
        assert prior.first_year is None or prior.last_year is None or prior.first_year < prior.last_year


def test_a_newer_type_leads_no_further() -> None:
    assert all(PRIORS[prior.if_newer].if_newer is None for prior in PRIORS.values() if prior.if_newer)


def test_names_outside_the_registry_are_unknown() -> None:
    assert [known_type(name) for name in ("wiki", None, "", "WIKI", "hupd")] == ["wiki", *["unknown"] * 4]
