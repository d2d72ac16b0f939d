"""Serves a folder of documents until it is stopped: ``python -m sandbox.archives FOLDER --catalogue FILE``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path

from sandbox.archives import DocumentFolder, SandboxArchives, write_catalogue
from storage.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Serve; the first line of the output is a JSON object with the environment that leads a client here."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.archives", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of *.jsonl.zst files")
    parser.add_argument("--catalogue", type=Path, help="write the catalogue for these archives to this file")
    parser.add_argument("--port", type=int, default=0, help="first of five consecutive ports (default: any)")
    parser.add_argument("--unavailable-items", action="store_true", help="add items that cannot be downloaded")
    given = parser.parse_args(arguments)
    try:
        asyncio.run(_serve(given.folder, given.catalogue, given.port, given.unavailable_items))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(folder: Path, catalogue: Path | None, port: int, unavailable_items: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Without support for signal handlers the interrupt ends the loop in its own way.
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    documents = DocumentFolder(folder)
    async with SandboxArchives(documents, port, unavailable_items=unavailable_items) as archives:
        if catalogue is not None:
            write_catalogue(catalogue, archives.summaries)
        counts = {source: summary.documents for source, summary in archives.summaries.items()}
        about = {"environment": archives.environment, "documents": counts, "skipped": documents.skipped_count}
        print(json.dumps(about), flush=True)
        for skipped in documents.skipped:
            print(f"skipped {skipped}", file=sys.stderr)
        await stop.wait()


if __name__ == "__main__":
    raise SystemExit(main())
