"""Where reading a stream of the Hub may go on after a restart."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.atomic import remove_temporaries, write_json
from storage.errors import StoreError

RECENT = 32
"""So many of the last positions are kept: a shard under way starts some ranges before the last row that was read."""
SPARSE_ROWS = 100_000
"""Of older positions one in so many rows is kept, for shards that are fetched again later."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """A place in a stream.

    Attributes:
        row: How many rows lie before it.
        state: What the library needs to go on from the row before it.
        last_row: Digest of that row: it is read again, and must be the same one.
    """

    row: int
    state: dict[str, Any]
    last_row: str


class Positions:
    """The saved positions of one stream, in memory and, given a folder, on disk.

    Losing them costs time, never rows; a position of anything but this very stream is never used.

    Args:
        folder: Where they lie; none keeps them in memory.
        identity: All that decides which rows the stream has, in which order.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any]) -> None:
        self._folder = folder
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._kept: dict[int, Position] = {}
        if folder is not None and folder.is_dir():
            remove_temporaries(folder)
            self._load(folder)

    def save(self, position: Position) -> None:
        """Keep a position; older ones thin out. A disk that takes no more costs only the saving of time."""
        self._kept[position.row] = position
        if self._folder is not None:
            try:
                write_json(self._file(position.row), {"identity": self._identity, **asdict(position)})
            except (OSError, StoreError) as error:
                _log.warning("position %d is not saved (%s)", position.row, error)
        self._thin()

    def before(self, row: int) -> Iterator[Position]:
        """Yield the positions from which `row` can be reached, the nearest first."""
        yield from [self._kept[kept] for kept in sorted(self._kept, reverse=True) if kept <= row]

    def forget(self, row: int) -> None:
        """Drop a position that proved wrong."""
        self._kept.pop(row, None)
        if self._folder is not None:
            self._file(row).unlink(missing_ok=True)

    def _file(self, row: int) -> Path:
        assert self._folder is not None
        return self._folder / f"position-{row:012d}.json"

    def _load(self, folder: Path) -> None:
        refused = 0
        for file in sorted(folder.glob("position-*.json")):
            position = _read(file, self._identity)
            if position is None:
                refused += 1
                file.unlink(missing_ok=True)
            else:
                self._kept[position.row] = position
        if refused:
            _log.info("%d saved positions are broken or of another revision, version or selection: left out", refused)

    def _thin(self) -> None:
        older = sorted(self._kept)[:-RECENT]
        milestones: dict[int, int] = {}
        for row in older:
            milestones.setdefault(row // SPARSE_ROWS, row)
        for row in set(older) - set(milestones.values()):
            self.forget(row)


def digest_row(row: Any) -> str:
    """Return a digest of a row's content."""
    content = json.dumps(row, sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _read(file: Path, identity: dict[str, Any]) -> Position | None:
    try:
        content = json.loads(file.read_text("utf-8"))
        if content["identity"] != identity:
            return None
        position = Position(content["row"], content["state"], content["last_row"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    valid = isinstance(position.row, int) and position.row > 0 and isinstance(position.state, dict)
    return position if valid and isinstance(position.last_row, str) else None
