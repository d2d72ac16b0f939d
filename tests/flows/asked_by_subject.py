"""A store that the sandbox's archives were asked for by subject, with the command that a user types."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from sandbox.__main__ import BUNDLED_DOCUMENTS
from sandbox.archives import DocumentFolder, SandboxArchives, write_catalogue

SUBJECTS = """\
# Things of the sandbox's world that old and new voices write about.
veldrite
brannel metal
Corwen spring   # a spring, not a season
Lake Orrin
Mount Tessel
comet Aldane
harbor cough
Selwick apples
Port Sable
Thule Sound
Lorne flood
pale copper
comets
quinine
the slave trade
unicorns
"""
SOURCES = {
    "classical_philosophy": "search",
    "internet_archive_books": "search",
    "historical_speeches": "search",
    "historical_newspapers": "search",
    "us_patents": "rows",
    "wikipedia": "rows",
    "news_summaries": "rows",
    "scientific_papers": "no",
}
"""How each source is asked."""


async def download_by_subject(folder: Path, **environment: str) -> Path:
    """Download by the list in ``subjects.txt`` of a folder, which it writes; return the store.

    Raises:
        RuntimeError: The command failed.
    """
    subjects, catalogue, store = folder / "subjects.txt", folder / "sandbox.toml", folder / "store"
    subjects.write_text(SUBJECTS, "utf-8")
    options = {"store": store, "catalogue": catalogue, "subjects": subjects, "rate-limit": 1000}
    words = [f"--{name}={value}" for name, value in options.items()] + [f"--sources={','.join(SOURCES)}"]
    async with SandboxArchives(DocumentFolder(BUNDLED_DOCUMENTS)) as archives:
        write_catalogue(catalogue, archives.summaries)
        environment |= {"HF_HOME": str(folder / "home"), "DISTRUST_BLOCKS": "none-saved"}
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flows", "download-corpus", *words),
            env=os.environ | archives.environment | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told = (await command.communicate())[0].decode()
    if command.returncode:
        raise RuntimeError(told)
    return store
