"""Files that anyone may have written: opened only if they are regular files, read only up to a bound.

A named pipe in the place of a file would be waited on for ever, a device never ends, and a few bytes of JSON can nest
deeper than any parser goes. These functions return the content or raise with a reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError

MOST_JSON_BYTES = 16 << 20
"""Far more than any configuration, state or record of this project has."""
MOST_FAULTS = 3
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def require_file(path: Path) -> None:
    """Refuse what is not a regular file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is something else; opening it could wait for ever.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS.items() if is_kind(mode)), "something else")
        raise ValueError(f"{path.name} is {kind}, not a file")


def open_file(path: Path) -> BufferedReader:
    """Open a regular file for reading; raises what `require_file` does, and OSError."""
    require_file(path)
    file: BufferedReader = BufferedReader(FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb"))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # exchanged in between
        file.close()
        raise ValueError(f"{path.name} is not a file")
    return file


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as lower-case hex."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bounded(path: Path, most_bytes: int = MOST_JSON_BYTES) -> bytes:
    """Read a regular file of at most `most_bytes` bytes.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a regular file, is too long, or cannot be read.
    """
    try:
        with open_file(path) as file:
            content = file.read(most_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror or error}") from error
    if len(content) > most_bytes:
        raise ValueError(f"{path.name} is longer than {most_bytes / 2**20:.0f} MiB")
    return content


def read_object(path: Path, most_bytes: int = MOST_JSON_BYTES, *, finite: bool = False) -> dict[str, Any]:
    """Read a JSON object; `finite`: without ``NaN`` and ``Infinity``, which Python writes although they are not JSON.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It holds something else, or nests too deep.
    """
    content = read_bounded(path, most_bytes)
    try:
        value = parse_json(content, finite=finite)
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} does not hold a JSON object")
    return value


def parse_json(content: bytes, *, finite: bool = False) -> Any:
    """Parse JSON; ValueError if it is something else, or nests too deep."""
    try:
        return json.loads(content, parse_constant=_refuse if finite else None)
    except RecursionError:
        raise ValueError("it nests deeper than any file of its kind") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number")


def one_line(error: ValidationError) -> str:
    """Say in one line what is wrong with a record."""
    faults = error.errors()
    shown = [f"{'.'.join(map(str, fault['loc'])) or 'it'}: {fault['msg']}" for fault in faults[:MOST_FAULTS]]
    return "; ".join(shown) + (f"; and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else "")
