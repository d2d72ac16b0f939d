"""Keeps the texts of documents in one temporary file, so that serving them needs little memory."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TextSlot:
    """Where a text is stored in the spool: byte offset and length, with its MD5 as the archives state it."""

    offset: int
    length: int
    md5: str


class TextSpool:
    """An append-only file of UTF-8 texts."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=2**20)
        self._end = 0

    def append(self, text: str) -> TextSlot:
        """Store a text and return where it is stored."""
        content = text.encode()
        self._file.write(content)
        slot = TextSlot(self._end, len(content), hashlib.md5(content, usedforsecurity=False).hexdigest())
        self._end += len(content)
        return slot

    def finish(self) -> None:
        """Make everything appended so far readable."""
        self._file.flush()

    def read(self, slot: TextSlot, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a text from `start`, at most `length` of them."""
        left = max(slot.length - start, 0)
        return os.pread(self._file.fileno(), left if length is None else min(length, left), slot.offset + start)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
