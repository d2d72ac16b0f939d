"""`storage.text.clean_text` for a whole column of texts at once; only the texts that a step changes are touched."""

from __future__ import annotations

from functools import reduce
from itertools import groupby
from operator import or_

import numpy as np
import polars as pl
from numpy.typing import NDArray

from storage.text import STEPS, compose

_FIRST_DOUBTFUL_LEAD = 0xCC
"""UTF-8 lead byte of U+0300: every code point below it is in normal form C, whatever stands before it."""
_DASHES_AND_QUOTES = (0xE2, 0x80, 0x82)
"""First bytes of U+2002 to U+203F, which are in normal form C too; the last byte is a lower bound."""


def clean_texts(texts: pl.Series) -> pl.Series:
    """Clean every text exactly as `clean_text` does."""
    # Normal form C is Python's for both engines, so that one Unicode table decides.
    rows = _doubtful_rows(texts)
    given: list[str] = texts.gather(rows).to_list()
    changes = {row: new for row, old in zip(rows, given, strict=True) if (new := compose(old)) != old}
    if changes:
        texts = texts.scatter(list(changes), list(changes.values()))
    for step, repeated in groupby(STEPS):
        rows = _rows_with(step.needles, texts)
        touched = texts.gather(rows)
        for _ in repeated:
            touched = touched.str.replace_all(step.pattern, step.replacement)
        if len(rows):
            texts = texts.scatter(rows, touched)
    return texts


def _rows_with(needles: tuple[str, ...], texts: pl.Series) -> pl.Series:
    """Return the rows that hold any of the needles."""
    return reduce(or_, (texts.str.contains(needle, literal=True) for needle in needles)).arg_true()


def _doubtful_rows(texts: pl.Series) -> pl.Series:
    """Return the rows that need not be in normal form C; a look at the bytes clears nearly all Western texts."""
    rows = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    array = texts.gather(rows).to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    if data is None:
        return rows
    ends: NDArray[np.int64] = np.frombuffer(offsets, np.int64)[array.offset :][: len(array) + 1]
    utf8 = np.frombuffer(data, np.uint8)
    leads = np.flatnonzero(utf8 >= _FIRST_DOUBTFUL_LEAD)
    first, second, least = _DASHES_AND_QUOTES
    third = utf8[np.minimum(leads + 2, len(utf8) - 1)]  # the last character may be of two bytes
    safe = (utf8[leads] == first) & (utf8[leads + 1] == second) & (third >= least)
    doubtful_before = np.searchsorted(leads[~safe], ends)
    return rows.gather(np.flatnonzero(np.diff(doubtful_before)))
