"""The items of the sandbox Internet Archive: what their metadata records and search results say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from sandbox.archives.documents import SandboxDocument, stable_number
from sandbox.archives.text_spool import TextSlot

Access = Literal["open", "restricted", "private", "dark", "no-text"]

UNAVAILABLE: dict[str, Access] = {
    "classical_philosophy": "restricted",
    "internet_archive_books": "private",
    "classical_literature": "dark",
    "historical_speeches": "no-text",
}
"""The one item a source that cannot be had, so that a first run shows how each reason is reported."""

_CREATED = 1_742_510_050
_PUBLIC_DATE = "2009-11-20 19:46:49"


@dataclass(frozen=True, slots=True)
class ArchiveItem:
    """One item: a document without its text, and the slot of the text in the spool."""

    identifier: str
    stem: str
    about: SandboxDocument
    slot: TextSlot | None
    access: Access = "open"

    @property
    def text_name(self) -> str:
        """Name of the item's text file."""
        return f"{self.stem}_djvu.txt"

    @property
    def collection(self) -> str:
        """Name of the collection that the item is in."""
        return collection_of(self.about.source)

    @property
    def subject(self) -> str:
        """What the item is about, as far as the sandbox knows."""
        return self.about.source.replace("_", " ")

    @property
    def creators(self) -> list[str]:
        """Who wrote it."""
        return [part.strip() for part in (self.about.author or "").split(";") if part.strip()]


def collection_of(source: str) -> str:
    """Name of the collection that holds a source's items."""
    return f"sandbox_{source}"


def identifier_of(native_id: str) -> str:
    """Turn any id into what an identifier of the archive may look like."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", native_id).strip("-._")
    return name[:90] or f"item-{stable_number(native_id, 10**9)}"


def make_item(document: SandboxDocument, identifier: str, slot: TextSlot) -> ArchiveItem:
    """Describe a document as an item."""
    without_text = document.model_copy(update={"text": ""})
    return ArchiveItem(identifier, _stem(identifier, document.title), without_text, slot)


def unavailable_item(source: str) -> ArchiveItem:
    """Describe the item of a source that cannot be had."""
    access = UNAVAILABLE[source]
    # Sorted before all others, so that it is met however few items are asked for.
    identifier = f"00-sandbox-{access}-{source.replace('_', '-')}"
    title = f"An item that shows how '{access}' is reported"
    about = SandboxDocument(
        source=source, native_id=identifier, text="none", title=title, year=1900, date="1900", language="eng"
    )
    return ArchiveItem(identifier, identifier, about, slot=None, access=access)


def _stem(identifier: str, title: str | None) -> str:
    """Name files as the archive does: after the uploaded original, which often is not the identifier."""
    words = re.findall(r"\w+", title or "")[:6]
    match stable_number(identifier, 4):
        case 0 if words:
            return f"{identifier}.{'-'.join(words)}"
        case 1 if words:
            return f"{' '.join(words)} #1"
        case _:
            return identifier


def search_fields(item: ArchiveItem) -> dict[str, Any]:
    """Return what a search knows of an item: `year` a number, `date` a time, one or several creators."""
    day = _date_text(item)
    fields: dict[str, Any] = {
        "identifier": item.identifier,
        "title": item.about.title,
        "creator": _one_or_list(item.creators),
        "date": f"{_padded(day)}T00:00:00Z" if day else None,
        "year": item.about.year,
        "language": item.about.language,
        "subject": item.subject,
        "collection": [item.collection, "sandbox"],
        "mediatype": "texts",
        "licenseurl": item.about.licence,
        "publicdate": f"{_PUBLIC_DATE.replace(' ', 'T')}Z",
        "downloads": stable_number(item.identifier, 1000),
        "format": ["Metadata"] if item.access in ("dark", "no-text") else ["DjVuTXT", "Metadata", "Text PDF"],
    }
    if item.access == "restricted":
        fields["access-restricted-item"] = "true"
    return {name: value for name, value in fields.items() if value is not None}


def metadata_record(item: ArchiveItem, file_host: str) -> dict[str, Any]:
    """Return the answer to ``/metadata/{identifier}``; sizes and times are strings, as served."""
    folder = f"/1/items/{item.identifier}"
    record: dict[str, Any] = {"created": _CREATED, "d1": file_host, "d2": file_host, "dir": folder}
    if item.access == "dark":
        return record | {"is_dark": True, "metadata": {"identifier": item.identifier}, "server": file_host}
    files = _files(item)
    return record | {
        "files": files,
        "files_count": len(files),
        "item_last_updated": _CREATED,
        "item_size": sum(int(entry["size"]) for entry in files),
        "metadata": _item_metadata(item),
        "server": file_host,
        "uniq": stable_number(item.identifier, 2**31),
        "workable_servers": [file_host],
    }


def _item_metadata(item: ArchiveItem) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "identifier": item.identifier,
        "title": item.about.title,
        "creator": _one_or_list(item.creators),
        "date": _date_text(item),
        "year": None if item.about.year is None else str(item.about.year),
        "language": item.about.language,
        # Served as it is: where a document states its licence in words, there is no URL for it.
        "licenseurl": item.about.licence,
        "subject": item.subject,
        "part_of": item.about.part_of,
        "source": item.about.url,
        "mediatype": "texts",
        "collection": [item.collection, "sandbox"],
        "publicdate": _PUBLIC_DATE,
        "access-restricted-item": "true" if item.access == "restricted" else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _files(item: ArchiveItem) -> list[dict[str, str]]:
    private = {"private": "true"} if item.access in ("restricted", "private") else {}
    page_file = {"name": f"{item.stem}.pdf", "source": "original", "format": "Text PDF"}
    files = [
        {"name": f"{item.identifier}_meta.xml", "source": "original", "format": "Metadata", **_checks(b"meta")},
        {**page_file, **_checks(b"pdf"), **private},
    ]
    if item.access != "no-text":
        checks = _checks(b"text")
        if item.slot is not None:
            checks |= {"size": str(item.slot.length), "md5": item.slot.md5}
        derived = {"name": item.text_name, "source": "derivative", "format": "DjVuTXT"}
        files.append({**derived, "original": f"{item.stem}.pdf", **checks, **private})
    return files


def _checks(content: bytes) -> dict[str, str]:
    """Size, time and checksum of a file that is listed but never served."""
    return {"size": str(len(content)), "mtime": "1699914601", "md5": f"{stable_number(content.hex(), 2**63):032x}"}


def _date_text(item: ArchiveItem) -> str | None:
    return item.about.date or (None if item.about.year is None else _year_text(item.about.year))


def _year_text(year: int) -> str:
    return f"-{-year:04d}" if year < 0 else f"{year:04d}"


def _padded(day: str) -> str:
    parts = re.fullmatch(r"(-?\d{4})(-\d\d)?(-\d\d)?", day)
    return f"{parts[1]}{parts[2] or '-01'}{parts[3] or '-01'}" if parts else day


def _one_or_list(values: list[str]) -> str | list[str] | None:
    return None if not values else values[0] if len(values) == 1 else values
