"""The counts of `tasks.signals.evidence` and the text years, for a whole table of texts at once.

The lexicon runs as one pattern whose spans are then looked up: one pass per feature would cost six times as much.
Nothing is lower-cased or tokenised; every pattern runs on the text as it is. Spans repeat, so each distinct one is
looked up once; phrases that count alike share a class, and a document's counts are its classes times their weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from storage.schemas import EVIDENCE_TYPES, TIERS
from tasks.signals.lexicon import LEXICON, LEXICON_PATTERN, Phrase, key_of, spell_for_rust
from tasks.signals.patterns import CITATIONS, CUE_CHARACTERS, CUED_YEAR, MARKERS, YEAR_TOKEN, Marker
from tasks.signals.years import cued_year, token_year

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

COUNT_COLUMNS = [
    *("marks", "consensus", "primary"),
    *(f"tier_{tier}" for tier in TIERS),
    *(f"type_{kind}" for kind in EVIDENCE_TYPES),
]

_YEARS = 10_000
"""More than any year of four digits, and than any run year."""


@dataclass(frozen=True)
class Counts:
    """What texts show: arrays with one entry, or one row, per text."""

    characters: Integers
    """Length in code points."""
    citations: Integers
    marks: Integers
    """Lexicon phrases and markers, of any kind."""
    consensus: Integers
    primary: Integers
    """Markers of primary evidence, by their weights."""
    tiers: Integers
    """(texts, `TIERS`)."""
    kinds: Integers
    """(texts, `EVIDENCE_TYPES`)."""
    text_year: Floats
    """The year that the text itself mentions; NaN: none."""


Weights = tuple[int, ...]
"""What one match adds to each of `COUNT_COLUMNS`."""


def _weights(mark: Phrase | Marker) -> Weights:
    adds = {"marks": 1, "consensus": mark.consensus, "primary": mark.primary}
    adds |= {f"tier_{mark.tier}": 1, f"type_{mark.kind}": 1}
    return tuple(adds.get(column, 0) for column in COUNT_COLUMNS)


_CLASSES: list[Weights] = sorted({_weights(phrase) for phrase in LEXICON})
_CLASS_WEIGHTS: Integers = np.array(_CLASSES, dtype=np.int64)
_CLASS_OF_KEY = {phrase.key: _CLASSES.index(_weights(phrase)) for phrase in LEXICON}
_MARKER_WEIGHTS: Integers = np.array([_weights(marker) for marker in MARKERS.values()], dtype=np.int64)


def scan_texts(texts: pl.Series, run_year: int) -> Counts:
    """Count the evidence in clean texts."""
    text = pl.col("text")
    scan = pl.DataFrame({"text": texts}).select(
        text.str.len_chars().cast(pl.Int64).alias("characters"),
        text.str.extract_all(spell_for_rust(LEXICON_PATTERN)).alias("spans"),
        pl.sum_horizontal(_count(pattern) for pattern in CITATIONS.values()).alias("citations"),
        *(_count(marker.pattern).alias(name) for name, marker in MARKERS.items()),
    )
    markers = scan.select(*MARKERS).to_numpy() @ _MARKER_WEIGHTS
    counts: Integers = np.add(_count_phrases(scan["spans"]), markers, dtype=np.int64)
    marks, consensus, primary = counts[:, :3].T
    return Counts(
        characters=scan["characters"].to_numpy(),
        citations=scan["citations"].to_numpy(),
        marks=marks,
        consensus=consensus,
        primary=primary,
        tiers=counts[:, 3 : 3 + len(TIERS)],
        kinds=counts[:, 3 + len(TIERS) :],
        text_year=scan_years(texts, run_year),
    )


def _count(pattern: str) -> pl.Expr:
    return pl.col("text").str.count_matches(spell_for_rust(pattern)).cast(pl.Int64)


def _distinct(spans: pl.Series) -> tuple[pa.DictionaryArray, Integers]:
    """Return all spans one after another as indices into the distinct ones, and the text that each is from."""
    rows = np.repeat(np.arange(len(spans)), spans.list.len().to_numpy())
    found = spans.list.explode(keep_nulls=False, empty_as_null=False)
    return found.to_arrow().cast(pa.large_string()).dictionary_encode(), rows


def _count_phrases(spans: pl.Series) -> Integers:
    """Return what the lexicon's spans of every text add up to, (texts, `COUNT_COLUMNS`)."""
    distinct, rows = _distinct(spans)
    class_of_span = np.array([_CLASS_OF_KEY[key_of(span)] for span in distinct.dictionary.to_pylist()], dtype=np.int64)
    cells = rows * len(_CLASSES) + class_of_span[distinct.indices.to_numpy()]
    per_class = np.bincount(cells, minlength=len(spans) * len(_CLASSES)).reshape(len(spans), len(_CLASSES))
    return np.asarray(per_class @ _CLASS_WEIGHTS, dtype=np.int64)


def scan_years(texts: pl.Series, run_year: int) -> Floats:
    """Return the year that each text mentions, or NaN: the rule of `tasks.signals.years.text_year`."""
    tokens = texts.str.extract_all(spell_for_rust(YEAR_TOKEN))
    cues = texts.str.head(CUE_CHARACTERS).str.extract_all(spell_for_rust(CUED_YEAR))
    mentions, times = np.unique(_keys(tokens, token_year, run_year), return_counts=True)
    dated = np.union1d(mentions[times >= 2], _keys(cues, cued_year, run_year))
    newest, best = _newest(mentions, len(tokens)), _newest(dated, len(tokens))
    return np.where(np.isnan(best), newest, best)


def _keys(spans: pl.Series, year_of: Callable[[str], int | None], run_year: int) -> Integers:
    """Number every pair of a text and a year up to `run_year` that it names, by text and then by year."""
    distinct, rows = _distinct(spans)
    year_of_span = np.array([year_of(span) or _YEARS for span in distinct.dictionary.to_pylist()], dtype=np.int64)
    years = year_of_span[distinct.indices.to_numpy()]
    known = years <= run_year
    return np.asarray(rows[known] * _YEARS + years[known], dtype=np.int64)


def _newest(keys: Integers, texts: int) -> Floats:
    """Return the newest year of every text from its sorted keys; NaN for a text without any."""
    newest = np.full(texts, np.nan)
    newest[keys // _YEARS] = keys % _YEARS  # of several values for a text, the last one stays
    return newest
