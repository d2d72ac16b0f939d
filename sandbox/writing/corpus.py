"""Writes the documents of the sandbox corpus: which source says what, and in which words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import zstandard

from sandbox.writing.copies import COPIED, copy_of
from sandbox.writing.document import WrittenDocument
from sandbox.writing.grammar import Dice, Grammar
from sandbox.writing.scan import scanned
from sandbox.writing.sources import NEWSPAPERS, STYLES, SourceStyle, day_in, native_id_of
from sandbox.writing.world import Fact, Question, facts, phrases, questions
from storage.atomic import atomic_path

SEED = 1923
FOLDER = Path(__file__).parent.parent / "documents"
SUFFIX = ".jsonl.zst"
MIN_CHARACTERS = 220
_LEVEL = 12

Subject = Fact | Question | None


def write_folder(folder: Path = FOLDER, seed: int = SEED) -> dict[str, int]:
    """Write one file a source; the same seed gives the same lines.

    Returns:
        The number of documents of every source.
    """
    counts = {}
    for source in STYLES:
        documents = documents_of(source, seed)
        lines = "".join(json.dumps(document.as_row(), ensure_ascii=False) + "\n" for document in documents)
        with atomic_path(folder / f"{source}{SUFFIX}") as path:
            path.write_bytes(zstandard.ZstdCompressor(level=_LEVEL).compress(lines.encode()))
        counts[source] = len(documents)
    return counts


def documents_of(source: str, seed: int = SEED) -> list[WrittenDocument]:
    """Return the documents of a source, ordinary ones first and its deliberate copy last."""
    style = STYLES[source]
    writer = Writer(style, f"{seed}:{source}")
    documents = [writer.write(subject) for subject in _subjects(style)]
    if source in COPIED:
        documents[-1] = copy_of(documents[0], documents[-1], COPIED[source])
    return documents


def _subjects(style: SourceStyle) -> Iterator[Subject]:
    """Deal the disputed subjects to a source, so that the sources of a voice share them out evenly."""
    yield from [None] * (style.ordinary - 1)
    spread: dict[type, int] = {Fact: 0, Question: 0}
    for other in STYLES.values():
        if other.name == style.name:
            break
        if other.voice == style.voice:
            spread[Fact] += other.facts
            spread[Question] += other.trust
    known = facts()
    if style.title_in_text:
        known = [fact for fact in known if not fact.title.endswith("?")]
    elif style.name == "internet_archive_books":
        known = _less_told(known)
    yield from _dealt(known, spread[Fact] if style.name != "internet_archive_books" else 0, style.facts)
    yield from _dealt(questions(), spread[Question], style.trust)
    yield None


def _less_told(known: list[Fact]) -> list[Fact]:
    """Put first the quantities whose titles no patent can carry."""
    return [fact for fact in known if fact.title.endswith("?")] + [fact for fact in known if fact.title[-1] != "?"]


def _dealt(cards: list[Fact] | list[Question], first: int, count: int) -> Iterator[Fact | Question]:
    for place in range(first, first + count):
        yield cards[place % len(cards)]


class Writer:
    """Writes documents of one source, dealing its phrases out evenly."""

    def __init__(self, style: SourceStyle, seed: str) -> None:
        self._style = style
        self._dice = Dice(seed)
        trust = phrases("trust")
        own = trust.get(style.name, {}).get("reason", [])
        voice = trust[style.voice]
        rules = phrases("common") | voice | phrases(style.name) | {"reason": [*voice["reason"], *own, *own]}
        self._grammar = Grammar(rules, self._dice)
        self._written = 0

    def write(self, subject: Subject) -> WrittenDocument:
        """Write the next document: on a disputed quantity, a question on trust, or an ordinary one."""
        style, number = self._style, self._written
        self._written += 1
        year = self._year(subject)
        day = day_in(year, self._dice)
        title, bindings = self._title(subject, day.isoformat(), number)
        kind = {Fact: "fact", Question: "trust"}.get(type(subject), "ordinary")
        text = self._text(kind, year, f"{day:%B} {day.day}, {year}", bindings)
        if style.title_in_text:
            title = text.partition("\n")[0]
        if style.name == "historical_newspapers":
            text = scanned(text, self._dice)
        return WrittenDocument(
            source=style.name,
            native_id=native_id_of(style, number, title, year, self._dice),
            title=title,
            author=self._author(),
            year=year,
            date=day.isoformat() if style.name in ("us_patents", "historical_newspapers") else None,
            language=style.language,
            licence=style.licence,
            text=text,
            part_of=None,
            url=f"https://encyclopedia.example/{number}" if style.name == "wikipedia" else None,
        )

    def _text(self, kind: str, year: int, date: str, bindings: dict[str, str]) -> str:
        text = ""
        while len(text) < MIN_CHARACTERS:
            text = self._grammar.write(kind, year=year, date=date, **bindings)
        return text

    def _year(self, subject: Subject) -> int:
        """Choose a year; who reports on a record of 1880 in the old voice writes after 1880."""
        low, high = self._style.years
        if isinstance(subject, Question) and self._style.voice == "primary" and subject.primary_year:
            low = max(low, subject.primary_year + 1)
        if isinstance(subject, Question) and self._style.voice != "primary" and subject.modern_year:
            low = min(max(low, subject.modern_year), high)
        return self._dice.between(low, high)

    def _title(self, subject: Subject, day: str, number: int) -> tuple[str | None, dict[str, str]]:
        """Return the title and the slots that depend on it."""
        if isinstance(subject, Fact):
            return subject.title, subject.bindings(self._style.voice)
        if isinstance(subject, Question):
            bindings = subject.bindings()
            bindings["answer"] = self._grammar.write(f"answer_{subject.family}", **bindings)
            return subject.title, bindings
        match self._style.name:
            case "historical_newspapers":
                return f"{NEWSPAPERS[number % len(NEWSPAPERS)]}, {day}", {}
            case "logical_reasoning":
                return None, {}
            case "medical_guidelines":
                about = {name: self._grammar.write(name) for name in ("condition", "group")}
                return self._grammar.write("question", **about), about
            case "scientific_papers":
                gloss, word = phrases("world")["words"][number % len(phrases("world")["words"])]
                about = {"gloss": gloss, "gloss1": gloss, "word1": word}
                return self._grammar.write("question", **about), about
            case _ if self._style.title_in_text:
                return None, {}
            case _:
                title = self._grammar.write("title", year=day[:4])
                return title, {"title": title}

    def _author(self) -> str | None:
        if self._style.language == "eng" or self._style.name in ("us_patents", "arxiv_preprints"):
            return self._grammar.write("person")
        return None
