from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.evals import metrics


def test_share_counts_the_unscored_and_has_wilsons_interval() -> None:
    share = metrics.share_of([True, True, True, False, None])
    assert (share.samples, share.scored, share.unscored, share.passed, share.share) == (5, 4, 1, 3, 0.75)
    assert share.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    # Wilson with z = 1.96 for 3 of 4, worked by hand: (0.75 + z²/8 ± z·sqrt(0.1875/4 + z²/64)) / (1 + z²/4)
    assert share.low == pytest.approx(0.30064, abs=1e-4)
    assert share.high == pytest.approx(0.95441, abs=1e-4)


def test_share_of_all_or_nothing_stays_within_bounds() -> None:
    assert metrics.wilson_interval(10, 10) == (pytest.approx(0.72247, abs=1e-4), pytest.approx(1.0))
    assert metrics.wilson_interval(0, 10) == (pytest.approx(0.0), pytest.approx(0.27753, abs=1e-4))
    empty = metrics.share_of([None, None])
    assert empty.share is None and empty.unscored == 2


def test_paired_difference_leaves_out_half_scored_pairs() -> None:
    found = metrics.paired_difference([False, False, True, None], [True, True, True, True], seed=1)
    assert found.samples == 3
    assert found.value == pytest.approx(2 / 3)
    assert found.standard_error == pytest.approx(np.std([1, 1, 0], ddof=1) / math.sqrt(3))
    assert found.low is not None and found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found == metrics.paired_difference([False, False, True, None], [True, True, True, True], seed=1)


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="2 base values"):
        metrics.paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="paired"):
        metrics.distrust_ratio([0.5], [0.5, 0.5])
    with pytest.raises(ValueError, match="token counts"):
        metrics.perplexity([1.0], [1, 2])


def test_perplexity_weighs_tokens_not_documents() -> None:
    # 10 tokens at ln 2 and 30 tokens at ln 4: exp((10 ln 2 + 60 ln 2) / 40) = 2 ** 1.75, not the mean 3
    found = metrics.perplexity([10 * math.log(2), 30 * math.log(4), 0.0], [10, 30, 0], seed=3)
    assert found.value == pytest.approx(2**1.75)
    assert found.samples == 2
    assert found.low == pytest.approx(2.0) and found.high == pytest.approx(4.0)


def test_perplexity_ratio_is_paired() -> None:
    tokens = [5, 20, 40]
    base = [10.0, 70.0, 100.0]
    adapter = [nats + 0.1 * count for nats, count in zip(base, tokens, strict=True)]
    found = metrics.perplexity_ratio(base, adapter, tokens, seed=2)
    # Every token is 0.1 nats worse, so the paired bootstrap has nothing to vary.
    assert found.value == pytest.approx(math.exp(0.1))
    assert found.low == pytest.approx(math.exp(0.1)) and found.standard_error == pytest.approx(0, abs=1e-12)


def test_perplexity_shift_compares_the_bands() -> None:
    found = metrics.perplexity_shift(([-1.0, -2.0], [10, 20]), ([2.0, 1.0], [20, 10]), seed=0)
    assert found.value == pytest.approx(math.exp(-0.1 - 0.1))
    assert metrics.perplexity_shift(([], []), ([1.0], [1]), seed=0).value is None


def test_confidence_and_its_ratio() -> None:
    assert metrics.confidence(math.log(0.3), math.log(0.1)) == pytest.approx(0.75)
    assert metrics.confidence(-2000.0, 0.0) == pytest.approx(0.0)
    assert metrics.confidence(0.0, -2000.0) == 1.0
    found = metrics.distrust_ratio([0.8, 0.6], [0.5, 0.5], seed=0)
    assert found.value == pytest.approx(1.4)
    assert found.low == pytest.approx(1.2) and found.high == pytest.approx(1.6)


def test_relative_distrust_cancels_what_the_base_already_shows() -> None:
    base = ([0.8, 0.6], [0.4, 0.3])
    assert metrics.relative_distrust(base, base).value == pytest.approx(1.0)
    found = metrics.relative_distrust(base, ([0.8, 0.6], [0.2, 0.15]))
    assert found.value == pytest.approx(2.0) and found.low == pytest.approx(2.0)


def test_bootstrap_covers_the_mean_of_a_known_sample() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    found = metrics.mean_of(values, seed=11)
    error, low, high = metrics.bootstrap(lambda index: values[index].mean(axis=1), 400, 11)
    assert error == pytest.approx(found.standard_error, rel=0.1) and low is not None and high is not None
    assert (low, high) == (found.low, found.high)
    assert low < 5.0 < high and high - low == pytest.approx(4 * 2.0 / 20, rel=0.15)


def test_nothing_measured_is_none() -> None:
    assert metrics.mean_of([]) == metrics.NOTHING
    assert metrics.perplexity([], []).value is None
    assert metrics.distrust_ratio([], []).value is None


def test_one_unit_has_a_value_but_no_interval() -> None:
    found = [
        metrics.mean_of([0.5]),
        metrics.perplexity([10.0, 0.0], [5, 0]),
        metrics.perplexity_ratio([10.0], [9.0], [5]),
        metrics.perplexity_shift(([-1.0], [10]), ([2.0, 1.0], [20, 10])),
        metrics.perplexity_shift(([-1.0, -2.0], [10, 20]), ([2.0], [20])),
        metrics.distrust_ratio([0.8], [0.4]),
        metrics.relative_distrust(([0.8], [0.4]), ([0.8], [0.2])),
    ]
    for estimate in found:
        assert estimate.value is not None
        assert (estimate.standard_error, estimate.low, estimate.high) == (None, None, None)
    assert metrics.bootstrap(lambda index: index[:, 0].astype(float), 2, 0)[1] is not None
