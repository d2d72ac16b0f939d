"""What an earlier download left of a source: sealed and whole, begun, or nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from storage.errors import ArchiveUnreachable, DistrustError, StoreError, TransientError
from storage.layout import Layout
from storage.lock import only_writer
from storage.manifest import MANIFEST, find_damage, read_manifest, require_manifest, write_manifest
from tasks.sources.catalogue import SourceSpec
from tasks.sources.outcome import SourceOutcome
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
    if manifest.notes.get("trivium") != spec.trivium:
        _correct_trivium(folder, spec)
    return SourceOutcome(
        spec.name,
        spec.band,
        documents=manifest.rows,
        rejects=manifest.counts.get("rejects", 0),
        reused=True,
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
