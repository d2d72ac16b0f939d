"""The formulas of scoring v1 over columns of counts, in float64 as `tasks.signals.reference` computes them."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from storage.schemas import BANDS, EVIDENCE_TYPES, HIGH_ABOVE, LOW_BELOW
from tasks.signals import authority, provenance
from tasks.signals.priors import PRIORS
from tasks.signals.trivium import TRIVIUM_OF
from tasks.signals.years import FIRST_YEAR, MODERN_UNDATED

_WEIGHT_COLUMNS = {kind: f"weight_{kind}" for kind in EVIDENCE_TYPES}
_PRIORS = pl.DataFrame(
    [
        {
            "source_type": name,
            "prior_authority": prior.authority,
            "prior_bits": prior.bits,
            "first_year": prior.first_year,
            "last_year": prior.last_year,
            "if_newer": prior.if_newer,
            "default_trivium": TRIVIUM_OF[name],
        }
        for name, prior in PRIORS.items()
    ],
    schema_overrides={"first_year": pl.Int64, "last_year": pl.Int64, "if_newer": pl.String},
)


def apply_formulas(frame: pl.DataFrame, run_year: int) -> pl.DataFrame:
    """Add every term of scoring v1 and the final scores.

    Args:
        frame: One row per document: ``source_type``, ``year``, ``year_evidence`` and the columns of
            `tasks.signals.scan.scan_texts`.
        run_year: The year taken for "now".
    """
    return _blend(_weigh(_resolve_source(frame, run_year)))


def _resolve_source(frame: pl.DataFrame, run_year: int) -> pl.DataFrame:
    """Find each row's year, fit it into its source type, and take the newer type where the two conflict."""
    declared = pl.when(pl.col("year").is_between(FIRST_YEAR, run_year)).then("year")
    evidence = (
        pl.when(declared.is_not_null())
        .then(pl.when(pl.col("year_evidence") == "text").then(pl.lit("text")).otherwise(pl.lit("metadata")))
        .when(pl.col("text_year").is_not_null())
        .then(pl.lit("text"))
        .otherwise(pl.lit("none"))
    )
    found = pl.coalesce(declared, "text_year")
    undated = pl.coalesce("last_year", pl.when(pl.col("first_year").is_not_null()).then(MODERN_UNDATED))
    fitted = pl.when(found.is_null()).then(undated).otherwise(pl.max_horizontal(found, "first_year"))
    known = pl.col("source_type").is_in(list(PRIORS))
    frame = (
        frame.with_columns(pl.when(known).then("source_type").otherwise(pl.lit("unknown")).alias("source_type"))
        .join(_PRIORS, on="source_type", how="left", maintain_order="left")
        .with_columns(fitted.alias("year"), evidence.alias("year_evidence"))
        .with_columns((pl.col("year") > pl.col("last_year")).fill_null(False).alias("conflict"))
    )
    newer = _PRIORS.select(
        pl.col("source_type").alias("if_newer"),
        pl.col("prior_authority").alias("newer_authority"),
        pl.col("prior_bits").alias("newer_bits"),
    )
    conflict = pl.col("conflict")
    return frame.join(newer, on="if_newer", how="left", maintain_order="left").with_columns(
        pl.when(conflict).then("if_newer").otherwise("source_type").alias("source_type"),
        pl.when(conflict).then("newer_authority").otherwise("prior_authority").alias("prior_authority"),
        pl.when(conflict).then("newer_bits").otherwise("prior_bits").alias("prior_bits"),
    )


def _saturation(count: str, half: float) -> pl.Expr:
    rate = pl.col(count) / pl.col("units")
    return rate / (rate + half)


def _weight_log(column: str) -> pl.Expr:
    weight = pl.col(column)
    return pl.when(weight > 0).then(weight * weight.log(2)).otherwise(0.0)


def _entropy_bits(kinds: Iterable[str], total: str) -> pl.Expr:
    """Entropy of the types' weights m with the sum T as log2 T - (sum of m log2 m) / T: one short expression."""
    logs = pl.sum_horizontal(f"log_{kind}" for kind in kinds)
    return pl.when(pl.col(total) > 0).then((pl.col(total).log(2) - logs / pl.col(total)).clip(0.0)).otherwise(0.0)


def _weigh(frame: pl.DataFrame) -> pl.DataFrame:
    """Add the terms of the formulas, column by column as `reference.Components` names them."""
    modern = (
        ((pl.col("year") - authority.OLD_YEAR) / authority.YEARS_TO_MODERN)
        .clip(0.0, 1.0)
        .fill_null(authority.MODERN_SHARE_UNDATED)
    )
    units = pl.max_horizontal(1.0, pl.col("characters") / authority.UNIT_CHARACTERS)
    frame = frame.with_columns(
        (authority.AGE_AUTHORITY[0] + authority.AGE_AUTHORITY[1] * modern).alias("age_auth"),
        (provenance.AGE_BITS[0] + provenance.AGE_BITS[1] * modern).alias("age_bits"),
        (authority.GATE[0] + authority.GATE[1] * modern).alias("gate"),
        units.alias("units"),
        *(pl.col(f"type_{kind}").sqrt().alias(column) for kind, column in _WEIGHT_COLUMNS.items()),
    )
    sums = {"all": EVIDENCE_TYPES, "uneditable": provenance.UNEDITABLE, "in_print": provenance.UNEDITABLE_IN_PRINT}
    frame = frame.with_columns(
        *(_weight_log(column).alias(f"log_{kind}") for kind, column in _WEIGHT_COLUMNS.items()),
        *(
            pl.sum_horizontal(_WEIGHT_COLUMNS[kind] for kind in kinds).alias(f"sum_{name}")
            for name, kinds in sums.items()
        ),
    )
    citations = (1 + pl.col("citations") / pl.col("units")).log10() / pl.lit(
        1.0 + authority.CITATIONS_FOR_MAXIMUM
    ).log10()
    tiers = [
        weight * _saturation(f"tier_{tier}", authority.INSTITUTION_HALF)
        for tier, weight in authority.TIER_WEIGHTS.items()
    ]
    old = (pl.col("year") < authority.OLD_YEAR).fill_null(False)
    total = pl.col("sum_all")
    uneditable = pl.when(old).then("sum_in_print").otherwise("sum_uneditable")
    return frame.with_columns(
        (authority.CITATION_MAXIMUM * citations.clip(0.0, 1.0)).alias("citation"),
        pl.min_horizontal(authority.INSTITUTION_MAXIMUM, pl.sum_horizontal(tiers)).alias("institution"),
        (authority.CONSENSUS_MAXIMUM * _saturation("consensus", authority.CONSENSUS_HALF)).alias("consensus_term"),
        _saturation("primary", authority.PRIMARY_HALF).alias("primary_term"),
        pl.when(total > 0).then(uneditable / total).otherwise(0.0).alias("primary_share"),
        _entropy_bits(EVIDENCE_TYPES, "sum_all").alias("types_bits"),
        pl.when(old)
        .then(_entropy_bits(provenance.UNEDITABLE_IN_PRINT, "sum_in_print"))
        .otherwise(_entropy_bits(provenance.UNEDITABLE, "sum_uneditable"))
        .alias("primary_bits"),
    )


def _blend(frame: pl.DataFrame) -> pl.DataFrame:
    """Add the text's own scores, their weight, and the final scores with their band."""
    gate, institution, consensus = pl.col("gate"), pl.col("institution"), pl.col("consensus_term")
    primary = pl.col("primary_term")
    text_authority = (
        pl.col("age_auth") + gate * (pl.col("citation") + institution + consensus) - authority.PRIMARY_RELIEF * primary
    )
    penalties = gate * (
        provenance.INSTITUTION_PENALTY_BITS * institution / authority.INSTITUTION_MAXIMUM
        + provenance.CONSENSUS_PENALTY_BITS * consensus / authority.CONSENSUS_MAXIMUM
    )
    mix = pl.col("primary_share") * pl.col("primary_bits")
    bits = pl.col("age_bits") + mix + provenance.PRIMARY_BONUS_BITS * primary - penalties
    evidence = (pl.col("marks") + pl.col("citations")).cast(pl.Float64)
    most = pl.when(pl.col("source_type") == "unknown").then(1.0).otherwise(provenance.TEXT_SHARE)
    weight, stored = pl.col("weight_text"), pl.col("auth_weight")
    low, medium, high = (pl.lit(band) for band in BANDS)
    return (
        frame.with_columns(
            text_authority.clip(0.0, authority.AUTHORITY_MAXIMUM).alias("text_auth"),
            bits.clip(0.0, provenance.BITS_MAXIMUM).alias("text_bits"),
            (most * evidence / (evidence + provenance.EVIDENCE_HALF)).alias("weight_text"),
        )
        .with_columns(
            ((1 - weight) * pl.col("prior_authority") + weight * pl.col("text_auth"))
            .clip(0.0, authority.AUTHORITY_MAXIMUM)
            .cast(pl.Float32)
            .alias("auth_weight"),
            ((1 - weight) * pl.col("prior_bits") + weight * pl.col("text_bits"))
            .clip(0.0, provenance.BITS_MAXIMUM)
            .cast(pl.Float32)
            .alias("prov_entropy"),
        )
        .with_columns(
            # Compared as float64, as `band_of` does with the number that a reader takes from the column.
            pl.when(stored.cast(pl.Float64) < LOW_BELOW)
            .then(low)
            .when(stored.cast(pl.Float64) > HIGH_ABOVE)
            .then(high)
            .otherwise(medium)
            .alias("band")
        )
    )
