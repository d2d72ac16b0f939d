"""Tables in Markdown, for artifacts, reports and model cards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> str:
    """Write a table; values of the columns in `right` stand at the right, as numbers do."""
    ends = set(right)
    rule = ["---:" if heading in ends else "---" for heading in head]
    lines = [[cell(heading) for heading in head], rule, *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: object) -> str:
    """Make a value safe inside a table: one line, no new column, no markup of its own."""
    text = str(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
    return " ".join(text.split())
