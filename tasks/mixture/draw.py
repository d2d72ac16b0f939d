"""Draw a mixture: from candidate samples to the rows of both sides, in their final order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from storage.errors import MixtureError
from storage.vocabulary import BANDS
from tasks.mixture.allocate import TRIVIUM_LIMITS, Allocation, Cells, allocate_cells, largest_remainder
from tasks.mixture.bands import limits_in_rows
from tasks.mixture.candidates import SIDES, Candidates, Indices
from tasks.mixture.hashing import keyed_hashes
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.sample import MixturePlan, plan_imbalanced, plan_mixture
from tasks.mixture.settle import settle_sides


@dataclass(frozen=True)
class Drawn:
    """A drawn mixture.

    Attributes:
        train: Candidates to train on, in order.
        valid: Held-out candidates, in order.
        plan: The plan, with the sizes that were really drawn.
        remarks: What a person should know: trivium categories outside their limits, sizes shrunk by groups.
    """

    train: Indices
    valid: Indices
    plan: MixturePlan
    remarks: list[str]


def draw_mixture(candidates: Candidates, parameters: MixtureParameters) -> Drawn:
    """Draw a mixture whose every side keeps the bands and whose groups never straddle.

    Depends on the samples themselves, the parameters and the seed only, not on the order of the input.

    Raises:
        MixtureError: The samples do not hold the mixture asked for.
    """
    p, counts = parameters, candidates.band_counts()
    try:
        plan = plan_mixture(counts, p.train_size, p.val_size, p.min_low_authority, p.scale, p.focus)
        sides, plan, remarks = settle_sides(candidates, plan, p)
    except MixtureError:
        if not p.accept_imbalance:
            raise
        plan = plan_imbalanced(counts, p.train_size, p.val_size, p.scale, p.focus)
        sides, plan, remarks = settle_sides(candidates, plan, p)
        remarks.insert(0, "the corpus cannot keep the shares of the method; these are the nearest ones")
    hashes = keyed_hashes(f"{p.seed}/row", candidates.ids)
    chosen = []
    for name, side, available, size in zip(
        SIDES, sides.rows, sides.cells, (plan.train_size, plan.val_size), strict=True
    ):
        allocation = allocate_cells(available, size, plan.limits)
        remarks += _trivium_remarks(name, allocation, size)
        picked = _pick(candidates, side, allocation.cells, hashes)
        order = np.argsort(
            keyed_hashes(f"{p.seed}/{name}", [candidates.ids[i] for i in picked.tolist()]), kind="stable"
        )
        chosen.append(picked[order])
    drawn = Drawn(chosen[0], chosen[1], plan, remarks)
    check_drawn(candidates, drawn)
    return drawn


def check_drawn(candidates: Candidates, drawn: Drawn) -> None:
    """Check every promise of a mixture once more before it is written.

    Raises:
        AssertionError: A promise is broken, which is a defect of this program.
    """
    plan = drawn.plan
    for side, size in ((drawn.train, plan.train_size), (drawn.valid, plan.val_size)):
        if len(side) != size or len({candidates.ids[i] for i in side.tolist()}) != size:
            raise AssertionError(f"a side of {size} samples came out with {len(side)}, or with one twice")
        sums = np.bincount(candidates.bands[side], minlength=len(BANDS)).tolist()
        for (low, high), rows in zip(limits_in_rows(plan.limits, size).values(), sums, strict=True):
            if not low <= rows <= high:
                raise AssertionError(f"a band came out with {rows} of {size} samples, outside {low} to {high}")
    if np.intersect1d(candidates.groups[drawn.train], candidates.groups[drawn.valid]).size:
        raise AssertionError("a group came out on both sides")


def _pick(candidates: Candidates, rows: Indices, wanted: Cells, hashes: npt.NDArray[np.uint64]) -> Indices:
    """Pick the rows of each cell: sources in proportion, inside a source the smallest hashes."""
    picked = []
    sources = len(candidates.source_names)
    for band, trivium in np.ndindex(wanted.shape):
        if not wanted[band, trivium]:
            continue
        cell = rows[(candidates.bands[rows] == band) & (candidates.trivia[rows] == trivium)]
        by_source = np.bincount(candidates.sources[cell], minlength=sources).tolist()
        for source, count in enumerate(largest_remainder(int(wanted[band, trivium]), by_source)):
            of_source = cell[candidates.sources[cell] == source]
            picked.append(of_source[np.argsort(hashes[of_source], kind="stable")[:count]])
    return np.concatenate(picked)


def _trivium_remarks(side: str, allocation: Allocation, size: int) -> list[str]:
    low, high = (float(limit * 100) for limit in TRIVIUM_LIMITS)
    remarks = []
    for column, (name, excess) in enumerate(allocation.trivium_excess.items()):
        if excess:
            share = 100 * int(allocation.cells[:, column].sum()) / size
            way = f"{excess} samples above" if excess > 0 else f"{-excess} samples below"
            remarks.append(
                f"{side}: {name} holds {share:.1f} % of the samples, {way} its {low:g}-{high:g} %; the bands come first"
            )
    return remarks
