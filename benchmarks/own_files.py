"""Files of one's own to texts, beside markitdown where it is installed: files per second, and how much text is kept.

    python -m benchmarks.own_files        one JSON line

Both read the same files in this process, one after the other, after a first file of each kind that loads their
libraries. The share of the text kept is that of the words of each file, in their order, that its reading still has.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tasks.sources.files.source import LocalFiles
from tasks.sources.own_documents import OwnDocuments
from tasks.sources.source import Document
from tests.tasks.sources.files.own_folder import docx, epub, pdf, xlsx

PEER = "markitdown"
COPIES = 12
LINE = "In the year {n} the harbour of the town was frozen, and {n} barrels of salted fish lay on the quay."
WRITERS: dict[str, Callable[[list[str]], bytes]] = {
    "txt": lambda lines: "\n".join(lines).encode(),
    "html": lambda lines: f"<html><body>{''.join(f'<p>{line}</p>' for line in lines)}</body></html>".encode(),
    "docx": lambda lines: docx("\n".join(lines)),
    "epub": lambda lines: epub([" ".join(lines)]),
    "pdf": lambda lines: pdf("\n".join(lines[:40])),
    "csv": lambda lines: "\n".join(["text", *(f'"{line}"' for line in lines)]).encode(),
    "xlsx": lambda lines: xlsx([["text"], *([line] for line in lines)]),
}


def write(folder: Path, copies: int) -> dict[str, list[str]]:
    """Write files of every kind; return the words of each by its name."""
    words = {}
    for number in range(copies):
        lines = [LINE.format(n=1000 * number + n) for n in range(200)]
        for kind, writer in WRITERS.items():
            (folder / f"{number}.{kind}").write_bytes(writer(lines))
            words[f"{number}.{kind}"] = " ".join(lines[:40] if kind == "pdf" else lines).split()
    return words


def read_own(folder: Path) -> dict[str, str]:
    """Read a folder as `--path` does; return the text of each file."""

    async def read() -> dict[str, str]:
        source, texts = LocalFiles(OwnDocuments(str(folder), name="own").spec(()), 2026), dict[str, str]()
        for item in await source.plan(1_000_000):
            async for outcome in source.fetch(item):
                if isinstance(outcome, Document):
                    texts[str(outcome.url)] = f"{texts.get(str(outcome.url), '')} {outcome.text}"
        await source.aclose()
        return texts

    return asyncio.run(read())


def read_peer(folder: Path) -> dict[str, str]:
    """Read a folder with the peer, file by file."""
    from markitdown import MarkItDown  # type: ignore[import-not-found]

    reader, texts = MarkItDown(), {}
    for path in sorted(folder.iterdir()):
        try:
            texts[path.name] = reader.convert(str(path)).text_content
        except Exception:  # a kind whose library is not installed
            texts[path.name] = ""
    return texts


def kept(words: list[str], text: str) -> float:
    """Return the share of the words that a text still has, in their order."""
    found = difflib.SequenceMatcher(None, words, text.replace("|", " ").split(), autojunk=False)
    return sum(block.size for block in found.get_matching_blocks()) / len(words)


def measure(read: Callable[[Path], dict[str, str]]) -> dict[str, float | dict[str, float]]:
    """Measure one reader."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as folder:
        write(Path(first), 1)
        read(Path(first))
        words = write(Path(folder), COPIES)
        began = time.perf_counter()
        texts = read(Path(folder))
        seconds = time.perf_counter() - began
    shares = {kind: round(kept(words[f"0.{kind}"], texts.get(f"0.{kind}", "")), 3) for kind in WRITERS}
    return {"files_per_second": round(len(words) / seconds, 1), "text_kept": shares}


def main() -> None:
    """Measure and print."""
    own = measure(read_own)
    peer = measure(read_peer) if importlib.util.find_spec(PEER) else None
    ratio = round(float(str(own["files_per_second"])) / float(str(peer["files_per_second"])), 2) if peer else None
    print(json.dumps({"benchmark": "own files", "own": own, PEER: peer, "ratio": ratio}))


if __name__ == "__main__":
    main()
