"""How many rows of each (band, trivium) cell one side gets: a small mixed-integer programme."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from storage.errors import MixtureError
from storage.vocabulary import BANDS, TRIVIA, Band, Trivium
from tasks.mixture.bands import Limits, limits_in_rows, target_rows

Cells = npt.NDArray[np.int64]
"""(3, 3) rows: bands low, medium, high by trivia grammar, logic, rhetoric."""

TRIVIUM_LIMITS = (Fraction(20, 100), Fraction(40, 100))
"""The guide's acceptable share of a trivium category."""

_CELLS, _SLACKS = len(BANDS) * len(TRIVIA), 2 * len(TRIVIA)
_SELECT_BAND = np.kron(np.eye(len(BANDS)), np.ones(len(TRIVIA)))
_SELECT_TRIVIUM = np.kron(np.ones(len(BANDS)), np.eye(len(TRIVIA)))
_KEEP_LOW = 1000.0
_TRIVIUM_EXCESS = 20.0


@dataclass(frozen=True)
class Allocation:
    """Rows of each cell, and how far each trivium category lies outside its limits (rows; negative: below)."""

    cells: Cells
    trivium_excess: dict[Trivium, int]


def allocate_cells(available: Cells, size: int, limits: Limits) -> Allocation:
    """Choose the rows of each cell for a side of `size` rows.

    The size and the bands hold exactly. Inside them, first as many low-authority rows as possible are kept, then
    the trivium limits are broken by as few rows as possible, then the rows follow what is available.

    Raises:
        MixtureError: The side's rows cannot fill the bands.
    """
    top, bottom = math.floor(TRIVIUM_LIMITS[1] * size), math.ceil(TRIVIUM_LIMITS[0] * size)
    # Slightly unequal weights break most ties between cells; of optima that are still equal the solver takes one, the
    # same one for the same numbers.
    distance = 1 + np.arange(_CELLS) / 100
    result = milp(
        np.r_[-_KEEP_LOW * _SELECT_BAND[0], distance, np.full(_SLACKS, _TRIVIUM_EXCESS)],
        integrality=np.r_[np.ones(_CELLS), np.zeros(_CELLS + _SLACKS)],
        bounds=Bounds(0, np.r_[available.ravel(), np.full(_CELLS + _SLACKS, np.inf)]),
        constraints=_constraints(_proportional(available, size, limits), size, limits, bottom, top),
        options={"mip_rel_gap": 0},
    )
    if result.x is None:
        raise MixtureError(
            f"a side of {size} samples cannot be filled from {available.sum(axis=1).tolist()} samples of the bands "
            f"{', '.join(BANDS)}; ask for a smaller mixture"
        )
    chosen = np.rint(result.x[:_CELLS]).astype(np.int64).reshape(available.shape)
    sums = chosen.sum(axis=0).tolist()
    return Allocation(
        chosen, {name: max(0, rows - top) - max(0, bottom - rows) for name, rows in zip(TRIVIA, sums, strict=True)}
    )


def _constraints(reference: Cells, size: int, limits: Limits, bottom: int, top: int) -> list[LinearConstraint]:
    """Write the programme down.

    Its variables are the rows of the cells, their distances from the reference, and the rows above and below the
    limit of each trivium category.
    """
    in_rows = limits_in_rows(limits, size)
    identity, none_of = np.eye(_CELLS), np.zeros((_CELLS, _SLACKS))
    no_distance, of_each = np.zeros((len(TRIVIA), _CELLS)), np.eye(len(TRIVIA))
    none_of_each = np.zeros_like(of_each)
    close = reference.ravel()
    return [
        LinearConstraint(np.r_[np.ones(_CELLS), np.zeros(_CELLS + _SLACKS)], size, size),
        LinearConstraint(
            np.c_[_SELECT_BAND, np.zeros((len(BANDS), _CELLS + _SLACKS))],
            [in_rows[band][0] for band in BANDS],
            [in_rows[band][1] for band in BANDS],
        ),
        LinearConstraint(np.c_[_SELECT_TRIVIUM, no_distance, -of_each, none_of_each], -np.inf, top),
        LinearConstraint(np.c_[_SELECT_TRIVIUM, no_distance, none_of_each, of_each], bottom, np.inf),
        LinearConstraint(np.c_[identity, -identity, none_of], -np.inf, close),
        LinearConstraint(np.c_[identity, identity, none_of], close, np.inf),
    ]


def largest_remainder(total: int, weights: list[int]) -> list[int]:
    """Cut `total` in proportion to `weights`; no part exceeds its weight while `total` does not exceed their sum."""
    whole = sum(weights)
    if not whole:
        return [0] * len(weights)
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts


def _proportional(available: Cells, size: int, limits: Limits) -> Cells:
    """The rows of each cell if only the bands counted."""
    have: dict[Band, int] = dict(zip(BANDS, available.sum(axis=1).tolist(), strict=True))
    wanted = target_rows(have, [size], limits)
    return np.array(
        [largest_remainder(wanted[band], row) for band, row in zip(BANDS, available.tolist(), strict=True)], np.int64
    )
