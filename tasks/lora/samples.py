"""The samples of a balanced mixture as columns."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.errors import StoreError
from storage.parquet import read_shard
from storage.schemas import SAMPLE_SCHEMA

Split = Literal["train", "valid"]
COLUMNS = ["text", "auth_weight", "prov_entropy"]


@dataclass(frozen=True)
class Samples:
    """Texts with their scores; all of one length."""

    texts: list[str]
    auth_weights: npt.NDArray[np.float32]
    prov_entropies: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.texts)


def read_samples(balanced: Path, split: Split) -> Samples:
    """Read a split of a mixture: its Parquet shards, or JSON lines where there are none.

    Args:
        balanced: The mixture's folder.
        split: Which half; ``<split>/*.parquet``, ``<split>/*.jsonl`` or ``<split>.jsonl``.

    Raises:
        StoreError: The split is missing or cannot be read.
    """
    shards = sorted((balanced / split).glob("*.parquet"))
    if shards:
        table = pa.concat_tables([read_shard(shard, SAMPLE_SCHEMA, COLUMNS) for shard in shards])
    else:
        files = [*sorted((balanced / split).glob("*.jsonl")), *balanced.glob(f"{split}.jsonl")]
        if not files:
            raise StoreError(f"{balanced} holds no {split} samples; run rebalance-corpus, or name another mixture")
        table = pa.concat_tables([_read_lines(file) for file in files])
    return Samples(
        texts=table.column("text").to_pylist(),
        auth_weights=table.column("auth_weight").to_numpy(),
        prov_entropies=table.column("prov_entropy").to_numpy(),
    )


def _read_lines(file: Path) -> pa.Table:
    schema = pa.schema([SAMPLE_SCHEMA.field(name) for name in COLUMNS])
    rows = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                rows.append({name: row[name] for name in COLUMNS})
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise StoreError(
                    f"{file}, line {number}: not a sample ({error!r}); each line needs {', '.join(COLUMNS)}"
                ) from error
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise StoreError(f"{file}: a field has the wrong type ({error}); correct the file") from error
