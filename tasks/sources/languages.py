"""One code for a language, out of the many ways in which archives write it."""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

_LINES = Path(__file__).with_name("languages.txt").read_text("utf-8").splitlines()
"""A language a line: ISO 639-1, then 639-2 (bibliographic and terminological), then names in several languages."""
_CODES = MappingProxyType({name: line.split()[0] for line in _LINES for name in line.split()})
_UNKNOWN = frozenset({"und", "unknown", "undetermined", "mul", "multiple", "zxx", "mis", "none", "null"})
_TAG = re.compile(r"([a-z]{2,3})[-_][a-z0-9_-]+")
_SEPARATORS = re.compile(r"[;,/|]")


def language_code(value: Any) -> str | None:
    """Return the code of a language as an archive names it; none if it names none, or several.

    ``eng``, ``en``, ``English``, ``eng.``, ``en-US`` and ``["eng"]`` are all ``en``. An unknown
    word is its own code, so that two unknown languages differ.
    """
    if isinstance(value, list | tuple):
        codes = {code for part in value if (code := language_code(part))}
        return codes.pop() if len(codes) == 1 else None
    if not isinstance(value, str):
        return None
    if len(parts := [part for part in _SEPARATORS.split(value) if part.strip()]) > 1:
        return language_code(parts)
    word = " ".join(value.lower().split()).strip(" .[]()?;,/|")
    if tag := _TAG.fullmatch(word):
        word = tag[1]
    if not word or word in _UNKNOWN:
        return None
    return _CODES.get(word, word)
