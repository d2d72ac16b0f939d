"""What benchmarks share: a process of its own, its peak memory, a server, datasets, and how far two kinds are apart."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # a process whose memory is measured loads what it needs itself
    import numpy as np
    import pyarrow as pa

    from storage.manifest import Manifest

ROOT = Path(__file__).resolve().parent.parent

MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""Bytes that one unit of `ru_maxrss` stands for."""


def peak_bytes() -> int:
    """Return the most memory that this process held; `ru_maxrss` of Linux begins at that of its parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def children_peak_bytes() -> int:
    """Return the most memory that any one ended child held; on Linux at least what this process held at its start."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * MAXRSS_BYTES


def run_alone(name: str, *arguments: object, environment: Mapping[str, str] | None = None) -> Any:
    """Run ``python -m benchmarks.NAME ARGUMENTS`` in a process of its own; return what its last line says in JSON."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def own_server(home: Path) -> Iterator[int]:
    """Run a Prefect server as `make up` does, with a home of its own; yield its port."""
    from deployments import processes, server

    os.environ["PREFECT_HOME"] = str(home)
    port = server.free_port(0)
    server.start_server(port)
    try:
        yield port
    finally:
        processes.stop("server")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines compressed by Zstandard."""
    import zstandard

    with path.open("rb") as file:
        return [
            json.loads(line) for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8")
        ]


def seal(
    folder: Path, kind: Literal["raw", "scored"], tables: Iterable[pa.Table], schema: pa.Schema, **inputs: str
) -> Manifest:
    """Write a finished dataset, a shard for each table."""
    from storage.manifest import Manifest, record_shard, write_manifest
    from storage.parquet import write_shard

    records = []
    for number, table in enumerate(tables):
        path = folder / f"shard-{number:05d}.parquet"
        write_shard(path, table, schema)
        records.append(record_shard(folder, path))
    manifest = Manifest(kind=kind, name=folder.name, inputs=inputs, shards=records)
    write_manifest(folder, manifest)
    return manifest


def find_copies(texts: list[str]) -> list[int]:
    """Return the place of the text that stands for each one, as a mixture finds copies."""
    import numpy as np
    import pyarrow as pa

    from storage.shingles import fingerprint_texts, ordered_shingles
    from tasks.mixture.deduplicate import deduplicate

    found = deduplicate(
        [str(row) for row in range(len(texts))],
        fingerprint_texts(pa.array(texts, pa.large_string())),
        np.full(len(texts), 0.1),
        np.full(len(texts), 1900),
        [None] * len(texts),
        lambda rows: ordered_shingles([texts[row] for row in rows.tolist()]),
    )
    return [int(name) for name in found.cluster_id]


def area_under_curve(low: np.ndarray[Any, Any], high: np.ndarray[Any, Any]) -> float:
    """Return the probability that a value of the second kind is above one of the first."""
    import numpy as np

    difference = np.subtract.outer(high, low)
    return float(np.mean(difference > 0) + np.mean(difference == 0) / 2)
