"""Datasets of the Hugging Face Hub, streamed at a pinned commit, range of rows by range of rows."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from storage.errors import ArchiveBusy, DistrustError, PrerequisiteError, SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tasks.sources.ranges import RangeReader
from tasks.sources.rows import columns_of, map_row
from tasks.sources.source import NOTHING, Connection, Document, Reject, reserve

DEFAULT_SCAN_ROWS = 1_000_000

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRANSPORTS = ("httpx", "httpcore", "aiohttp", "urllib3", "requests")

HubRow = dict[str, Any]


@asynccontextmanager
async def open_hugging_face(
    spec: SourceSpec, connection: Connection, current_year: int, workspace: Path | None = None
) -> AsyncIterator[HuggingFaceDataset]:
    """Open the Hub for one catalogue entry; `HF_ENDPOINT` must be set before `datasets` is first imported."""
    source = HuggingFaceDataset(spec, connection.hf_token, current_year)
    try:
        yield source
    finally:
        await source.close()


class HuggingFaceDataset:
    """Rows of one split of one dataset."""

    def __init__(self, spec: SourceSpec, token: str | None, current_year: int) -> None:
        self._spec = spec
        self._token = token
        self._current_year = current_year
        self._reader: RangeReader[HubRow] = RangeReader(self._open_at)

    async def close(self) -> None:
        """Close the open stream."""
        await self._reader.close()

    async def count(self) -> int | None:
        """The Hub does not tell in general how many rows there are."""
        return None

    async def plan(self, limit: int, known: Mapping[str, Item] = NOTHING) -> list[Item]:
        """Cut the rows into ranges, enough for `limit` documents; the rows themselves are not read.

        The Hub does not tell in general how many rows there are: ranges past the end hold nothing. With a year
        filter nobody knows how many rows it takes, so `scan_rows` of the catalogue entry bounds the search.

        Raises:
            SourceUnavailable: The dataset does not exist, is gated, or needs a script.
            ArchiveBusy: The Hub cannot be reached now.
        """
        # Rows that are added to a plan come from the commit that it was frozen at.
        revision = next((str(item.data["revision"]) for item in known.values()), self._spec.revision)
        if not _COMMIT.fullmatch(revision):
            revision = await asyncio.to_thread(self._resolve, revision)
        rows = reserve(limit) * 2
        if self._spec.year_filter is not None:
            rows = max(rows, self._spec.scan_rows or DEFAULT_SCAN_ROWS)
        if self._spec.scan_rows is not None:
            rows = min(rows, self._spec.scan_rows)
        step, start = self._spec.rows_per_item, self._spec.first_row
        while self._range_id(start) in known:
            start += step
        end = start + rows
        return [
            Item(
                native_id=self._range_id(at),
                url=dataset_page(self._spec.repo, revision),
                data={"revision": revision, "start": at, "rows": min(step, end - at)},
            )
            for at in range(start, end, step)
        ]

    def _range_id(self, start: int) -> str:
        return f"{self._spec.repo}:{self._spec.split}:{start}"

    async def fetch(self, item: Item) -> AsyncIterator[Document | Reject]:
        """Read one range of rows.

        Raises:
            SourceUnavailable: The dataset cannot be read, or lacks a column.
            ArchiveBusy: The Hub cannot be reached now.
        """
        start = int(item.data["start"])
        rows = await self._reader.read(str(item.data["revision"]), start, int(item.data["rows"]))
        for number, row in enumerate(rows, start):
            yield map_row(row, number, self._spec, self._current_year, origin=item.url)

    def _resolve(self, revision: str) -> str:
        """Return the commit that a branch or tag points to now."""
        import huggingface_hub

        try:
            info = huggingface_hub.HfApi(token=self._token).dataset_info(self._spec.repo, revision=revision or None)
        except Exception as error:
            raise hub_error(error, self._spec) from error
        if info.sha is None:
            raise SourceUnavailable(f"source {self._spec.name!r}: the Hub names no commit of {self._spec.repo}")
        return str(info.sha)

    def _open_at(self, revision: str, start: int) -> Iterator[HubRow]:
        # Every failure of the libraries, while opening or while reading, leaves as one of this project's errors.
        try:
            yield from self._stream(revision, start)
        except DistrustError:
            raise
        except Exception as error:
            raise hub_error(error, self._spec) from error

    def _stream(self, revision: str, start: int) -> Iterator[HubRow]:
        spec = self._spec
        if Path(spec.repo).exists():
            # The library would read such a folder and never ask the Hub.
            raise SourceUnavailable(
                f"source {spec.name!r}: the folder {spec.repo} below {Path.cwd()} hides the dataset of the same name; "
                "run from another folder"
            )
        import datasets

        stream = datasets.load_dataset(
            spec.repo,
            spec.config or None,
            split=spec.split,
            data_files=list(spec.data_files) or None,
            streaming=True,
            revision=revision,
            token=self._token,
        )
        needed = columns_of(spec.columns)
        names = stream.column_names
        if names is not None:
            # A column whose name holds a dot looks like a path here; such a dataset is read with all its columns.
            if absent := sorted(needed - set(names) - {""}):
                raise SourceUnavailable(
                    f"source {spec.name!r}: {spec.repo} has no columns {absent}, only {sorted(names)}; "
                    "correct `columns` of the catalogue entry"
                )
            stream = stream.select_columns([name for name in names if name in needed])
        yield from (stream.skip(start) if start else stream)


def dataset_page(repo: str, revision: str) -> str:
    """Return the address of a dataset at a commit."""
    return f"https://huggingface.co/datasets/{repo}/tree/{revision}"


def hub_error(error: BaseException, spec: SourceSpec) -> DistrustError:
    """Say what a failure of the Hub's libraries means, and what to do about it.

    The libraries wrap errors in each other, a rate limit may even arrive as "file not found", so the whole chain
    of causes is looked at.
    """
    chain = _chain(error)
    kinds = {type(link).__name__ for link in chain}
    statuses = {status for link in chain if (status := _status(link)) is not None}
    about = f"source {spec.name!r}: dataset {spec.repo}"
    said = " ".join(str(error).split())[:300]
    if "OfflineModeIsEnabled" in kinds:
        return PrerequisiteError(f"{about} is needed, but HF_HUB_OFFLINE is set; unset it")
    if busy := {status for status in statuses if status in (408, 429) or status >= 500}:
        return ArchiveBusy(f"{about}: the Hub answered {min(busy)} ({said})", _pause(chain))
    if "GatedRepoError" in kinds:
        return SourceUnavailable(f"{about} is gated: accept its terms on its page and set HF_TOKEN")
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"} or statuses & {401, 403}:
        return SourceUnavailable(
            f"{about} does not exist or is private; check `repo` of the catalogue entry, or set HF_TOKEN"
        )
    if "RevisionNotFoundError" in kinds:
        return SourceUnavailable(f"{about} has no revision {spec.revision!r}; correct it in the catalogue entry")
    if "scripts are no longer supported" in said:
        return SourceUnavailable(
            f"{about} needs a script of its own, which is never run; try revision = 'refs/convert/parquet'"
        )
    unreachable = any(isinstance(link, ConnectionError | TimeoutError) for link in chain) or any(
        type(link).__module__.startswith(_TRANSPORTS) for link in chain if _status(link) is None
    )
    if unreachable:
        return ArchiveBusy(f"{about} could not be read ({type(error).__name__}: {said})")
    return SourceUnavailable(f"{about} cannot be read ({type(error).__name__}: {said})")


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _pause(chain: list[BaseException]) -> float | None:
    for link in chain:
        headers = getattr(getattr(link, "response", None), "headers", None) or {}
        value = str(headers.get("Retry-After", ""))
        if value.isascii() and value.isdigit():
            return float(value)
    return None
