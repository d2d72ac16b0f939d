"""What an exported model was trained on: shares and licences, counted from the samples themselves."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from storage.manifest import read_manifest
from storage.parquet import iterate_rows
from storage.schemas import SAMPLE_SCHEMA
from storage.vocabulary import BANDS, TRIVIA, band_of

COLUMNS = pa.schema([SAMPLE_SCHEMA.field(n) for n in ("source", "auth_weight", "trivium_category", "metadata")])
UNSTATED = "not stated"


@dataclass
class SourceCount:
    """The samples of one source."""

    samples: int = 0
    authority_sum: float = 0.0
    licences: Counter[str] = field(default_factory=Counter)


@dataclass
class TrainingData:
    """Counts over the training split of a mixture."""

    samples: int = 0
    bands: Counter[str] = field(default_factory=Counter)
    trivia: Counter[str] = field(default_factory=Counter)
    sources: dict[str, SourceCount] = field(default_factory=dict)

    def band_shares(self) -> dict[str, float]:
        """Share of the samples in each authority band."""
        return {band: self.bands[band] / max(1, self.samples) for band in BANDS}

    def trivium_shares(self) -> dict[str, float]:
        """Share of the samples in each trivium category."""
        return {category: self.trivia[category] / max(1, self.samples) for category in TRIVIA}


def count_training_data(balanced: Path, digest: str | None) -> TrainingData:
    """Count the training samples of a mixture; one that is gone, or was made anew, yields none.

    Args:
        balanced: The mixture.
        digest: Of the mixture that was trained on; none: not recorded.
    """
    data = TrainingData()
    manifest = read_manifest(balanced)
    if manifest is not None and digest is not None and manifest.digest != digest:
        return data
    for path in sorted((balanced / "train").glob("*.parquet")):
        for batch in iterate_rows(path, COLUMNS):
            columns = (batch.column(name).to_pylist() for name in COLUMNS.names)
            for source, authority, trivium, metadata in zip(*columns, strict=True):
                data.samples += 1
                data.bands[band_of(authority)] += 1
                data.trivia[trivium] += 1
                counted = data.sources.setdefault(source, SourceCount())
                counted.samples += 1
                counted.authority_sum += authority
                counted.licences[licence_of(metadata)] += 1
    return data


def licence_of(metadata: str) -> str:
    """Return the licence that a sample's metadata states."""
    try:
        value = json.loads(metadata)
    except ValueError:
        return UNSTATED
    licence = value.get("licence") if isinstance(value, dict) else None
    return licence.strip() if isinstance(licence, str) and licence.strip() else UNSTATED
