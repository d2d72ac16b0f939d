"""Parquet shards: explicit schema, zstd, bounded row groups, atomic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.atomic import atomic_path
from storage.errors import StoreError
from storage.untrusted import require_file

ROW_GROUP_ROWS = 1024
MADE_FROM = "made_from"
"""Footer tag of a shard that is computed from another: the digest of everything that it depends on."""

UNIQUE_COLUMNS = {
    "id",
    "doc_id",
    "url",
    "text",
    "sha256",
    "extra",
    "metadata",
    "listing",
    "prompt",
    "response",
    "rejected",
}
"""Text columns whose values hardly ever repeat: dictionaries of them cost time, a quarter of that of reading a text."""


def write_shard(path: Path, table: pa.Table, schema: pa.Schema, tags: Mapping[str, str] | None = None) -> None:
    """Write a table as one shard, which exists under its path only when whole; `read_tags` reads its tags back.

    Raises:
        ValueError: The rows do not fit the schema, or a required column holds a null.
        StoreError: The disk is full.
    """
    table = table.select(schema.names).cast(schema)
    table = table.replace_schema_metadata(dict(tags) if tags else None)
    with atomic_path(path) as temporary:
        encoding = {"compression": "zstd", "use_dictionary": _repeating(schema)}
        pq.write_table(table, temporary, row_group_size=ROW_GROUP_ROWS, **encoding)


def _repeating(fields: Iterable[pa.Field], above: str = "") -> list[str]:
    """Name the columns whose values repeat, for which dictionaries are written."""
    found = []
    for field in fields:
        if pa.types.is_struct(field.type):
            found += _repeating(field.type, f"{above}{field.name}.")
        elif not pa.types.is_floating(field.type) and field.name not in UNIQUE_COLUMNS:
            found.append(above + field.name)
    return found


class ShardWriter:
    """A shard that is being written in parts; see `open_shard`."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema

    def write(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Append rows."""
        if rows:
            self._writer.write_table(pa.Table.from_pylist(rows, self._schema), row_group_size=ROW_GROUP_ROWS)

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Append rows of another shard."""
        self._writer.write_batch(batch.select(self._schema.names), row_group_size=ROW_GROUP_ROWS)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Add key-value metadata to the footer, read back by `read_tags`."""
        self._writer.add_key_value_metadata(dict(tags))


@contextmanager
def open_shard(path: Path, schema: pa.Schema) -> Iterator[ShardWriter]:
    """Open a shard for writing with bounded memory; it exists under `path` once the block ends without an error.

    Raises:
        ValueError: Rows do not fit the schema.
        StoreError: The disk is full.
    """
    encoding = {"compression": "zstd", "use_dictionary": _repeating(schema)}
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, **encoding) as writer:
        yield ShardWriter(writer, schema)


def read_shard(path: Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read a shard and check it against its schema.

    A column that may be null and is missing is one that a later version added; it is read as null.

    Raises:
        StoreError: The file is not a whole Parquet file or lacks a column that every version writes.
    """
    names = columns or schema.names
    table = read_columns(path, names)
    missing = [name for name in names if name not in table.column_names]
    if required := sorted(name for name in missing if not schema.field(name).nullable):
        raise StoreError(f"{path} lacks the columns {required}; delete it and run the stage again")
    for name in missing:
        table = table.append_column(name, pa.nulls(table.num_rows, schema.field(name).type))
    return table.select(names).cast(pa.schema([schema.field(name) for name in names]))


def read_component(path: Path, field: str) -> pa.ChunkedArray:
    """Read one component of the scores in a shard; the other columns stay on disk.

    Raises:
        StoreError: The file is not a whole Parquet file or has no such component.
    """
    table = read_columns(path, [f"components.{field}"])
    if "components" not in table.column_names:
        raise StoreError(f"{path} holds no scores with {field}; delete it and score again")
    return pc.struct_field(table.column("components"), field)


def read_columns(path: Path, names: list[str]) -> pa.Table:
    """Read the columns that a shard has of those named; ``components.NAME`` is one field of a struct.

    Raises:
        StoreError: The file is not a whole Parquet file.
    """
    try:
        require_file(path)
        with pq.ParquetFile(path) as file:  # `read_table` would import pandas, which takes seconds
            return file.read(columns=names)
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{path} cannot be read as a shard ({error}); delete it and run the stage again") from error


def read_tags(path: Path) -> dict[str, str]:
    """Read the footer's key-value metadata; an unreadable file has no tags."""
    try:
        require_file(path)
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, ValueError):
        return {}
    return {key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"}


def is_made_from(path: Path, digest: str) -> bool:
    """Tell whether a shard exists and was written with `made_from` this digest."""
    return read_tags(path).get(MADE_FROM) == digest


def count_rows(path: Path) -> int:
    """Count the rows of a shard from its footer."""
    return int(pq.read_metadata(path).num_rows)


def iterate_rows(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Stream a shard batch by batch with bounded memory; StoreError if the shard cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=ROW_GROUP_ROWS, columns=schema.names)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{path} cannot be read ({error}); delete it and run the stage again") from error
