from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from storage.errors import UserError
from tasks.exports.verify import Agreement, compare, fits_memory, measure_agreement, require_agreement


def test_compare_counts_positions_and_differences() -> None:
    expected = [np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.array([[3.0, 2.0]], np.float32)]
    found = [np.array([[1.0, 0.5], [1.0, 0.0]], np.float32), np.array([[3.0, 2.0]], np.float32)]
    result = compare(expected, iter(found))
    assert result == Agreement(3, 1.0, pytest.approx(1.25 / 3), pytest.approx(2 / 3))  # type: ignore[arg-type]


def test_no_number_is_never_an_agreement() -> None:
    row = np.array([[1.0, 0.0]], np.float32)
    broken = row.copy()
    broken[0, 1] = np.nan
    result = compare([row], iter([broken]))
    assert result.max_logit_difference == math.inf
    with pytest.raises(UserError, match="no numbers"):
        require_agreement(result, "minimum_top1_agreement", 0.0)


def test_the_bound_is_inclusive_and_named() -> None:
    require_agreement(Agreement(100, 0.1, 0.0, 0.98), "minimum_top1_agreement", 0.98)
    with pytest.raises(
        UserError, match=r"0\.970 of 100 tokens .*differ by at most 0\.1.*, the bound is 0\.98.*base model"
    ):
        require_agreement(Agreement(100, 0.1, 0.0, 0.97), "minimum_top1_agreement", 0.98)
    with pytest.raises(UserError, match=r"dequantize or 8bit.* lower minimum_top1_agreement_quantised"):
        require_agreement(Agreement(100, 9.0, 1.0, 0.69), "minimum_top1_agreement_quantised", 0.7)


def test_an_unfused_base_is_told_apart(float_base: Path, adapter: Path) -> None:
    result = measure_agreement(float_base, adapter, float_base)
    assert result.tokens > 200
    assert result.max_logit_difference > 0.5
    assert result.top1_agreement < 0.9


def test_memory_bound() -> None:
    assert fits_memory(2**20)
    assert not fits_memory(2**60)
