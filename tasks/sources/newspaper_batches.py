"""Chronicling America in bulk: the library's ``*.tar.bz2`` files of recognised text, thousands of pages each."""

from __future__ import annotations

import asyncio
import bz2
import hashlib
import re
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from storage.errors import CorruptAnswer, ItemUnavailable, SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.answers import parse_json
from tasks.sources.catalogue import SourceSpec
from tasks.sources.connection import Archives
from tasks.sources.files.containers import BoundedReader
from tasks.sources.pace import Tally
from tasks.sources.source import NOTHING, Document, Reject, reject_of, reserve

LARGEST_BATCH_BYTES = 16 * 2**30
PAGES_AT_ONCE = 100

_BATCH = re.compile(r"[\w.-]{1,200}", re.ASCII)
_ARCHIVE = re.compile(r"[\w.-]{1,200}\.tar\.bz2", re.ASCII)
_SHA1 = re.compile(r"[0-9a-fA-F]{40}")
_PAGE = re.compile(
    r"(?:\./)?(?P<lccn>[a-z]{0,3}\d{6,12})/(?P<day>\d{4}/\d{2}/\d{2})/(?P<edition>ed-\d{1,3})/seq-(?P<sequence>\d{1,4})/ocr\.txt",
    re.ASCII,
)


class NewspaperBatches:
    """Pages out of bulk files that are spread over the library's list; one item is one file."""

    remark = ""

    def __init__(self, spec: SourceSpec, archives: Archives, workspace: Path) -> None:
        self._spec, self._client, self._workspace = spec, archives.client(spec, "bulk"), workspace

    async def count(self) -> int | None:
        """Add up the pages of all files; none if the list does not say."""
        pages = [entry.get("page_count") for entry in await self._listed()]
        known = [number for number in pages if isinstance(number, int)]
        return sum(known) if known and len(known) == len(pages) else None

    async def plan(self, limit: int, known: Mapping[str, Item] = NOTHING) -> list[Item]:
        """Choose as many files as it takes, evenly over the library's list."""
        try:
            entries = [entry for entry in await self._listed() if entry["batch"] not in known]
        except ItemUnavailable as error:
            raise SourceUnavailable(f"source {self._spec.name!r}: there is no list of bulk files ({error})") from error
        wanted = min(len(entries), -(-reserve(limit) // self._spec.pages_per_batch))
        return [
            Item(
                native_id=entry["batch"],
                url=str(self._client.url("data", "ocr", entry["archive_name"])),
                data={"archive": entry["archive_name"], "size": entry.get("size"), "sha1": entry.get("sha1")},
            )
            for entry in (entries[number * len(entries) // wanted] for number in range(wanted))
        ]

    async def _listed(self) -> list[dict[str, Any]]:
        url = self._client.url("data", "ocr", "ocr.json")
        body, headers = await self._client.get_body(url)
        value = parse_json(body, headers, str(url))
        entries = value.get("ocr") if isinstance(value, dict) else value
        if not isinstance(entries, list):
            raise CorruptAnswer(f"{url} did not answer with a list of files")
        usable = {entry["batch"]: entry for entry in entries if _is_batch(entry)}
        return [usable[name] for name in sorted(usable)]

    async def fetch(self, item: Item) -> AsyncIterator[Document | Reject]:
        """Download one file, or what is missing of it, and read its pages."""
        # The name on disk does not contain the name in the library's list.
        path = self._workspace / hashlib.sha256(item.native_id.encode()).hexdigest()[:32]
        tally = Tally()
        try:
            await self._download(item, path, tally)
            pages = islice(self._pages(path), self._spec.pages_per_batch)
            while some := await asyncio.to_thread(list, islice(pages, PAGES_AT_ONCE)):
                for page in some:
                    yield page
        except (ItemUnavailable, CorruptAnswer) as error:
            yield reject_of(error, self._spec.name, item, tally)
        path.unlink(missing_ok=True)

    async def _download(self, item: Item, path: Path, tally: Tally) -> None:
        if path.is_file():
            return
        sha1, size = item.data["sha1"], item.data["size"]
        await self._client.save(
            self._client.url("data", "ocr", item.data["archive"]),
            path,
            cap=LARGEST_BATCH_BYTES,
            size=size if isinstance(size, int) else None,
            checksum=("sha1", sha1) if sha1 else None,
            tally=tally,
        )

    def _pages(self, path: Path) -> Iterator[Document | Reject]:
        longest = self._spec.max_file_bytes
        try:
            with unpacked(path, 2 * longest) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
                for member in archive:
                    packed.restart()  # a header can claim any size for its member
                    known = _PAGE.fullmatch(member.name)
                    if known is None or not member.isreg() or not self._is_wanted(known["day"]):
                        continue
                    if member.size > longest:
                        detail = f"{member.size} bytes, the cap is {longest}"
                        yield Reject(self._id(known), None, "too-large", detail)
                    elif (file := archive.extractfile(member)) is not None:
                        yield self._document(known, file.read())
        except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError) as error:
            # tarfile goes one level deeper for every header that belongs to the next one.
            raise ItemUnavailable("broken-archive", f"{path.name}: {error}") from error

    def _is_wanted(self, day: str) -> bool:
        try:
            printed = date(*map(int, day.split("/")))
        except ValueError:
            return False
        first, last = self._spec.date_from, self._spec.date_to
        return (first is None or printed >= first) and (last is None or printed <= last)

    def _id(self, known: re.Match[str]) -> str:
        day = known["day"].replace("/", "-")
        return f"{self._spec.name}:{known['lccn']}/{day}/{known['edition']}/seq-{known['sequence']}"

    def _document(self, known: re.Match[str], body: bytes) -> Document | Reject:
        day, lccn, sequence = known["day"].replace("/", "-"), known["lccn"], known["sequence"]
        url = f"https://www.loc.gov/resource/{lccn}/{day}/{known['edition']}/?sp={sequence}"
        text = body.decode("utf-8", errors="replace")
        if not text.strip():
            return Reject(self._id(known), url, "no-text", "the page has no recognised text")
        year = int(day[:4])
        if reason := self._spec.outside_years(year):
            return Reject(self._id(known), url, reason, f"the page is of {day}")
        return Document(
            id=self._id(known),
            source=self._spec.name,
            source_type=self._spec.source_type,
            text=text,
            url=url,
            year=year,
            date=day,
            licence=self._spec.licence,
            extra={"part_of": f"{lccn}/{day}", "lccn": lccn, "sequence": sequence},
        )


def unpacked(path: Path, longest_member_bytes: int) -> BoundedReader:
    """Open a bulk file for reading; more bytes than `longest_member_bytes` without a restart are an OSError."""
    return BoundedReader(bz2.BZ2File(path), longest_member_bytes)


def _is_batch(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    names = isinstance(entry.get("batch"), str) and isinstance(entry.get("archive_name"), str)
    checksum = entry.get("sha1")
    return (
        names
        and bool(_BATCH.fullmatch(entry["batch"]) and _ARCHIVE.fullmatch(entry["archive_name"]))
        and (checksum is None or (isinstance(checksum, str) and bool(_SHA1.fullmatch(checksum))))
    )
