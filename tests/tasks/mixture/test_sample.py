from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import MixtureError, ParameterError
from storage.vocabulary import BANDS
from tasks.mixture.bands import fits, largest_total
from tasks.mixture.sample import plan_imbalanced, plan_mixture
from tasks.mixture.shortfall import explain_limit

GUIDE = {"low": 93_000, "medium": 47_000, "high": 64_000}


def test_the_guides_own_table() -> None:
    plan = plan_mixture(GUIDE, 80_000, 20_000)
    assert plan.rows == {"low": 30_000, "medium": 30_000, "high": 40_000}
    assert plan.shares == {"low": 0.3, "medium": 0.3, "high": 0.4}
    assert json.loads(json.dumps(plan.as_dict()))["largest_total"] == 156_666


def test_without_sizes_a_mixture_has_those_of_the_method() -> None:
    plan = plan_mixture(GUIDE)
    assert (plan.train_size, plan.val_size) == (80_000, 20_000)
    (sentence,) = plan.limited_by
    assert "80,000 + 20,000 samples; the corpus would allow 156,666, ask for more with --train-size" in sentence
    loose = plan_mixture(GUIDE, min_low_authority=0.2)
    assert loose.limits == plan.limits


def test_a_smaller_corpus_gives_its_largest_mixture() -> None:
    plan = plan_mixture({band: count // 2 for band, count in GUIDE.items()})
    assert plan.largest_total == 78_333 and plan.total >= plan.largest_total - 5
    assert plan.val_size / plan.total == pytest.approx(0.2, abs=1e-4)
    assert "could hold" in plan.limited_by[0]


def test_sizes_that_were_asked_for_are_not_limited() -> None:
    assert plan_mixture(GUIDE, 80_000, 20_000).limited_by == []
    assert plan_mixture(GUIDE, train_size=8000).limited_by == []


def test_an_accepted_imbalance_stops_at_the_method_too() -> None:
    plan = plan_imbalanced({"low": 200_000, "medium": 0, "high": 50_000})
    assert (plan.train_size, plan.val_size) == (80_000, 20_000)
    assert "would allow 250,000" in plan.limited_by[0]
    few = plan_imbalanced({"low": 20, "medium": 0, "high": 5})
    assert (few.train_size, few.val_size, few.limited_by) == (20, 5, [])


def test_a_lower_minimum_that_fits_is_offered() -> None:
    with pytest.raises(MixtureError, match=r"or pass min_low_authority=0\.24[;,]? ") as error:
        plan_mixture({"low": 240, "medium": 400, "high": 600}, 800, 200)
    assert "missing: 10 low" in str(error.value)
    assert plan_mixture({"low": 240, "medium": 400, "high": 600}, 800, 200, min_low_authority=0.24).rows["low"] == 240


def test_one_size_brings_the_other() -> None:
    assert plan_mixture(GUIDE, train_size=8000).val_size == 2000
    assert plan_mixture(GUIDE, val_size=2000).train_size == 8000


def test_too_large_a_mixture_says_what_is_missing() -> None:
    with pytest.raises(MixtureError) as error:
        plan_mixture({**GUIDE, "low": 23_250}, 80_000, 20_000)
    message = str(error.value)
    for part in (
        "at most 93000",
        "23250 low",
        "missing: 1750 low",
        "train_size=74400 and val_size=18600",
        "us_patents",
    ):
        assert part in message


def test_the_suggested_sizes_work() -> None:
    counts = {**GUIDE, "low": 23_250}
    scaled = plan_mixture(counts, 80_000, 20_000, scale=True)
    assert (scaled.train_size, scaled.val_size, scaled.requested) == (74_400, 18_600, (80_000, 20_000))
    assert scaled.rows["low"] == 23_250
    assert plan_mixture(counts, 74_400, 18_600).requested is None


def test_an_empty_band_is_named_with_sources() -> None:
    with pytest.raises(MixtureError, match=r"no medium-authority .* arxiv_preprints"):
        plan_mixture({"low": 10, "high": 10})


def test_too_few_documents_for_two_sides() -> None:
    with pytest.raises(MixtureError, match="too few for a training and a validation side"):
        plan_mixture({"low": 9, "medium": 9, "high": 9})


def test_a_size_that_cannot_be_cut() -> None:
    with pytest.raises(MixtureError, match=r"11 samples cannot be cut .* val_size=10"):
        plan_mixture(GUIDE, 100, 11)


@pytest.mark.parametrize(
    "arguments",
    [{"train_size": 0}, {"val_size": -1}, {"min_low_authority": 0.1}],
)
def test_arguments_out_of_bounds(arguments: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        plan_mixture(GUIDE, **arguments)  # type: ignore[arg-type]


def test_counts_that_make_no_sense() -> None:
    with pytest.raises(ParameterError, match="mid"):
        plan_mixture({"low": 1, "mid": 2, "high": 3})
    with pytest.raises(ParameterError, match="must be 0 or more"):
        plan_mixture({"low": 1, "medium": -2, "high": 3})


def test_a_lower_minimum_loosens_no_more_than_needed() -> None:
    counts = {"low": 220, "medium": 400, "high": 600}
    plan = plan_mixture(counts, 800, 100, min_low_authority=0.20)
    assert plan.rows["low"] == 220
    assert 0.235 <= float(plan.limits["low"][0]) < 0.25
    assert float(plan.limits["high"][1]) <= 0.415
    assert plan_mixture(counts, 400, 100, min_low_authority=0.20).limits == plan_mixture(counts, 400, 100).limits


@settings(deadline=None, max_examples=40)
@given(st.fixed_dictionaries({band: st.integers(5, 5000) for band in BANDS}))
def test_the_advice_lifts_the_limit_as_far_as_it_says(counts: dict[str, int]) -> None:
    plan = plan_mixture({band: 10_000 for band in BANDS})
    have = {band: counts[band] for band in BANDS}
    for sentence in explain_limit(have, plan.limits):
        words = sentence.split()
        more, band = int(words[words.index("more") - 1]), words[words.index("more") + 1]
        lifted = int(words[words.index("hold") + 1])
        assert (
            largest_total({**have, band: have[band] + more}, plan.limits) >= lifted > largest_total(have, plan.limits)
        )


@settings(deadline=None, max_examples=60)
@given(st.fixed_dictionaries({band: st.integers(0, 2000) for band in BANDS}), st.sampled_from([0.2, 0.25, 0.29]))
def test_any_plan_fits(counts: dict[str, int], least: float) -> None:
    try:
        plan = plan_mixture(counts, min_low_authority=least)
    except MixtureError:
        return
    assert fits(plan.counts, (plan.train_size, plan.val_size), plan.limits)
    assert sum(plan.rows.values()) == plan.total
    assert plan.total >= plan.largest_total - 25
