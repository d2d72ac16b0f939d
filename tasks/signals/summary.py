"""What the scores of a source say as a whole: bands, trivium, where its years come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import StoreError
from storage.vocabulary import BANDS, TRIVIA
from tasks.signals.overlay import REFUSED

COLUMNS = [
    *("auth_weight", "prov_entropy", "band", "trivium_category"),
    *("components.conflict", "components.year_evidence", "components.overrides"),
    *("components.overruled", "components.unscored_language", "components.n_outlets"),
]


@dataclass(frozen=True)
class ScoreSummary:
    """Counts of documents, and the median scores."""

    documents: int
    bands: dict[str, int]
    trivia: dict[str, int]
    year_evidence: dict[str, int]
    """Where the years come from: ``metadata``, ``text`` or ``none``."""
    conflicts: int
    """Documents whose year contradicts their source."""
    overridden: int
    """Documents with a score that was given instead of computed."""
    refused: int
    """Documents with a score of their own that is none, and was computed instead."""
    overruled: int
    """Documents whose text took the place of their label."""
    unscored_language: int
    """Documents in a language that the scores do not know."""
    copied: int
    """Documents whose words stand in several outlets of about the same time."""
    median_authority: float
    median_bits: float

    @property
    def years_unverified(self) -> int:
        """Documents whose year no metadata vouches for: guessed from the text, or unknown."""
        return self.documents - self.year_evidence.get("metadata", 0)

    @property
    def conflict_share(self) -> float:
        """Share of the documents in conflict; 0 without documents."""
        return self.conflicts / self.documents if self.documents else 0.0

    @property
    def counts(self) -> dict[str, int]:
        """The counts as a manifest keeps them."""
        return {
            **{name: self.bands.get(name, 0) for name in BANDS},
            **{name: self.trivia.get(name, 0) for name in TRIVIA},
            "year_conflicts": self.conflicts,
            "years_unverified": self.years_unverified,
            "overridden": self.overridden,
            "refused": self.refused,
            "overruled": self.overruled,
            "unscored_language": self.unscored_language,
            "copied": self.copied,
        }


def summarise_scores(shards: Iterable[Path]) -> ScoreSummary:
    """Summarise scored shards; of the components only what is counted is read.

    Raises:
        StoreError: A shard cannot be read.
    """
    return summarise_tables(map(_read_columns, shards))


def summarise_tables(tables: Iterable[pa.Table]) -> ScoreSummary:
    """Summarise tables with the columns of `storage.schemas.SCORED_SCHEMA`."""
    bands, trivia, evidence = Counter[str](), Counter[str](), Counter[str]()
    documents = conflicts = overridden = refused = overruled = unscored = copied = 0
    authority: list[np.ndarray] = []
    bits: list[np.ndarray] = []
    for table in tables:
        documents += table.num_rows
        bands.update(_count(table.column("band")))
        trivia.update(_count(table.column("trivium_category")))
        authority.append(table.column("auth_weight").to_numpy())
        bits.append(table.column("prov_entropy").to_numpy())
        why = table.column("components")
        evidence.update(_count(pc.struct_field(why, "year_evidence")))
        conflicts += pc.sum(pc.struct_field(why, "conflict")).as_py() or 0
        overruled += pc.sum(pc.struct_field(why, "overruled")).as_py() or 0
        unscored += pc.sum(pc.struct_field(why, "unscored_language")).as_py() or 0
        copied += pc.sum(pc.greater(pc.struct_field(why, "n_outlets"), 1)).as_py() or 0
        notes = pc.struct_field(why, "overrides")
        refusals = pc.match_substring_regex(notes, f"(^|; ){REFUSED}")
        laid_over = pc.and_not(pc.not_equal(notes, ""), pc.starts_with(notes, REFUSED))
        refused += pc.sum(refusals).as_py() or 0
        overridden += pc.sum(laid_over).as_py() or 0
    return ScoreSummary(
        documents=documents,
        bands=dict(bands),
        trivia=dict(trivia),
        year_evidence=dict(evidence),
        conflicts=conflicts,
        overridden=overridden,
        refused=refused,
        overruled=overruled,
        unscored_language=unscored,
        copied=copied,
        median_authority=_median(authority),
        median_bits=_median(bits),
    )


def _read_columns(path: Path) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=COLUMNS)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{path} cannot be read as scores ({error}); delete it and score again") from error


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    return {str(found["values"]): int(found["counts"]) for found in pc.value_counts(column).to_pylist()}


def _median(parts: list[np.ndarray]) -> float:
    values = np.concatenate(parts) if parts else np.empty(0)
    return float(np.median(values)) if values.size else 0.0
