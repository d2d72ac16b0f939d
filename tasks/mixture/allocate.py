"""How many rows of each (band, trivium) cell one side gets: a small mixed-integer programme."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from storage.errors import MixtureError
from storage.schemas import BANDS, TRIVIA, Band, Trivium
from tasks.mixture.bands import Limits, limits_in_rows, target_rows

Cells = npt.NDArray[np.int64]
"""(3, 3) rows: bands low, medium, high by trivia grammar, logic, rhetoric."""

TRIVIUM_LIMITS = (Fraction(20, 100), Fraction(40, 100))
"""The guide's acceptable share of a trivium category."""

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
    bands, trivia = len(BANDS), len(TRIVIA)
    cells, slacks = bands * trivia, 2 * trivia
    reference = _proportional(available, size, limits).ravel()
    # Variables: rows of the cells, their distances from the reference, rows above and below each trivium limit.
    select_band = np.kron(np.eye(bands), np.ones(trivia))
    select_trivium = np.kron(np.ones(bands), np.eye(trivia))
    identity, no_slack = np.eye(cells), np.zeros((cells, slacks))
    in_rows = limits_in_rows(limits, size)
    top, bottom = math.floor(TRIVIUM_LIMITS[1] * size), math.ceil(TRIVIUM_LIMITS[0] * size)
    constraints = [
        LinearConstraint(np.r_[np.ones(cells), np.zeros(cells + slacks)], size, size),
        LinearConstraint(
            np.c_[select_band, np.zeros((bands, cells + slacks))],
            [in_rows[band][0] for band in BANDS],
            [in_rows[band][1] for band in BANDS],
        ),
        LinearConstraint(
            np.c_[select_trivium, np.zeros((trivia, cells)), -np.eye(trivia), np.zeros((trivia, trivia))], -np.inf, top
        ),
        LinearConstraint(
            np.c_[select_trivium, np.zeros((trivia, cells)), np.zeros((trivia, trivia)), np.eye(trivia)], bottom, np.inf
        ),
        LinearConstraint(np.c_[identity, -identity, no_slack], -np.inf, reference),
        LinearConstraint(np.c_[identity, identity, no_slack], reference, np.inf),
    ]
    # Slightly unequal weights leave one optimum, so that the answer does not depend on the solver's path.
    distance = 1 + np.arange(cells) / 100
    cost = np.r_[-_KEEP_LOW * select_band[0], distance, np.full(slacks, _TRIVIUM_EXCESS)]
    result = milp(
        cost,
        integrality=np.r_[np.ones(cells), np.zeros(cells + slacks)],
        bounds=Bounds(0, np.r_[available.ravel(), np.full(cells + slacks, np.inf)]),
        constraints=constraints,
        options={"mip_rel_gap": 0},
    )
    if result.x is None:
        raise MixtureError(
            f"a side of {size} samples cannot be filled from {available.sum(axis=1).tolist()} samples of the bands "
            f"{', '.join(BANDS)}; ask for a smaller mixture"
        )
    chosen = np.rint(result.x[:cells]).astype(np.int64).reshape(bands, trivia)
    sums = chosen.sum(axis=0).tolist()
    return Allocation(
        chosen, {name: max(0, rows - top) - max(0, bottom - rows) for name, rows in zip(TRIVIA, sums, strict=True)}
    )


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
