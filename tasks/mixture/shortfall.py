"""What a corpus lacks for a mixture, in words: what is missing, what limits the size, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from storage.vocabulary import BANDS, Band
from tasks.mixture.bands import (
    MIN_LOW_BOUNDS,
    TYPICAL_SOURCES,
    BandSet,
    Counts,
    Limits,
    bounds_by_set,
    fits,
    is_whole,
    largest_total,
    loosened_limits,
    missing_rows,
    name_bands,
    required_rows,
)


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


def no_band_message(have: Counts, empty: list[Band], focus: str = "") -> str:
    """Say that whole bands are missing, and how to fill them."""
    sources = "; ".join(f"{band}: for example {TYPICAL_SOURCES[band]}" for band in empty)
    step = "widen that part" if focus else f"download and score sources of the missing bands ({sources})"
    return (
        f"{_where(focus)} holds no {' and no '.join(empty)}-authority samples ({listed(have)}), but every mixture "
        f"needs all three bands; {step}, or pass accept_imbalance=true (--accept-imbalance), which draws what there is "
        "and says in the report how far its shares are from the method's"
    )


def too_few_message(have: Counts, focus: str = "") -> str:
    """Say that there are not even two samples."""
    step = "widen that part" if focus else "download and score sources first"
    return (
        f"{_where(focus)} holds {sum(have.values())} samples, but a mixture needs two at least, one to train on and "
        f"one to hold out; {step}"
    )


def _where(focus: str) -> str:
    return f"the part of the corpus that was asked for ({focus})" if focus else "the corpus"


def advise_downloads(counts: Counts, limits: Limits, missing: Mapping[BandSet, int] | None = None) -> str:
    """Name the bands to download more of, with sources."""
    bounds = bounds_by_set(counts, limits)
    sets = list(missing) if missing else [min(bounds, key=lambda bands: (bounds[bands], len(bands)))]
    single = [bands[0] for bands in sets if len(bands) == 1]
    bands = single or list(dict.fromkeys(band for chosen in sets for band in chosen))
    return "download more " + ", or ".join(f"{band}-authority documents ({TYPICAL_SOURCES[band]})" for band in bands)


def unfit_message(have: Counts, wanted: tuple[int, int], possible: tuple[int, int], limits: Limits) -> str:
    """Say why sizes do not fit, exactly what is missing, and every way out."""
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
        f"({_limits_text(limits)}): the corpus holds {listed(have)}; missing: {lacking}. Either {instead}; or "
        f"{advise_downloads(have, limits, missing)}{_loosening_that_fits(have, wanted)}; or pass "
        "accept_imbalance=true (--accept-imbalance) for the nearest shares"
    )


def _loosening_that_fits(have: Counts, wanted: tuple[int, int]) -> str:
    fitting = next((limits for limits in loosened_limits(MIN_LOW_BOUNDS[0]) if fits(have, wanted, limits)), None)
    return f"; or pass min_low_authority={float(fitting['low'][0]):g}" if fitting else ""


def _limits_text(limits: Limits) -> str:
    return ", ".join(f"{band} {float(low * 100):g}-{float(high * 100):g} %" for band, (low, high) in limits.items())


def listed(counts: Counts) -> str:
    """List the rows of each band."""
    return ", ".join(f"{counts[band]} {band}" for band in BANDS)
