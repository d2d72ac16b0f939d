"""What applying the project's state changes on a server, as lines that read like a diff."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

LONGEST_VALUE = 60


@dataclass(frozen=True)
class Change:
    """One thing on the server: new (``+``), changed (``~``), the same (``=``) or left out (``-``)."""

    sign: Literal["+", "~", "=", "-"]
    kind: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.sign} {self.kind:<10} {self.name}" + (f": {self.detail}" if self.detail else "")


def compare(kind: str, name: str, found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> Change:
    """Tell how something on the server (none if it is not there) differs from what is wanted."""
    if found is None:
        return Change("+", kind, name)
    differing = [key for key, value in wanted.items() if found.get(key) != value]
    if not differing:
        return Change("=", kind, name)
    return Change("~", kind, name, ", ".join(f"{key} {_spell(found.get(key), wanted[key])}" for key in differing))


def _spell(found: Any, wanted: Any) -> str:
    before, after = str(found), str(wanted)
    return f"{before} -> {after}" if max(len(before), len(after)) <= LONGEST_VALUE else "(differs)"
