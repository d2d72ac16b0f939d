from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.evals import estimates
from tasks.evals.estimates import Estimate


def test_share_counts_the_unscored_and_has_wilsons_interval() -> None:
    share = estimates.share_of([True, True, True, False, None])
    assert (share.samples, share.scored, share.unscored, share.passed, share.share) == (5, 4, 1, 3, 0.75)
    assert share.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    # Wilson with z = 1.96 for 3 of 4, worked by hand: (0.75 + z²/8 ± z·sqrt(0.1875/4 + z²/64)) / (1 + z²/4)
    assert (share.low, share.high) == (pytest.approx(0.30064, abs=1e-4), pytest.approx(0.95441, abs=1e-4))
    every, none = estimates.share_of([True] * 10), estimates.share_of([False] * 10)
    assert (every.low, every.high) == (pytest.approx(0.72247, abs=1e-4), pytest.approx(1.0))
    assert (none.low, none.high) == (pytest.approx(0.0), pytest.approx(0.27753, abs=1e-4))
    empty = estimates.share_of([None, None])
    assert empty.share is None and empty.unscored == 2


def test_paired_difference_leaves_out_half_scored_pairs() -> None:
    found = estimates.paired_difference([False, False, True, None], [True, True, True, True], seed=1)
    assert found.samples == 3 and found.value == pytest.approx(2 / 3)
    assert found.standard_error == pytest.approx(np.std([1, 1, 0], ddof=1) / math.sqrt(3))
    assert found.low is not None and found.high is not None and 0 <= found.low <= 2 / 3 <= found.high <= 1
    assert found == estimates.paired_difference([False, False, True, None], [True, True, True, True], seed=1)


def test_perplexity_weighs_tokens_not_documents() -> None:
    # 10 tokens at ln 2 and 30 tokens at ln 4: exp((10 ln 2 + 60 ln 2) / 40) = 2 ** 1.75, not the mean 3
    found = estimates.perplexity([10 * math.log(2), 30 * math.log(4), 0.0], [10, 30, 0], seed=3)
    assert found.value == pytest.approx(2**1.75) and found.samples == 2
    assert found.low == pytest.approx(2.0) and found.high == pytest.approx(4.0)


def test_perplexity_ratio_is_paired() -> None:
    tokens, base = [5, 20, 40], [10.0, 70.0, 100.0]
    adapter = [nats + 0.1 * count for nats, count in zip(base, tokens, strict=True)]
    found = estimates.perplexity_ratio(base, adapter, tokens, seed=2)
    # Every token is 0.1 nats worse, so the paired bootstrap has nothing to vary.
    assert found.value == pytest.approx(math.exp(0.1))
    assert found.low == pytest.approx(math.exp(0.1)) and found.standard_error == pytest.approx(0, abs=1e-12)


def test_perplexity_shift_compares_the_bands() -> None:
    found = estimates.perplexity_shift(([-1.0, -2.0], [10, 20]), ([2.0, 1.0], [20, 10]), seed=0)
    assert found.value == pytest.approx(math.exp(-0.1 - 0.1))


def test_confidence_and_its_ratio() -> None:
    assert estimates.confidence(math.log(0.3), math.log(0.1)) == pytest.approx(0.75)
    assert estimates.confidence(-2000.0, 0.0) == pytest.approx(0.0)
    assert estimates.confidence(0.0, -2000.0) == 1.0
    found = estimates.distrust_ratio([0.8, 0.6], [0.5, 0.5], seed=0)
    assert (found.value, found.low, found.high) == (pytest.approx(1.4), pytest.approx(1.2), pytest.approx(1.6))


def test_relative_distrust_cancels_what_the_base_already_shows() -> None:
    base = ([0.8, 0.6], [0.4, 0.3])
    assert estimates.relative_distrust(base, base).value == pytest.approx(1.0)
    found = estimates.relative_distrust(base, ([0.8, 0.6], [0.2, 0.15]))
    assert found.value == pytest.approx(2.0) and found.low == pytest.approx(2.0)


@pytest.mark.parametrize("most", [estimates.MOST_NUMBERS, 4000])
def test_the_interval_covers_the_mean_of_a_known_sample_however_much_is_drawn_at_once(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "MOST_NUMBERS", most)
    found = estimates.mean_of(np.random.default_rng(0).normal(5.0, 2.0, 400), seed=11)
    assert found.low is not None and found.high is not None
    assert found.low < 5.0 < found.high and found.high - found.low == pytest.approx(4 * 2.0 / 20, rel=0.15)
    assert (found.low, found.high) == pytest.approx((4.742212595888832, 5.116110358446044)), (
        "the seed fixes the interval"
    )


@pytest.mark.parametrize(
    ("found", "samples"),
    [
        (estimates.mean_of([]), 0),
        (estimates.perplexity([], []), 0),
        (estimates.distrust_ratio([], []), 0),
        (estimates.perplexity_shift(([], []), ([1.0], [1])), 0),
        (estimates.mean_of([0.5]), 1),
        (estimates.perplexity([10.0, 0.0], [5, 0]), 1),
        (estimates.perplexity_ratio([10.0], [9.0], [5]), 1),
        (estimates.perplexity_shift(([-1.0], [10]), ([2.0, 1.0], [20, 10])), 3),
        (estimates.perplexity_shift(([-1.0, -2.0], [10, 20]), ([2.0], [20])), 3),
        (estimates.distrust_ratio([0.8], [0.4]), 1),
        (estimates.relative_distrust(([0.8], [0.4]), ([0.8], [0.2])), 1),
    ],
)
def test_nothing_has_no_value_and_one_unit_no_interval(found: Estimate, samples: int) -> None:
    assert found.samples == samples and (found.value is None) is (samples == 0)
    assert (found.standard_error, found.low, found.high) == (None, None, None)
