"""What loc.gov says of a newspaper page: its issue, where its text is, and the text itself."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from yarl import URL

from storage.errors import CorruptAnswer
from storage.shard_plan import Item

PUBLIC_TEXT_HOST = "tile.loc.gov"
WORDS = "word-coordinates-service"

_SEGMENT = re.compile(r"/service/[\w./:-]+\.xml", re.ASCII)
_PAGE_URL = re.compile(
    r"/(?:resource|item)/(?P<lccn>[\w-]+)/(?P<day>\d{4}-\d{2}-\d{2})/(?P<edition>ed-\d+)/?$", re.ASCII
)
_IMAGE_TITLE = re.compile(r"^Image \d+ of ")


def plan_page(hit: Any) -> Item | None:
    """Read one search hit as an item; none if it does not name a page of an issue."""
    if not isinstance(hit, dict):
        return None
    address = _first(hit.get("id")).replace("http://", "https://", 1)
    parts = _parts(address)
    known = _PAGE_URL.search(parts.path) if parts and parts.hostname else None
    if parts is None or known is None:
        return None
    sequence = next(iter(parse_qs(parts.query).get("sp", [])), "1")
    lccn, day, edition = known["lccn"], known["day"], known["edition"]
    title = _IMAGE_TITLE.sub("", _first(hit.get("title")))
    return Item(
        native_id=_first(hit.get("page_id")) or f"{lccn}/{day}/{edition}/seq-{sequence}",
        url=address,
        data={
            "date": _first(hit.get("date")) or day,
            "title": f"{title}, page {sequence}" if title else "",
            "language": _first(hit.get("language")),
            "lccn": lccn,
            "sequence": sequence,
            "place": ", ".join(filter(None, (_first(hit.get("location_city")), _first(hit.get("location_state"))))),
            "part_of": f"{lccn}/{day}",
            "segment": find_segment(hit),
        },
    )


def find_segment(hit: dict[str, object]) -> str:
    """Return the path by which the text services know a page, or nothing."""
    images = hit.get("image_url")
    candidates = [*(images if isinstance(images, list) else [images]), hit.get("word_coordinates_url")]
    for address in candidates:
        if isinstance(address, str) and WORDS in address and (parts := _parts(address)):
            for segment in parse_qs(parts.query).get("segment", []):
                if _SEGMENT.fullmatch(segment) and ".." not in segment:
                    return segment
    return ""


def text_address(record: dict[str, object], root: URL) -> URL | None:
    """Return where a page's record says its text is, if that is below the text services' root.

    A record names it once for the whole resource, or file by file with the use "text".
    """
    resource = record.get("resource")
    addresses = [resource.get("fulltext_file")] if isinstance(resource, dict) else []
    page = record.get("page")
    for file in page if isinstance(page, list) else []:
        if isinstance(file, dict):
            addresses += [file.get("fulltext_service"), file.get("url") if file.get("use") == "text" else None]
    for address in addresses:
        named = _parts(address) if isinstance(address, str) else None
        if named and named.hostname and ".." not in named.path:
            # One slash: what begins with two names another host.
            path = "/" + named.path.lstrip("/")
            url = root.join(URL(named._replace(scheme="", netloc="", path=path).geturl(), encoded=True))
            if named.hostname in (root.host, PUBLIC_TEXT_HOST):
                return url
    return None


def full_text(answer: dict[str, object]) -> str:
    """Return the text of a page; its key is the segment, but it is the only one, so the name is not relied on.

    Raises:
        CorruptAnswer: The answer does not hold exactly one page.
    """
    values = list(answer.values())
    if len(values) != 1 or not isinstance(values[0], dict):
        raise CorruptAnswer(f"the text service answered with {len(values)} entries, one page was asked for")
    text = values[0].get("full_text")
    return text if isinstance(text, str) else ""


def _parts(address: str) -> SplitResult | None:
    """Split an address that an archive sent; none if no client could ask for it."""
    try:
        URL(address)
        return urlsplit(address)
    except ValueError:
        return None


def _first(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return next((str(entry).strip() for entry in values if entry not in (None, "")), "")
