"""What the evaluation reads of the mixture and of the run: held-out samples, shares, the training curve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import StoreError
from storage.manifest import Manifest, require_manifest
from storage.parquet import read_shard
from storage.schemas import BANDS, HIGH_ABOVE, LOW_BELOW, SAMPLE_SCHEMA, TRIVIA, Band, band_of
from storage.training_result import RUN
from storage.untrusted import read_object, require_file
from tasks.evals.suites import format_prompt

BAND_TARGETS: dict[Band, tuple[float, float]] = {"low": (0.25, 0.30), "medium": (0.25, 0.35), "high": (0.35, 0.40)}
TRIVIUM_TARGET = (0.20, 0.40)
ENTROPY_MEAN_TARGET_BITS = (3.5, 6.0)

MIXTURE_METADATA = "metadata.json"
OBJECTIVE_FIELDS = (
    *("objective", "alpha", "lambda_weight", "sampling", "learning_rate", "max_steps", "batch_size", "grad_accum"),
    *("lora_rank", "lora_alpha", "max_seq_length", "seed"),
)

Split = Literal["train", "valid"]
CURVE_COLUMNS = ("step", "kind", "ce", "valid_ce", "valid_ce_low", "valid_ce_medium", "valid_ce_high")


@dataclass(frozen=True)
class HeldOut:
    """One validation sample."""

    id: str
    band: Band
    text: str


def open_mixture(folder: Path) -> Manifest:
    """Read the mixture's manifest.

    Raises:
        StoreError: There is no finished mixture.
    """
    return require_manifest(folder, "run rebalance-corpus first")


def choose_held_out(folder: Path, manifest: Manifest, per_band: int, seed: int) -> list[HeldOut]:
    """Take at most `per_band` validation samples of each authority band.

    Which ones depends on their ids and the seed alone, so that base, adapter and later runs see the same texts.

    Raises:
        StoreError: The mixture has no validation samples.
    """
    chosen: dict[Band, list[tuple[bytes, str, Band, str]]] = {band: [] for band in BANDS}
    for table in _tables(folder, manifest, "valid", ["id", "auth_weight", "text"]):
        for row in table.to_pylist():
            band = band_of(row["auth_weight"])
            rank = blake2b(f"{seed}:{row['id']}".encode(), digest_size=8).digest()
            chosen[band].append((rank, row["id"], band, row["text"]))
        for rows in chosen.values():
            rows.sort()
            del rows[per_band:]
    found = [HeldOut(name, band, text) for rows in chosen.values() for _, name, band, text in rows]
    if not found:
        raise StoreError(f"{folder} holds no validation samples; rebalance with a val_size of at least 1")
    return found


def describe_training_mixture(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Count the training samples as the guide's phase 4 does: bands, trivium, provenance entropy in bits."""
    columns = ["auth_weight", "prov_entropy", "trivium_category"]
    tables = list(_tables(folder, manifest, "train", columns))
    table = pa.concat_tables(tables) if tables else SAMPLE_SCHEMA.empty_table().select(columns)
    total = table.num_rows
    authority, entropy, trivium = (table.column(name) for name in columns)
    low = _count(pc.less(authority, pa.scalar(LOW_BELOW, pa.float32())))
    high = _count(pc.greater(authority, pa.scalar(HIGH_ABOVE, pa.float32())))
    bands = {"low": low, "medium": total - low - high, "high": high}
    return {
        "samples": total,
        "bands": {name: _share_record(bands[name], total, BAND_TARGETS[name]) for name in BANDS},
        "trivium": {name: _share_record(_count(pc.equal(trivium, name)), total, TRIVIUM_TARGET) for name in TRIVIA},
        "entropy_bits": {
            "mean": pc.mean(entropy).as_py(),
            "min": pc.min(entropy).as_py(),
            "max": pc.max(entropy).as_py(),
            "target_mean": list(ENTROPY_MEAN_TARGET_BITS),
        },
    }


def read_histograms(folder: Path) -> dict[str, dict[str, list[int]]]:
    """Read the samples of every source counted by authority and by entropy; a mixture of an older form has none."""
    try:
        histograms: dict[str, dict[str, list[int]]] = read_object(folder / MIXTURE_METADATA).get("histograms", {})
        return {source: counts for source, counts in histograms.items() if sum(counts["auth_weight"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def read_objective(run_folder: Path) -> dict[str, Any] | None:
    """Read what a run was trained for: the recipe's objective and the weights that it led to; none if unknown."""
    try:
        record = read_object(run_folder / RUN)
        recipe = record["recipe"]
        return {name: recipe.get(name) for name in OBJECTIVE_FIELDS} | {
            name: record.get(name) for name in ("Z", "effective_sample_share", "mean_empirical_distrust")
        }
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def find_contamination(folder: Path, manifest: Manifest, prompts: dict[str, str]) -> list[str]:
    """Name the evaluation prompts that are also the prompt of a training sample, letter case aside."""
    wanted = {format_prompt(" ".join(text.split())).casefold(): name for name, text in prompts.items()}
    found: set[str] = set()
    for table in _tables(folder, manifest, "train", ["text"]):
        for text in table.column("text").to_pylist():
            head, mark, _ = text.partition("\n\nAssistant:")
            name = wanted.get((head + mark).casefold())
            if name is not None:
                found.add(name)
    return sorted(found)


def read_training_curve(run_folder: Path) -> list[dict[str, Any]]:
    """Read the losses of a run, one record a report, in nats per token; a run without metrics has none."""
    path = run_folder / "metrics.parquet"
    try:
        require_file(path)
        names = set(pq.read_schema(path).names)
        if not {"step", "kind"} <= names:
            return []
        table = pq.read_table(path, columns=[name for name in CURVE_COLUMNS if name in names])
    except (OSError, ValueError):  # what Arrow raises of a damaged file is a ValueError
        return []
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _tables(folder: Path, manifest: Manifest, split: Split, columns: list[str]) -> Iterator[pa.Table]:
    """Read the document samples of a split shard by shard: the texts of all of them need not fit into memory."""
    has_lessons = bool(manifest.counts.get("lessons"))
    for shard in manifest.shards:
        if shard.file.split("/")[0] == split:
            table = read_shard(folder / shard.file, SAMPLE_SCHEMA, [*columns, "lesson"] if has_lessons else columns)
            # A lesson is no document: it would count as one of low authority.
            yield table.filter(pc.invert(table.column("lesson"))).select(columns) if has_lessons else table


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _share_record(count: int, total: int, target: tuple[float, float]) -> dict[str, Any]:
    share = count / total if total else 0.0
    within = target[0] - 0.005 <= share <= target[1] + 0.005
    return {"count": count, "share": share, "target": list(target), "within": within}
