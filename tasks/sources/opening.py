"""Opening the archive that a catalogue entry names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.sources.catalogue import SourceSpec
from tasks.sources.chronicling_america import ChroniclingAmerica
from tasks.sources.connection import Archives
from tasks.sources.files.source import LocalFiles
from tasks.sources.hugging_face import HuggingFaceDataset
from tasks.sources.internet_archive import InternetArchive
from tasks.sources.newspaper_batches import NewspaperBatches
from tasks.sources.source import Source


@asynccontextmanager
async def open_source(spec: SourceSpec, archives: Archives, workspace: Path | None = None) -> AsyncIterator[Source]:
    """Open the archive of a catalogue entry; close it with the context.

    `workspace` is a folder of this source's own for what an interrupted read goes on from: a part of a file, the
    position in a stream. Losing it costs time, never correctness. None: nothing is kept.
    """
    with TemporaryDirectory(prefix="distrust-") as temporary:
        folder = workspace or Path(temporary)
        match spec.archive:
            case "internet_archive":
                yield InternetArchive(spec, archives, folder)
            case "chronicling_america" if spec.bulk:
                yield NewspaperBatches(spec, archives, folder)
            case "chronicling_america":
                yield ChroniclingAmerica(spec, archives)
            case "hugging_face":
                async with aclosing(HuggingFaceDataset(spec, archives, folder)) as dataset:
                    yield dataset
            case "local_files":
                async with aclosing(LocalFiles(spec, archives.current_year)) as files:
                    yield files
