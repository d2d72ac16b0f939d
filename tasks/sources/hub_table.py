"""The files of one split of a dataset, how `datasets` streams their rows, and what its errors mean."""

from __future__ import annotations

import functools
import io
import json
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import DistrustError, SourceUnavailable
from storage.hub_errors import HubRepository, error_chain, hub_error
from tasks.sources.catalogue import SourceSpec
from tasks.sources.files.tables import lines_of
from tasks.sources.rows import columns_of

LINE_SUFFIXES = (".jsonl", ".ndjson")
PACKED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
PEEKED_BYTES = 65_536
MAX_LINE_BYTES = 64 * 2**20

_OTHER_COLUMNS = ("column names don't match", "No match for FieldRef", "Couldn't cast")


@dataclass(frozen=True)
class Table:
    """A pipeline of `datasets`, and what its rows depend on.

    Attributes:
        build: Makes the pipeline, the same each time.
        form: "table", or "lines" of JSON, which are parsed here.
        columns: The columns that are read.
        identity: What else decides on rows and their order.
    """

    build: Callable[[], Any]
    form: str
    columns: tuple[str, ...]
    identity: dict[str, Any]


def open_table(spec: SourceSpec, token: str | None, revision: str) -> Table:
    """Find the files of a split and choose how they are read.

    JSON lines are read as lines: the library's JSON reader takes the columns' types from the first ten megabytes
    and fails on a column that holds nothing there, or on a key that comes later. Of Parquet only the needed columns
    are fetched, and row groups whose statistics are outside the years are skipped.

    Raises:
        SourceUnavailable: The split or a column is missing.
    """
    builder = _builder_of(spec, token, revision)
    from datasets import __version__
    from datasets.packaged_modules.json.json import Json

    splits = {str(split): [str(file) for file in found] for split, found in (builder.config.data_files or {}).items()}
    if spec.split not in splits:
        raise SourceUnavailable(
            f"source {spec.name!r}: {spec.repo} has no split {spec.split!r}, only {sorted(splits)}; correct `split` of "
            "the catalogue entry"
        )
    identity = {
        "repo": spec.repo,
        "config": spec.config,
        "split": spec.split,
        "data_dir": spec.data_dir,
        "data_files": list(spec.data_files),
        "revision": revision,
        "datasets": __version__,
    }
    files = splits[spec.split]
    if isinstance(builder, Json) and holds_lines(files[0], token):
        return _table_of_lines(spec, files, token, identity)
    return _table_of_columns(spec, builder, identity)


def refuse_folder(spec: SourceSpec) -> None:
    """Refuse a dataset whose name is that of a folder, which the library would read instead and never ask the Hub.

    Raises:
        SourceUnavailable: There is such a folder.
    """
    if Path(spec.repo).exists():
        raise SourceUnavailable(
            f"source {spec.name!r}: the folder {spec.repo} below {Path.cwd()} hides the dataset of the same name; "
            "run from another folder"
        )


def _builder_of(spec: SourceSpec, token: str | None, revision: str) -> Any:
    import datasets

    # The library would read again twenty times at one place, minutes apart and unseen; the waiting is done here.
    for name in ("STREAMING_READ", "STREAMING_OPEN"):
        setattr(datasets.config, f"{name}_MAX_RETRIES", 1)
        setattr(datasets.config, f"{name}_RETRY_INTERVAL", 0)
    datasets.config.STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL = 0
    return datasets.load_dataset_builder(
        spec.repo,
        spec.config or None,
        data_dir=spec.data_dir or None,
        data_files={spec.split: list(spec.data_files)} if spec.data_files else None,
        revision=revision,
        token=token,
    )


def _table_of_lines(spec: SourceSpec, files: list[str], token: str | None, identity: dict[str, object]) -> Table:
    import datasets

    # Given as a list, each file is a shard of its own, and a position names the shard.
    build = functools.partial(
        datasets.IterableDataset.from_generator, _lines_of_files, gen_kwargs={"files": files, "tokens": (token,)}
    )
    return Table(build, "lines", tuple(sorted(columns_of(spec.columns))), identity)


def _table_of_columns(spec: SourceSpec, builder: Any, identity: dict[str, object]) -> Table:
    from datasets.packaged_modules.parquet.parquet import Parquet

    build = functools.partial(builder.as_streaming_dataset, split=spec.split)
    features = build().features
    if features is None:
        return Table(build, "table", (), identity)
    needed, names = columns_of(spec.columns), sorted(features)
    if absent := {name for name in needed if not _present(name, names)}:
        raise absent_columns(spec, absent, set(names))
    columns = [name for name in names if name in needed or name.partition(".")[0] in needed]
    if isinstance(builder, Parquet):
        builder.config.columns = columns
        builder.config.filters = pushed_down(spec, features.arrow_schema)
        return Table(build, "table", tuple(columns), {**identity, "filter": str(builder.config.filters)})
    return Table(lambda: build().select_columns(columns), "table", tuple(columns), identity)


def holds_lines(file: str, token: str | None) -> bool:
    """Tell whether a JSON file holds one object a line, rather than one array or one object over many lines."""
    name = file.lower()
    for suffix in PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    if name.endswith(LINE_SUFFIXES):
        return True
    with _open_file(file, token, block_size=PEEKED_BYTES) as stream:
        head: bytes = stream.read(PEEKED_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")
    line, newline, _ = head.partition(b"\n")
    if not head.startswith(b"{") or not newline:
        return head.startswith(b"{")
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _lines_of_files(files: list[str], tokens: tuple[str | None]) -> Iterator[dict[str, Any]]:
    for file in files:
        with _open_file(file, tokens[0]) as stream:
            for number, line in lines_of(io.BufferedReader(stream, 2**20), MAX_LINE_BYTES):
                yield {"line": line, "number": number}


def _open_file(file: str, token: str | None, **options: Any) -> Any:
    import fsspec  # type: ignore[import-untyped]

    return fsspec.open(file, "rb", compression="infer", token=token, **options)


def _present(name: str, names: list[str]) -> bool:
    return not name or name in names or any(known.partition(".")[0] == name for known in names)


def absent_columns(spec: SourceSpec, absent: set[str], names: set[str]) -> SourceUnavailable:
    """Say which columns a catalogue entry names that the dataset does not have."""
    return SourceUnavailable(
        f"source {spec.name!r}: {spec.repo} has no columns {sorted(absent)}, only {sorted(names)}; "
        "correct `columns` of the catalogue entry"
    )


def dataset_error(error: BaseException, spec: SourceSpec, *, first_contact: bool = False) -> DistrustError:
    """Return the error of this project for something that the Hub's libraries raised about a source."""
    about, said = f"source {spec.name!r}: dataset {spec.repo}", " ".join(str(error).split())[:300]
    if "scripts are no longer supported" in said:
        return SourceUnavailable(
            f"{about} needs a script of its own, which is never run; try revision = 'refs/convert/parquet' with "
            "data_dir = the configuration's name, or another dataset with the same texts"
        )
    if any(words in str(link) for words in _OTHER_COLUMNS for link in error_chain(error)):
        return SourceUnavailable(
            f"{about}: its files do not share one set of columns ({said}); name files that do with `data_files` of the "
            "catalogue entry"
        )
    page = f"https://huggingface.co/datasets/{spec.repo}"
    repository = HubRepository(
        about,
        page,
        check=f"check `repo` of the catalogue entry against {page}",
        instead="name another dataset with the same texts",
        revision=spec.revision,
        named_in=" of the catalogue entry",
        refused=SourceUnavailable,
    )
    return hub_error(error, repository, first_contact=first_contact)


def pushed_down(spec: SourceSpec, schema: pa.Schema) -> pc.Expression | None:
    """Return a filter that Parquet statistics can answer and that keeps every row of the years; none if none can.

    The year must come from one column, a date or a whole number (1923 or 19230315), and rows without a year must
    be unwanted. The filter is only a first sieve: each row that passes is still read and checked.
    """
    years = spec.year_filter
    paths = [path for value in (spec.columns.year, spec.columns.date) for path in _several(value) if path]
    if years is None or years.unknown == "keep" or len(paths) != 1 or paths[0] not in schema.names:
        return None
    kind = schema.field(paths[0]).type
    column = pc.field(paths[0])
    low, high = years.min, years.max
    if pa.types.is_integer(kind) and kind.bit_width >= 32:
        compact = _between(column, low and low * 10_000, high and high * 10_000 + 9_999)
        return _between(column, low, high) | (compact & (column > 9_999))
    if not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        return None
    try:
        # A day more on either side: the time zones of a text and of its date may differ.
        first = low and _day(kind, low - 1, 12, 31)
        last = high and _day(kind, high + 1, 1, 2)
    except (pa.ArrowInvalid, ValueError):
        return None  # the type does not reach that far
    return _between(column, first, last)


def _between(column: pc.Expression, low: Any, high: Any) -> pc.Expression:
    bounds = [column >= low] * (low is not None) + [column <= high] * (high is not None)
    return functools.reduce(operator.and_, bounds, column.is_valid())


def _day(kind: pa.DataType, year: int, month: int, day: int) -> pa.Scalar:
    return pa.scalar(date(year, month, day)).cast(kind)


def _several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value
