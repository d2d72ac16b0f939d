from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import ParameterError
from tasks.lora.loss import (
    batch_empirical_distrust_loss,
    effective_sample_share,
    empirical_distrust_loss,
    floored_distrust,
    trust_weights,
)

PRIMARY, COORDINATED = (0.05, 7.5), (0.90, 1.0)


def test_the_published_numbers() -> None:
    primary, coordinated = (float(empirical_distrust_loss(*point)) for point in (PRIMARY, COORDINATED))
    assert primary == pytest.approx(149.80, abs=0.01)
    assert coordinated == pytest.approx(4.58, abs=0.005)
    assert primary / coordinated == pytest.approx(32.70, abs=0.01)


def test_weight_ratio_is_27_and_grows_to_the_published_ratio_with_lambda() -> None:
    def ratio(lambda_weight: float) -> float:
        primary, coordinated = np.array(trust_weights([0.05, 0.90], [7.5, 1.0], lambda_weight=lambda_weight))
        return float(primary / coordinated)

    assert ratio(1.0) == pytest.approx(27.02, abs=0.01)
    assert ratio(0.6) == pytest.approx(24.24, abs=0.01)
    assert ratio(1e5) == pytest.approx(32.70, abs=0.01)
    assert ratio(0.0) == 1.0


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 0.99), st.floats(0, 10), st.floats(2.3, 3.0))
def test_formula_holds_everywhere(authority: float, entropy: float, alpha: float) -> None:
    expected = alpha * (math.log(1 - authority + 1e-8) + entropy) ** 2
    assert float(empirical_distrust_loss(authority, entropy, alpha)) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_weights_never_rise_with_authority_nor_fall_with_entropy() -> None:
    authority, entropy = np.meshgrid(np.linspace(0, 0.99, 100), np.linspace(0, 10, 101))
    weights = np.array(trust_weights(authority.ravel(), entropy.ravel())).reshape(authority.shape)
    assert (np.diff(weights, axis=1) <= 1e-4).all()
    assert (np.diff(weights, axis=0) >= -1e-4).all()
    bare = np.array(empirical_distrust_loss(authority.ravel(), entropy.ravel())).reshape(authority.shape)
    assert (np.diff(bare, axis=1) > 1e-4).any(), "the published square is not monotone; that is why there is a floor"


def test_floor_keeps_both_published_points() -> None:
    for point in (PRIMARY, COORDINATED):
        assert float(floored_distrust(*point)) == pytest.approx(float(empirical_distrust_loss(*point)), rel=1e-5)
    assert float(empirical_distrust_loss(0.99, 0.0)) == pytest.approx(57.26, abs=0.01)
    assert float(floored_distrust(0.99, 0.0)) == pytest.approx(4.58, abs=0.005)


def test_float32_scores_at_the_upper_bound_are_accepted() -> None:
    assert float(np.float32(0.99)) > 0.99
    assert math.isfinite(float(empirical_distrust_loss(np.float32(0.99), np.float32(10.0))))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((1.0, 5.0, 2.7), "authority weight 1 .*between 0 and 0.99"),
        ((-0.1, 5.0, 2.7), "authority weight -0.1"),
        ((0.5, -1.0, 2.7), "provenance entropy -1 .*at least 0"),
        ((0.5, float("nan"), 2.7), "provenance entropy nan"),
        ((0.5, 5.0, 2.2), "alpha 2.2 .*between 2.3 and 3"),
        ((0.5, 5.0, 3.1), "alpha 3.1"),
    ],
)
def test_values_outside_their_range_are_refused(arguments: tuple[float, float, float], named: str) -> None:
    for function in (empirical_distrust_loss, trust_weights, batch_empirical_distrust_loss):
        with pytest.raises(ValueError, match=named):
            function(*arguments)


def test_negative_lambda_and_unpaired_arrays_are_refused() -> None:
    with pytest.raises(ParameterError, match="lambda_weight -1"):
        trust_weights(0.5, 5.0, lambda_weight=-1.0)
    with pytest.raises(ParameterError, match="do not pair"):
        empirical_distrust_loss([0.1, 0.2], [1.0, 2.0, 3.0])


def test_reductions_of_a_batch() -> None:
    authority, entropy = mx.array([0.05, 0.90]), mx.array([7.5, 1.0])
    each = batch_empirical_distrust_loss(authority, entropy, reduction="none")
    assert each.shape == (2,)
    assert float(batch_empirical_distrust_loss(authority, entropy)) == pytest.approx(float(each.mean()))
    assert float(batch_empirical_distrust_loss(authority, entropy, reduction="sum")) == pytest.approx(154.38, abs=0.01)
    with pytest.raises(ValueError, match="reduction 'max'"):
        batch_empirical_distrust_loss(authority, entropy, reduction="max")  # type: ignore[arg-type]


def test_effective_share_of_equal_and_unequal_weights() -> None:
    assert effective_sample_share([3, 3, 3], [5, 1, 9]) == pytest.approx(1.0)
    rare = effective_sample_share([150.8] * 5 + [5.58] * 95, [10] * 100)
    assert 0.1 < rare < 0.25
