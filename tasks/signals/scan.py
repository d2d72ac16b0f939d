"""The counts of `tasks.signals.evidence` and the text years, for a whole table of texts at once.

The lexicon runs as one pattern whose spans are then looked up: one pass per feature would cost six times as much.
Nothing is lower-cased or tokenised; every pattern runs on the text as it is. Spans repeat, so each distinct one is
looked up once; phrases that count alike share a class, and a document's counts are its classes times their weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from storage.schemas import EVIDENCE_TYPES, TIERS
from storage.text import STEPS, compose
from tasks.signals.lexicon import LEXICON, LEXICON_PATTERN, Phrase, key_of, spell_for_rust
from tasks.signals.patterns import CITATIONS, CUE_CHARACTERS, CUED_YEAR, MARKERS, YEAR_TOKEN, Marker

ROW = "row"
TIER_COLUMNS = [f"tier_{tier}" for tier in TIERS]
TYPE_COLUMNS = [f"type_{kind}" for kind in EVIDENCE_TYPES]
COUNT_COLUMNS = ["marks", "consensus", "primary", *TIER_COLUMNS, *TYPE_COLUMNS]


Weights = tuple[int, ...]
"""What one match adds to each of `COUNT_COLUMNS`."""


def _weights(mark: Phrase | Marker) -> Weights:
    adds = {"marks": 1, "consensus": mark.consensus, "primary": mark.primary}
    adds |= {f"tier_{mark.tier}": 1, f"type_{mark.kind}": 1}
    return tuple(adds.get(column, 0) for column in COUNT_COLUMNS)


_CLASSES: list[Weights] = sorted({_weights(phrase) for phrase in LEXICON})
_CLASS_WEIGHTS: NDArray[np.int64] = np.array(_CLASSES, dtype=np.int64)
_CLASS_OF_KEY = {phrase.key: _CLASSES.index(_weights(phrase)) for phrase in LEXICON}
_MARKER_WEIGHTS: NDArray[np.int64] = np.array([_weights(marker) for marker in MARKERS.values()], dtype=np.int64)


def clean_texts(texts: pl.Series) -> pl.Series:
    """Clean every text exactly as `clean_text` does."""
    # Normal form C is Python's for both engines, so that one Unicode table decides. ASCII texts are in it.
    rows = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    given: Sequence[str] = texts.gather(rows).to_list()
    changes = {row: new for row, old in zip(rows, given, strict=True) if (new := compose(old)) != old}
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
    counts = _count_phrases(scan["spans"]) + scan.select(*MARKERS).to_numpy() @ _MARKER_WEIGHTS
    return pl.concat(
        [
            scan.select("characters", "citations"),
            pl.from_numpy(counts, schema=COUNT_COLUMNS),
            scan.select(ROW)
            .join(_find_years(scan, run_year), on=ROW, how="left", maintain_order="left")
            .select("text_year"),
        ],
        how="horizontal",
    )


def _count(pattern: str) -> pl.Expr:
    return pl.col("text").str.count_matches(spell_for_rust(pattern)).cast(pl.Int64)


def _count_phrases(spans: pl.Series) -> NDArray[np.int64]:
    """Return what the lexicon's spans of every text add up to, (texts, `COUNT_COLUMNS`)."""
    found = spans.list.explode(keep_nulls=False, empty_as_null=False).to_arrow().cast(pa.large_string())
    distinct = found.dictionary_encode()
    class_of_span = np.array([_CLASS_OF_KEY[key_of(span)] for span in distinct.dictionary.to_pylist()], dtype=np.int64)
    rows = np.repeat(np.arange(len(spans)), spans.list.len().to_numpy())
    cells = rows * len(_CLASSES) + class_of_span[distinct.indices.to_numpy()]
    per_class = np.bincount(cells, minlength=len(spans) * len(_CLASSES)).reshape(len(spans), len(_CLASSES))
    return per_class @ _CLASS_WEIGHTS


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
