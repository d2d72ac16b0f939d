"""What is known of the documents of a corpus without their texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.shingles import Fingerprints
from tasks.mixture.subjects import Keys


@dataclass(frozen=True)
class Documents:
    """What is known of every document without its text, one entry a document.

    Attributes:
        shards, rows: Which shard of the corpus holds it, and its row there.
        authority, entropy: Authority weight, and provenance entropy in bits.
        bands, trivia: Index into `BANDS` and `TRIVIA` of `storage.schemas`.
        years: Year, `UNKNOWN_YEAR` if unknown.
        works: Parent work, unique over sources; none if the document stands alone.
        parts: Numbers of the pieces that make samples.
        left_out: Characters after the last piece, which no sample holds.
        cleaned: Whether cleaning changed the text; only such texts are cleaned at the second reading.
        titles: Hash of the title that the first piece is asked by, 0 for none.
        keys: What the pieces are about.
        asked: Pieces that keep to the subject for which their archive was asked; the hash is that of its name.
        asked_names: The names by hash.
        quality: Share of known words, NaN where that says nothing.
        fingerprints: What duplicates are found by.
        outside: How many documents lie outside the authority range, period or OCR quality that was asked for.
        cleaning: How often each rule of `storage.pages` acted.
    """

    ids: list[str]
    shards: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    authority: npt.NDArray[np.float32]
    entropy: npt.NDArray[np.float32]
    bands: npt.NDArray[np.int64]
    trivia: npt.NDArray[np.int64]
    years: npt.NDArray[np.int64]
    works: list[str | None]
    parts: list[tuple[int, ...]]
    left_out: npt.NDArray[np.int64]
    cleaned: npt.NDArray[np.bool_]
    titles: npt.NDArray[np.uint64]
    keys: Keys
    asked: Keys
    asked_names: dict[int, str]
    quality: npt.NDArray[np.float32]
    fingerprints: Fingerprints
    scoring_versions: frozenset[str]
    outside: int
    cleaning: Counter[str]

    @classmethod
    def joined(cls, parts: Sequence[Documents], versions: frozenset[str]) -> Documents:
        """Put what the shards hold one after another, also if there are none."""
        starts = np.cumsum([0, *(len(part.ids) for part in parts)])[:-1].tolist()

        def columns(name: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
            return np.concatenate([np.zeros(0, dtype), *(getattr(part, name) for part in parts)])

        return cls(
            ids=[name for part in parts for name in part.ids],
            works=[work for part in parts for work in part.works],
            parts=[numbers for part in parts for numbers in part.parts],
            shards=columns("shards", np.int64),
            rows=columns("rows", np.int64),
            bands=columns("bands", np.int64),
            trivia=columns("trivia", np.int64),
            years=columns("years", np.int64),
            left_out=columns("left_out", np.int64),
            authority=columns("authority", np.float32),
            entropy=columns("entropy", np.float32),
            quality=columns("quality", np.float32),
            cleaned=columns("cleaned", np.bool_),
            titles=columns("titles", np.uint64),
            keys=Keys.joined([(part.keys, start) for part, start in zip(parts, starts, strict=True)]),
            asked=Keys.joined([(part.asked, start) for part, start in zip(parts, starts, strict=True)]),
            asked_names={key: name for part in parts for key, name in part.asked_names.items()},
            fingerprints=Fingerprints.joined([part.fingerprints for part in parts]),
            scoring_versions=versions,
            outside=sum(part.outside for part in parts),
            cleaning=sum((part.cleaning for part in parts), Counter()),
        )
