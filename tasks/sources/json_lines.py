"""Lines of JSON, one object a line, out of bytes that nobody vouches for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class BadLine:
    """A line that holds no row: the countable reason, and the sentence for a person."""

    reason: str
    detail: str


def lines_of(stream: IO[bytes], cap: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines that are not blank, with their number from one on.

    None stands in place of a line longer than `cap` bytes, which is never held in memory.
    """
    number = 0
    while line := stream.readline(cap + 1):
        number += 1
        if len(line) > cap and not line.endswith(b"\n"):
            while (rest := stream.readline(cap)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        elif line.strip():
            yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def parse_line(line: bytes | None, number: int, cap: int) -> dict[str, Any] | BadLine:
    """Read one line; bytes that are no UTF-8 become U+FFFD, as everywhere in the corpus."""
    if line is None:
        return BadLine("line-too-long", f"line {number} exceeds {cap} bytes")
    try:
        value = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        return BadLine("bad-json", f"line {number}: {error}")
    return value if isinstance(value, dict) else BadLine("bad-json", f"line {number} is no JSON object")
