"""The formulas of scoring v1 over arrays of counts, in float64; the reference calls them with one row.

Every array has one value per document; a year that is not known is NaN. Authority in [0, 0.99]: how much a text leans
on institutions, citations and consensus, by its age; modern signals count a quarter in old texts. Provenance entropy
in [0, 10] is a score in bit-like units: the one entropy measured in it is that of the kinds of evidence that nobody
could edit afterwards, `primary_bits`. By the chain rule the entropy of an item is that of its kind plus that of the
item given its kind; the text shows the first, and age with the bonus for primary evidence is a stated guess for the
second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.schemas import EVIDENCE_TYPES, ScoringVersion
from storage.vocabulary import BANDS, HIGH_ABOVE, LOW_BELOW, SourceType
from tasks.signals.priors import AUTHORITY_MAXIMUM, BITS_MAXIMUM, PRIORS
from tasks.signals.scan import Counts
from tasks.signals.years import FIRST_YEAR, MODERN_UNDATED, YearEvidence

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

OLD_YEAR = 1970
YEARS_TO_MODERN = 25
MODERN_SHARE_UNDATED = 0.5
AGE_AUTHORITY = (0.15, 0.30)
"""Authority by age: at 1970 and before, and what is added up to 1995."""
AGE_BITS = (5.5, -4.0)
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
PRIMARY_BONUS_BITS = 2.5
INSTITUTION_PENALTY_BITS = 0.4
CONSENSUS_PENALTY_BITS = 0.6
UNEDITABLE = ("patent", "lab_notebook", "measurement", "archive", "oral_history", "correspondence")
UNEDITABLE_IN_PRINT = (*UNEDITABLE, "paper", "textbook", "news", "government")
"""Before 1970 these came out in print, which nobody can edit afterwards."""
TEXT_SHARE = 0.30
"""The most that a text weighs against the prior of a known source type."""
EVIDENCE_HALF = 3.0

TYPE_NAMES: tuple[SourceType, ...] = tuple(PRIORS)
EVIDENCE_NAMES: tuple[YearEvidence, ...] = ("metadata", "text", "none")
"""Where a year comes from."""

UNKNOWN = TYPE_NAMES.index("unknown")


def _each(values: list[Any]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


PRIOR_AUTHORITY = _each([prior.authority for prior in PRIORS.values()])
PRIOR_BITS = _each([prior.bits for prior in PRIORS.values()])
_FIRST_YEAR = _each([prior.first_year for prior in PRIORS.values()])
_LAST_YEAR = _each([prior.last_year for prior in PRIORS.values()])
_IF_NEWER: Indices = np.array([TYPE_NAMES.index(prior.if_newer or name) for name, prior in PRIORS.items()])
_UNEDITABLE, _IN_PRINT = (
    np.array([kind in group for kind in EVIDENCE_TYPES]) for group in (UNEDITABLE, UNEDITABLE_IN_PRINT)
)


@dataclass(frozen=True)
class Dating:
    """What year a document is taken for, and what that makes of its source."""

    year: Floats
    year_evidence: Indices
    """Into `EVIDENCE_NAMES`."""
    conflict: NDArray[np.bool_]
    source_type: Indices
    """Into `TYPE_NAMES`: the newer type where the year contradicts the declared one."""


def date_documents(
    source_type: Indices,
    year: Floats,
    from_text: NDArray[np.bool_],
    text_year: Floats,
    run_year: int,
    scoring: ScoringVersion = "v1",
) -> Dating:
    """Find each document's year, fit it into its source type, and take the newer type where the two conflict.

    Args:
        source_type: Into `TYPE_NAMES`.
        year: The declared year.
        from_text: Whether the loader read the declared year in the text.
        text_year: The year that each text mentions.
        run_year: The year taken for "now".
        scoring: In v2 a notebook may be modern, and a document whose year contradicts its source is scored by its text.
    """
    declared = (year >= FIRST_YEAR) & (year <= run_year)
    found = np.where(declared, year, text_year)
    evidence = np.where(declared, np.where(from_text, 1, 0), np.where(np.isnan(text_year), 2, 1))
    if scoring == "v2":
        modern = (source_type == TYPE_NAMES.index("lab_notebook")) & (found >= OLD_YEAR)
        source_type = np.where(modern, TYPE_NAMES.index("notebook_modern"), source_type)
    first, last = _FIRST_YEAR[source_type], _LAST_YEAR[source_type]
    undated = np.where(np.isnan(last), np.where(np.isnan(first), np.nan, MODERN_UNDATED), last)
    fitted = np.where(np.isnan(found), undated, np.fmax(found, first))
    conflict = fitted > last
    newer = _IF_NEWER[source_type] if scoring == "v1" else UNKNOWN
    return Dating(fitted, evidence, conflict, np.where(conflict, newer, source_type))


def doubted_labels(declared: Indices, dating: Dating) -> Floats:
    """Return the authority by the labels that only a year in the text contradicts, NaN for the others."""
    return np.where(dating.conflict & (dating.year_evidence == 1), PRIOR_AUTHORITY[declared], np.nan)


def apply_formulas(dating: Dating, counts: Counts) -> dict[str, NDArray[Any]]:
    """Compute every term of scoring v1 and the final scores, by the names of `storage.schemas`."""
    modern = np.clip((dating.year - OLD_YEAR) / YEARS_TO_MODERN, 0.0, 1.0)
    modern = np.where(np.isnan(modern), MODERN_SHARE_UNDATED, modern)
    units = np.maximum(1.0, counts.characters / UNIT_CHARACTERS)
    terms: dict[str, NDArray[Any]] = {
        "age_auth": AGE_AUTHORITY[0] + AGE_AUTHORITY[1] * modern,
        "age_bits": AGE_BITS[0] + AGE_BITS[1] * modern,
        "gate": GATE[0] + GATE[1] * modern,
        "citation": _citation(counts.citations / units),
        "institution": _institution(counts, units),
        "consensus": CONSENSUS_MAXIMUM * _saturation(counts.consensus / units, CONSENSUS_HALF),
        "primary": _saturation(counts.primary / units, PRIMARY_HALF),
        **_evidence_bits(counts.kinds, dating.year < OLD_YEAR),
    }
    return _blend(terms, dating.source_type, counts.marks + counts.citations)


def _saturation(rate: Floats, half: float) -> Floats:
    return rate / (rate + half)


def _citation(rate: Floats) -> Floats:
    full = np.log10(1.0 + CITATIONS_FOR_MAXIMUM)
    return np.asarray(CITATION_MAXIMUM * np.minimum(1.0, np.log10(1.0 + rate) / full))


def _institution(counts: Counts, units: Floats) -> Floats:
    weights = np.array(list(TIER_WEIGHTS.values()))
    terms = _saturation(counts.tiers / units[:, None], INSTITUTION_HALF) * weights
    return np.asarray(np.minimum(INSTITUTION_MAXIMUM, terms.sum(axis=1)))


def _evidence_bits(kinds: Indices, old: NDArray[np.bool_]) -> dict[str, Floats]:
    weights = np.sqrt(kinds)
    uneditable = weights * np.where(old[:, None], _IN_PRINT, _UNEDITABLE)
    total, part = weights.sum(axis=1), uneditable.sum(axis=1)
    return {
        "primary_share": np.divide(part, total, out=np.zeros_like(total), where=total > 0),
        "types_bits": _entropy_bits(weights, total),
        "primary_bits": _entropy_bits(uneditable, part),
    }


def _entropy_bits(weights: Floats, total: Floats) -> Floats:
    """Shannon entropy of weights m with the sum T, as log2 T - (sum of m log2 m) / T; 0 where all are 0."""
    safe = np.where(total > 0, total, 1.0)
    logs = np.log2(np.where(weights > 0, weights, 1.0))
    return np.asarray(np.maximum(0.0, np.log2(safe) - (weights * logs).sum(axis=1) / safe))


def _blend(terms: dict[str, NDArray[Any]], source_type: Indices, evidence: Indices) -> dict[str, NDArray[Any]]:
    """Add the text's own scores, their weight, and the final scores with their band."""
    gate, institution, consensus, primary = (terms[name] for name in ("gate", "institution", "consensus", "primary"))
    text_auth = np.clip(
        terms["age_auth"] + gate * (terms["citation"] + institution + consensus) - PRIMARY_RELIEF * primary,
        0.0,
        AUTHORITY_MAXIMUM,
    )
    penalties = gate * (
        INSTITUTION_PENALTY_BITS * institution / INSTITUTION_MAXIMUM
        + CONSENSUS_PENALTY_BITS * consensus / CONSENSUS_MAXIMUM
    )
    mix = terms["primary_share"] * terms["primary_bits"]
    bits = terms["age_bits"] + mix + PRIMARY_BONUS_BITS * primary - penalties
    text_bits = np.clip(bits, 0.0, BITS_MAXIMUM)
    most = np.where(source_type == UNKNOWN, 1.0, TEXT_SHARE)
    weight = most * evidence / (evidence + EVIDENCE_HALF)
    auth_weight = (1 - weight) * PRIOR_AUTHORITY[source_type] + weight * text_auth
    prov_entropy = (1 - weight) * PRIOR_BITS[source_type] + weight * text_bits
    return terms | {
        "text_auth": text_auth,
        "text_bits": text_bits,
        "weight_text": weight,
        "auth_weight": np.clip(auth_weight, 0.0, AUTHORITY_MAXIMUM),
        "prov_entropy": np.clip(prov_entropy, 0.0, BITS_MAXIMUM),
    }


def band_indices(auth_weight: NDArray[np.float32]) -> Indices:
    """Return the bands of stored authorities, into `BANDS`: compared as float64, as `band_of` compares what is read."""
    stored = auth_weight.astype(np.float64)
    return np.where(stored < LOW_BELOW, 0, np.where(stored > HIGH_ABOVE, len(BANDS) - 1, 1))
