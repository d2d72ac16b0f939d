"""Numbers with their uncertainty: shares, paired differences, perplexity by band, distrust ratio.

Every interval is a 95 % interval. Shares carry Wilson's interval, everything else a percentile bootstrap whose
unit is the prompt, the topic or the document, with a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z_95 = 1.959963984540054
RESAMPLES = 2000

Floats = NDArray[np.float64]


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

    def as_record(self) -> dict[str, Any]:
        """The fields as a JSON-able record."""
        return asdict(self)


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error and 95 % interval, from `samples` independent units; one unit has neither."""

    samples: int
    value: float | None
    standard_error: float | None
    low: float | None
    high: float | None

    def as_record(self) -> dict[str, Any]:
        """The fields as a JSON-able record."""
        return asdict(self)


NOTHING = Estimate(samples=0, value=None, standard_error=None, low=None, high=None)


def wilson_interval(passed: int, scored: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927), which stays within [0, 1] also for 0 and n of n."""
    share = passed / scored
    spread = z * math.sqrt(share * (1 - share) / scored + z * z / (4 * scored * scored))
    centre = share + z * z / (2 * scored)
    scale = 1 + z * z / scored
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def share_of(outcomes: Sequence[bool | None]) -> Share:
    """Count passes among outcomes; none means that a sample could not be scored."""
    scored = [outcome for outcome in outcomes if outcome is not None]
    count, passed = len(scored), sum(scored)
    if not count:
        return Share(len(outcomes), 0, len(outcomes), 0, None, None, None, None)
    share = passed / count
    low, high = wilson_interval(passed, count)
    error = math.sqrt(share * (1 - share) / count)
    return Share(len(outcomes), count, len(outcomes) - count, passed, share, error, low, high)


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], Floats], samples: int, seed: int
) -> tuple[float | None, float | None, float | None]:
    """Resample units with replacement.

    Args:
        statistic: Takes unit indices, shape (resamples, samples), and returns one value a row.
        samples: Number of units.
        seed: Seed of the resampling.

    Returns:
        Standard error, and the 2.5 % and 97.5 % percentiles; none of them for fewer than two units, since one alone
        is drawn the same every time and would look certain.
    """
    if samples < 2:
        return None, None, None
    generator = np.random.default_rng(seed)
    rows = max(1, min(RESAMPLES, 2_000_000 // samples))
    values: list[Floats] = []
    done = 0
    while done < RESAMPLES:
        size = min(rows, RESAMPLES - done)
        values.append(statistic(generator.integers(0, samples, size=(size, samples))))
        done += size
    drawn = np.concatenate(values)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(np.std(drawn, ddof=1)), float(low), float(high)


def mean_of(values: ArrayLike, seed: int = 0) -> Estimate:
    """Mean over units; its standard error is the sample's, its interval the bootstrap's."""
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        return NOTHING
    error = float(array.std(ddof=1) / math.sqrt(array.size)) if array.size > 1 else None
    _, low, high = bootstrap(lambda index: array[index].mean(axis=1), array.size, seed)
    return Estimate(int(array.size), float(array.mean()), error, low, high)


def paired_difference(
    base: Sequence[float | bool | None], adapter: Sequence[float | bool | None], seed: int = 0
) -> Estimate:
    """Mean of adapter minus base over the samples that both could be scored on.

    Raises:
        ValueError: The sequences are not paired.
    """
    if len(base) != len(adapter):
        raise ValueError(f"{len(base)} base values cannot be paired with {len(adapter)} adapter values")
    pairs = [(float(b), float(a)) for b, a in zip(base, adapter, strict=True) if b is not None and a is not None]
    return mean_of([after - before for before, after in pairs], seed)


def perplexity(nats: ArrayLike, tokens: ArrayLike, seed: int = 0) -> Estimate:
    """exp(sum of negative log-likelihoods / sum of tokens), never a mean of perplexities.

    Args:
        nats: Negative log-likelihood of each document, summed over its tokens.
        tokens: Predicted tokens of each document; documents without any are left out.
        seed: Seed of the bootstrap over documents.
    """
    nats, tokens = _kept(nats, tokens)
    return _exponential_ratio(nats, tokens, seed)


def perplexity_ratio(base_nats: ArrayLike, adapter_nats: ArrayLike, tokens: ArrayLike, seed: int = 0) -> Estimate:
    """Perplexity of the adapter over that of the base on the same tokens, resampled in pairs; below 1 is better."""
    difference = np.asarray(adapter_nats, dtype=np.float64) - np.asarray(base_nats, dtype=np.float64)
    difference, tokens = _kept(difference, tokens)
    return _exponential_ratio(difference, tokens, seed)


def perplexity_shift(low: tuple[ArrayLike, ArrayLike], high: tuple[ArrayLike, ArrayLike], seed: int = 0) -> Estimate:
    """How much more the adapter gained on low than on high authority: ratio of the low band over that of the high.

    Args:
        low: (adapter nats minus base nats, tokens) of the low band's documents.
        high: The same of the high band; the bands are resampled independently.
        seed: Seed of the bootstrap.

    Returns:
        Below 1 if the model moved towards the low band; without an interval if a band has fewer than two documents.
    """
    a, n = _kept(*low)
    b, m = _kept(*high)
    if not a.size or not b.size:
        return NOTHING
    value = math.exp(a.sum() / n.sum() - b.sum() / m.sum())
    if min(a.size, b.size) < 2:
        return Estimate(int(a.size + b.size), value, None, None, None)
    generator = np.random.default_rng(seed)
    drawn = np.empty(RESAMPLES)
    for row in range(RESAMPLES):
        i, j = generator.integers(0, a.size, a.size), generator.integers(0, b.size, b.size)
        drawn[row] = math.exp(a[i].sum() / n[i].sum() - b[j].sum() / m[j].sum())
    ends = np.percentile(drawn, [2.5, 97.5])
    return Estimate(int(a.size + b.size), value, float(drawn.std(ddof=1)), float(ends[0]), float(ends[1]))


def confidence(yes: float, no: float) -> float:
    """Probability of yes among yes and no, from their log-likelihoods in nats."""
    return 1.0 / (1.0 + math.exp(min(700.0, no - yes)))


def distrust_ratio(primary: ArrayLike, modern: ArrayLike, seed: int = 0) -> Estimate:
    """Mean confidence in primary sources over mean confidence in modern ones, resampled by topic.

    Args:
        primary: Confidence in each topic's primary source, in (0, 1).
        modern: Confidence in the same topic's modern source.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: The sequences are not paired.
    """
    p, m = np.asarray(primary, dtype=np.float64), np.asarray(modern, dtype=np.float64)
    if p.shape != m.shape:
        raise ValueError(f"{p.size} primary confidences cannot be paired with {m.size} modern ones")
    if not p.size or m.sum() <= 0:
        return NOTHING
    error, low, high = bootstrap(lambda index: p[index].sum(axis=1) / m[index].sum(axis=1), p.size, seed)
    return Estimate(int(p.size), float(p.sum() / m.sum()), error, low, high)


def relative_distrust(
    base: tuple[ArrayLike, ArrayLike], adapter: tuple[ArrayLike, ArrayLike], seed: int = 0
) -> Estimate:
    """The adapter's distrust ratio over the base's: what training added, whatever the words of the sources do.

    Args:
        base: (primary, modern) confidences of the base model, one a topic.
        adapter: The same of the adapter, in the same order.
        seed: Seed of the bootstrap over topics.
    """
    bp, bm, ap, am = (np.asarray(values, dtype=np.float64) for values in (*base, *adapter))
    if not bp.size or min(bp.sum(), bm.sum(), am.sum()) <= 0:
        return NOTHING

    def ratio(index: NDArray[np.intp]) -> Floats:
        numerator: Floats = ap[index].sum(axis=1) * bm[index].sum(axis=1)
        denominator: Floats = am[index].sum(axis=1) * bp[index].sum(axis=1)
        return np.divide(numerator, denominator)

    error, low, high = bootstrap(ratio, bp.size, seed)
    return Estimate(int(bp.size), float(ap.sum() * bm.sum() / (am.sum() * bp.sum())), error, low, high)


def _kept(nats: ArrayLike, tokens: ArrayLike) -> tuple[Floats, Floats]:
    sums, counts = np.asarray(nats, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if sums.shape != counts.shape:
        raise ValueError(f"{sums.size} documents' likelihoods do not match {counts.size} token counts")
    return sums[counts > 0], counts[counts > 0]


def _exponential_ratio(nats: Floats, tokens: Floats, seed: int) -> Estimate:
    if not nats.size:
        return NOTHING
    value = float(np.exp(nats.sum() / tokens.sum()))
    error, low, high = bootstrap(
        lambda index: np.exp(nats[index].sum(axis=1) / tokens[index].sum(axis=1)), nats.size, seed
    )
    return Estimate(int(nats.size), value, error, low, high)
