"""The formulas of scoring v2: blocks vote, votes make a text's own authority, which may overrule its label.

A block of up to 30 words votes once: v = tanh(sum of weight times marks), above 0 for a maker's own report, below for
what is repeated, instructed or coordinated. With P the votes above 0, N those below and Z the blocks that are silent,
each weighed by its length,

    evidence = (P - N) / (P + N + 2 + 0.3 Z)        in (-1, 1)

Adding a block with a vote above 0 never lowers it, wherever it is added and whatever the others say; below 0, never
raises it. Where the same words stand in n outlets at about the same time (`tasks.signals.coordination`),

    coordination = (n - 1) / (n - 1 + 8)            evidence' = evidence - coordination * (1 + evidence)

and what was measured of the bits is shared by the n: forty copies hold as many as one. The text's own authority is
1 / (1 + exp(a * evidence')): 0.5 where neither the text nor its copies say anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.vocabulary import HIGH_ABOVE, LOW_BELOW
from tasks.signals.marks import FEWEST_WORDS, Blocks
from tasks.signals.priors import AUTHORITY_MAXIMUM, BITS_MAXIMUM
from tasks.signals.vocabulary import FEATURES

Floats = NDArray[np.float64]

WEIGHTS_FILE = Path(__file__).with_name("weights.json")

FULL_BLOCK_WORDS = 20
"""A block weighs as much as it has words, at most 1; one of fewer than four words does not vote."""
UNDECIDED, SILENT = 2.0, 0.3
"""What holds a text near 0: as much as two blocks, and a part of every silent block."""
ISSUER = ("official", "institution_acts", "institution", "instruction")
"""The features of an official voice."""

OUTLETS_HALF = 8
"""So many other outlets take a text half the way to a coordinated one; one or two, as of a work in two archives, do not
move a label."""

DOUBT, CERTAINTY = 0.3, 0.8
"""How decided a text must be, |2 authority - 1|, before it moves its label, and to move it all the way."""
AGREEMENT = 0.3
"""The most that a text weighs which does not contradict its label; one that does takes the label's place."""
BITS_PER_AUTHORITY = 7.2
"""The registry's bits fall so much from authority 0 to 1."""
ORIGIN_SHARE, REPORT_BITS = 0.15, 0.75
"""Bits that a maker's own report adds: per bit of entropy over its origins, and for itself."""


@dataclass(frozen=True)
class Weights:
    """What was fitted: `benchmarks/fit_scores.py` makes the file."""

    features: Floats
    """Signed, in the order of `FEATURES`."""
    slope: float
    """The factor a from evidence to the log-odds of authority."""

    @classmethod
    def read(cls, path: Path = WEIGHTS_FILE) -> Weights:
        """Read the weights; a feature that the file does not name weighs nothing."""
        given = json.loads(path.read_text("utf-8"))
        return cls(np.array([given["features"].get(name, 0.0) for name in FEATURES]), given["slope"])


WEIGHTS = Weights.read()
_ISSUER = [FEATURES.index(name) for name in ISSUER]


@dataclass(frozen=True)
class Reading:
    """What texts say of themselves: arrays with one value per text."""

    evidence: Floats
    """From -1, repeated or coordinated, to 1, a maker's own report."""
    issuer: Floats
    """How official the voice is, [0, 1): the share of blocks with official marks."""
    origins_bits: Floats
    """Shannon entropy over the origins that the text names or quotes, in bits."""
    n_origins: NDArray[np.int64]
    unscored_language: NDArray[np.bool_]


def block_weights(blocks: Blocks) -> Floats:
    """Return what each block weighs, [0, 1]."""
    full = np.minimum(blocks.words, FULL_BLOCK_WORDS) / FULL_BLOCK_WORDS
    return np.where(blocks.words < FEWEST_WORDS, 0.0, full * blocks.share)


def block_votes(counts: NDArray[np.uint8], weights: Weights = WEIGHTS) -> Floats:
    """Return the vote of each block, (-1, 1)."""
    votes = np.zeros(len(counts))
    marked = np.flatnonzero(counts.any(axis=1))  # few are
    votes[marked] = np.tanh((counts[marked] * weights.features).sum(axis=1))
    return votes


def read_votes(blocks: Blocks, weights: Weights = WEIGHTS) -> Reading:
    """Count the votes of texts."""
    texts = len(blocks.unscored_language)
    weight, vote = block_weights(blocks), block_votes(blocks.counts, weights)

    def total(values: Floats) -> Floats:
        return np.bincount(blocks.text, values, texts).astype(np.float64)

    above, below = total(weight * np.maximum(vote, 0.0)), total(weight * np.maximum(-vote, 0.0))
    whole = above + below + UNDECIDED + SILENT * total(weight * (vote == 0.0))
    official = total(weight * blocks.counts[:, _ISSUER].any(axis=1))
    bits, number = origin_entropy(blocks.origins, texts)
    return Reading(
        evidence=(above - below) / whole,
        issuer=official / (total(weight) + 1.0),
        origins_bits=bits,
        n_origins=number,
        unscored_language=blocks.unscored_language,
    )


def origin_entropy(origins: NDArray[np.uint64], texts: int) -> tuple[Floats, NDArray[np.int64]]:
    """Return the entropy in bits over each text's origins, by the blocks that name them, and how many there are."""
    text, times = origins[:, 0].astype(np.int64), origins[:, 2].astype(np.float64)
    total = np.bincount(text, times, texts)
    share = times / np.where(total > 0, total, 1.0)[text]
    bits = np.bincount(text, -share * np.log2(np.where(share > 0, share, 1.0)), texts)
    return np.maximum(bits, 0.0), np.bincount(text, minlength=texts)


def own_authority(evidence: Floats, weights: Weights = WEIGHTS) -> Floats:
    """Return the authority that the text alone gives, (0, 1)."""
    return np.asarray(1.0 / (1.0 + np.exp(weights.slope * evidence)))


def overrule(label: Floats, text: Floats, unknown: NDArray[np.bool_]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Let a decided text move its label: a coordinated one up, a maker's own report down, never the other way.

    A label below 0.3 is contradicted by a coordinated text, one above 0.7 by a maker's own report.

    Returns:
        The authority, the weight of the text against the label (1 where the type is unknown), and whether the text
        contradicts its label.
    """
    decided = np.clip((np.abs(2 * text - 1) - DOUBT) / (CERTAINTY - DOUBT), 0.0, 1.0)
    contradicted = np.where(text > 0.5, label < LOW_BELOW, label > HIGH_ABOVE)
    most = np.where(contradicted, 1.0, AGREEMENT)
    weight = np.where(unknown, 1.0, most * decided * decided * (3 - 2 * decided))
    difference = text - label
    weight = weight * (unknown | ((difference > 0) == (text > 0.5)))
    return np.clip(label + weight * difference, 0.0, AUTHORITY_MAXIMUM), weight, contradicted & ~unknown


def final_scores(
    reading: Reading,
    prior_authority: Floats,
    prior_bits: Floats,
    unknown: NDArray[np.bool_],
    label: Floats,
    outlets: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[np.generic]]:
    """Compute authority and bits, and every term of them, by the names of `storage.schemas.COMPONENTS`.

    Args:
        reading: What the texts say of themselves.
        prior_authority: What their sources declare.
        prior_bits: The same, in bits.
        unknown: Whether the type of the source is unknown.
        label: Authority by a label that only a year in the text contradicts, else NaN. A year is added to a text as
            easily as a sentence, and makes it no more trusted than its label did.
        outlets: In how many outlets the same words stand; none: that was not counted.
    """
    others = np.zeros(len(unknown)) if outlets is None else outlets - 1.0
    coordination = others / (others + OUTLETS_HALF)
    evidence = reading.evidence - coordination * (1.0 + reading.evidence)
    own = own_authority(evidence)
    authority, weight, contradicted = overrule(prior_authority, own, unknown)
    authority = np.fmax(authority, overrule(label, own, np.zeros_like(unknown))[0])
    measured = np.maximum(evidence, 0.0) * (ORIGIN_SHARE * reading.origins_bits + REPORT_BITS) / (1.0 + others)
    moved = np.where(unknown | contradicted, authority - prior_authority, 0.0)
    bits = prior_bits - BITS_PER_AUTHORITY * moved + measured
    counted: dict[str, NDArray[np.generic]] = (
        {} if outlets is None else {"n_outlets": outlets.astype(np.int32), "coordination": coordination}
    )
    return counted | {
        "text_auth": own,
        "text_bits": reading.origins_bits,
        "weight_text": weight,
        "evidence": reading.evidence,
        "issuer": reading.issuer,
        "n_origins": reading.n_origins.astype(np.int32),
        "declared_bits": prior_bits,
        "measured_bits": measured,
        "unscored_language": reading.unscored_language,
        "overruled": contradicted & (weight > 0.5),
        "auth_weight": authority,
        "prov_entropy": np.clip(bits, 0.0, BITS_MAXIMUM),
    }
