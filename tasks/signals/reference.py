"""Scoring as it reads: one document, plain Python up to its counts, then the formulas with one row.

`tasks.signals.engine` computes the same scores much faster; this module says what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage.schemas import EVIDENCE_TYPES, SCORING_VERSION, TIERS, ScoringVersion
from storage.text import clean_text
from storage.vocabulary import Band, SourceType, Trivium, band_of
from tasks.signals.evidence import find_evidence
from tasks.signals.formulas import (
    EVIDENCE_NAMES,
    PRIOR_AUTHORITY,
    PRIOR_BITS,
    TYPE_NAMES,
    UNKNOWN,
    Dating,
    apply_formulas,
    date_documents,
    doubted_labels,
)
from tasks.signals.marks import read_blocks
from tasks.signals.priors import known_type
from tasks.signals.scan import Counts
from tasks.signals.tokens import tokenise_one
from tasks.signals.trivium import TRIVIUM_OF, checked_trivium
from tasks.signals.votes import final_scores, read_votes
from tasks.signals.years import RUN_YEAR, YearEvidence, checked_year, metadata_year, text_year


@dataclass(frozen=True)
class Components:
    """Why a document got its score: the fields of `storage.schemas.COMPONENTS`; none: not of this version."""

    text_auth: float
    text_bits: float
    weight_text: float
    source_type: SourceType
    conflict: bool
    year: int | None
    year_evidence: YearEvidence
    age_auth: float | None = None
    age_bits: float | None = None
    gate: float | None = None
    citation: float | None = None
    institution: float | None = None
    consensus: float | None = None
    primary: float | None = None
    primary_share: float | None = None
    types_bits: float | None = None
    primary_bits: float | None = None
    n_citations: int | None = None
    n_consensus: int | None = None
    n_primary: int | None = None
    tiers: Mapping[str, int] | None = None
    types: Mapping[str, int] | None = None
    evidence: float | None = None
    issuer: float | None = None
    n_origins: int | None = None
    declared_bits: float | None = None
    measured_bits: float | None = None
    unscored_language: bool | None = None
    overruled: bool | None = None
    n_outlets: int | None = None
    coordination: float | None = None
    overrides: str = ""
    """Always empty here: this is what is computed; see `tasks.signals.overlay`."""


@dataclass(frozen=True)
class Score:
    """The score of one document: ``auth_weight`` in [0, 0.99], ``prov_entropy`` in bits, [0, 10]."""

    auth_weight: float
    prov_entropy: float
    trivium_category: Trivium
    band: Band
    components: Components


def score_document(
    text: str,
    source_type: str | None,
    year: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    *,
    run_year: int = RUN_YEAR,
    trivium: str | None = None,
    scoring: ScoringVersion = SCORING_VERSION,
    n_outlets: int | None = None,
) -> Score:
    """Score one document.

    Args:
        text: The document; it is scored as `clean_text` returns it.
        source_type: One of `storage.schemas.SOURCE_TYPES`; any other counts as ``unknown``.
        year: The declared year; a value that is no year counts as none.
        metadata: The record's own fields: a year is looked for there (`metadata_year`) if none is given, and
            ``year_evidence`` may say ``text`` if the loader took the year from the text.
        run_year: The year taken for "now".
        trivium: The category from the source's catalogue entry, if it names one.
        scoring: The version.
        n_outlets: In how many outlets the same words stand, its own included; none: that was not counted.

    Raises:
        ParameterError: `trivium` is no trivium category.
    """
    text, declared = clean_text(text), known_type(source_type)
    dating = _date(text, declared, year, metadata or {}, run_year, scoring)
    terms, counted = _terms(text, declared, dating, run_year, scoring, n_outlets)
    values = {name: column[0].item() for name, column in terms.items()}
    auth_weight, bits = values.pop("auth_weight"), values.pop("prov_entropy")
    return Score(
        auth_weight=auth_weight,
        prov_entropy=bits,
        trivium_category=checked_trivium(trivium) or TRIVIUM_OF[declared],
        # The band of the stored number, so that whoever reads the column finds the same one.
        band=band_of(float(np.float32(auth_weight))),
        components=Components(
            **values,
            **counted,
            source_type=TYPE_NAMES[int(dating.source_type[0])],
            conflict=bool(dating.conflict[0]),
            year=None if np.isnan(dating.year[0]) else int(dating.year[0]),
            year_evidence=EVIDENCE_NAMES[int(dating.year_evidence[0])],
        ),
    )


def _date(
    text: str,
    declared: SourceType,
    year: int | None,
    metadata: Mapping[str, Any],
    run_year: int,
    scoring: ScoringVersion,
) -> Dating:
    given = checked_year(year, run_year) or metadata_year(metadata, run_year)
    from_text = metadata.get("year_evidence") == "text"
    mentioned = None if given else text_year(text, run_year)
    years = [np.array([np.nan if found is None else found], np.float64) for found in (given, mentioned)]
    index = np.array([TYPE_NAMES.index(declared)])
    return date_documents(index, years[0], np.array([from_text]), years[1], run_year, scoring)


def _terms(
    text: str, declared: SourceType, dating: Dating, run_year: int, scoring: ScoringVersion, n_outlets: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    if scoring == "v1":
        counts = find_evidence(text, run_year)
        return apply_formulas(dating, counts), _counted(counts)
    kind = dating.source_type
    outlets = None if n_outlets is None else np.array([n_outlets])
    reading = read_votes(read_blocks(tokenise_one(text), 1))
    label = doubted_labels(np.array([TYPE_NAMES.index(declared)]), dating)
    return final_scores(reading, PRIOR_AUTHORITY[kind], PRIOR_BITS[kind], kind == UNKNOWN, label, outlets), {}


def _counted(counts: Counts) -> dict[str, object]:
    return {
        "n_citations": int(counts.citations[0]),
        "n_consensus": int(counts.consensus[0]),
        "n_primary": int(counts.primary[0]),
        "tiers": dict(zip(TIERS, counts.tiers[0].tolist(), strict=True)),
        "types": dict(zip(EVIDENCE_TYPES, counts.kinds[0].tolist(), strict=True)),
    }
