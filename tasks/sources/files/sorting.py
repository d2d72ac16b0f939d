"""The files of a source by how they are read, and what a person should know of those that are not."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tasks.sources.files.walk import Tree, walk

MOST_NAMED = 5


@dataclass
class Sorted:
    """The files of a source by how they are read.

    Attributes:
        texts: Files that are one document each.
        tables: Tables and archives, of which nobody knows how many documents they hold.
        faults: The path, reason and sentence of every file that is not read.
        sidecars: Tables that describe other files.
    """

    texts: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    faults: list[list[str]] = field(default_factory=list)
    sidecars: list[str] = field(default_factory=list)


LISTING = "listing:"


def listing_of(path: Path) -> str:
    """Return a digest of what a folder holds: names, sizes and times; a file that changes changes it.

    Raises:
        OSError: The folder cannot be read.
    """
    path.stat()
    names = [path.name] if path.is_file() else walk(path).files
    digest = hashlib.sha256()
    for name in names:
        state = (path if path.is_file() else path / name).stat()
        digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return f"{LISTING}{digest.hexdigest()[:32]}"


def remark_on(tree: Tree) -> str:
    """Name the hidden files, which are passed over."""
    if not tree.hidden:
        return ""
    more = f" and {len(tree.hidden) - MOST_NAMED} more" if tree.hidden[MOST_NAMED:] else ""
    return f"hidden files are not read: {', '.join(tree.hidden[:MOST_NAMED])}{more}"


def first_faults(faults: list[list[str]]) -> str:
    """Name the faults of a folder of which nothing can be read: each reason with its first file."""
    counts = Counter(reason for _, reason, _ in faults)
    first = {reason: (file, detail) for file, reason, detail in reversed(faults)}
    named = [f"{count} {reason} ({first[reason][0]}: {first[reason][1]})" for reason, count in counts.most_common()]
    return "".join(f"; {part}" for part in named[:MOST_NAMED])
