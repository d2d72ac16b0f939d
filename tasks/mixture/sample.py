"""Plan a mixture from counts alone: the sizes and shares that will be drawn, or exactly what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from storage.errors import MixtureError, ParameterError
from storage.vocabulary import BANDS, Band
from tasks.mixture.bands import (
    Counts,
    Limits,
    band_limits,
    downwards,
    fits,
    largest_total,
    largest_whole,
    loosened_limits,
    nearest_limits,
    target_rows,
)
from tasks.mixture.shortfall import (
    advise_downloads,
    explain_limit,
    listed,
    no_band_message,
    too_few_message,
    unfit_message,
)

METHOD_SIZES = (80_000, 20_000)
"""What the guide trains on and holds out: the sizes of a mixture for which none are given."""
VAL_SHARE = Fraction(METHOD_SIZES[1], sum(METHOD_SIZES))


@dataclass(frozen=True)
class MixturePlan:
    """What will be drawn.

    Attributes:
        train_size: Training samples.
        val_size: Validation samples.
        requested: The sizes asked for where they were scaled down, else none.
        largest_total: The most samples, both sides together, that the bands allow.
        counts: Samples of each band in the corpus.
        rows: Samples of each band that will be drawn, both sides together.
        limits: Share limits of each band, on either side.
        limited_by: What stops the mixture from being larger, in words; nothing where its sizes were asked for.
        balanced: Whether the limits are those of the method, and not the nearest that the corpus allows.
    """

    train_size: int
    val_size: int
    requested: tuple[int, int] | None
    largest_total: int
    counts: dict[Band, int]
    rows: dict[Band, int]
    limits: Limits
    limited_by: list[str]
    balanced: bool = True

    @property
    def total(self) -> int:
        """Samples of both sides together."""
        return self.train_size + self.val_size

    @property
    def val_share(self) -> Fraction:
        """Validation's share of the mixture."""
        return Fraction(self.val_size, self.total)

    @property
    def shares(self) -> dict[Band, float]:
        """The share of each band that will be drawn."""
        return {band: rows / self.total for band, rows in self.rows.items()}

    def as_dict(self) -> dict[str, object]:
        """Return the plan as JSON-able values."""
        return {
            "train_size": self.train_size,
            "val_size": self.val_size,
            "requested": list(self.requested) if self.requested else None,
            "largest_total": self.largest_total,
            "counts": dict(self.counts),
            "rows": dict(self.rows),
            "shares": {band: round(share, 6) for band, share in self.shares.items()},
            "limits": {band: [float(low), float(high)] for band, (low, high) in self.limits.items()},
            "limited_by": self.limited_by,
            "balanced": self.balanced,
        }


def plan_mixture(
    counts: Counts | Mapping[str, int],
    train_size: int | None = None,
    val_size: int | None = None,
    min_low_authority: float = 0.25,
    scale: bool = False,
    focus: str = "",
) -> MixturePlan:
    """Plan a mixture.

    Without sizes it has `METHOD_SIZES`, or is the largest of that ratio where there are fewer samples.

    Args:
        counts: Samples of each band: low, medium, high.
        train_size: Training samples; none: four times `val_size`.
        val_size: Validation samples; none: a quarter of `train_size`.
        min_low_authority: Least share of low-authority samples on either side, 0.20 to 0.30.
        scale: Draw the largest mixture of the same ratio where the sizes asked for do not fit.
        focus: What narrowed the corpus to these samples, for a message; empty: nothing.

    Raises:
        MixtureError: The corpus does not hold the mixture; the message says what is missing.
        ParameterError: An argument lies outside its bounds.
    """
    have = _checked_counts(counts)
    for name, size in (("train_size", train_size), ("val_size", val_size)):
        if size is not None and size < 1:
            raise ParameterError(f"{name} is {size}, must be at least 1; leave it out for the size of the method")
    limits = band_limits(min_low_authority)
    if empty := [band for band in BANDS if not have[band]]:
        raise MixtureError(no_band_message(have, empty, focus))
    asked = train_size is not None or val_size is not None
    wanted = _completed(train_size, val_size, limits) if asked else METHOD_SIZES
    for accepted in loosened_limits(min_low_authority):
        if fits(have, wanted, accepted):
            return _planned(have, wanted, None, accepted, [] if asked else stop_at_method(largest_total(have, limits)))
    if not asked:
        sizes = largest_sizes(have, VAL_SHARE, limits, at_most=sum(wanted))
        return _planned(have, sizes, None, limits, explain_limit(have, limits))
    share = Fraction(wanted[1], sum(wanted))
    try:
        possible = largest_sizes(have, share, limits, at_most=sum(wanted))
    except MixtureError:
        possible = (0, 0)
    if scale and all(possible):
        return _planned(have, possible, wanted, limits, explain_limit(have, limits))
    raise MixtureError(unfit_message(have, wanted, possible, limits))


def plan_imbalanced(
    counts: Counts | Mapping[str, int],
    train_size: int | None = None,
    val_size: int | None = None,
    scale: bool = False,
    focus: str = "",
) -> MixturePlan:
    """Plan a mixture of the shares nearest to the targets; without sizes of `METHOD_SIZES`, or every sample if fewer.

    Args:
        counts: Samples of each band: low, medium, high.
        train_size: Training samples; none: four times `val_size`.
        val_size: Validation samples; none: a quarter of `train_size`.
        scale: Draw all samples in the same ratio where there are fewer than asked for.
        focus: What narrowed the corpus to these samples, for a message; empty: nothing.

    Raises:
        MixtureError: The corpus holds fewer samples than asked for.
    """
    have = _checked_counts(counts)
    total = sum(have.values())
    if total < 2:
        raise MixtureError(too_few_message(have, focus))
    asked = train_size is not None or val_size is not None
    wanted = _sizes_of_any_shares(total, train_size, val_size)
    sizes = wanted
    if sum(wanted) > total and scale:
        val = math.floor(total * Fraction(wanted[1], sum(wanted)))
        sizes = (total - val, val)
    if sum(sizes) > total or min(sizes) < 1:
        raise MixtureError(
            f"train_size={wanted[0]} and val_size={wanted[1]} make {sum(wanted)} samples, but the corpus holds {total} "
            f"({listed(have)}); ask for fewer, or pass scale=true"
        )
    limits = nearest_limits(have, sizes)
    return MixturePlan(
        train_size=sizes[0],
        val_size=sizes[1],
        requested=wanted if sizes != wanted else None,
        largest_total=total,
        counts=have,
        rows=target_rows(have, sizes, limits),
        limits=limits,
        limited_by=[] if asked or sum(sizes) < sum(METHOD_SIZES) else stop_at_method(total),
        balanced=False,
    )


def largest_sizes(counts: Counts, val_share: Fraction, limits: Limits, at_most: int | None = None) -> tuple[int, int]:
    """Return the largest (train, validation) sizes of a ratio that these counts can fill.

    Raises:
        MixtureError: Not even the smallest mixture can be filled.
    """
    largest = largest_total(counts, limits)
    for total in downwards(largest if at_most is None else min(largest, at_most)):
        train, val = snapped_sizes(total, val_share, limits)
        if train and val and fits(counts, (train, val), limits):
            return train, val
    raise MixtureError(
        f"the corpus holds {listed(counts)} samples, too few for a training and a validation side that both keep "
        f"the bands (a side has at least 10 samples); {advise_downloads(counts, limits)}"
    )


def snapped_sizes(total: int, val_share: Fraction, limits: Limits) -> tuple[int, int]:
    """Cut a total into sides of a ratio, each shrunk until its bands come out in whole rows."""
    val = math.floor(total * val_share)
    return largest_whole(limits, total - val), largest_whole(limits, val)


def stop_at_method(largest: int) -> list[str]:
    """Say that a mixture stopped at `METHOD_SIZES` though `largest` samples would have been possible."""
    train, val = METHOD_SIZES
    if largest <= train + val:
        return []
    return [
        f"the mixture has the method's {train:,} + {val:,} samples; the corpus would allow {largest:,}, ask for more "
        "with --train-size"
    ]


def _planned(
    have: dict[Band, int],
    sizes: tuple[int, int],
    asked: tuple[int, int] | None,
    limits: Limits,
    limited_by: list[str],
) -> MixturePlan:
    return MixturePlan(
        train_size=sizes[0],
        val_size=sizes[1],
        requested=asked,
        largest_total=largest_total(have, limits),
        counts=have,
        rows=target_rows(have, sizes, limits),
        limits=limits,
        limited_by=limited_by,
    )


def _checked_counts(counts: Counts | Mapping[str, int]) -> dict[Band, int]:
    by_name: dict[str, int] = {str(name): int(count) for name, count in counts.items()}
    unknown = sorted(set(by_name) - set(BANDS))
    if unknown:
        raise ParameterError(f"counts name the bands {unknown}; the bands are {', '.join(BANDS)}")
    have: dict[Band, int] = {band: by_name.get(band, 0) for band in BANDS}
    if negative := [band for band, count in have.items() if count < 0]:
        raise ParameterError(f"the count of {negative[0]} is {have[negative[0]]}, must be 0 or more")
    return have


def _completed(train: int | None, val: int | None, limits: Limits) -> tuple[int, int]:
    """Fill in the size that was left out, by the guide's split."""
    if train is not None and val is not None:
        return train, val
    if train is not None:
        guess = math.ceil(train * VAL_SHARE / (1 - VAL_SHARE))
        return train, largest_whole(limits, guess) or guess
    assert val is not None
    guess = math.floor(val * (1 - VAL_SHARE) / VAL_SHARE)
    return largest_whole(limits, guess) or guess, val


def _sizes_of_any_shares(total: int, train: int | None, val: int | None) -> tuple[int, int]:
    """Fill in the sizes that were left out, by the guide's split and out of `total` samples."""
    if train is None and val is None:
        held_out = max(1, min(METHOD_SIZES[1], math.floor(total * VAL_SHARE)))
        return min(METHOD_SIZES[0], total - held_out), held_out
    train = train or math.ceil((val or 1) * (1 - VAL_SHARE) / VAL_SHARE)
    return train, val or math.ceil(train * VAL_SHARE / (1 - VAL_SHARE))
