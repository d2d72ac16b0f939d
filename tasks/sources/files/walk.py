"""The files of a tree by how they are read, and what in it is not a file that may be read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MOST_NAMED = 5
LISTING = "listing:"
SYSTEM_FILES = frozenset({"Thumbs.db", "desktop.ini", "Icon\r", "__MACOSX"})


@dataclass
class Tree:
    """What a folder holds.

    Attributes:
        files: The paths of its files, relative to it, in order.
        faults: The path, reason and sentence of everything else that a person may have meant.
        hidden: Hidden files and folders, which are passed over.
    """

    files: list[str] = field(default_factory=list)
    faults: list[tuple[str, str, str]] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)


def walk(root: Path) -> Tree:
    """List the files of a folder; links to folders are not followed, and those to files only if they stay inside."""
    tree, real = Tree(), root.resolve()
    for entry in _entries(root, tree):
        name = Path(entry.path).relative_to(root).as_posix()
        if is_hidden(entry.name):
            tree.hidden.append(shown(name))
        elif fault := _fault_of(entry, name, real):
            tree.faults.append((shown(name), *fault))
        elif not entry.is_dir():
            tree.files.append(name)
    tree.files.sort()
    tree.faults.sort()
    tree.hidden.sort()
    return tree


def is_hidden(name: str) -> bool:
    """Tell whether a file is none that a person put there: hidden, of the system, or the lock of an open document."""
    return name.startswith((".", "~$")) or name in SYSTEM_FILES


def shown(name: str) -> str:
    """Spell a name that is not UTF-8 so that it can be stored."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _entries(root: Path, tree: Tree) -> Iterator[os.DirEntry[str]]:
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    yield entry
                    if entry.is_dir(follow_symlinks=False) and not is_hidden(entry.name) and _is_utf8(entry.name):
                        folders.append(Path(entry.path))
        except OSError as error:
            name = shown(folder.relative_to(root).as_posix())
            tree.faults.append((name, "unreadable", f"the folder cannot be read ({error.strerror})"))


def _is_utf8(name: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


def _fault_of(entry: os.DirEntry[str], name: str, root: Path) -> tuple[str, str] | None:
    if not _is_utf8(entry.name):
        return "bad-file-name", "its name is not UTF-8; rename it"
    try:
        mode = entry.stat().st_mode
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            return "outside-folder", "a link that leads out of the folder"
        if entry.is_symlink() and stat.S_ISDIR(mode):
            return "link-to-folder", "a link to a folder inside, which is read where it is"
    except (OSError, RuntimeError) as error:  # a link that leads nowhere, or in a circle
        return "broken-link", f"a link that leads nowhere ({getattr(error, 'strerror', None) or error})"
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else ("not-a-file", "a pipe, socket or device")


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
