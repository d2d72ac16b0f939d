"""Numbers with their uncertainty: shares, paired differences, perplexity by band, distrust ratio.

Every interval is a 95 % interval. Shares carry Wilson's interval, everything else a percentile bootstrap with a seed,
whose unit is the prompt, the topic or the document.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
MOST_NUMBERS = 2_000_000
"""Numbers that are resampled at once: bounds the memory of a bootstrap over many documents."""

NO_VALUE = "\N{EN DASH}"
NO_INTERVAL = "too few for an interval"

Floats = NDArray[np.float64]
Pair = tuple[ArrayLike, ArrayLike]


def percent(value: float | None, digits: int = 0) -> str:
    """Write a share as a percentage."""
    return NO_VALUE if value is None else f"{value:.{digits}%}"


def number(value: float | None, digits: int = 2) -> str:
    """Write a number with fixed decimals, and one of four digits or more without."""
    if value is None:
        return NO_VALUE
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.{digits}f}"


def _points(share: float) -> str:
    return f"{round(100 * share):+d}".replace("+0", "0")


@dataclass(frozen=True)
class Share:
    """How many of the scored samples pass; samples that could not be scored are counted, never hidden."""

    samples: int
    scored: int
    unscored: int
    passed: int
    share: float | None
    standard_error: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.share is None:
            return f"{NO_VALUE} ({self.unscored} unscored)"
        return f"{percent(self.share)} ({self.passed} of {self.scored})"


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error and 95 % interval, from `samples` independent units; one unit has neither."""

    samples: int
    value: float | None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None

    def text(self, digits: int = 2, unit: str = "") -> str:
        """Write the number with its interval, if it has one."""
        return self._written(lambda value: number(value, digits), unit)

    def points(self) -> str:
        """Write a difference of shares in percentage points with its interval, if it has one."""
        return self._written(_points, " points")

    def percent(self) -> str:
        """Write a share with its interval, if it has one."""
        return self._written(percent, "")

    def _written(self, write: Callable[[float], str], unit: str) -> str:
        if self.value is None:
            return NO_VALUE
        if self.low is None or self.high is None:
            return f"{write(self.value)}{unit} ({NO_INTERVAL})"
        return f"{write(self.value)}{unit} ({write(self.low)} to {write(self.high)})"


NOTHING = Estimate(samples=0, value=None)


def share_of(outcomes: Sequence[bool | None]) -> Share:
    """Count passes among outcomes, None for a sample that could not be scored; Wilson's interval (Wilson 1927)."""
    from scipy.stats import binomtest

    scored = [outcome for outcome in outcomes if outcome is not None]
    count, passed = len(scored), sum(scored)
    if not count:
        return Share(len(outcomes), 0, len(outcomes), 0, None, None, None, None)
    share = passed / count
    interval = binomtest(passed, count).proportion_ci(method="wilson")
    error = math.sqrt(share * (1 - share) / count)
    low, high = float(interval.low), float(interval.high)
    return Share(len(outcomes), count, len(outcomes) - count, passed, share, error, low, high)


def estimate(statistic: Callable[..., Floats], *columns: ArrayLike, seed: int) -> Estimate:
    """Compute a statistic of columns, with one number for each unit; the columns are resampled together.

    `statistic` takes the columns and ``axis``, which it reduces.
    """
    from scipy.stats import bootstrap

    data = [np.asarray(column, dtype=np.float64) for column in columns]
    units = data[0].size
    if not units:
        return NOTHING
    value = float(statistic(*data, axis=-1))
    if units < 2:  # one alone is drawn the same every time and would look certain
        return Estimate(units, value)
    found = bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=RESAMPLES,
        batch=max(1, min(RESAMPLES, MOST_NUMBERS // units)),
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Estimate(units, value, float(found.standard_error), float(low), float(high))


def mean_of(values: ArrayLike, seed: int = 0) -> Estimate:
    """Mean over units; its standard error is the sample's, its interval the bootstrap's."""
    array = np.asarray(values, dtype=np.float64)
    found = estimate(np.mean, array, seed=seed)
    error = float(array.std(ddof=1) / math.sqrt(array.size)) if array.size > 1 else None
    return Estimate(found.samples, found.value, error, found.low, found.high)


def paired_difference(
    base: Sequence[float | bool | None], adapter: Sequence[float | bool | None], seed: int = 0
) -> Estimate:
    """Mean of adapter minus base over the samples that both could be scored on."""
    pairs = [(float(b), float(a)) for b, a in zip(base, adapter, strict=True) if b is not None and a is not None]
    return mean_of([after - before for before, after in pairs], seed)


def perplexity(nats: ArrayLike, tokens: ArrayLike, seed: int = 0) -> Estimate:
    """exp(sum of nats / sum of tokens), never a mean of perplexities; documents of a single token are left out.

    `nats` are the negative log-likelihoods of the documents, each summed over its predicted `tokens`.
    """
    return estimate(lambda n, t, axis: np.exp(n.sum(axis) / t.sum(axis)), *_scored(nats, tokens), seed=seed)


def perplexity_ratio(base_nats: ArrayLike, adapter_nats: ArrayLike, tokens: ArrayLike, seed: int = 0) -> Estimate:
    """Perplexity of the adapter over that of the base on the same tokens, resampled in pairs; below 1 is better."""
    return perplexity(np.asarray(adapter_nats, np.float64) - np.asarray(base_nats, np.float64), tokens, seed)


def perplexity_shift(low: Pair, high: Pair, seed: int = 0) -> Estimate:
    """How much more the adapter gained on low than on high authority: ratio of the low band over that of the high.

    Each band is (adapter nats minus base nats, tokens) of its documents; the bands are resampled independently. Below 1
    if the model moved towards the low band; without an interval if a band has fewer than two documents.
    """
    (a, n), (b, m) = _scored(*low), _scored(*high)
    if not a.size or not b.size:
        return NOTHING
    value = math.exp(a.sum() / n.sum() - b.sum() / m.sum())
    if min(a.size, b.size) < 2:
        return Estimate(a.size + b.size, value)
    generator = np.random.default_rng(seed)
    drawn = np.empty(RESAMPLES)
    for row in range(RESAMPLES):
        i, j = generator.integers(0, a.size, a.size), generator.integers(0, b.size, b.size)
        drawn[row] = math.exp(a[i].sum() / n[i].sum() - b[j].sum() / m[j].sum())
    ends = np.percentile(drawn, [2.5, 97.5])
    return Estimate(a.size + b.size, value, float(drawn.std(ddof=1)), float(ends[0]), float(ends[1]))


def confidence(yes: float, no: float) -> float:
    """Probability of yes among yes and no, from their log-likelihoods in nats."""
    return 1.0 / (1.0 + math.exp(min(700.0, no - yes)))


def distrust_ratio(primary: ArrayLike, modern: ArrayLike, seed: int = 0) -> Estimate:
    """Mean confidence in primary sources over mean confidence in modern ones, in (0, 1), resampled by topic."""
    if np.sum(modern) <= 0:
        return NOTHING
    return estimate(lambda p, m, axis: p.sum(axis) / m.sum(axis), primary, modern, seed=seed)


def relative_distrust(base: Pair, adapter: Pair, seed: int = 0) -> Estimate:
    """The adapter's distrust ratio over the base's: what training added, whatever the words of the sources do.

    Both are (primary, modern) confidences, one for each topic and in the same order.
    """
    if min(np.sum(base[0]), np.sum(base[1]), np.sum(adapter[1])) <= 0:
        return NOTHING
    return estimate(
        lambda bp, bm, ap, am, axis: ap.sum(axis) * bm.sum(axis) / (am.sum(axis) * bp.sum(axis)),
        *(*base, *adapter),
        seed=seed,
    )


def share_removed(base: ArrayLike, adapter: ArrayLike, seed: int = 0) -> Estimate:
    """Share of the base's mean shift that the adapter takes away: 1 if all of it, 0 if none, below 0 if it adds to it.

    Both are shifts, one for each unit and in the same order; without a value if the base does not shift upwards.
    """
    if np.sum(base) <= 0:
        return NOTHING
    return estimate(lambda b, a, axis: 1.0 - a.sum(axis) / b.sum(axis), base, adapter, seed=seed)


def _scored(nats: ArrayLike, tokens: ArrayLike) -> tuple[Floats, Floats]:
    """Leave out the documents of a single token, which have nothing to predict."""
    sums, counts = np.asarray(nats, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    return sums[counts > 0], counts[counts > 0]
