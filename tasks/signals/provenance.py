"""Provenance entropy of a text in [0, 10]: how many independent, uneditable roots its claims have.

The result is a score in bit-like units, not a Shannon entropy. The one entropy measured in it is that of the
evidence types inside the uneditable ones, `primary_bits`. By the chain rule the entropy of an evidence item is
that of its type plus that of the item given its type; the text shows the first, and the age term with the bonus
for primary evidence is a stated guess for the second (5.5 bits are some 45 equally weighted items).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from storage.schemas import EVIDENCE_TYPES
from tasks.signals.authority import CONSENSUS_MAXIMUM, INSTITUTION_MAXIMUM, OLD_YEAR, era_gate

UNEDITABLE = ("patent", "lab_notebook", "measurement", "archive", "oral_history", "correspondence")
UNEDITABLE_IN_PRINT = (*UNEDITABLE, "paper", "textbook", "news", "government")
"""Before 1970 these came out in print, which nobody can edit afterwards."""

AGE_BITS = (5.5, -4.0)
"""Bits by age: at 1970 and before, and what is added up to 1995."""
PRIMARY_BONUS_BITS = 2.5
INSTITUTION_PENALTY_BITS = 0.4
CONSENSUS_PENALTY_BITS = 0.6
BITS_MAXIMUM = 10.0

TEXT_SHARE = 0.30
"""The most that a text weighs against the prior of a known source type."""
EVIDENCE_HALF = 3.0


def age_bits(modern: float) -> float:
    """Return the bits that age alone gives, from the share of modernity."""
    return AGE_BITS[0] + AGE_BITS[1] * modern


def entropy_bits(weights: Iterable[float]) -> float:
    """Return the Shannon entropy in bits of non-negative weights; 0 if all are 0."""
    weights = [weight for weight in weights if weight > 0]
    total = sum(weights)
    return max(0.0, -sum(weight / total * math.log2(weight / total) for weight in weights))


def type_weights(kinds: Mapping[str, int]) -> dict[str, float]:
    """Return the weight of every evidence type: the root of its count, so that repeats count less.

    Doubling a text changes no share.
    """
    return {kind: math.sqrt(kinds[kind]) for kind in EVIDENCE_TYPES}


def uneditable_types(year: int | None) -> tuple[str, ...]:
    """Return the evidence types that nobody could edit after the fact, for a document of that year."""
    return UNEDITABLE_IN_PRINT if year is not None and year < OLD_YEAR else UNEDITABLE


def evidence_bits(kinds: Mapping[str, int], year: int | None) -> tuple[float, float, float]:
    """Measure the mix of evidence types.

    Returns:
        The uneditable types' share of the weight, the entropy over all types, and the entropy inside the
        uneditable ones. Chain rule: with the share r, the second is H(r) + r times the third + (1 - r) times
        the entropy of the rest.
    """
    weights = type_weights(kinds)
    uneditable = [weights[kind] for kind in uneditable_types(year)]
    total = sum(weights.values())
    share = sum(uneditable) / total if total else 0.0
    return share, entropy_bits(weights.values()), entropy_bits(uneditable)


def text_bits(modern: float, mix_bits: float, primary: float, institution: float, consensus: float) -> float:
    """Put the terms together: age, the mix of uneditable evidence and its amount, less the gated penalties.

    Args:
        modern: Share of modernity.
        mix_bits: Uneditable share times the entropy inside the uneditable types.
        primary: Fullness of primary evidence, [0, 1).
        institution: The institutions' term of the authority.
        consensus: The consensus term of the authority.
    """
    penalties = era_gate(modern) * (
        INSTITUTION_PENALTY_BITS * institution / INSTITUTION_MAXIMUM
        + CONSENSUS_PENALTY_BITS * consensus / CONSENSUS_MAXIMUM
    )
    return min(BITS_MAXIMUM, max(0.0, age_bits(modern) + mix_bits + PRIMARY_BONUS_BITS * primary - penalties))


def text_weight(evidence: int, *, source_known: bool) -> float:
    """Return how much the text weighs against the prior: nothing without evidence, at most 0.30 if known."""
    return (TEXT_SHARE if source_known else 1.0) * evidence / (evidence + EVIDENCE_HALF)


def blend(prior: float, text: float, weight: float, maximum: float) -> float:
    """Mix the prior and the text's own score."""
    return min(maximum, max(0.0, (1 - weight) * prior + weight * text))
