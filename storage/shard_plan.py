"""A frozen plan: which items make up which shard of a source.

The plan is computed once from the archive's listing and kept beside the shards, so that a resumed download
fetches the same items into the same shards. Each shard carries the key of its items in its Parquet footer:
a shard is finished if and only if its file exists and carries the key that the plan expects.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.atomic import write_text
from storage.errors import StoreError
from storage.manifest import MANIFEST, digest_of
from storage.parquet import read_tags

PLAN = "plan.json"
SHARD_KEY = "shard_key"
CUT_SHORT = "cut_short"
"""Tag of a shard that left documents out because the request wanted no more: not whole for a larger request."""


class Item(BaseModel):
    """One thing to fetch: an archive's item, a newspaper page, or a range of rows."""

    model_config = ConfigDict(frozen=True)

    native_id: str
    url: str = ""
    data: dict[str, Any] = {}


class ShardSpec(BaseModel):
    """The items of one shard, in order."""

    model_config = ConfigDict(frozen=True)

    index: int = Field(ge=0)
    items: list[Item]

    @property
    def key(self) -> str:
        """Digest of the shard's items."""
        return digest_of([item.model_dump(mode="json") for item in self.items])

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
        return self.is_finished(folder) and CUT_SHORT not in read_tags(folder / self.file)


class ShardPlan(BaseModel):
    """All shards of a source, for one request."""

    model_config = ConfigDict(frozen=True)

    source: str
    request: str
    """Digest of what was asked for: the source's specification and the number of documents."""
    shards: list[ShardSpec]
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


def make_plan(source: str, request: str, items: list[Item], shard_items: int) -> ShardPlan:
    """Cut a listing into shards of `shard_items` items."""
    starts = range(0, len(items), shard_items)
    return ShardPlan(
        source=source,
        request=request,
        shards=[ShardSpec(index=i, items=items[start : start + shard_items]) for i, start in enumerate(starts)],
    )


def extend_plan(plan: ShardPlan, items: list[Item], shard_items: int) -> ShardPlan:
    """Add shards of new items to a plan; the shards that it has stay as they are."""
    more = make_plan(plan.source, plan.request, items, shard_items).shards
    first = len(plan.shards)
    return plan.model_copy(
        update={"shards": [*plan.shards, *(ShardSpec(index=first + shard.index, items=shard.items) for shard in more)]}
    )


def write_plan(folder: Path, plan: ShardPlan) -> None:
    """Freeze a plan."""
    write_text(folder / PLAN, plan.model_dump_json() + "\n")


def read_plan(folder: Path) -> ShardPlan | None:
    """Read a frozen plan; none if there is none.

    Raises:
        StoreError: The plan exists but cannot be understood.
    """
    path = folder / PLAN
    try:
        return ShardPlan.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StoreError(f"{path} is not a shard plan ({error}); delete it to plan this source again") from error


def set_aside_unplanned(folder: Path, plan: ShardPlan, aside: Path) -> int:
    """Move out of the way what an earlier, different request left; shards that the plan shares with it stay.

    Nothing is deleted: the files go to `aside`. Returns how many shard files went there.
    """
    kept = {file for shard in plan.shards if shard.is_whole(folder) for file in (shard.file, shard.rejects_file)}
    old = [path for path in folder.glob("*.parquet") if path.name not in kept]
    for path in [folder / MANIFEST, folder / PLAN, *old]:
        if path.exists():
            aside.mkdir(parents=True, exist_ok=True)
            os.replace(path, aside / path.name)
    return len(old)
