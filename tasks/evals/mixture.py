"""What the evaluation reads of the mixture: held-out samples, shares of the training samples, trained prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from storage.chat import ASSISTANT_MARK, format_prompt, split_sample
from storage.errors import StoreError
from storage.manifest import Manifest, require_manifest
from storage.parquet import read_shard
from storage.schemas import SAMPLE_SCHEMA
from storage.untrusted import read_object
from storage.vocabulary import (
    BAND_TARGETS,
    BANDS,
    ENTROPY_MEAN_TARGET_BITS,
    HIGH_ABOVE,
    LOW_BELOW,
    TRIVIA,
    TRIVIUM_TARGET,
    Band,
    Trivium,
    band_of,
)

MIXTURE_METADATA = "metadata.json"
ROUNDING = 0.005
"""A share this near to its range counts as within."""

Histogram = dict[Literal["auth_weight", "prov_entropy"], list[int]]


@dataclass(frozen=True)
class HeldOut:
    """One validation sample."""

    id: str
    band: Band
    text: str
    prompt: str = ""
    response: str = ""
    """Empty for a text of another form than question and answer."""


@dataclass(frozen=True)
class ShareInRange:
    """How many samples are of a kind, and whether their share is within the guide's range."""

    count: int
    share: float
    target: tuple[float, float]
    within: bool

    @classmethod
    def of(cls, mask: pa.ChunkedArray, target: tuple[float, float]) -> ShareInRange:
        """Count the samples that a mask holds."""
        count = int(pc.sum(mask).as_py() or 0)
        share = count / len(mask) if len(mask) else 0.0
        return cls(count, share, target, target[0] - ROUNDING <= share <= target[1] + ROUNDING)


@dataclass(frozen=True)
class EntropyBits:
    """Provenance entropy of the samples, in bits; None without samples."""

    mean: float | None
    min: float | None
    max: float | None
    target_mean: tuple[float, float] = ENTROPY_MEAN_TARGET_BITS


@dataclass(frozen=True)
class TrainingMixture:
    """The training samples, counted as in the guide's phase 4."""

    samples: int
    bands: dict[Band, ShareInRange]
    trivium: dict[Trivium, ShareInRange]
    entropy_bits: EntropyBits


@dataclass(frozen=True)
class Mixture:
    """A finished mixture on disk."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Mixture:
        """Read the manifest; StoreError without a finished mixture."""
        return cls(folder, require_manifest(folder, "run rebalance-corpus first"))

    def choose_held_out(self, per_band: int, seed: int) -> list[HeldOut]:
        """Take at most `per_band` validation samples of each authority band.

        Which ones depends on their ids and the seed alone, so that base, adapter and later runs see the same texts.
        StoreError without any.
        """
        chosen: dict[Band, list[tuple[bytes, str, str, str, str]]] = {band: [] for band in BANDS}
        for table in self._tables("valid", ["id", "auth_weight", "text", "prompt", "response"]):
            for row in table.to_pylist():
                rank = blake2b(f"{seed}:{row['id']}".encode(), digest_size=8).digest()
                pair = (row["prompt"], row["response"]) if row["prompt"] else split_sample(row["text"])
                chosen[band_of(row["auth_weight"])].append((rank, row["id"], row["text"], *(pair or ("", ""))))
            for rows in chosen.values():
                rows.sort()
                del rows[per_band:]
        found = [HeldOut(name, band, *texts) for band, rows in chosen.items() for _, name, *texts in rows]
        if not found:
            raise StoreError(f"{self.folder} has no validation samples; rebalance with a val_size of at least 1")
        return found

    def count_training_samples(self) -> TrainingMixture:
        """Count the training samples by authority band and trivium."""
        columns = ["auth_weight", "prov_entropy", "trivium_category"]
        empty = SAMPLE_SCHEMA.empty_table().select(columns)
        table = pa.concat_tables([empty, *self._tables("train", columns)])
        authority, entropy, trivium = (table.column(name) for name in columns)
        low = pc.less(authority, pa.scalar(LOW_BELOW, pa.float32()))
        high = pc.greater(authority, pa.scalar(HIGH_ABOVE, pa.float32()))
        masks: dict[Band, pa.ChunkedArray] = {"low": low, "medium": pc.invert(pc.or_(low, high)), "high": high}
        return TrainingMixture(
            samples=table.num_rows,
            bands={band: ShareInRange.of(mask, BAND_TARGETS[band]) for band, mask in masks.items()},
            trivium={name: ShareInRange.of(pc.equal(trivium, name), TRIVIUM_TARGET) for name in TRIVIA},
            entropy_bits=EntropyBits(*(measure(entropy).as_py() for measure in (pc.mean, pc.min, pc.max))),
        )

    def read_histograms(self) -> dict[str, Histogram]:
        """Read the samples of every source counted by authority and entropy; a mixture of an older form has none."""
        try:
            histograms: dict[str, Histogram] = read_object(self.folder / MIXTURE_METADATA).get("histograms", {})
            return {source: counts for source, counts in histograms.items() if sum(counts["auth_weight"])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def find_trained_prompts(self, prompts: dict[str, str]) -> list[str]:
        """Name the evaluation prompts that are also the prompt of a training sample, letter case ignored."""
        wanted = {format_prompt(" ".join(text.split())).casefold(): name for name, text in prompts.items()}
        found: set[str] = set()
        for table in self._tables("train", ["text"]):
            for text in table.column("text").to_pylist():
                head, mark, _ = text.partition(ASSISTANT_MARK)
                if name := wanted.get((head + mark).casefold()):
                    found.add(name)
        return sorted(found)

    def _tables(self, split: Literal["train", "valid"], columns: list[str]) -> Iterator[pa.Table]:
        """Read the document samples of a split shard by shard: the texts of all of them need not fit into memory."""
        has_lessons = bool(self.manifest.counts.get("lessons"))
        for shard in self.manifest.shards:
            if shard.file.split("/")[0] == split:
                wanted = [*columns, "lesson"] if has_lessons else columns
                table = read_shard(self.folder / shard.file, SAMPLE_SCHEMA, wanted)
                # A lesson is not a document: it would count as one of low authority.
                yield table.filter(pc.invert(table.column("lesson"))).select(columns) if has_lessons else table
