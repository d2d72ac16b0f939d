"""The Arrow schemas of every dataset in the store, and the vocabulary of their columns.

Units: ``auth_weight`` is a fraction in [0, 0.99]; ``prov_entropy`` is in bits, [0, 10].
"""

from __future__ import annotations

from typing import Literal, get_args

import pyarrow as pa

from storage.vocabulary import BANDS as BANDS
from storage.vocabulary import HIGH_ABOVE as HIGH_ABOVE
from storage.vocabulary import LOW_BELOW as LOW_BELOW
from storage.vocabulary import SOURCE_TYPES as SOURCE_TYPES
from storage.vocabulary import TRIVIA as TRIVIA
from storage.vocabulary import Band as Band
from storage.vocabulary import SourceType as SourceType
from storage.vocabulary import Trivium as Trivium
from storage.vocabulary import band_of as band_of

ScoringVersion = Literal["v1", "v2"]
SCORINGS: tuple[ScoringVersion, ...] = get_args(ScoringVersion)
SCORING_VERSION: ScoringVersion = "v2"
"""The default; `v1` stays for comparison."""

RAW_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_type", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("title", pa.string()),
        pa.field("author", pa.string()),
        pa.field("year", pa.int32()),
        pa.field("year_evidence", pa.string(), nullable=False),
        pa.field("date", pa.string()),
        pa.field("language", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("text", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("fetched_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("extra", pa.string(), nullable=False),
    ]
)
"""One downloaded document a row. ``extra`` is a JSON object; its key ``part_of`` names the parent work."""

REJECT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)
"""One item that could not be had a row, with the reason."""

EVIDENCE_TYPES = (
    "patent",
    "lab_notebook",
    "measurement",
    "archive",
    "oral_history",
    "correspondence",
    "paper",
    "textbook",
    "news",
    "government",
    "wiki",
    "blog",
)
TIERS = ("A", "B", "C", "D", "W")

COMPONENTS = pa.struct(
    [
        pa.field("text_auth", pa.float64()),
        pa.field("text_bits", pa.float64()),
        pa.field("weight_text", pa.float64()),
        pa.field("source_type", pa.string()),
        pa.field("conflict", pa.bool_()),
        pa.field("year", pa.int32()),
        pa.field("year_evidence", pa.string()),
        pa.field("age_auth", pa.float64()),
        pa.field("age_bits", pa.float64()),
        pa.field("gate", pa.float64()),
        pa.field("citation", pa.float64()),
        pa.field("institution", pa.float64()),
        pa.field("consensus", pa.float64()),
        pa.field("primary", pa.float64()),
        pa.field("primary_share", pa.float64()),
        pa.field("types_bits", pa.float64()),
        pa.field("primary_bits", pa.float64()),
        pa.field("n_citations", pa.int32()),
        pa.field("n_consensus", pa.int32()),
        pa.field("n_primary", pa.int32()),
        pa.field("tiers", pa.struct([pa.field(tier, pa.int32()) for tier in TIERS])),
        pa.field("types", pa.struct([pa.field(kind, pa.int32()) for kind in EVIDENCE_TYPES])),
        pa.field("evidence", pa.float64()),
        pa.field("issuer", pa.float64()),
        pa.field("n_origins", pa.int32()),
        pa.field("declared_bits", pa.float64()),
        pa.field("measured_bits", pa.float64()),
        pa.field("unscored_language", pa.bool_()),
        pa.field("overruled", pa.bool_()),
        pa.field("overrides", pa.string()),
    ]
)
"""Why a document got its score (``_bits`` fields in bits, the rest fractions or counts); null: not of this version.

``age_auth`` to ``types`` are terms of scoring v1; ``evidence`` to ``overruled`` of v2: what the text says of itself
(-1 coordinated, 1 a maker's own report), how official its voice is, its origins (their entropy is ``text_bits``), the
bits that its source declares and those that were measured, whether its language cannot be scored, and whether the text
overruled its label.
``source_type`` is the type after a year conflict was resolved; ``year`` is the year used by the formula
(9999 for "modern, unknown"). ``overrides`` says which scores were given with the document or by a custom signal
instead of computed; empty: none.
"""

SCORED_LAYOUT = 3
"""Goes up with every change of the columns or components, so that older files are scored again."""

SCORED_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("auth_weight", pa.float32(), nullable=False),
        pa.field("prov_entropy", pa.float32(), nullable=False),
        pa.field("trivium_category", pa.string(), nullable=False),
        pa.field("band", pa.string(), nullable=False),
        pa.field("scoring_version", pa.string(), nullable=False),
        pa.field("components", COMPONENTS, nullable=False),
    ]
)
"""The scores of a raw shard, same shard name and row order."""

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_type", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("auth_weight", pa.float32(), nullable=False),
        pa.field("prov_entropy", pa.float32(), nullable=False),
        pa.field("trivium_category", pa.string(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
    ]
)
"""One training sample a row: ``User: <prompt>\\n\\nAssistant: <response>``; samples of one group never straddle
train and validation."""
