"""Rows of a CSV file, whatever parts its fields."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import IO, Literal

from tasks.sources.files.encoding import MIXED
from tasks.sources.files.record import BadLine, Row, placed

SAMPLE_ROWS = 20
DELIMITERS = (",", ";", "\t", "|")


def find_delimiter(sample: str, ending: str) -> str:
    """Tell what parts the fields of a CSV file: what cuts most of its first lines into as many fields as its header."""
    if ending in ("tsv", "tab"):
        return "\t"
    best, most = ",", 1.0
    lines = sample.splitlines()
    for delimiter in DELIMITERS:
        rows = []
        try:
            for row in csv.reader(iter(lines), delimiter=delimiter):
                if row:
                    rows.append(len(row))
                if len(rows) >= SAMPLE_ROWS:
                    break
        except csv.Error:
            pass
        if rows and rows[0] > 1:
            score = rows[0] * sum(count == rows[0] for count in rows) / len(rows)
            if score > most:
                best, most = delimiter, score
    return best


def csv_rows(stream: IO[bytes], sample: str, cap: int, ending: str) -> Iterator[Row]:
    """Yield the rows below a CSV file's header; a field may span lines, so a row's number is that of its last line."""
    too_long: list[int] = []
    csv.field_size_limit(max(cap, csv.field_size_limit()))
    if sample.lower().startswith("sep=") and sample[5:6] in "\r\n":  # as Excel tells itself
        delimiter, _ = sample[4], stream.readline()
    else:
        delimiter = find_delimiter(sample, ending)
    is_plain = delimiter == "\t" and '\t"' not in sample and '\n"' not in sample
    lines = _decoded(stream, cap, too_long)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if is_plain else csv.QUOTE_MINIMAL
    reader = csv.reader(lines, strict=True, delimiter=delimiter, quoting=quoting)
    header: list[str] | None = None
    while True:
        problem: BadLine | None = None
        fields: list[str] | None = []
        try:
            fields = next(reader, None)
        except csv.Error as error:
            problem = BadLine("bad-csv", f"line {reader.line_num}: {error}")
        if too_long:
            # Whatever the reader made of the rest: a row that lacks one of its lines is rejected.
            ends = f"; its row ends in line {reader.line_num}" if reader.line_num > too_long[0] else ""
            problem = BadLine("line-too-long", f"line {too_long[0]} exceeds {cap} bytes{ends}")
            too_long.clear()
        if fields is None:
            return
        if problem and header is None:
            raise OSError(f"its header cannot be read: {problem.detail}")
        if problem:
            yield problem
        elif not fields:
            continue
        elif header is None:
            header = [name.strip() for name in fields]
        elif len(fields) != len(header):
            detail = f"line {reader.line_num} has {len(fields)} fields, the header names {len(header)}"
            yield BadLine("bad-csv", detail)
        else:
            # CSV knows no null: an empty field says nothing.
            values = {name: value for name, value in zip(header, fields, strict=True) if value}
            yield placed(values, f"line {reader.line_num}", header)


def _decoded(stream: IO[bytes], cap: int, too_long: list[int]) -> Iterator[str]:
    number = 0
    while line := stream.readline(cap + 1):
        number += 1
        if len(line) > cap and not line.endswith(b"\n"):
            quotes = line.count(b'"')
            while not line.endswith(b"\n") and (line := stream.readline(cap)):
                quotes += line.count(b'"')
            too_long.append(number)
            # An odd quote is kept: it opens or closes a field that spans lines, which the next lines depend on.
            yield '"' * (quotes % 2)
        else:
            text = line.decode(errors=MIXED)
            yield (text.removeprefix("\ufeff") if number == 1 else text).replace("\0", "")
