"""The guide's phase 4: how the samples of a side are distributed, and whether that is good enough to train on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, computed_field

from storage.errors import ParameterError
from storage.vocabulary import (
    BAND_TARGETS,
    BANDS,
    ENTROPY_MEAN_TARGET_BITS,
    HIGH_ABOVE,
    LOW_BELOW,
    TRIVIA,
    TRIVIUM_TARGET,
    Band,
    Trivium,
)
from tasks.mixture.bands import TYPICAL_SOURCES

Verdict = Literal["good", "acceptable", "poor"]

ACCEPTABLE_MARGIN = 0.05
"""A share this far outside its target still works: low authority at 20 to 25 %, for example."""
TRIVIUM_IMBALANCE = 0.50
POOR_MEAN_BITS = 3.0
"""A mean below this says that coordinated sources prevail."""
MAX_BITS_ABOVE = 7.0
MIN_BITS_BELOW = 2.0

HISTOGRAM_BINS = 20

_VERDICTS: tuple[Verdict, ...] = ("good", "acceptable", "poor")
_MARKS: dict[Verdict, str] = {"good": "✓", "acceptable": "⚠", "poor": "✗"}
_LABELS: dict[Band, str] = {
    "low": "Low authority (<0.3): ",
    "medium": "Medium authority:     ",
    "high": "High authority (>0.7):",
}


class Part(BaseModel):
    """One band or trivium category: rows, share, target share and how well they agree."""

    model_config = ConfigDict(frozen=True)

    count: int
    share: float
    target: tuple[float, float]
    verdict: Verdict


class Entropy(BaseModel):
    """Provenance entropy in bits, and whether it spans coordinated and primary sources."""

    model_config = ConfigDict(frozen=True)

    mean_bits: float
    min_bits: float
    max_bits: float
    mean_in_range: bool
    has_low: bool
    has_high: bool

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Verdict:
        """Good within `ENTROPY_MEAN_TARGET_BITS`, poor below `POOR_MEAN_BITS`, else acceptable."""
        if self.mean_in_range:
            return "good"
        return "poor" if self.mean_bits < POOR_MEAN_BITS else "acceptable"


class Distribution(BaseModel):
    """What one side of a mixture holds; `model_dump(mode="json")` gives plain JSON."""

    model_config = ConfigDict(frozen=True)

    total: int
    bands: dict[Band, Part]
    trivium: dict[Trivium, Part]
    entropy: Entropy
    verdict: Verdict


def measure_distribution(
    auth_weights: npt.ArrayLike,
    prov_entropies: npt.ArrayLike,
    trivium_categories: Iterable[str],
) -> Distribution:
    """Measure the samples of one side.

    Args:
        auth_weights: Authority weight of each sample.
        prov_entropies: Provenance entropy of each sample, in bits.
        trivium_categories: Trivium category of each sample.

    Returns:
        Counts, shares, targets and verdicts; the overall verdict is the worst of the bands'.

    Raises:
        ParameterError: There are no samples, or the columns differ in length.
    """
    authority = np.asarray(auth_weights, np.float64)
    bits = np.asarray(prov_entropies, np.float64)
    trivia = list(trivium_categories)
    if not len(authority) or not len(authority) == len(bits) == len(trivia):
        raise ParameterError(
            f"a distribution needs at least one sample and columns of equal length, got {len(authority)} weights, "
            f"{len(bits)} entropies and {len(trivia)} trivium categories"
        )
    low, high = authority < LOW_BELOW, authority > HIGH_ABOVE
    masks: dict[Band, npt.NDArray[np.bool_]] = {"low": low, "medium": ~low & ~high, "high": high}
    bands = {band: _part(int(masks[band].sum()), len(authority), BAND_TARGETS[band]) for band in BANDS}
    return Distribution(
        total=len(authority),
        bands=bands,
        trivium={name: _trivium_part(trivia.count(name), len(trivia)) for name in TRIVIA},
        entropy=_entropy(bits),
        verdict=max((part.verdict for part in bands.values()), key=_VERDICTS.index),
    )


def format_distribution(distribution: Distribution) -> str:
    """Print a distribution as the guide does, each band with its mark: good, acceptable or poor."""
    lines = [f"Total samples: {distribution.total}"]
    for band, part in distribution.bands.items():
        target = f"{100 * part.target[0]:.0f}-{100 * part.target[1]:.0f}%"
        lines.append(f"{_LABELS[band]} {_counted(part)} - Target: {target} {_MARKS[part.verdict]}")
    lines += ["", "Trivium Categories:"]
    for name, part in distribution.trivium.items():
        mark = "" if part.verdict == "good" else f" {_MARKS[part.verdict]}"
        lines.append(f"  {name.capitalize() + ':':9} {_counted(part)}{mark}")
    entropy = distribution.entropy
    lines += [
        "",
        "Provenance Entropy:",
        f"  Mean: {entropy.mean_bits:.2f} bits {_MARKS[entropy.verdict]}"
        f"{_note(entropy.mean_in_range, 'expected 3.5 to 6.0')}",
        f"  Min:  {entropy.min_bits:.2f} bits{_note(entropy.has_low, 'expected below 2.0')}",
        f"  Max:  {entropy.max_bits:.2f} bits{_note(entropy.has_high, 'expected above 7.0')}",
    ]
    return "\n".join(lines)


def advise(distribution: Distribution) -> list[str]:
    """Say for everything that is not good what it means and what to do about it."""
    lines = []
    for band, part in distribution.bands.items():
        if part.verdict != "good":
            way, step = _way(part, f"download more of {TYPICAL_SOURCES[band]}", "download more of the other bands")
            effect = "the training signal is weaker" if part.verdict == "acceptable" else "do not train on this"
            lines.append(f"{band} authority is {way} its {_range(part)}: {effect}; {step} and rebalance")
    for name, part in distribution.trivium.items():
        if part.verdict != "good":
            others = [other for other in TRIVIA if other != name]
            way, step = _way(part, f"add sources of {name}", f"add sources of {' or '.join(others)}")
            lines.append(f"{name} is {way} its {_range(part)}: {step}; the bands come first")
    return [*lines, *_advise_on_entropy(distribution.entropy)]


def _advise_on_entropy(entropy: Entropy) -> list[str]:
    lines = []
    primary, coordinated = (f"download more of {TYPICAL_SOURCES[band]} and rebalance" for band in ("low", "high"))
    if not entropy.mean_in_range:
        least, most = ENTROPY_MEAN_TARGET_BITS
        way, step = ("below", primary) if entropy.mean_bits < least else ("above", coordinated)
        lines.append(f"mean entropy is {entropy.mean_bits:.2f} bits, {way} {least} to {most}: {step}")
    if not entropy.has_low:
        lines.append(
            f"no sample is below {MIN_BITS_BELOW} bits: coordinated sources for contrast are missing; {coordinated}"
        )
    if not entropy.has_high:
        lines.append(f"no sample is above {MAX_BITS_ABOVE} bits: uneditable primary sources are missing; {primary}")
    return lines


def _way(part: Part, if_below: str, if_above: str) -> tuple[str, str]:
    share = f"{100 * part.share:.1f} %,"
    return (f"{share} below", if_below) if part.share < part.target[0] else (f"{share} above", if_above)


def _range(part: Part) -> str:
    return f"{100 * part.target[0]:.0f}-{100 * part.target[1]:.0f} %"


def count_histogram(values: npt.ArrayLike, largest: float) -> list[int]:
    """Count values in `HISTOGRAM_BINS` equal bins from 0 to `largest`, both ends included."""
    return [int(count) for count in np.histogram(values, HISTOGRAM_BINS, (0.0, largest))[0]]


def _part(count: int, total: int, target: tuple[float, float]) -> Part:
    share = count / total
    outside = max(target[0] - share, share - target[1])
    verdict: Verdict = "good" if outside <= 0 else "acceptable" if outside <= ACCEPTABLE_MARGIN + 1e-9 else "poor"
    return Part(count=count, share=share, target=target, verdict=verdict)


def _trivium_part(count: int, total: int) -> Part:
    target = TRIVIUM_TARGET
    share = count / total
    inside = target[0] <= share <= target[1]
    verdict: Verdict = "good" if inside else "poor" if share > TRIVIUM_IMBALANCE else "acceptable"
    return Part(count=count, share=share, target=target, verdict=verdict)


def _entropy(bits: npt.NDArray[np.float64]) -> Entropy:
    mean, least, most = float(bits.mean()), float(bits.min()), float(bits.max())
    return Entropy(
        mean_bits=mean,
        min_bits=least,
        max_bits=most,
        mean_in_range=ENTROPY_MEAN_TARGET_BITS[0] <= mean <= ENTROPY_MEAN_TARGET_BITS[1],
        has_low=least < MIN_BITS_BELOW,
        has_high=most > MAX_BITS_ABOVE,
    )


def _counted(part: Part) -> str:
    return f"{part.count:6d} ({100 * part.share:5.1f}%)"


def _note(fine: bool, expected: str) -> str:
    return "" if fine else f" ({expected})"
