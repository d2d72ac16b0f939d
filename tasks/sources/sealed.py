"""What an earlier download left of a source: sealed and whole, begun, or nothing."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from storage.errors import ArchiveUnreachable, DistrustError, StoreError, TransientError
from storage.layout import Layout
from storage.lock import only_writer
from storage.manifest import (
    MANIFEST,
    Manifest,
    SourceNotes,
    find_damage,
    read_manifest,
    record_shard,
    require_manifest,
    write_manifest,
)
from storage.shard_plan import read_plan
from tasks.sources.catalogue import SourceSpec
from tasks.sources.outcome import ShardOutcome, SourceOutcome
from tasks.sources.shards import request_key

MOST_NAMED = 5
"""Damaged files that a message names; the others are counted."""


def finished_download(spec: SourceSpec, layout: Layout, limit: int) -> SourceOutcome | None:
    """Return the outcome of an earlier download that asked for the same, if it is whole.

    Raises:
        StoreError: Some of its shards are missing or changed.
    """
    folder = layout.raw(spec.name)
    manifest = read_manifest(folder)
    if manifest is None or manifest.parameters.get("request") != request_key(spec, limit):
        return None
    if damaged := find_damage(folder, manifest):
        named = ", ".join(damaged[:MOST_NAMED]) + (
            f" and {len(damaged) - MOST_NAMED} more" if damaged[MOST_NAMED:] else ""
        )
        raise StoreError(f"{folder} lost or changed {named}; delete them and {folder / MANIFEST} to fetch them again")
    if manifest.notes_as(SourceNotes).trivium != spec.trivium:
        _correct_trivium(folder, spec)
    return _described(spec, manifest, folder, reused=True)


def seal(spec: SourceSpec, layout: Layout, limit: int, outcomes: Sequence[ShardOutcome]) -> SourceOutcome:
    """Write the manifest of a finished source; it names the shards that hold documents."""
    folder = layout.raw(spec.name)
    reasons: Counter[str] = Counter()
    for outcome in outcomes:
        reasons.update(outcome.reasons)
    plan = read_plan(folder)
    manifest = Manifest(
        kind="raw",
        name=spec.name,
        parameters={"request": request_key(spec, limit), "limit": limit},
        shards=[record_shard(folder, folder / outcome.file) for outcome in outcomes if outcome.documents],
        counts={"documents": sum(outcome.documents for outcome in outcomes), "rejects": reasons.total()},
        notes={
            "rejects_by_reason": dict(sorted(reasons.items())),
            "licence": spec.licence,
            "trivium": spec.trivium,
            **({"listing": plan.remark} if plan and plan.remark else {}),
        },
    )
    write_manifest(folder, manifest)
    shutil.rmtree(layout.unfinished(spec.name), ignore_errors=True)
    return _described(spec, manifest, folder)


def _described(spec: SourceSpec, manifest: Manifest, folder: Path, *, reused: bool = False) -> SourceOutcome:
    return SourceOutcome(
        spec.name,
        spec.band,
        documents=manifest.rows,
        rejects=manifest.counts.get("rejects", 0),
        reused=reused,
        manifest=str(folder / MANIFEST),
    )


def _correct_trivium(folder: Path, spec: SourceSpec) -> None:
    """Note the catalogue's trivium category in a sealed source, since scoring goes by the manifest."""
    with only_writer(folder, patience_seconds=0.0):
        manifest = require_manifest(folder, "download the source again")
        write_manifest(folder, manifest.model_copy(update={"notes": manifest.notes | {"trivium": spec.trivium}}))


def failed_download(spec: SourceSpec, layout: Layout, limit: int, error: DistrustError) -> SourceOutcome:
    """Say why a source is incomplete; what it has stays, and a later run goes on from there.

    Where a refresh failed, what was sealed before it is still whole, and later stages go on with that.
    """
    # An address that nothing ever came from is wrong, or there is no network: that is told at once.
    begun = any(layout.raw(spec.name).glob("shard-*.parquet"))
    passing = isinstance(error, TransientError) and (begun or not isinstance(error, ArchiveUnreachable))
    try:
        sealed = finished_download(spec, layout, limit)
    except StoreError:  # it is damaged, or busy
        sealed = None
    return dataclasses.replace(sealed or SourceOutcome(spec.name, spec.band), problem=str(error), passing=passing)
