"""The newspaper pages of the sandbox Library of Congress, and what a search says of them."""

from __future__ import annotations

import re
from calendar import month_name
from dataclasses import dataclass
from datetime import date
from typing import Any

from sandbox.archives.documents import SandboxDocument, day_of, stable_number
from sandbox.archives.text_spool import TextSlot, TextSpool

_LANGUAGES = {"en": "english", "eng": "english", "es": "spanish", "spa": "spanish", "de": "german", "ger": "german"}
_LANGUAGES |= {"fr": "french", "fre": "french", "it": "italian", "ita": "italian", "pl": "polish", "pol": "polish"}
_FILE_KINDS = ["image/jp2", "application/pdf", "text/xml", "image/jpeg", "application/json", "text/plain"]


@dataclass(frozen=True, slots=True)
class NewspaperPage:
    """One page image of one issue, with the slot of its text in the spool."""

    lccn: str
    day: date
    edition: int
    image: int
    """Number of the page image within its issue, from 1: ``sp`` in its URL."""
    title: str | None
    paper: str
    author: str | None
    language: str
    licence: str | None
    slot: TextSlot

    @property
    def issue_path(self) -> str:
        """The issue's place below ``/resource/``."""
        return f"{self.lccn}/{self.day.isoformat()}/ed-{self.edition}/"

    @property
    def frame(self) -> int:
        """Number of the page on its reel; it is neither the printed page nor `image`."""
        return 1 + stable_number(self.issue_path, 1_000) + self.image

    @property
    def segment(self) -> str:
        """Path of the page's text, the key of the text service."""
        reel = f"{stable_number(self.lccn, 10**11):011d}"
        issue = f"{self.day:%Y%m%d}{self.edition:02d}"
        return f"/service/ndnp/sandbox/{self.batch}/data/{self.lccn}/{reel}/{issue}/{self.frame:04d}.xml"

    @property
    def batch(self) -> str:
        """Name of the batch that the page was delivered in."""
        return "batch_sandbox_loopback_ver01"


class PageBinder:
    """Turns documents into pages: documents of one parent become the pages of one issue."""

    def __init__(self, spool: TextSpool) -> None:
        self._spool = spool
        self._issues: dict[tuple[str, date, str], int] = {}
        self._editions: dict[tuple[str, date], int] = {}
        self._pages: dict[tuple[str, date, int], int] = {}

    def bind(self, document: SandboxDocument) -> NewspaperPage:
        """Return the document's page and store its text."""
        day = day_of(document)
        if day is None:
            raise ValueError(f"{document.native_id} has no day")
        paper = _paper_of(document)
        # Pieces of one issue may have titles of their own, yet must not become pages of different papers.
        lccn = document.lccn or f"sn{stable_number(document.part_of or paper, 10**8):08d}"
        issue = (lccn, day, document.part_of or document.native_id)
        if issue not in self._issues:
            self._editions[lccn, day] = self._editions.get((lccn, day), 0) + 1
            self._issues[issue] = self._editions[lccn, day]
        edition = self._issues[issue]
        self._pages[lccn, day, edition] = self._pages.get((lccn, day, edition), 0) + 1
        language = document.language or "english"
        return NewspaperPage(
            lccn=lccn,
            day=day,
            edition=edition,
            image=self._pages[lccn, day, edition],
            title=document.title,
            paper=paper,
            author=document.author,
            language=_LANGUAGES.get(language.casefold(), language.casefold()),
            licence=document.licence,
            slot=self._spool.append(document.text),
        )


def _paper_of(document: SandboxDocument) -> str:
    """Return the name of the newspaper: the title less the date and page that follow it."""
    title = document.title or document.part_of or "The Loopback gazette"
    return re.split(r",\s*(?:\d{4}-\d\d-\d\d|p\. *\d+)", title)[0].casefold()


def page_result(page: NewspaperPage, index: int, text: str) -> dict[str, Any]:
    """Return one element of ``results`` as a search with ``dl=page`` serves it."""
    issue = f"http://www.loc.gov/resource/{page.issue_path}"
    url = f"{issue}?sp={page.image}"
    day = page.day.isoformat()
    long_day = f"{month_name[page.day.month]} {page.day.day}, {page.day.year}"
    service = f"https://tile.loc.gov/text-services/word-coordinates-service?segment={page.segment}&format=alto_xml"
    picture = page.segment.removesuffix(".xml").lstrip("/").replace("/", ":")
    image = f"https://tile.loc.gov/image-services/iiif/{picture}/full/pct:6.25/0/default.jpg#h=462&w=365"
    result: dict[str, Any] = {
        "access_restricted": False,
        "aka": [url],
        "batch": [page.batch.removeprefix("batch_")],
        "contributor": [page.author] if page.author else [],
        "date": day,
        "dates": [day],
        "description": [" ".join(text[:1_000].split())],
        "digitized": True,
        "extract_timestamp": "2023-09-04T23:04:51.792Z",
        "group": ["ndnp/sandbox"],
        "hassegments": False,
        "id": url,
        "image_url": [image, service],
        "index": index,
        "language": [page.language],
        "location_country": ["united states"],
        "mime_type": _FILE_KINDS,
        "number_edition": [str(page.edition)],
        "number_lccn": [page.lccn],
        "number_page": [f"{page.image:010d}"],
        "online_format": ["image", "pdf", "online text"],
        "original_format": ["newspaper"],
        "page_id": f"{page.issue_path.replace('/', '-')}{page.frame:04d}",
        "partof": [page.paper, "serial and government publications division", "chronicling america"],
        "partof_title": [page.paper],
        "resources": [{"files": 1, "url": url.replace("http:", "https:")}],
        "segmentof": [issue],
        "site": ["chroniclingamerica"],
        "title": page.title or f"Image {page.image} of {page.paper}, {long_day}",
        "type": ["segment"],
        "url": url.replace("http:", "https:"),
    }
    return result | ({"rights": [page.licence]} if page.licence else {})
