"""What the Internet Archive says of an item: whether it may be read, and which of its files are its text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from storage.errors import CorruptAnswer, ItemUnavailable
from tasks.sources.dates import roman_number

TEXT_FORMAT = "DjVuTXT"
TEXT_SUFFIX = "_djvu.txt"
LENDING_COLLECTIONS = frozenset({"inlibrary", "printdisabled"})
MOST_VOLUMES = 100
"""An item with more texts of one name is a collection, not a work in volumes."""
WHOLE_SHARE = 0.9
VARIANTS = frozenset(("bw", "color", "colour", "copy", "text", "ocr", "scan", "orig", "original", "old", "new"))
"""Words that distinguish copies of one volume, not volumes."""

STAMPS = {
    "google-books": "This is a digital copy of a book that was preserved for generations",
    "internet-archive": "Digitized by the Internet Archive",
    "google": "Digitized by Google",
    "jstor-early-journals": "Early Journal Content on JSTOR",
    "microsoft": "Digitized by Microsoft",
}
"""Words of the digitisers, not of the author; their position is recorded, so that a reader can leave them out."""
STAMPED_CHARS = 20_000

_COUNTED = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_ORDINAL = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_WORDS = {word: number for words in (_COUNTED, _ORDINAL) for number, word in enumerate(words, 1)}
_ROMAN = r"(?=[ivxlc])(?:xc|xl|l?x{0,3})(?:ix|iv|v?i{0,4})(?![a-z])"
_PART = r"(?:volumen?|vols?|tomus|tom[eo]?|theil|teil|band|bd|part[es]?|pt|book|buch|livre|libro|bk|v|t)"
_VOLUME = re.compile(
    rf"(?:(?<![a-z]){_PART}|(?<=[a-z])(?:volume|vol|tome|band|part))[\W_]*"
    rf"(?:(?P<digits>\d{{1,4}})(?!\d)|(?P<roman>{_ROMAN})|(?P<word>{'|'.join(_WORDS)})(?![a-z]))"
    rf"|(?<![a-z\d])(?:(?P<ordinal>{'|'.join(_ORDINAL)})|(?P<nth>\d{{1,3}})(?:st|nd|rd|th|er|e|\.)?)[\W_]*{_PART}(?![a-z])"
)
"""A volume that says so: "vol2", "Band IV", "part two", "second book"."""
_MARK = re.compile(rf"{_VOLUME.pattern}|(?P<bare>\d+)")
_NUMBER = re.compile(rf"(?P<digits>\d+)|(?<=[\W_])(?P<roman>{_ROMAN})$")


@dataclass(frozen=True)
class TextFile:
    """One plain text of an item, as the item lists it."""

    name: str
    size: int | None
    md5: str | None
    private: bool


def check_item(answer: dict[str, Any], identifier: str) -> dict[str, Any]:
    """Return the metadata of an item that may be read.

    Raises:
        ItemUnavailable: The item does not exist, is dark, or is lent or restricted.
        CorruptAnswer: The answer is about something else or has another shape.
    """
    if not answer:
        raise ItemUnavailable("not-found", f"item {identifier!r} does not exist")
    if answer.get("is_dark") in (True, "true"):
        raise ItemUnavailable("dark", f"the archive has hidden {identifier!r}")
    metadata = answer.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(answer.get("files"), list):
        raise CorruptAnswer(f"the metadata of {identifier!r} lacks metadata{{}} or files[]")
    named = first(metadata.get("identifier"))
    if named is not None and named != identifier:
        raise CorruptAnswer(f"the metadata of {identifier!r} is about {named!r}")
    lent = LENDING_COLLECTIONS.intersection(every(metadata.get("collection")))
    if (first(metadata.get("access-restricted-item")) or "").lower() == "true" or lent:
        raise ItemUnavailable("access-restricted", f"{identifier!r} can only be borrowed, not downloaded")
    return metadata


def choose_texts(answer: dict[str, Any]) -> list[TextFile]:
    """Return the plain texts that make up an item, in order: its one text, or all volumes of its largest work.

    Files whose names differ only in a number ("vol2", "Band IV", "part two") are volumes of one work. Of copies of
    a volume one counts; a file without a number that is as large as all volumes together is the work as a whole.

    Raises:
        ItemUnavailable: The item has no plain text, or not all of it may be read, or it is a collection of texts.
    """
    texts = [_text_file(file) for file in answer["files"] if _is_text(file)]
    if not texts:
        raise ItemUnavailable("no-text", f"none of the {len(answer['files'])} files has the format {TEXT_FORMAT}")
    works: dict[str, list[TextFile]] = {}
    for text in texts:
        works.setdefault(_work_of(text.name), []).append(text)
    readable = {work: volumes for work, volumes in works.items() if not all(volume.private for volume in volumes)}
    if not readable:
        raise ItemUnavailable("private-file", f"all {len(texts)} texts are private")
    largest = max(readable, key=lambda work: (_bytes_of(v for v in readable[work] if not v.private), work))
    volumes = _in_order(readable[largest])
    if private := [volume.name for volume in volumes if volume.private]:
        raise ItemUnavailable(
            "private-file", f"{private[0]} is private, so {len(private)} of {len(volumes)} volumes are missing"
        )
    if len(volumes) > MOST_VOLUMES:
        raise ItemUnavailable(
            "too-many-texts", f"{len(volumes)} texts like {volumes[0].name}, at most {MOST_VOLUMES} make one document"
        )
    return volumes


def _is_text(file: Any) -> bool:
    return isinstance(file, dict) and file.get("format") == TEXT_FORMAT and bool(file.get("name"))


def _text_file(file: dict[str, Any]) -> TextFile:
    md5 = str(file["md5"]) if file.get("md5") else None
    return TextFile(str(file["name"]), integer(file.get("size")), md5, file.get("private") in (True, "true"))


def _bytes_of(files: Iterable[TextFile]) -> int:
    return sum(file.size or 0 for file in files)


def _plain(name: str) -> str:
    return name.removesuffix(TEXT_SUFFIX).casefold()


def _work_of(name: str) -> str:
    """Return what all volume names of a work have in common; behind its number a volume may have its own title."""
    stem = _plain(name)
    volume = _VOLUME.search(stem)
    return re.sub(r"[\W_\d]+", " ", stem[: volume.start()] if volume else _NUMBER.sub("", stem)).strip()


def _places(names: Iterable[str]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return where each volume of a work belongs: its numbers, and the title behind them.

    Numbers put 2 before 10 and IX before X; a file without one comes first. Where some files say which volume they
    are, a bare number in another ("rome1897") is something else.
    """
    stems = {name: _plain(name) for name in names}
    said = {name: volume.start() for name, stem in stems.items() if (volume := _VOLUME.search(stem))}
    places: dict[str, tuple[tuple[int, ...], str]] = {}
    for name, stem in stems.items():
        tail = stem[said[name] :] if name in said else ""
        found = _MARK.finditer(tail) if said else _NUMBER.finditer(stem)
        words = [word for word in re.split(r"[\W_\d]+", _MARK.sub(" ", tail)) if word and word not in VARIANTS]
        places[name] = tuple(map(_value, found)), " ".join(words)
    return places


def _value(found: re.Match[str]) -> int:
    kind, written = next((kind, written) for kind, written in found.groupdict().items() if written)
    if kind == "roman":
        return roman_number(written)
    return int(written[:18]) if written.isdigit() else _WORDS[written]


def _in_order(volumes: Sequence[TextFile]) -> list[TextFile]:
    """Put the volumes of a work in order, each once; of copies the largest that may be read."""
    places = _places(volume.name for volume in volumes)
    kept: dict[tuple[tuple[int, ...], str], TextFile] = {}
    seen: set[str] = set()
    for volume in sorted(volumes, key=lambda file: (file.private, -(file.size or 0), file.name)):
        if volume.md5 in seen:
            continue
        seen.update(filter(None, [volume.md5]))
        kept.setdefault(places[volume.name], volume)
    ordered = [kept[place] for place in sorted(kept)]
    first = ordered[0]
    if len(ordered) > 2 and not places[first.name][0] and (first.size or 0) >= WHOLE_SHARE * _bytes_of(ordered[1:]):
        return [first]
    return ordered


def find_stamps(text: str) -> dict[str, int]:
    """Return the digitisers' stamps at the beginning of a text, with the character at which each begins."""
    beginning = text[:STAMPED_CHARS].lower()
    places = {name: beginning.find(stamp.lower()) for name, stamp in STAMPS.items()}
    return {name: place for name, place in places.items() if place >= 0}


def every(value: Any) -> list[str]:
    """Return a metadata value, which may be absent, a scalar or a list, as a list of non-empty strings."""
    values = value if isinstance(value, list) else [value]
    return [text for entry in values if entry is not None and (text := str(entry).strip())]


def first(value: Any) -> str | None:
    """Return the first string of a metadata value."""
    return next(iter(every(value)), None)


def integer(value: Any) -> int | None:
    """Read a number as the archive writes it, in digits; none if it is not a number."""
    text = str(value)
    return int(text) if len(text) < 20 and text.isascii() and text.isdigit() else None
