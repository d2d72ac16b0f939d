"""Opening the archive that a catalogue entry names."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from tasks.sources.catalogue import SourceSpec
from tasks.sources.chronicling_america import open_chronicling_america
from tasks.sources.connection import Archives
from tasks.sources.files.source import open_local_files
from tasks.sources.hugging_face import open_hugging_face
from tasks.sources.internet_archive import open_internet_archive
from tasks.sources.newspaper_batches import open_newspaper_batches
from tasks.sources.source import Source


def open_source(
    spec: SourceSpec, archives: Archives, workspace: Path | None = None
) -> AbstractAsyncContextManager[Source]:
    """Open the archive of a catalogue entry; close it with the context.

    `workspace` is a folder of this source's own for what an interrupted read goes on from: a part of a file, the
    position in a stream. Losing it costs time, never correctness. None: nothing is kept.
    """
    match spec.archive:
        case "internet_archive":
            return open_internet_archive(spec, archives, workspace)
        case "chronicling_america" if spec.bulk:
            return open_newspaper_batches(spec, archives, workspace)
        case "chronicling_america":
            return open_chronicling_america(spec, archives)
        case "hugging_face":
            return open_hugging_face(spec, archives, workspace)
        case "local_files":
            return open_local_files(spec, archives.current_year)
