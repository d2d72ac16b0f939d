"""The counts of `tasks.signals.evidence` and the text years, for a whole table of texts at once.

The lexicon runs as one pattern whose spans are then joined to its 321 rows: one pass per feature would cost six
times as much. Nothing is lower-cased or tokenised; every pattern runs on the text as it is.
"""

from __future__ import annotations

import polars as pl

from storage.schemas import EVIDENCE_TYPES, TIERS
from storage.text import STEPS, compose
from tasks.signals.lexicon import LEXICON, LEXICON_PATTERN, spell_for_rust
from tasks.signals.patterns import CITATIONS, CUE_CHARACTERS, CUED_YEAR, MARKERS, YEAR_TOKEN

ROW = "row"
TIER_COLUMNS = [f"tier_{tier}" for tier in TIERS]
TYPE_COLUMNS = [f"type_{kind}" for kind in EVIDENCE_TYPES]
COUNT_COLUMNS = ["marks", "consensus", "primary", *TIER_COLUMNS, *TYPE_COLUMNS]


def _weights(tier: str | None, consensus: int, primary: int, kind: str | None) -> dict[str, int]:
    """Return what one match adds to each of `COUNT_COLUMNS`."""
    adds = dict.fromkeys(COUNT_COLUMNS, 0) | {"marks": 1, "consensus": consensus, "primary": primary}
    if tier:
        adds[f"tier_{tier}"] = 1
    if kind:
        adds[f"type_{kind}"] = 1
    return adds


_PHRASES = pl.DataFrame(
    [{"key": item.key, **_weights(item.tier, item.consensus, item.primary, item.kind)} for item in LEXICON],
    schema={"key": pl.String, **dict.fromkeys(COUNT_COLUMNS, pl.Int64)},
)
_MARKER_WEIGHTS = {
    name: _weights(marker.tier, marker.consensus, marker.primary, marker.kind) for name, marker in MARKERS.items()
}


def clean_texts(texts: pl.Series) -> pl.Series:
    """Clean every text exactly as `clean_text` does."""
    # Normal form C is Python's for both engines, so that one Unicode table decides. ASCII texts are in it.
    rows = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    changes = {}
    for row, text in zip(rows, texts.gather(rows), strict=True):
        composed = compose(text)
        if composed != text:
            changes[row] = composed
    if changes:
        texts = texts.scatter(list(changes), list(changes.values()))
    for pattern, replacement in STEPS:
        texts = texts.str.replace_all(pattern, replacement)
    return texts


def scan_texts(texts: pl.Series, run_year: int) -> pl.DataFrame:
    """Count the evidence in clean texts.

    Returns:
        One row per text, in order: ``characters``, ``citations``, every one of `COUNT_COLUMNS` and
        ``text_year``.
    """
    text = pl.col("text")
    scan = pl.DataFrame({"text": texts}).select(
        pl.int_range(pl.len(), dtype=pl.UInt32).alias(ROW),
        text.str.len_chars().cast(pl.Int64).alias("characters"),
        text.str.extract_all(spell_for_rust(LEXICON_PATTERN)).alias("spans"),
        text.str.extract_all(spell_for_rust(YEAR_TOKEN)).alias("tokens"),
        text.str.head(CUE_CHARACTERS).str.extract_all(spell_for_rust(CUED_YEAR)).alias("cues"),
        pl.sum_horizontal(_count(pattern) for pattern in CITATIONS.values()).alias("citations"),
        *(_count(marker.pattern).alias(name) for name, marker in MARKERS.items()),
    )
    counts = (
        scan.select(ROW, "characters", "citations", *MARKERS)
        .join(_count_phrases(scan), on=ROW, how="left", maintain_order="left")
        .join(_find_years(scan, run_year), on=ROW, how="left", maintain_order="left")
        .with_columns(pl.col(COUNT_COLUMNS).fill_null(0))
    )
    return counts.with_columns(_with_markers(column) for column in COUNT_COLUMNS).drop(ROW, *MARKERS)


def _count(pattern: str) -> pl.Expr:
    return pl.col("text").str.count_matches(spell_for_rust(pattern)).cast(pl.Int64)


def _with_markers(column: str) -> pl.Expr:
    terms = [pl.col(name) * adds[column] for name, adds in _MARKER_WEIGHTS.items() if adds[column]]
    return pl.sum_horizontal(pl.col(column), *terms).alias(column)


def _count_phrases(scan: pl.DataFrame) -> pl.DataFrame:
    key = pl.col("spans").str.replace_all(r"[ \t\r\n-]+", " ").str.to_lowercase()
    spans = scan.select(ROW, "spans").explode("spans").drop_nulls().select(ROW, key.alias("key"))
    return spans.join(_PHRASES, on="key").group_by(ROW).agg(pl.col(COUNT_COLUMNS).sum())


def _find_years(scan: pl.DataFrame, run_year: int) -> pl.DataFrame:
    """Return a row per text that mentions a year: the rule of `tasks.signals.years.text_year`."""
    token, year = pl.col("tokens"), pl.col("year")
    digits = token.str.replace_all("[Oo]", "0").str.replace_all("[Il]", "1").cast(pl.Int64)
    mentions = (
        scan.select(ROW, "tokens")
        .explode("tokens")
        .filter(token.str.len_bytes() == 4)
        .select(ROW, digits.alias("year"))
        .filter(year <= run_year)
        .group_by(ROW, "year")
        .len()
        .group_by(ROW)
        .agg(year.filter(pl.col("len") >= 2).max().alias("repeated"), year.max().alias("newest"))
    )
    cued = (
        scan.select(ROW, "cues")
        .explode("cues")
        .drop_nulls()
        .select(ROW, pl.col("cues").str.tail(4).cast(pl.Int64).alias("year"))
        .filter(year <= run_year)
        .group_by(ROW)
        .agg(year.max().alias("cued"))
    )
    best = pl.coalesce(pl.max_horizontal("cued", "repeated"), "newest").cast(pl.Int64)
    return mentions.join(cued, on=ROW, how="full", coalesce=True).select(ROW, best.alias("text_year"))
