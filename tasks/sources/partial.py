"""A half-received file on disk, and what a continuation must prove before a byte is added."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from storage.errors import CorruptAnswer, ItemUnavailable

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)


@dataclass
class PartialFile:
    """A file that is being received, maybe in several attempts, maybe by several processes in turn.

    Size and checksum (algorithm of `hashlib`, hex digest) are those that the archive lists; without the checksum
    nothing is continued.
    """

    path: Path
    cap: int
    size: int | None = None
    checksum: tuple[str, str] | None = None
    _offset: int = field(default=0, init=False)

    @property
    def kept(self) -> int:
        """How many bytes the next attempt can go on from; a link is never followed."""
        if self.checksum is None or self.path.is_symlink():
            return 0
        try:
            there = self.path.stat().st_size
        except FileNotFoundError:
            return 0
        return there if self.size is None or there <= self.size else 0

    @property
    def is_complete(self) -> bool:
        """Tell whether only the check is left."""
        return self.size is not None and 0 < self.size == self.kept

    def request_headers(self) -> dict[str, str]:
        """Return the headers that ask for the bytes that are missing."""
        self._offset = self.kept
        return {"Range": f"bytes={self._offset}-"} if self._offset else {}

    def accept(self, status: int, headers: Mapping[str, str]) -> None:
        """Decide where the bytes of an answer belong: behind those that are there, or in their place.

        Raises:
            CorruptAnswer: It is a part of the file, but not the part that was asked for.
        """
        if status != 206:
            self._offset = 0
            return
        given = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        encoded = headers.get("Content-Encoding", "identity").lower() != "identity"
        wrong_total = given is not None and self.size is not None and given[3] not in ("*", str(self.size))
        if given is None or encoded or wrong_total or int(given[1]) != self._offset:
            self.discard()
            raise CorruptAnswer(
                f"asked for the bytes from {self._offset}, got {headers.get('Content-Range')!r} "
                f"(encoding {headers.get('Content-Encoding', 'identity')}); starting over"
            )

    def open(self) -> BinaryIO:
        """Open the file at the place that `accept` decided on."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._offset:
            self.discard()
        file = self.path.open("r+b" if self._offset else "xb")
        file.seek(self._offset)
        return file

    def check_cap(self, reached: int, url: str) -> None:
        """Stop a file that grows too large.

        Raises:
            ItemUnavailable: It exceeds the cap.
        """
        if reached > self.cap:
            self.discard()
            raise ItemUnavailable("too-large", f"{url} exceeds the cap of {self.cap} bytes")

    def verify(self, url: str) -> None:
        """Hold the whole file against the listed size and checksum; what fails is thrown away. Blocking.

        Raises:
            CorruptAnswer: Size or checksum is wrong.
        """
        there = self.path.stat().st_size
        if self.size is not None and there != self.size:
            if there > self.size:
                self.discard()
            raise CorruptAnswer(f"{url} gave {there} bytes, the archive lists {self.size}")
        if self.checksum is None:
            return
        algorithm, wanted = self.checksum
        with self.path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
        if found != wanted.lower():
            self.discard()
            raise CorruptAnswer(f"{url} has {algorithm.upper()} {found}, the archive lists {wanted}")

    def discard(self) -> None:
        """Delete the bytes."""
        self.path.unlink(missing_ok=True)
