"""The formulas of scoring v1 over arrays of counts, in float64 as `tasks.signals.reference` computes them.

Every array has one value per document; a year that is not known is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.schemas import EVIDENCE_TYPES
from storage.vocabulary import BANDS, HIGH_ABOVE, LOW_BELOW, SourceType
from tasks.signals import authority, provenance
from tasks.signals.priors import PRIORS
from tasks.signals.scan import Counts
from tasks.signals.years import FIRST_YEAR, MODERN_UNDATED

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

TYPE_NAMES: tuple[SourceType, ...] = tuple(PRIORS)
EVIDENCE_NAMES = ("metadata", "text", "none")
"""Where a year comes from."""

UNKNOWN = TYPE_NAMES.index("unknown")


def _each(values: list[Any]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


_PRIOR_AUTHORITY = _each([prior.authority for prior in PRIORS.values()])
_PRIOR_BITS = _each([prior.bits for prior in PRIORS.values()])
_FIRST_YEAR = _each([prior.first_year for prior in PRIORS.values()])
_LAST_YEAR = _each([prior.last_year for prior in PRIORS.values()])
_IF_NEWER: Indices = np.array([TYPE_NAMES.index(prior.if_newer or name) for name, prior in PRIORS.items()])
_UNEDITABLE, _IN_PRINT = (
    np.array([kind in group for kind in EVIDENCE_TYPES])
    for group in (provenance.UNEDITABLE, provenance.UNEDITABLE_IN_PRINT)
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
    source_type: Indices, year: Floats, from_text: NDArray[np.bool_], counts: Counts, run_year: int
) -> Dating:
    """Find each document's year, fit it into its source type, and take the newer type where the two conflict.

    Args:
        source_type: Into `TYPE_NAMES`.
        year: The declared year.
        from_text: Whether the loader read the declared year in the text.
        counts: What the texts show.
        run_year: The year taken for "now".
    """
    declared = (year >= FIRST_YEAR) & (year <= run_year)
    found = np.where(declared, year, counts.text_year)
    evidence = np.where(declared, np.where(from_text, 1, 0), np.where(np.isnan(counts.text_year), 2, 1))
    first, last = _FIRST_YEAR[source_type], _LAST_YEAR[source_type]
    undated = np.where(np.isnan(last), np.where(np.isnan(first), np.nan, MODERN_UNDATED), last)
    fitted = np.where(np.isnan(found), undated, np.fmax(found, first))
    conflict = fitted > last
    return Dating(fitted, evidence, conflict, np.where(conflict, _IF_NEWER[source_type], source_type))


def apply_formulas(dating: Dating, counts: Counts) -> dict[str, NDArray[Any]]:
    """Compute every term of scoring v1 and the final scores, by the names of `storage.schemas`."""
    modern = np.clip((dating.year - authority.OLD_YEAR) / authority.YEARS_TO_MODERN, 0.0, 1.0)
    modern = np.where(np.isnan(modern), authority.MODERN_SHARE_UNDATED, modern)
    units = np.maximum(1.0, counts.characters / authority.UNIT_CHARACTERS)
    terms: dict[str, NDArray[Any]] = {
        "age_auth": authority.AGE_AUTHORITY[0] + authority.AGE_AUTHORITY[1] * modern,
        "age_bits": provenance.AGE_BITS[0] + provenance.AGE_BITS[1] * modern,
        "gate": authority.GATE[0] + authority.GATE[1] * modern,
        "citation": _citation(counts.citations / units),
        "institution": _institution(counts, units),
        "consensus": authority.CONSENSUS_MAXIMUM * _saturation(counts.consensus / units, authority.CONSENSUS_HALF),
        "primary": _saturation(counts.primary / units, authority.PRIMARY_HALF),
        **_evidence_bits(counts.kinds, dating.year < authority.OLD_YEAR),
    }
    return _blend(terms, dating.source_type, counts.marks + counts.citations)


def _saturation(rate: Floats, half: float) -> Floats:
    return rate / (rate + half)


def _citation(rate: Floats) -> Floats:
    full = np.log10(1.0 + authority.CITATIONS_FOR_MAXIMUM)
    return np.asarray(authority.CITATION_MAXIMUM * np.minimum(1.0, np.log10(1.0 + rate) / full))


def _institution(counts: Counts, units: Floats) -> Floats:
    weights = np.array(list(authority.TIER_WEIGHTS.values()))
    terms = _saturation(counts.tiers / units[:, None], authority.INSTITUTION_HALF) * weights
    return np.asarray(np.minimum(authority.INSTITUTION_MAXIMUM, terms.sum(axis=1)))


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
        terms["age_auth"] + gate * (terms["citation"] + institution + consensus) - authority.PRIMARY_RELIEF * primary,
        0.0,
        authority.AUTHORITY_MAXIMUM,
    )
    penalties = gate * (
        provenance.INSTITUTION_PENALTY_BITS * institution / authority.INSTITUTION_MAXIMUM
        + provenance.CONSENSUS_PENALTY_BITS * consensus / authority.CONSENSUS_MAXIMUM
    )
    mix = terms["primary_share"] * terms["primary_bits"]
    bits = terms["age_bits"] + mix + provenance.PRIMARY_BONUS_BITS * primary - penalties
    text_bits = np.clip(bits, 0.0, provenance.BITS_MAXIMUM)
    most = np.where(source_type == UNKNOWN, 1.0, provenance.TEXT_SHARE)
    weight = most * evidence / (evidence + provenance.EVIDENCE_HALF)
    blended = (1 - weight) * _PRIOR_AUTHORITY[source_type] + weight * text_auth
    auth_weight = np.clip(blended, 0.0, authority.AUTHORITY_MAXIMUM).astype(np.float32)
    blended = (1 - weight) * _PRIOR_BITS[source_type] + weight * text_bits
    # Compared as float64, as `band_of` does with the number that a reader takes from the column.
    stored = auth_weight.astype(np.float64)
    return terms | {
        "text_auth": text_auth,
        "text_bits": text_bits,
        "weight_text": weight,
        "auth_weight": auth_weight,
        "prov_entropy": np.clip(blended, 0.0, provenance.BITS_MAXIMUM).astype(np.float32),
        "band": np.where(stored < LOW_BELOW, 0, np.where(stored > HIGH_ABOVE, len(BANDS) - 1, 1)),
    }
