"""The sealed shards that a mixture is made from, and where work on them is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from storage.errors import ParameterError, StoreError
from storage.manifest import Manifest, find_damage, require_manifest

Result = TypeVar("Result")

SHARD_PREFIX = "shard-"
SHARDS_AT_ONCE = 2
"""Shards read at a time: one is decompressed while another is worked on."""


@dataclass(frozen=True)
class ShardPair:
    """The documents of a shard and their scores."""

    source: str
    raw: Path
    scored: Path


def list_shards(
    raw_folders: Mapping[str, Path], scored_folders: Mapping[str, Path], filter_source: Sequence[str] = ()
) -> list[ShardPair]:
    """List the shards of the wanted sources, sources and shards in order of their names.

    Raises:
        ParameterError: A name in `filter_source` matches no source.
        StoreError: A dataset is missing, damaged, or not scored.
    """
    pairs = []
    for source in _wanted(sorted(raw_folders), filter_source):
        raw = _sound(raw_folders[source], f"download the source {source} first")
        if source not in scored_folders:
            raise StoreError(f"the source {source} is downloaded but not scored; score it first")
        scored = _sound(scored_folders[source], f"score the source {source} first")
        raw_rows, scored_rows = ({s.file: s.rows for s in m.shards if _is_documents(s.file)} for m in (raw, scored))
        if raw_rows != scored_rows:
            differing = sorted(dict(raw_rows.items() ^ scored_rows.items()))
            raise StoreError(
                f"the scores of {source} do not belong to its documents ({', '.join(differing[:3])} differ); score "
                "the source again"
            )
        pairs += [ShardPair(source, raw_folders[source] / f, scored_folders[source] / f) for f in sorted(raw_rows)]
    return pairs


class MapShards(Protocol):
    """Where work on shards is done."""

    def __call__(self, work: Callable[..., Result], calls: Iterable[tuple[Any, ...]], /) -> Iterable[Result]:
        """Call a function with each of the argument lists, one list a shard; results come in their order."""
        ...


def on_threads(work: Callable[..., Result], calls: Iterable[tuple[Any, ...]], /) -> list[Result]:
    """Work on `SHARDS_AT_ONCE` shards at a time in this process."""
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
        return list(threads.map(lambda call: work(*call), calls))


def _wanted(sources: list[str], filter_source: Sequence[str]) -> list[str]:
    if not filter_source:
        return sources
    for name in filter_source:
        if not any(name in source for source in sources):
            raise ParameterError(
                f"filter_source names {name!r}, which is no source of this corpus; there are: "
                f"{', '.join(sources) or 'none'}"
            )
    return [source for source in sources if any(name in source for name in filter_source)]


def _sound(folder: Path, next_step: str) -> Manifest:
    manifest = require_manifest(folder, next_step)
    if damaged := find_damage(folder, manifest):
        raise StoreError(
            f"{folder} has lost or changed {len(damaged)} shards since it was sealed ({damaged[0]}); "
            "run its stage again"
        )
    return manifest


def _is_documents(file: str) -> bool:
    return Path(file).name.startswith(SHARD_PREFIX)
