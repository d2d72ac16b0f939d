"""A source on disk: the rows of its shards, the rejects beside them, and the manifest that completes it."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.errors import ArchiveUnreachable, DistrustError, StoreError, TransientError
from storage.layout import Layout
from storage.lock import only_writer
from storage.manifest import (
    MANIFEST,
    Manifest,
    SourceNotes,
    digest_of,
    find_damage,
    read_manifest,
    record_shard,
    require_manifest,
    write_manifest,
)
from storage.parquet import ShardWriter, count_rows, read_shard, write_shard
from storage.schemas import REJECT_SCHEMA
from storage.shard_plan import SHARD_KEY, ShardSpec, read_plan
from storage.text import compose
from tasks.sources.catalogue import NOT_IN_REQUEST, SourceSpec
from tasks.sources.files.report import tabulate_files
from tasks.sources.results import FileTable, ShardOutcome, SourceOutcome, add_reasons
from tasks.sources.source import Document, Reject

BUFFER_CHARS = 16 * 2**20
"""Documents are gathered up to this size before they go to disk."""
SHORT_FIELD_CHARS = 1000
MOST_NAMED = 5
"""Damaged files that a message names; the others are counted."""


def request_key(spec: SourceSpec, limit: int) -> str:
    """Return the digest of what is asked for: the catalogue entry, less pace and remarks, and the limit.

    Keys that keep their default are left out, so that a key of a later version leaves old downloads as they are.
    """
    asked = spec.model_dump(mode="json", exclude=set(NOT_IN_REQUEST), exclude_defaults=True)
    return digest_of({"spec": asked, "limit": limit})


def storable(text: str) -> str:
    """Return a text without NUL and with no code point that UTF-8 cannot carry."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def one_line(value: str | None) -> str | None:
    """Clean a field that is shown on one line."""
    if value is None:
        return None
    return " ".join(compose(storable(value)).split())[:SHORT_FIELD_CHARS] or None


class Buffer:
    """Gathers documents on their way to disk, so that a shard of long texts is never in memory as a whole."""

    def __init__(self, file: ShardWriter) -> None:
        self._file = file
        self._rows: list[dict[str, Any]] = []
        self._chars = 0

    async def add(self, document: Document) -> None:
        """Take a document."""
        self._rows.append(_row(document))
        self._chars += len(document.text)
        if self._chars >= BUFFER_CHARS:
            await self.flush()

    async def flush(self) -> None:
        """Write what is gathered."""
        rows, self._rows, self._chars = self._rows, [], 0
        await asyncio.to_thread(self._file.write, rows)


def _row(document: Document) -> dict[str, object]:
    row = {key.name: getattr(document, key.name) for key in dataclasses.fields(document)}
    for name in ("id", "url", "title", "author", "date", "language", "licence"):
        row[name] = one_line(row[name])
    row["year_evidence"] = document.year_evidence
    row["extra"] = storable(json.dumps(document.extra, ensure_ascii=False, sort_keys=True, default=str))
    row["sha256"] = hashlib.sha256(document.text.encode()).hexdigest()
    row["fetched_at"] = datetime.now(UTC)
    return row


def write_rejects(folder: Path, shard: ShardSpec, rejects: list[Reject]) -> None:
    """Write the rejects beside a shard."""
    rows = [
        {
            "id": one_line(reject.id) or "unknown",
            "url": one_line(reject.url),
            "reason": reject.reason,
            "detail": one_line(reject.detail),
            "attempts": reject.attempts,
        }
        for reject in rejects
    ]
    table = pa.Table.from_pylist(rows, schema=REJECT_SCHEMA)
    write_shard(folder / shard.rejects_file, table, REJECT_SCHEMA, {SHARD_KEY: shard.key})


def read_rejects(folder: Path, shard: ShardSpec) -> list[Reject]:
    """Read the rejects beside a finished shard."""
    rows = read_shard(folder / shard.rejects_file, REJECT_SCHEMA).to_pylist()
    return [Reject(row["id"], row["url"], row["reason"], row["detail"] or "", row["attempts"]) for row in rows]


def read_outcome(folder: Path, shard: ShardSpec) -> ShardOutcome:
    """Describe a finished shard from its files.

    Raises:
        StoreError: The rejects beside it cannot be read.
    """
    reasons: dict[str, int] = {}
    if (folder / shard.rejects_file).is_file():
        column = read_shard(folder / shard.rejects_file, REJECT_SCHEMA, ["reason"]).column("reason").to_pylist()
        reasons = {reason: column.count(reason) for reason in sorted(set(column))}
    file = folder / shard.file
    return ShardOutcome(
        file=shard.file,
        documents=count_rows(file),
        rejects=sum(reasons.values()),
        bytes=file.stat().st_size,
        reasons=reasons,
    )


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
        more = f" and {len(damaged) - MOST_NAMED} more" if damaged[MOST_NAMED:] else ""
        named = ", ".join(damaged[:MOST_NAMED]) + more
        raise StoreError(f"{folder} lost or changed {named}; delete them and {folder / MANIFEST} to fetch them again")
    if manifest.notes_as(SourceNotes).trivium != (spec.trivium or ""):
        _correct_trivium(folder, spec)
    return _outcome(spec, manifest, folder, reused=True)


def complete_download(spec: SourceSpec, layout: Layout, limit: int, outcomes: Sequence[ShardOutcome]) -> SourceOutcome:
    """Write the manifest of a finished source; it names the shards that hold documents."""
    folder, reasons, plan = layout.raw(spec.name), add_reasons(outcomes), read_plan(layout.raw(spec.name))
    manifest = Manifest(
        kind="raw",
        name=spec.name,
        parameters={"request": request_key(spec, limit), "limit": limit},
        shards=[record_shard(folder, folder / outcome.file) for outcome in outcomes if outcome.documents],
        counts={"documents": sum(outcome.documents for outcome in outcomes), "rejects": sum(reasons.values())},
        notes={
            "rejects_by_reason": reasons,
            "licence": spec.licence,
            "trivium": spec.trivium or "",
            **({"listing": plan.remark} if plan and plan.remark else {}),
        },
    )
    write_manifest(folder, manifest)
    shutil.rmtree(layout.unfinished(spec.name), ignore_errors=True)
    return _outcome(spec, manifest, folder)


def _outcome(spec: SourceSpec, manifest: Manifest, folder: Path, *, reused: bool = False) -> SourceOutcome:
    return SourceOutcome(
        source=spec.name,
        band=spec.band,
        documents=manifest.rows,
        rejects=manifest.counts.get("rejects", 0),
        reused=reused,
        manifest=str(folder / MANIFEST),
        files=_files_of(spec, manifest, folder),
    )


def _files_of(spec: SourceSpec, manifest: Manifest, folder: Path) -> FileTable | None:
    """Say what became of the files, where the source is a folder of the user's own."""
    if spec.archive != "local_files":
        return None
    rejects = sorted(path.name for path in folder.glob("rejects-*.parquet"))
    table = tabulate_files(folder, [shard.file for shard in manifest.shards], rejects)
    limit = manifest.parameters["limit"]
    return table.model_copy(update={"stopped_at": limit if manifest.rows >= limit else 0})


def _correct_trivium(folder: Path, spec: SourceSpec) -> None:
    """Note the catalogue's trivium category in a completed source, since scoring reads it from the manifest."""
    with only_writer(folder, patience_seconds=0.0):
        manifest = require_manifest(folder, "download the source again")
        write_manifest(folder, manifest.model_copy(update={"notes": manifest.notes | {"trivium": spec.trivium or ""}}))


def failed_download(spec: SourceSpec, layout: Layout, limit: int, error: DistrustError) -> SourceOutcome:
    """Say why a source is incomplete; its finished shards stay, and a later run goes on from there.

    Where a refresh failed, the source is still complete as it was, and later stages go on with that.
    """
    # If nothing ever came from an address, it is wrong, or there is no network: that is said at once.
    begun = any(layout.raw(spec.name).glob("shard-*.parquet"))
    passing = isinstance(error, TransientError) and (begun or not isinstance(error, ArchiveUnreachable))
    try:
        complete = finished_download(spec, layout, limit)
    except StoreError:  # it is damaged, or busy
        complete = None
    outcome = complete or SourceOutcome(source=spec.name, band=spec.band)
    return outcome.model_copy(update={"problem": str(error), "passing": passing})
