"""The Internet Archive: enumerate with the Scrape API, read an item's metadata, download its plain text."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from storage.errors import CorruptAnswer, ItemUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tasks.sources.connection import Archives
from tasks.sources.dates import YearSpan, date_of, years_of
from tasks.sources.internet_archive_items import TextFile, check_item, choose_texts, every, find_stamps, first, integer
from tasks.sources.pace import Tally
from tasks.sources.searched import SearchedArchive
from tasks.sources.source import Document, item_id

MIN_PAGE, MAX_PAGE = 100, 5000
VOLUME_BREAK = "\n\f\n"
"""Between two volumes, as the archive's texts break between two pages."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


class InternetArchive(SearchedArchive):
    """Items of the Internet Archive that a search finds; one document per item, all volumes of its largest text."""

    def __init__(self, spec: SourceSpec, archives: Archives, workspace: Path) -> None:
        super().__init__(spec, archives)
        self._client = archives.client(spec, "archive.org")
        self._workspace = workspace
        self._most_on_a_page = MAX_PAGE

    async def count(self) -> int | None:
        """Ask the search for its total; none for a list of subjects, which it would be asked for one by one."""
        return None if self._spec.subjects else integer((await self._page(self._spec.query, "", MIN_PAGE)).get("total"))

    async def _find(self, subject: str, wanted: int, known: Mapping[str, Item]) -> list[Item]:
        """Enumerate the search, in the order of the archive."""
        query = self._spec.query
        if subject:
            phrase = re.sub(r'["\\]', " ", subject)
            query = f'{query} AND (title:"{phrase}" OR subject:"{phrase}")'
        found: dict[str, None] = {}
        seen: set[str] = set()
        first_of_page: set[str] = set()
        cursor, with_count, asked_again = "", True, False
        while True:
            page = await self._page(query, cursor, wanted if with_count else None)
            names = [str(entry["identifier"]) for entry in page["items"] if _has_identifier(entry)]
            if names and names[0] in first_of_page and not asked_again:
                # Some servers ignore the cursor when a count comes with it, and always send the first page.
                if not with_count:
                    raise CorruptAnswer(f"the search {query!r} keeps sending the same page")
                with_count = False
                continue
            first_of_page.update(names[:1])
            seen.update(names)
            found.update(dict.fromkeys(name for name in names if name not in known))
            if len(found) >= wanted:
                return self._items(list(found)[:wanted])
            following = str(page.get("cursor") or "")
            if not following and not asked_again and len(seen) < (integer(page.get("total")) or 0):
                asked_again = True  # the archive may have lost the rest in passing
                continue
            cursor, asked_again = following, False
            if not cursor:
                self._note_shortfall(integer(page.get("total")), len(seen))
                return self._items(found)
            if not names:
                raise CorruptAnswer(f"the search {query!r} sends an empty page with a cursor")

    def _items(self, identifiers: Iterable[str]) -> list[Item]:
        return [Item(native_id=name, url=str(self._client.url("details", name))) for name in identifiers]

    async def _page(self, query: str, cursor: str, wanted: int | None) -> dict[str, Any]:
        params: dict[str, str | int] = {"q": query, "fields": "identifier"}
        if self._spec.sorts:
            params["sorts"] = self._spec.sorts
        if wanted is not None:
            params["count"] = count = min(self._most_on_a_page, max(MIN_PAGE, wanted))
        if cursor:
            params["cursor"] = cursor
        try:
            page = await self._client.get_json(
                self._client.url("services", "search", "v1", "scrape"), params, expect=("items",)
            )
        except ItemUnavailable as error:
            if error.reason != "too-large" or wanted is None or count == MIN_PAGE:
                raise
            self._most_on_a_page = max(MIN_PAGE, count // 2)
            return await self._page(query, cursor, wanted)
        if not isinstance(page["items"], list):
            raise CorruptAnswer(f"the search {query!r} sends items that are not a list")
        return page

    def _note_shortfall(self, total: int | None, listed: int) -> None:
        """Say that the archive lists less than it counts: its index counts what was removed or hidden since."""
        if total is None or listed >= total:
            return
        if not listed and not self._spec.subjects:  # all few items of a narrow search may be gone
            raise CorruptAnswer(f"the search {self._spec.query!r} counts {total} items and lists none")
        self.remark = f"the search counts {total} items and lists {listed}; what is listed is used"

    async def _document(self, item: Item, tally: Tally) -> Document:
        identifier = item.native_id
        if not _IDENTIFIER.fullmatch(identifier):
            raise ItemUnavailable("bad-identifier", f"{identifier!r} is not an identifier of the archive")
        answer = await self._metadata(identifier, tally)
        metadata = check_item(answer, identifier)
        years = self._years(metadata)
        if reason := self._spec.outside_years(years.end if years else None):
            raise ItemUnavailable(reason, f"metadata.date is {metadata.get('date')!r}")
        files = choose_texts(answer)
        try:
            texts = await self._texts(identifier, files, tally)
        except ItemUnavailable as error:
            if error.reason != "not-found":
                raise
            # A file may have been renamed since the metadata was written, so it is read once more. By then the whole
            # item may be gone.
            answer = await self._metadata(identifier, tally)
            metadata = check_item(answer, identifier)
            again = choose_texts(answer)
            if again == files:
                raise
            files, texts = again, await self._texts(identifier, again, tally)
        return self._described(item, metadata, [file.name for file in files], years, texts)

    def _years(self, metadata: dict[str, Any]) -> YearSpan | None:
        spans = (years_of(first(metadata.get(name)), self._current_year) for name in ("date", "year"))
        return next((span for span in spans if span), None)

    async def _metadata(self, identifier: str, tally: Tally) -> dict[str, Any]:
        return await self._client.get_json(self._client.url("metadata", identifier), tally=tally)

    async def _texts(self, identifier: str, files: list[TextFile], tally: Tally) -> list[str]:
        """Download all volumes of a work, or none: a work that lacks a volume is rejected."""
        cap, size = self._spec.max_file_bytes, sum(file.size or 0 for file in files)
        if size > cap:
            what = files[0].name if len(files) == 1 else f"the {len(files)} volumes from {files[0].name} on"
            raise ItemUnavailable("too-large", f"{what}: {size} bytes, the cap is max_file_bytes = {cap}")
        paths: list[Path] = []
        try:
            for file in files:
                paths.append(await self._download(identifier, file, cap, tally))
                cap -= (await asyncio.to_thread(paths[-1].stat)).st_size  # what an item does not list counts as well
        except ItemUnavailable:
            for path in paths:
                path.unlink()
            raise
        bodies = [await asyncio.to_thread(path.read_bytes) for path in paths]
        for path in paths:
            path.unlink()
        return [body.decode("utf-8", errors="replace") for body in bodies]

    async def _download(self, identifier: str, file: TextFile, cap: int, tally: Tally) -> Path:
        name = file.name
        if name.startswith("/") or ".." in name.split("/"):
            raise ItemUnavailable("bad-file-name", f"the item lists the file {name!r}")
        # The name on disk does not contain the identifier or the file's name, which come from the archive.
        path = self._workspace / hashlib.sha256(f"{identifier}/{name}/{file.md5}".encode()).hexdigest()[:32]
        if path.is_file():  # an earlier try at another volume failed
            return path
        await self._client.save(
            self._client.url("download", identifier, name, keep_slashes=True),
            path,
            cap=cap,
            size=file.size,
            checksum=("md5", file.md5) if file.md5 else None,
            tally=tally,
        )
        return path

    def _described(
        self, item: Item, metadata: dict[str, Any], names: list[str], years: YearSpan | None, texts: list[str]
    ) -> Document:
        text, year = VOLUME_BREAK.join(texts), years.end if years else None
        extra: dict[str, Any] = {
            "identifier": item.native_id,
            "file": names[0],
            "collection": every(metadata.get("collection")),
        }
        if len(names) > 1:
            extra["volumes"] = names
        if stamps := find_stamps(text):
            extra["boilerplate"] = stamps
        if isinstance(metadata.get("part_of"), str):
            extra["part_of"] = metadata["part_of"]
        extra |= (years.extra() if years else {}) | item.data
        return Document(
            id=item_id(self._spec.name, item),
            source=self._spec.name,
            source_type=self._spec.source_type,
            text=text,
            url=item.url,
            title=first(metadata.get("title")),
            author="; ".join(every(metadata.get("creator"))) or None,
            year=year,
            date=date_of(first(metadata.get("date"))),
            language=first(metadata.get("language")),
            licence=first(metadata.get("licenseurl"))
            or first(metadata.get("possible-copyright-status"))
            or self._spec.licence,
            extra=extra,
        )


def _has_identifier(entry: Any) -> bool:
    return isinstance(entry, dict) and bool(entry.get("identifier"))
