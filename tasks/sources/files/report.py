"""What became of the files of a folder: a table made of what is on disk."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from storage.parquet import read_shard
from storage.schemas import REJECT_SCHEMA
from tasks.sources.files.kinds import ending_of
from tasks.sources.results import FileTable, RejectedFiles

FIRST_NAMES = 3
NO_ENDING = "without ending"
DETAIL_CHARS = 160
NOT_UTF8, UNDECODABLE = '"encoding": "', '"replacement_characters": '


def tabulate_files(folder: Path, shards: Iterable[str], rejects: Iterable[str]) -> FileTable:
    """Count the files of a source by what became of them, as its shards and the files of its rejects tell.

    Raises:
        StoreError: A file of rejects cannot be read.
    """
    documents: Counter[str] = Counter()
    guessed = undecodable = 0
    for shard in shards:
        with pq.ParquetFile(folder / shard) as file:
            for batch in file.iter_batches(columns=["url", "extra"]):
                documents.update(batch.column("url").to_pylist())
                extras = batch.column("extra").to_pylist()
                guessed += sum(NOT_UTF8 in extra for extra in extras)
                undecodable += sum(UNDECODABLE in extra for extra in extras)
    reasons: Counter[str] = Counter()
    first: dict[str, list[str]] = defaultdict(list)
    details: dict[str, str] = {}
    rejected: set[str] = set()
    for name in rejects:
        for row in read_shard(folder / name, REJECT_SCHEMA).to_pylist():
            reason, file = row["reason"], row["url"] or row["id"]
            reasons[reason] += 1
            rejected.add(file)
            details.setdefault(reason, (row["detail"] or "")[:DETAIL_CHARS])
            if file not in first[reason] and len(first[reason]) < FIRST_NAMES:
                first[reason].append(file)
    kinds: dict[str, tuple[int, int]] = {}
    for file, count in sorted(documents.items()):
        kind = ending_of(file or "") or NO_ENDING
        files, rows = kinds.get(kind, (0, 0))
        kinds[kind] = files + 1, rows + count
    return FileTable(
        files=len(rejected | set(documents)),
        documents=kinds,
        rejected=[
            RejectedFiles(reason=reason, count=count, first=first[reason], detail=details[reason])
            for reason, count in reasons.most_common()
        ],
        guessed_encodings=guessed,
        undecodable=undecodable,
    )
