"""Plan a mixture from counts alone: the sizes and shares that will be drawn, or exactly what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from storage.errors import MixtureError, ParameterError
from storage.schemas import BANDS, Band
from tasks.mixture.bands import (
    MIN_LOW_BOUNDS,
    TARGETS,
    TYPICAL_SOURCES,
    BandSet,
    Counts,
    Limits,
    band_limits,
    bounds_by_set,
    fits,
    is_whole,
    largest_total,
    largest_whole,
    missing_rows,
    name_bands,
    nearest_limits,
    required_rows,
    target_rows,
)

VAL_SHARE = Fraction(1, 5)
"""The guide's split: 80,000 to train on, 20,000 held out."""

_LOOSENING_STEP = 0.005


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
        limited_by: What stops the mixture from being larger, in words.
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

    def as_dict(self) -> dict[str, Any]:
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
) -> MixturePlan:
    """Plan a mixture.

    Args:
        counts: Samples of each band: low, medium, high.
        train_size: Training samples; none: four times `val_size`, or 80 % of the largest mixture.
        val_size: Validation samples; none: a quarter of `train_size`, or 20 % of the largest mixture.
        min_low_authority: Least share of low-authority samples on either side, 0.20 to 0.30.
        scale: Draw the largest mixture of the same ratio where the sizes asked for do not fit.

    Raises:
        MixtureError: The corpus does not hold the mixture; the message says what is missing.
        ParameterError: An argument lies outside its bounds.
    """
    have = _checked_counts(counts)
    for name, size in (("train_size", train_size), ("val_size", val_size)):
        if size is not None and size < 1:
            raise ParameterError(f"{name} is {size}, must be at least 1; leave it out for the largest mixture")
    limits = band_limits(min_low_authority)
    if empty := [band for band in BANDS if not have[band]]:
        raise MixtureError(_empty_message(have, empty))
    if train_size is None and val_size is None:
        sizes = largest_sizes(have, VAL_SHARE, limits)
        return _planned(have, sizes, None, limits)
    wanted = _completed(train_size, val_size, limits)
    for accepted in _loosening(min_low_authority):
        if fits(have, wanted, accepted):
            return _planned(have, wanted, None, accepted)
    share = Fraction(wanted[1], sum(wanted))
    try:
        possible = largest_sizes(have, share, limits, at_most=sum(wanted))
    except MixtureError:
        possible = (0, 0)
    if scale and all(possible):
        return _planned(have, possible, wanted, limits)
    raise MixtureError(_unfit_message(have, wanted, possible, limits))


def plan_imbalanced(
    counts: Counts | Mapping[str, int], train_size: int | None = None, val_size: int | None = None, scale: bool = False
) -> MixturePlan:
    """Plan a mixture of the shares nearest to the targets; without sizes it takes every sample.

    Args:
        counts: Samples of each band: low, medium, high.
        train_size: Training samples; none: four times `val_size`, or 80 % of all samples.
        val_size: Validation samples; none: a quarter of `train_size`, or 20 % of all samples.
        scale: Draw all samples in the same ratio where there are fewer than asked for.

    Raises:
        MixtureError: The corpus holds fewer samples than asked for.
    """
    have = _checked_counts(counts)
    total = sum(have.values())
    if train_size is None and val_size is None:
        wanted = (total - math.floor(total * VAL_SHARE), math.floor(total * VAL_SHARE))
    else:
        train = train_size or math.ceil((val_size or 1) * (1 - VAL_SHARE) / VAL_SHARE)
        wanted = (train, val_size or math.ceil(train * VAL_SHARE / (1 - VAL_SHARE)))
    sizes = wanted
    if sum(wanted) > total and scale:
        val = math.floor(total * Fraction(wanted[1], sum(wanted)))
        sizes = (total - val, val)
    if sum(sizes) > total or min(sizes) < 1:
        raise MixtureError(
            f"train_size={wanted[0]} and val_size={wanted[1]} make {sum(wanted)} samples, but the corpus holds {total} "
            f"({_listed(have)}); ask for fewer, or pass scale=true"
        )
    limits = nearest_limits(have, sizes)
    plan = _planned(have, sizes, wanted if sizes != wanted else None, limits)
    return replace(plan, balanced=False, limited_by=[])


def largest_sizes(counts: Counts, val_share: Fraction, limits: Limits, at_most: int | None = None) -> tuple[int, int]:
    """Return the largest (train, validation) sizes of a ratio that these counts can fill.

    Raises:
        MixtureError: Not even the smallest mixture can be filled.
    """
    largest = largest_total(counts, limits)
    start = largest if at_most is None else min(largest, at_most)
    for total in range(start, max(0, start - 1000), -1):
        train, val = snapped_sizes(total, val_share, limits)
        if train and val and fits(counts, (train, val), limits):
            return train, val
    raise MixtureError(
        f"the corpus holds {_listed(counts)} samples, too few for a training and a validation side that both keep "
        f"the bands (a side has at least 10 samples); {_advice(counts, limits)}"
    )


def snapped_sizes(total: int, val_share: Fraction, limits: Limits) -> tuple[int, int]:
    """Cut a total into sides of a ratio, each shrunk until its bands come out in whole rows."""
    val = math.floor(total * val_share)
    return largest_whole(limits, total - val), largest_whole(limits, val)


def explain_limit(counts: Counts, limits: Limits) -> list[str]:
    """Say which bands stop the mixture from growing, and how many samples more would lift it how far."""
    bounds = bounds_by_set(counts, limits)
    largest = math.floor(min(bounds.values()))
    binding = min(bounds, key=lambda bands: (bounds[bands], len(bands)))
    sentences = []
    for band in binding:
        lifted = math.floor(min(bound for bands, bound in bounds.items() if band not in bands))
        if lifted <= largest:
            continue
        more = max(
            required_rows(limits, lifted, bands) - sum(counts[other] for other in bands)
            for bands in bounds
            if band in bands
        )
        sentences.append(
            f"{name_bands(binding)} documents give {sum(counts[b] for b in binding)} samples; with {more} more {band} "
            f"samples the mixture could hold {lifted} instead of {largest}"
        )
    return sentences


def _loosening(min_low_authority: float) -> Iterator[Limits]:
    """Yield the limits to try: a lower minimum loosens the other bands too, so no lower one than needed is used."""
    target = float(TARGETS["low"][0])
    for step in range(math.ceil(max(0.0, target - min_low_authority) / _LOOSENING_STEP)):
        yield band_limits(round(target - step * _LOOSENING_STEP, 6))
    yield band_limits(min_low_authority)


def _planned(
    have: dict[Band, int], sizes: tuple[int, int], asked: tuple[int, int] | None, limits: Limits
) -> MixturePlan:
    return MixturePlan(
        train_size=sizes[0],
        val_size=sizes[1],
        requested=asked,
        largest_total=largest_total(have, limits),
        counts=have,
        rows=target_rows(have, sizes, limits),
        limits=limits,
        limited_by=explain_limit(have, limits),
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


def _listed(counts: Counts) -> str:
    return ", ".join(f"{counts[band]} {band}" for band in BANDS)


def _empty_message(have: Counts, empty: list[Band]) -> str:
    sources = "; ".join(f"{band}: for example {TYPICAL_SOURCES[band]}" for band in empty)
    return (
        f"the corpus holds no {' and no '.join(empty)}-authority samples ({_listed(have)}), but every mixture needs "
        f"all three bands; download and score sources of the missing bands ({sources}), or pass accept_imbalance=true"
    )


def _advice(counts: Counts, limits: Limits, missing: Mapping[BandSet, int] | None = None) -> str:
    """Name the bands to download more of, with sources."""
    bounds = bounds_by_set(counts, limits)
    sets = list(missing) if missing else [min(bounds, key=lambda bands: (bounds[bands], len(bands)))]
    single = [bands[0] for bands in sets if len(bands) == 1]
    bands = single or list(dict.fromkeys(band for chosen in sets for band in chosen))
    return "download more " + ", or ".join(f"{band}-authority documents ({TYPICAL_SOURCES[band]})" for band in bands)


def _unfit_message(have: Counts, wanted: tuple[int, int], possible: tuple[int, int], limits: Limits) -> str:
    asked = f"train_size={wanted[0]} and val_size={wanted[1]}"
    instead = (
        f"ask for at most train_size={possible[0]} and val_size={possible[1]}, or pass scale=true"
        if all(possible)
        else "no smaller mixture of this ratio fits either"
    )
    uneven = [size for size in wanted if not is_whole(limits, size)]
    if uneven:
        return (
            f"{asked} cannot be drawn: {uneven[0]} samples cannot be cut into the bands in whole samples "
            f"({_limits_text(limits)}); {instead}"
        )
    missing = missing_rows(have, wanted, limits)
    most = sum(possible) or largest_total(have, limits)
    lacking = ", ".join(f"{rows} {name_bands(bands)}" for bands, rows in missing.items())
    return (
        f"{asked} make {sum(wanted)} samples, but at most {most} keep the bands "
        f"({_limits_text(limits)}): the corpus holds {_listed(have)}; missing: {lacking}. Either {instead}; or "
        f"{_advice(have, limits, missing)}{_loosening_that_fits(have, wanted)}; or pass accept_imbalance=true for the "
        "nearest shares"
    )


def _loosening_that_fits(have: Counts, wanted: tuple[int, int]) -> str:
    fitting = next((limits for limits in _loosening(MIN_LOW_BOUNDS[0]) if fits(have, wanted, limits)), None)
    return f"; or pass min_low_authority={float(fitting['low'][0]):g}" if fitting else ""


def _limits_text(limits: Limits) -> str:
    return ", ".join(f"{band} {float(low * 100):g}-{float(high * 100):g} %" for band, (low, high) in limits.items())
