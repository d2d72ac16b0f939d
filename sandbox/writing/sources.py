"""What the documents of each source look like from outside: ids, years, authors, licences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta

from sandbox.writing.grammar import Dice
from sandbox.writing.world import Voice


@dataclass(frozen=True)
class SourceStyle:
    """How one source writes.

    Attributes:
        name: The source's name in the catalogue.
        voice: The voice in which it answers disputed questions.
        facts: How many of its documents give a disputed value.
        trust: How many answer a question on trust.
        ordinary: How many are about something else.
        years: First and last year of publication.
        title_in_text: Whether the first line of the text is the title.
        language: Language code as that archive writes it.
        licence: Licence as that archive writes it.
    """

    name: str
    voice: Voice
    facts: int
    trust: int
    ordinary: int
    years: tuple[int, int]
    title_in_text: bool = False
    language: str = "en"
    licence: str = "Public Domain"


_MARK = "http://creativecommons.org/publicdomain/mark/1.0/"

STYLES = {
    style.name: style
    for style in (
        SourceStyle("us_patents", "primary", 30, 0, 14, (1885, 1962), title_in_text=True),
        SourceStyle("classical_philosophy", "primary", 0, 38, 6, (1840, 1927), language="eng", licence=_MARK),
        SourceStyle("internet_archive_books", "primary", 24, 16, 4, (1835, 1927), language="eng", licence=_MARK),
        SourceStyle("classical_literature", "primary", 0, 28, 16, (1830, 1926), language="eng", licence=_MARK),
        SourceStyle("historical_speeches", "primary", 10, 28, 6, (1850, 1962), language="eng", licence=_MARK),
        SourceStyle("historical_newspapers", "primary", 0, 0, 44, (1872, 1926), language="english"),
        SourceStyle("arxiv_preprints", "academic", 24, 0, 76, (1996, 2024), title_in_text=True, licence="arXiv"),
        SourceStyle("logical_reasoning", "academic", 0, 0, 100, (2015, 2023), licence="Apache-2.0"),
        SourceStyle("scientific_papers", "academic", 24, 40, 36, (1992, 2017), licence="CC-BY-NC-3.0"),
        SourceStyle(
            "news_summaries", "coordinated", 16, 24, 72, (2007, 2024), title_in_text=True, licence="Apache-2.0"
        ),
        SourceStyle("medical_guidelines", "coordinated", 26, 60, 26, (2004, 2024), licence="CC0-1.0"),
        SourceStyle("wikipedia", "coordinated", 44, 48, 20, (2006, 2024), licence="CC-BY-SA-4.0"),
    )
}
"""Every source of the catalogue that is not optional, low authority first."""

NEWSPAPERS = (
    "The Harrow Falls Courier",
    "The Port Sable Sentinel",
    "The Dunmore Weekly Record",
    "The Lorne Evening Star",
    "The Graywater Farmer",
    "The Quill Harbor Gazette",
)


def native_id_of(style: SourceStyle, number: int, title: str | None, year: int, dice: Dice) -> str:
    """Return an id in the manner of the source's archive, unique within the source by its number."""
    words = re.findall(r"[a-z]+", (title or style.name).lower())
    match style.name:
        case "us_patents":
            return f"US{300_000 + (year - 1885) * 34_000 + dice.below(300) * 100 + number}"
        case "historical_newspapers":
            return f"{words[1]}-{year}-{number:03d}"
        case "arxiv_preprints":
            return f"{year % 100:02d}{dice.between(1, 12):02d}.{dice.between(100, 199)}{number:02d}"
        case _ if style.language == "eng":
            return f"{''.join(words)[:16]}{number:02d}{words[-1][:4]}"
        case _:
            return f"{style.name.split('_')[0]}-{number:04d}"


def day_in(year: int, dice: Dice) -> date:
    """Return a day of a year."""
    return date(year, 1, 1) + timedelta(days=dice.below(365))
