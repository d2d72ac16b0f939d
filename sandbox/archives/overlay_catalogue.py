"""Writes the catalogue that sends the sources of the project to the sandbox archives."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandbox.archives.documents import ARCHIVE_OF, SourceSummary
from sandbox.archives.hub_rows import REPOSITORIES
from sandbox.archives.internet_archive_items import collection_of
from storage.atomic import write_text
from storage.toml import toml_key, toml_value
from tasks.sources.catalogue import SourceSpec, load_catalogue

REQUESTS_PER_SECOND = 1_000.0
REQUESTS_PER_MINUTE = 60_000.0

Entry = dict[str, Any]


def write_catalogue(path: Path, summaries: Mapping[str, SourceSummary], base: Path | None = None) -> None:
    """Write a catalogue to lay over the bundled one, so that its sources are read from the sandbox.

    Every source that has documents is asked for all of them, at a frozen state of the sandbox; the others become
    optional. A source that `base` reads from local files stays as it is.

    Args:
        path: The TOML file to write.
        summaries: What the sandbox serves, by source.
        base: A catalogue of the user's own, which the written one contains.

    Raises:
        ParameterError: If `base` is not a catalogue.
    """
    known = load_catalogue(base)
    entries: dict[str, Entry] = tomllib.loads(base.read_text("utf-8")) if base is not None else {}
    for name, spec in known.items():
        if spec.archive != ARCHIVE_OF.get(name, spec.archive) or spec.archive == "local_files":
            continue
        summary = summaries.get(name)
        overlay: Entry = {"optional": True} if summary is None else _entry(spec, summary)
        entries[name] = entries.get(name, {}) | overlay
    header = "# Written for the sandbox archives: lay it over the bundled catalogue of sources.\n"
    write_text(path, header + "".join(_table(name, entry) for name, entry in entries.items()))


def _entry(spec: SourceSpec, summary: SourceSummary) -> Entry:
    common: Entry = {"target": summary.documents, "optional": False, "snapshot": f"sandbox {summary.digest}"}
    if spec.year_filter is not None and summary.years is not None and spec.year_filter.min is not None:
        # Older documents under a source are put there on purpose; the upper bound is the source's claim and stays.
        common["year_filter"] = spec.year_filter.model_dump(exclude_none=True) | {
            "min": min(spec.year_filter.min, summary.years[0])
        }
    match ARCHIVE_OF[spec.name]:
        case "internet_archive":
            query = f"collection:{collection_of(spec.name)}"
            return common | {"query": query, "requests_per_second": REQUESTS_PER_SECOND}
        case "chronicling_america":
            return common | _newspaper_entry(summary)
        case "hugging_face":
            return common | _dataset_entry(spec, summary)


def _newspaper_entry(summary: SourceSummary) -> Entry:
    entry: Entry = {"facets": [], "front_pages_only": False}
    if summary.days is not None:
        entry |= {"date_from": summary.days[0], "date_to": summary.days[1]}
    return entry | {"api_per_minute": REQUESTS_PER_MINUTE, "text_per_minute": REQUESTS_PER_MINUTE}


def _dataset_entry(spec: SourceSpec, summary: SourceSummary) -> Entry:
    repository = REPOSITORIES[spec.name]
    served = set(repository.schema.names)
    kept = [column for column in spec.columns.extra if column.partition(".")[0] in served]
    return {
        "repo": repository.repo,
        "config": repository.config,
        "split": repository.split,
        "revision": summary.revision,
        "data_files": [],
        "first_row": 0,
        "scan_rows": summary.documents,
        "columns": {**repository.reading, "extra": kept},
    }


def _table(name: str, entry: Entry) -> str:
    lines = [f"{toml_key(key)} = {toml_value(value)}" for key, value in entry.items()]
    return "\n".join(["", f"[{toml_key(name)}]", *lines]) + "\n"
