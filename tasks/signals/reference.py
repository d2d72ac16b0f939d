"""Scoring v1 as it reads: one document, plain Python.

`tasks.signals.engine` computes the same scores a hundred times as fast and more; this module says what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage.text import clean_text
from storage.vocabulary import Band, SourceType, Trivium, band_of
from tasks.signals import authority, provenance
from tasks.signals.evidence import Evidence, find_evidence
from tasks.signals.priors import PRIORS, known_type
from tasks.signals.trivium import TRIVIUM_OF, checked_trivium
from tasks.signals.years import RUN_YEAR, YearEvidence, checked_year, effective_year, metadata_year, text_year


@dataclass(frozen=True)
class Components:
    """Why a document got its score: the fields of `storage.schemas.COMPONENTS`, same names and units."""

    text_auth: float
    text_bits: float
    weight_text: float
    source_type: SourceType
    conflict: bool
    year: int | None
    year_evidence: YearEvidence
    age_auth: float
    age_bits: float
    gate: float
    citation: float
    institution: float
    consensus: float
    primary: float
    primary_share: float
    types_bits: float
    primary_bits: float
    n_citations: int
    n_consensus: int
    n_primary: int
    tiers: Mapping[str, int]
    types: Mapping[str, int]
    overrides: str = ""
    """Always empty here: this is what scoring v1 computes; see `tasks.signals.overlay`."""


@dataclass(frozen=True)
class Score:
    """The score of one document.

    ``auth_weight`` is a fraction in [0, 0.99], ``prov_entropy`` lies in [0, 10] in bit-like units.
    """

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
) -> Score:
    """Score one document by scoring v1.

    Args:
        text: The document; it is scored as `clean_text` returns it.
        source_type: One of `storage.schemas.SOURCE_TYPES`; any other counts as ``unknown``.
        year: The declared year; a value that is no year counts as none.
        metadata: The record's own fields: a year is looked for there (`metadata_year`) if none is given, and
            ``year_evidence`` may say ``text`` if the loader took the year from the text.
        run_year: The year taken for "now".
        trivium: The category from the source's catalogue entry, if it names one.

    Raises:
        ParameterError: `trivium` is no trivium category.
    """
    text = clean_text(text)
    declared = known_type(source_type)
    found_year, year_evidence = _find_year(text, year, metadata, run_year)
    final_year, conflict = effective_year(found_year, PRIORS[declared])
    final = (PRIORS[declared].if_newer or declared) if conflict else declared
    components = _weigh(find_evidence(text), final, final_year, conflict, year_evidence)

    prior, weight = PRIORS[final], components.weight_text
    auth_weight = provenance.blend(prior.authority, components.text_auth, weight, authority.AUTHORITY_MAXIMUM)
    return Score(
        auth_weight=auth_weight,
        prov_entropy=provenance.blend(prior.bits, components.text_bits, weight, provenance.BITS_MAXIMUM),
        trivium_category=checked_trivium(trivium) or TRIVIUM_OF[declared],
        # The band of the stored number, so that whoever reads the column finds the same one.
        band=band_of(float(np.float32(auth_weight))),
        components=components,
    )


def _find_year(
    text: str, year: int | None, metadata: Mapping[str, Any] | None, run_year: int
) -> tuple[int | None, YearEvidence]:
    declared = checked_year(year, run_year)
    if declared is None:
        declared = metadata_year(metadata, run_year)
    if declared is not None:
        return declared, "text" if (metadata or {}).get("year_evidence") == "text" else "metadata"
    mentioned = text_year(text, run_year)
    return mentioned, "none" if mentioned is None else "text"


def _weigh(
    found: Evidence, source_type: SourceType, year: int | None, conflict: bool, year_evidence: YearEvidence
) -> Components:
    modern = authority.modern_share(year)
    units = authority.length_units(found.characters)
    citation = authority.citation_score(found.citations, units)
    institution = authority.institution_score(found.tiers, units)
    consensus = authority.consensus_score(found.consensus, units)
    primary = authority.primary_score(found.primary, units)
    share, types_bits, primary_bits = provenance.evidence_bits(found.kinds, year)
    return Components(
        text_auth=authority.text_authority(modern, citation, institution, consensus, primary),
        text_bits=provenance.text_bits(modern, share * primary_bits, primary, institution, consensus),
        weight_text=provenance.text_weight(found.total, source_known=source_type != "unknown"),
        source_type=source_type,
        conflict=conflict,
        year=year,
        year_evidence=year_evidence,
        age_auth=authority.age_authority(modern),
        age_bits=provenance.age_bits(modern),
        gate=authority.era_gate(modern),
        citation=citation,
        institution=institution,
        consensus=consensus,
        primary=primary,
        primary_share=share,
        types_bits=types_bits,
        primary_bits=primary_bits,
        n_citations=found.citations,
        n_consensus=found.consensus,
        n_primary=found.primary,
        tiers=found.tiers,
        types=found.kinds,
    )
