"""What is packed: gz, bz2, xz, zst, zip and tar, each within bounds of size and number."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from tasks.sources.files.kinds import HEAD_BYTES, packing_of
from tasks.sources.files.record import Unreadable

EXPANSION_FLOOR_BYTES = 64 * 2**20
LARGEST_EXPANSION = 200
"""A packed file may grow to so many times its size, or to the floor; prose packs to a tenth, a bomb to a thousandth."""
XZ_MEMORY_BYTES = 256 * 2**20
MOST_MEMBERS = 200_000
_CHUNK_BYTES = 2**18
_SMALLEST_ENTRY_BYTES = 46
"""Of a member in the directory of a zip file."""

BROKEN = (OSError, EOFError, OverflowError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
"""What the libraries raise for a container that is damaged."""
ZIP_BROKEN = (*BROKEN, RuntimeError, NotImplementedError, ValueError)


class ExpandsTooFar(OSError):
    """A packed file that grows beyond its bound."""


class ByteStream(io.RawIOBase):
    """A stream of the bytes that `take` returns."""

    def readable(self) -> bool:
        """Tell that this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes."""
        data = self.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def take(self, most: int) -> bytes:
        """Return the next bytes, at most so many; none at the end."""
        raise NotImplementedError


class BoundedReader(ByteStream):
    """Reads what comes out of a packed file, and stops a file that expands too far.

    Args:
        inner: The unpacked bytes.
        limit: Most bytes, from the beginning or from the last `restart` on.
    """

    def __init__(self, inner: IO[bytes], limit: int) -> None:
        self._inner, self._limit, self.left = inner, limit, limit

    def restart(self) -> None:
        """Count from here on."""
        self.left = self._limit

    def take(self, most: int) -> bytes:
        """Return the next bytes; too many raise `ExpandsTooFar`."""
        data = self._inner.read(most)
        self.left -= len(data)
        if self.left < 0:
            raise ExpandsTooFar(f"expands to more than {self._limit:,} bytes; unpack it yourself if that is right")
        return data

    def close(self) -> None:
        """Close the packed file."""
        self._inner.close()
        super().close()


class _XzReader(ByteStream):
    """Reads an xz file with a bound on the memory that its header asks for."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._unpacker = lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES)

    def take(self, most: int) -> bytes:
        while True:
            if self._unpacker.eof:
                rest = self._unpacker.unused_data.lstrip(b"\0") or self._file.read(_CHUNK_BYTES).lstrip(b"\0")
                if not rest:
                    return b""
                self._unpacker = lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES)
            elif self._unpacker.needs_input:
                if not (rest := self._file.read(_CHUNK_BYTES)):
                    raise EOFError("it ends before its end")
            else:
                rest = b""
            if data := self._unpacker.decompress(rest, most):
                return data

    def close(self) -> None:
        self._file.close()
        super().close()


def most_unpacked_bytes(path: Path) -> int:
    """Return how far a packed file may grow."""
    return max(EXPANSION_FLOOR_BYTES, LARGEST_EXPANSION * path.stat().st_size)


def open_unpacked(path: Path) -> IO[bytes]:
    """Open a file for reading what it holds, unpacked if it is packed.

    Raises:
        OSError: It cannot be read. Reading it raises one of `BROKEN`.
    """
    packed: Any
    with path.open("rb") as file:
        packing = packing_of(file.read(8))
    match packing:
        case "zst":
            # Unlike zstandard's reader, this one notices a file that was cut short.
            packed = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
        case "gz":
            packed = gzip.GzipFile(path, "rb")
        case "bz2":
            packed = bz2.BZ2File(path, "rb")
        case "xz":
            packed = io.BufferedReader(_XzReader(path))
        case _:
            return path.open("rb")
    return io.BufferedReader(BoundedReader(packed, most_unpacked_bytes(path)))


def read_head(path: Path) -> tuple[bytes, bool]:
    """Read the first bytes of a file as it is when unpacked; also tell whether it is packed."""
    try:
        with path.open("rb") as file:
            is_packed = packing_of(file.read(8)) is not None
        with open_unpacked(path) as stream:
            return stream.read(HEAD_BYTES), is_packed
    except PermissionError as error:
        raise Unreadable("unreadable", "it may not be read; change its permissions") from error
    except BROKEN as error:
        raise broken(path.name, error) from error


def broken(name: str, error: BaseException) -> Unreadable:
    """Say why a container cannot be read to its end."""
    if isinstance(error, ExpandsTooFar):
        return Unreadable("expands-too-far", f"{name} {error}")
    return Unreadable("broken-file", f"{name} is broken ({' '.join(str(error).split()) or type(error).__name__})")


@dataclass(frozen=True)
class Member:
    """A file in an archive; `fault` is the reason and the sentence for which it is not read."""

    name: str
    stream: IO[bytes] | None
    fault: tuple[str, str] | None = None


def members_of(path: Path, kind: str) -> Iterator[Member]:
    """Yield the files of an archive in its order; each is read before the next is asked for."""
    try:
        yield from _zip_members(path) if kind == "zip" else _tar_members(path)
    except ZIP_BROKEN as error:
        raise broken(path.name, error) from error


def zip_names(path: Path) -> set[str]:
    """Name the members of a zip file."""
    try:
        with _open_zip(path) as archive:
            return set(archive.namelist())
    except ZIP_BROKEN as error:
        raise broken(path.name, error) from error


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file whose directory is small enough to be held in memory."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65_557))
        end = file.read()
    at = end.rfind(b"PK\x05\x06")
    directory = int.from_bytes(end[at + 12 : at + 16], "little") if at >= 0 else 0
    large = end.rfind(b"PK\x06\x06")
    if directory == 0xFFFFFFFF and large >= 0:
        directory = int.from_bytes(end[large + 40 : large + 48], "little")
    if directory > MOST_MEMBERS * 2 * _SMALLEST_ENTRY_BYTES:
        raise Unreadable("too-many-members", f"{path.name} lists more than {MOST_MEMBERS:,} files; unpack it yourself")
    return zipfile.ZipFile(path)


def _zip_members(path: Path) -> Iterator[Member]:
    with _open_zip(path) as archive:
        left = most_unpacked_bytes(path)
        for info in archive.infolist():
            if info.is_dir():
                continue
            if (info.external_attr >> 16) & 0o170000 == 0o120000:
                yield Member(info.filename, None, ("link-in-archive", "a link, which is not followed"))
            elif info.flag_bits & 1:
                yield Member(info.filename, None, ("encrypted", "locked with a password; unpack it yourself"))
            else:
                # Declared sizes can lie; what is read counts.
                with archive.open(info) as stream:
                    bounded = BoundedReader(stream, left)
                    yield Member(info.filename, io.BufferedReader(bounded))
                    left = bounded.left


def _tar_members(path: Path) -> Iterator[Member]:
    with (
        open_unpacked(path) as stream,
        # As a stream: a hostile header cannot lead backwards, and no list of all members is needed.
        tarfile.open(fileobj=stream, mode="r|", errorlevel=1) as archive,
    ):
        for number, info in enumerate(archive):
            archive.members = []  # type: ignore[attr-defined]
            if number >= MOST_MEMBERS:
                raise Unreadable("too-many-members", f"{path.name} holds more than {MOST_MEMBERS:,} files")
            if info.size < 0:
                raise tarfile.ReadError(f"its file {info.name!r} has {info.size} bytes")
            if info.isfile():
                yield Member(info.name, archive.extractfile(info))
            elif info.issym() or info.islnk():
                yield Member(info.name, None, ("link-in-archive", "a link, which is not followed"))
            elif not info.isdir():
                yield Member(info.name, None, ("not-a-file", "a device or pipe"))
        # The library takes a damaged header for the end; after the true one there are only zeros.
        rest: Any = archive.fileobj
        while data := rest.read(_CHUNK_BYTES):
            if data.strip(b"\0"):
                raise tarfile.ReadError("something other than files follows")
