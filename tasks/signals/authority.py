"""Authority of a text in [0, 0.99]: how much it leans on institutions, citations and consensus, by its age.

Every function is one term of scoring v1. Modern signals count a quarter in old texts: a professor named in 1880
is no coordinated source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

OLD_YEAR = 1970
YEARS_TO_MODERN = 25
MODERN_SHARE_UNDATED = 0.5

AGE_AUTHORITY = (0.15, 0.30)
"""Authority by age: at 1970 and before, and what is added up to 1995."""
GATE = (0.25, 0.75)
"""Share of the modern signals that counts: at 1970 and before, and what is added up to 1995."""

UNIT_CHARACTERS = 6000
"""Counts are taken per this many characters; a shorter text counts as this long."""

CITATION_MAXIMUM = 0.15
CITATIONS_FOR_MAXIMUM = 30
INSTITUTION_MAXIMUM = 0.35
INSTITUTION_HALF = 2.0
TIER_WEIGHTS: dict[str, float] = {"A": 0.35, "B": 0.25, "C": 0.12, "D": 0.10, "W": 0.35}
CONSENSUS_MAXIMUM = 0.20
CONSENSUS_HALF = 1.0
PRIMARY_HALF = 5.0
PRIMARY_RELIEF = 0.25
"""Authority that a text full of primary evidence loses."""

AUTHORITY_MAXIMUM = 0.99


def modern_share(year: int | None) -> float:
    """Return how modern a year is: 0 up to 1970, 1 from 1995 on, a line between, 0.5 if unknown."""
    if year is None:
        return MODERN_SHARE_UNDATED
    return min(1.0, max(0.0, (year - OLD_YEAR) / YEARS_TO_MODERN))


def age_authority(modern: float) -> float:
    """Return the authority that age alone gives, from the share of modernity."""
    return AGE_AUTHORITY[0] + AGE_AUTHORITY[1] * modern


def era_gate(modern: float) -> float:
    """Return the share of the modern signals that counts, from the share of modernity."""
    return GATE[0] + GATE[1] * modern


def length_units(characters: int) -> float:
    """Return a text's length in units of 6,000 characters, at least one."""
    return max(1.0, characters / UNIT_CHARACTERS)


def saturation(count: float, units: float, half: float) -> float:
    """Return a count per unit of length squeezed into [0, 1): 0.5 where the rate equals `half`."""
    rate = count / units
    return rate / (rate + half)


def citation_score(citations: int, units: float) -> float:
    """Return the citations' term, logarithmic, full from 30 citations per unit on."""
    return CITATION_MAXIMUM * min(1.0, math.log10(1 + citations / units) / math.log10(1 + CITATIONS_FOR_MAXIMUM))


def institution_score(tiers: Mapping[str, int], units: float) -> float:
    """Return the institutions' term from the mentions per tier."""
    terms = (weight * saturation(tiers[tier], units, INSTITUTION_HALF) for tier, weight in TIER_WEIGHTS.items())
    return min(INSTITUTION_MAXIMUM, sum(terms))


def consensus_score(phrases: int, units: float) -> float:
    """Return the term of consensus language."""
    return CONSENSUS_MAXIMUM * saturation(phrases, units, CONSENSUS_HALF)


def primary_score(primary: int, units: float) -> float:
    """Return how full of primary evidence a text is, in [0, 1)."""
    return saturation(primary, units, PRIMARY_HALF)


def text_authority(modern: float, citation: float, institution: float, consensus: float, primary: float) -> float:
    """Put the terms together: age, plus the gated modern signals, less primary evidence."""
    signals = era_gate(modern) * (citation + institution + consensus)
    return min(AUTHORITY_MAXIMUM, max(0.0, age_authority(modern) + signals - PRIMARY_RELIEF * primary))
