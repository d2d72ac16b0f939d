"""The files of a tree, and what in it is not a file that may be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

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
