"""Datasets of the Hugging Face Hub, streamed at a pinned commit, range of rows by range of rows."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from storage.addresses import check_hub
from storage.errors import ArchiveBusy, SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tasks.sources.connection import Archives
from tasks.sources.hub_stream import HubRow, HubStream
from tasks.sources.hub_table import dataset_error, refuse_folder
from tasks.sources.pace import Patience
from tasks.sources.rows import RangeReader, map_row
from tasks.sources.source import NOTHING, Document, Reject, reserve
from tasks.sources.subjects import RowsAbout

HUB = "https://huggingface.co"
DEFAULT_SCAN_ROWS = 1_000_000
LOOK_UP_SECONDS = 10.0
UNGATED = ("README.md", ".gitattributes")
"""Files that the Hub gives to everybody, even of a dataset whose terms were not accepted."""
REQUESTS_PER_SECOND = 1000.0
"""One turn reads many rows, so that the Hub's own limits, which its library keeps to, are met long before."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HuggingFaceDataset:
    """Rows of one split of one dataset; `HF_ENDPOINT` must be set before `datasets` is first imported."""

    remark = ""

    def __init__(self, spec: SourceSpec, archives: Archives, workspace: Path) -> None:
        check_hub()
        host = archives.web.pace_of(os.environ.get("HF_ENDPOINT") or HUB, REQUESTS_PER_SECOND)
        host.parks = False  # a dead file of the Hub looks like a dead Hub, so the whole source is run again instead
        self._spec = spec
        self._token = token = archives.connection.hf_token
        self._patience = Patience(host, archives.pace.attempts, archives.pace.first_delay_seconds)
        self._current_year = archives.current_year
        self._about = RowsAbout(spec)
        self._workspace = workspace
        self._looked_up = False
        self._looking_up = asyncio.Lock()
        self._reader: RangeReader[HubRow] = RangeReader(HubStream(spec, token, workspace).read_from)
        self.aclose = self._reader.close

    async def count(self) -> int | None:
        """Return how many rows the dataset's own description gives the split; none if it does not say.

        With a year filter or subjects it is not known how many of them are kept.
        """
        info = await asyncio.to_thread(self._look_up, self._spec.revision)
        return None if self._is_filtered else _rows_described(info.card_data, self._spec)

    @property
    def _is_filtered(self) -> bool:
        return self._spec.year_filter is not None or bool(self._spec.subjects)

    async def plan(self, limit: int, known: Mapping[str, Item] = NOTHING) -> list[Item]:
        """Cut the rows into ranges, enough for `limit` documents; the rows themselves are not read.

        The Hub does not always say how many rows there are: ranges past the end hold nothing. With a year filter or
        subjects it is not known how many rows it takes, so `scan_rows` of the catalogue entry bounds the search.
        Without a network it raises `PrerequisiteError`.
        """
        # Rows that are added to a plan come from the commit that it was frozen at.
        revision = next((str(item.data["revision"]) for item in known.values()), self._spec.revision)
        if not _COMMIT.fullmatch(revision):
            revision = await self._patience.ask(partial(asyncio.to_thread, self._resolve, revision))
            self._looked_up = True
        rows = reserve(limit) * 2
        if self._is_filtered:
            rows = max(rows, self._spec.scan_rows or DEFAULT_SCAN_ROWS)
        if self._spec.scan_rows is not None:
            rows = min(rows, self._spec.scan_rows)
        # The last range of a plan may be shorter than a step, so what is known ends where its ranges say.
        ends = (int(item.data["start"]) + int(item.data["rows"]) for item in known.values())
        step, start = self._spec.rows_per_item, max(ends, default=self._spec.first_row)
        end = start + rows
        return [
            Item(
                native_id=f"{self._spec.repo}:{self._spec.split}:{at}",
                url=f"{HUB}/datasets/{self._spec.repo}/tree/{revision}",
                data={"revision": revision, "start": at, "rows": min(step, end - at)},
            )
            for at in range(start, end, step)
        ]

    async def fetch(self, item: Item) -> AsyncIterator[Document | Reject]:
        """Read one range of rows."""
        refuse_folder(self._spec)
        await self._check_access(str(item.data["revision"]))
        start = int(item.data["start"])
        read = partial(self._reader.read, str(item.data["revision"]), start, int(item.data["rows"]))
        rows = await self._patience.ask(read)
        # To look for subjects in long texts takes seconds, in which other requests go on.
        for outcome in await asyncio.to_thread(lambda: [self._map(row, n, item) for n, row in enumerate(rows, start)]):
            yield outcome

    def _map(self, row: HubRow, number: int, item: Item) -> Document | Reject:
        if isinstance(row, Reject):
            return dataclasses.replace(row, url=item.url)
        return self._about.keep(map_row(row, number, self._spec, self._current_year, origin=item.url))

    async def _check_access(self, revision: str) -> None:
        """Before anything is read at a pinned commit, make sure that it can be: the libraries would try for minutes."""
        async with self._looking_up:
            if self._looked_up or self._has_begun():
                return
            with suppress(ArchiveBusy):  # the reading that follows waits for that
                await asyncio.to_thread(self._look_up, revision)
            self._looked_up = True

    def _has_begun(self) -> bool:
        """Tell whether an earlier process read rows: then a network that is away now is waited for."""
        return any(self._workspace.glob("position-*.json"))

    def _look_up(self, revision: str) -> Any:
        """Ask the Hub about the dataset, once, and whether its files are given to this client."""
        import huggingface_hub

        spec, token = self._spec, self._token
        try:
            info = huggingface_hub.HfApi(token=token).dataset_info(
                spec.repo, revision=revision or None, timeout=LOOK_UP_SECONDS
            )
            file = next((one.rfilename for one in info.siblings or [] if one.rfilename not in UNGATED), "")
            if info.gated and file:
                url = huggingface_hub.hf_hub_url(spec.repo, file, repo_type="dataset", revision=info.sha)
                huggingface_hub.get_hf_file_metadata(url, token=token, timeout=LOOK_UP_SECONDS)
        except Exception as error:
            raise dataset_error(error, spec, first_contact=True) from error
        return info

    def _resolve(self, revision: str) -> str:
        """Return the commit that a branch or tag points to now."""
        info = self._look_up(revision)
        if not _COMMIT.fullmatch(str(info.sha)):
            raise SourceUnavailable(
                f"source {self._spec.name!r}: the Hub names no commit of {self._spec.repo}, but {info.sha!r}"
            )
        return str(info.sha)


def _rows_described(card: Any, spec: SourceSpec) -> int | None:
    """Return the rows of a split by the dataset's card; a card does not describe a selection of files."""
    described = card.get("dataset_info") if card is not None and not (spec.data_files or spec.data_dir) else None
    for config in described if isinstance(described, list) else [described]:
        if not isinstance(config, dict) or config.get("config_name", "default") != (spec.config or "default"):
            continue
        for split in config.get("splits") or []:
            rows = split.get("num_examples") if isinstance(split, dict) and split.get("name") == spec.split else None
            if isinstance(rows, int) and not isinstance(rows, bool) and rows >= 0:
                return rows
    return None
