"""A frozen plan: which items make up which shard of a source.

The plan is computed once from the archive's listing and kept beside the shards, so that a resumed download fetches the
same items into the same shards. Each shard carries the key of its items in its Parquet footer: a shard is finished if
and only if its file exists and carries the key that the plan expects.

On disk a plan is a Parquet file with one row per shard, read a row group at a time: a plan of 100,000 shards and five
million items opens in 20 ms and takes 15 MB. As one JSON text it took gigabytes of objects at every resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from storage.atomic import move_entries_aside
from storage.errors import StoreError
from storage.manifest import MANIFEST, canonical_json
from storage.parquet import ROW_GROUP_ROWS, open_shard, read_tags

PLAN = "plan.parquet"
SHARD_KEY = "shard_key"
CUT_SHORT = "cut_short"
"""Tag of a shard that left documents out because the request wanted no more: not whole for a larger request."""
PLAN_SCHEMA = pa.schema(
    [pa.field("listing", pa.string(), nullable=False), pa.field("items", pa.int32(), nullable=False)]
)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to fetch: an archive's item, a newspaper page, or a range of rows; `data` is JSON-able."""

    native_id: str
    url: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardSpec:
    """The items of one shard, in order: `listing` is their canonical JSON, `size` their number."""

    index: int
    listing: str
    size: int

    @classmethod
    def of(cls, index: int, items: Sequence[Item]) -> ShardSpec:
        """Make a shard of items."""
        listing = canonical_json([{"native_id": i.native_id, "url": i.url, "data": i.data} for i in items])
        return cls(index, listing, len(items))

    @property
    def items(self) -> list[Item]:
        """The items.

        Raises:
            StoreError: The plan is damaged.
        """
        try:
            return [Item(**item) for item in orjson.loads(self.listing)]
        except (TypeError, orjson.JSONDecodeError) as error:
            raise StoreError(f"the plan of shard {self.index} is damaged ({error}); delete it to plan again") from error

    @property
    def key(self) -> str:
        """Digest of the shard's items."""
        return hashlib.sha256(self.listing.encode()).hexdigest()

    @property
    def file(self) -> str:
        """File name of the shard's documents."""
        return f"shard-{self.index:05d}.parquet"

    @property
    def rejects_file(self) -> str:
        """File name of the shard's rejects."""
        return f"rejects-{self.index:05d}.parquet"

    def is_finished(self, folder: Path) -> bool:
        """Tell whether the shard's file exists and holds exactly these items."""
        return read_tags(folder / self.file).get(SHARD_KEY) == self.key

    def is_whole(self, folder: Path) -> bool:
        """Tell whether the shard is finished and holds every document of its items."""
        tags = read_tags(folder / self.file)
        return tags.get(SHARD_KEY) == self.key and CUT_SHORT not in tags


@dataclass(frozen=True)
class ShardPlan:
    """All shards of a source, for one request: a digest of the source's specification and the number of documents."""

    source: str
    request: str
    shards: Sequence[ShardSpec]
    items: int
    """Items of all shards together."""
    wanted: int = 0
    """Documents that refreshes asked for, if that is more than the request."""
    remark: str = ""
    """What the listing was like; it goes into the manifest."""
    subjects: tuple[str, ...] = ()
    """What the archive was asked for; empty: everything."""


def make_plan(
    source: str,
    request: str,
    items: Sequence[Item],
    shard_items: int,
    first: int = 0,
    before: Sequence[ShardSpec] = (),
) -> ShardPlan:
    """Cut a listing into shards of `shard_items` items, numbered from `first` on.

    As far as the listing begins like that of an earlier plan, whose shards are `before`, it is cut in the same places.
    """
    shards: list[ShardSpec] = []
    start = 0
    for old in before:
        shard = ShardSpec.of(first + len(shards), items[start : start + old.size])
        if shard.listing != old.listing:
            break
        shards.append(shard)
        start += old.size
    for at in range(start, len(items), shard_items):
        shards.append(ShardSpec.of(first + len(shards), items[at : at + shard_items]))
    return ShardPlan(source, request, shards, len(items))


def join_shards(plan: ShardPlan, index: int, count: int) -> ShardPlan:
    """Make one shard of `count` neighbours from `index` on; later ones move up, so none of them may be finished."""
    parts, later = plan.shards[index : index + count], plan.shards[index + count :]
    joined = ShardSpec.of(index, [item for part in parts for item in part.items])
    moved = [replace(shard, index=shard.index - count + 1) for shard in later]
    return replace(plan, shards=[*plan.shards[:index], joined, *moved])


def extend_plan(plan: ShardPlan, items: Sequence[Item], shard_items: int, wanted: int) -> ShardPlan:
    """Add shards of new items to a plan, which then wants `wanted` documents; its present shards stay as they are."""
    more = make_plan(plan.source, plan.request, items, shard_items, first=len(plan.shards))
    return replace(more, shards=[*plan.shards, *more.shards], items=plan.items + more.items, wanted=wanted)


def write_plan(folder: Path, plan: ShardPlan) -> ShardPlan:
    """Freeze a plan; returns it as it is read from disk, which takes no memory."""
    with open_shard(folder / PLAN, PLAN_SCHEMA) as file:
        shards = iter(plan.shards)
        while rows := [{"listing": s.listing, "items": s.size} for s in islice(shards, ROW_GROUP_ROWS)]:
            file.write(rows)
        tags = {"source": plan.source, "request": plan.request, "wanted": str(plan.wanted), "remark": plan.remark}
        file.tag(tags | {"subjects": canonical_json(plan.subjects)})
    return _open_plan(folder / PLAN)


def read_plan(folder: Path) -> ShardPlan | None:
    """Read a frozen plan; None if there is none; StoreError if the plan exists but cannot be understood."""
    return _open_plan(folder / PLAN) if (folder / PLAN).exists() else None


def _open_plan(path: Path) -> ShardPlan:
    try:
        with pq.ParquetFile(path) as file:
            sizes = file.read(columns=["items"]).column("items").to_pylist()
        tags = read_tags(path)
        wanted, remark = int(tags.get("wanted", "0")), tags.get("remark", "")
        shards, subjects = _StoredShards(path, sizes), tuple(orjson.loads(tags.get("subjects", "[]")))
        return ShardPlan(tags["source"], tags["request"], shards, sum(sizes), wanted, remark, subjects)
    except (pa.ArrowInvalid, OSError, KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{path} is not a shard plan ({error}); delete it to plan this source again") from error


class _StoredShards(Sequence[ShardSpec]):
    """The shards of a plan on disk; the row group that was read last stays in memory."""

    def __init__(self, path: Path, sizes: Sequence[int]) -> None:
        self._path = path
        self._sizes = sizes
        self._group = -1
        self._listings: list[str] = []

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, index: int) -> ShardSpec: ...
    @overload
    def __getitem__(self, index: slice) -> list[ShardSpec]: ...
    def __getitem__(self, index: int | slice) -> ShardSpec | list[ShardSpec]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        group, row = divmod(index, ROW_GROUP_ROWS)
        if self._group != group:
            try:
                with pq.ParquetFile(self._path) as file:
                    self._listings = file.read_row_group(group, columns=["listing"]).column(0).to_pylist()
            except (pa.ArrowInvalid, OSError) as error:
                raise StoreError(f"{self._path} cannot be read ({error}); delete it to plan again") from error
            self._group = group
        return ShardSpec(index, self._listings[row], self._sizes[index])


def set_aside_unplanned(folder: Path, plan: ShardPlan, aside: Path) -> int:
    """Move what an earlier, different request left to `aside`; shards that the plan shares with it stay.

    Nothing is deleted. Returns how many shard files were moved.
    """
    kept = {file for shard in plan.shards if shard.is_whole(folder) for file in (shard.file, shard.rejects_file)}
    old = [path for path in folder.glob("*.parquet") if path.name not in {PLAN, *kept}]
    moving = [path for path in [folder / MANIFEST, folder / PLAN, *old] if path.exists()]
    if moving:
        move_entries_aside(moving, aside)
    return len(old)
