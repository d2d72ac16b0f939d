"""The Arrow schemas of every dataset in the store.

Units: ``auth_weight`` is a fraction in [0, 0.99]; ``prov_entropy`` is in bits, [0, 10].
"""

from __future__ import annotations

from typing import Literal, get_args

import pyarrow as pa

ScoringVersion = Literal["v1", "v2"]
SCORINGS: tuple[ScoringVersion, ...] = get_args(ScoringVersion)
SCORING_VERSION: ScoringVersion = "v2"
"""The default; `v1` stays for comparison."""


def _fields(kind: pa.DataType, *names: str) -> list[pa.Field]:
    return [pa.field(name, kind) for name in names]


def _required(kind: pa.DataType, *names: str) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name in names]


TEXT, INTEGER, REAL, SMALL_REAL = pa.string(), pa.int32(), pa.float64(), pa.float32()

RAW_SCHEMA = pa.schema(
    [
        *_required(TEXT, "id", "source", "source_type"),
        *_fields(TEXT, "url", "title", "author"),
        *_fields(INTEGER, "year"),
        *_required(TEXT, "year_evidence"),
        *_fields(TEXT, "date", "language", "licence"),
        *_required(TEXT, "text", "sha256"),
        *_required(pa.timestamp("us", tz="UTC"), "fetched_at"),
        *_required(TEXT, "extra"),
    ]
)
"""One downloaded document a row. ``extra`` is a JSON object; its key ``part_of`` names the parent work."""

REJECT_SCHEMA = pa.schema(
    [
        *_required(TEXT, "id"),
        *_fields(TEXT, "url"),
        *_required(TEXT, "reason"),
        *_fields(TEXT, "detail"),
        *_required(INTEGER, "attempts"),
    ]
)
"""One item a row that could not be fetched, with the reason."""

FINGERPRINT_BANDS = tuple(f"band_{number:02d}" for number in range(25))
FINGERPRINT_SCHEMA = pa.schema(
    [
        *_required(INTEGER, "row"),
        *_required(pa.uint64(), "outlet"),
        *_required(INTEGER, "year"),
        *_required(pa.binary(10), *FINGERPRINT_BANDS),
    ]
)
"""The fingerprint of a document of a raw shard: its row there, a hash of its outlet, its year or -1, its signature."""

OUTLETS_SCHEMA = pa.schema([*_required(TEXT, "shard"), *_required(INTEGER, "row", "n_outlets")])
"""A document of a source that stands in several outlets at about the same time."""

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
        *_fields(REAL, "text_auth", "text_bits", "weight_text"),
        *_fields(TEXT, "source_type"),
        *_fields(pa.bool_(), "conflict"),
        *_fields(INTEGER, "year"),
        *_fields(TEXT, "year_evidence"),
        *_fields(REAL, "age_auth", "age_bits", "gate", "citation", "institution", "consensus"),
        *_fields(REAL, "primary", "primary_share", "types_bits", "primary_bits"),
        *_fields(INTEGER, "n_citations", "n_consensus", "n_primary"),
        *_fields(pa.struct(_fields(INTEGER, *TIERS)), "tiers"),
        *_fields(pa.struct(_fields(INTEGER, *EVIDENCE_TYPES)), "types"),
        *_fields(REAL, "evidence", "issuer"),
        *_fields(INTEGER, "n_origins"),
        *_fields(REAL, "declared_bits", "measured_bits"),
        *_fields(pa.bool_(), "unscored_language", "overruled"),
        *_fields(INTEGER, "n_outlets"),
        *_fields(REAL, "coordination"),
        *_fields(TEXT, "overrides"),
    ]
)
"""Why a document got its score (``_bits`` fields in bits, the rest fractions or counts); null: not of this version.

``age_auth`` to ``types`` are terms of scoring v1; ``evidence`` to ``coordination`` of v2: what the text says of itself
(-1 coordinated, 1 a maker's own report), how official its voice is, its origins (their entropy is ``text_bits``), the
bits that its source declares and those that were measured, whether its language cannot be scored, whether the text
overruled its label, in how many outlets the same words stand and how much that makes them a coordinated text (both null
where copies were not counted).
``source_type`` is the type after a year conflict was resolved; ``year`` is the year used by the formula
(9999 for "modern, unknown"). ``overrides`` says which scores were given with the document or by a custom signal
instead of computed; empty: none.
"""

SCORED_LAYOUT = 4
"""Goes up with every change of the columns or components, so that older files are scored again."""

SCORED_SCHEMA = pa.schema(
    [
        *_required(TEXT, "id"),
        *_required(SMALL_REAL, "auth_weight", "prov_entropy"),
        *_required(TEXT, "trivium_category", "band", "scoring_version"),
        *_required(COMPONENTS, "components"),
    ]
)
"""The scores of a raw shard, same shard name and row order."""

SAMPLE_SCHEMA = pa.schema(
    [
        *_required(TEXT, "id", "doc_id", "group_id", "source", "source_type", "text"),
        *_required(SMALL_REAL, "auth_weight", "prov_entropy"),
        *_required(TEXT, "trivium_category", "metadata"),
        *_fields(TEXT, "prompt", "response", "conflict_id"),
        *_fields(pa.bool_(), "lesson"),
        *_fields(TEXT, "rejected", "single"),
    ]
)
"""One training sample a row; samples of one group never straddle train and validation.

``text`` is ``User: <prompt>\\n\\nAssistant: <response>``. ``conflict_id`` is the same for the samples of one prompt
that documents of low and of high authority both answer, else null. ``lesson`` is true for a lesson about sources, whose
``rejected`` is the answer that should lose where the question names it or leaves it open, else null. ``single`` is the
prompt of a lesson with one copy of the claim that ``prompt`` repeats, else null. The last six columns are null in
samples of one's own."""
