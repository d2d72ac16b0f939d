"""The dataset repositories of the sandbox hub: ids, file forms and row shapes of the real ones.

Every row carries, beside the real columns, those of `EXTRA_COLUMNS`, so that nothing a document knows is lost; the
overlay catalogue points at them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any, Literal

import pyarrow as pa

from sandbox.archives.documents import SandboxDocument, stable_number

Row = dict[str, Any]

EXTRA_COLUMNS = {
    "id": pa.string(),
    "title": pa.string(),
    "author": pa.string(),
    "year": pa.int32(),
    "date": pa.string(),
    "language": pa.string(),
    "licence": pa.string(),
    "part_of": pa.string(),
    "source_url": pa.string(),
}
"""Columns added to every repository that does not have one of that name."""


@dataclass(frozen=True)
class Repository:
    """One dataset repository.

    Attributes:
        repo: Its id on the hub.
        row: Makes a row of the real shape, without the extra columns.
        columns: Arrow types of the real columns.
        reads: Where the catalogue's reader finds the text, if not in ``text``: a column or template, or several of
            them to try in order.
        config: Name of the configuration; empty for the default one.
        split: Name of the only split.
        form: File form: Parquet, gzipped JSON lines, or plain JSON lines.
    """

    repo: str
    row: Callable[[SandboxDocument], Row]
    columns: dict[str, pa.DataType]
    reads: str | tuple[str, ...] = "text"
    config: str = ""
    split: str = "train"
    form: Literal["parquet", "jsonl.gz", "json"] = "parquet"

    @property
    def folder(self) -> str:
        """The folder of the repository that holds the files of the configuration; empty for its root."""
        return "" if self.form != "parquet" else self.config or "data"

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of a row: the real columns, then the extra ones."""
        return pa.schema(list((EXTRA_COLUMNS | self.columns).items()))

    def full_row(self, document: SandboxDocument) -> Row:
        """Return a document's row, extra columns included."""
        extra = {
            "id": document.native_id,
            "title": document.title,
            "author": document.author,
            "year": document.year,
            "date": document.date or (None if document.year is None else f"{document.year:04d}"),
            "language": document.language,
            "licence": document.licence,
            "part_of": document.part_of,
            "source_url": document.url,
        }
        return extra | self.row(document)

    @property
    def reading(self) -> dict[str, str | tuple[str, ...]]:
        """Where each field of a document stands in a row, in the words of the catalogue's ``columns``."""
        same = {name: name for name in EXTRA_COLUMNS if name != "source_url"}
        return {**same, "url": "source_url", "text": self.reads}

    def readme(self) -> str:
        """Return the dataset card: which files make up the configuration, and the types of its columns.

        Without the types a reader takes them from the first JSON rows, where a column may hold nothing yet.
        """
        lines = ["---", "license: other"]
        name = json.dumps(self.config or "default")
        if self.form != "json":
            path = f"{self.folder}/{self.split}-*" if self.form == "parquet" else "*.jsonl.gz"
            lines += ["configs:", f"- config_name: {name}", "  data_files:", f"  - split: {self.split}"]
            lines += [f'    path: "{path}"']
        lines += ["dataset_info:", f"- config_name: {name}", "  features:"]
        lines += [line for column in self.schema for line in _feature(column, "  ")]
        return "\n".join([*lines, "---", "Served by the sandbox.", ""])


def _feature(column: pa.Field, indent: str) -> list[str]:
    """Describe a column in the words of a dataset card."""
    head = f"{indent}- name: {column.name}"
    if pa.types.is_struct(column.type):
        inner = [line for part in column.type for line in _feature(part, f"{indent}  ")]
        return [head, f"{indent}  struct:", *inner]
    if pa.types.is_list(column.type):
        return [head, f"{indent}  list: {column.type.value_type}"]
    return [head, f"{indent}  dtype: {column.type}"]


def _first_day(document: SandboxDocument) -> str | None:
    return document.date or (f"{document.year:04d}-01-01" if document.year is not None else None)


def _patent(document: SandboxDocument) -> Row:
    day = _first_day(document)
    facts = {"license": document.licence or "", "language": document.language or "en", "publication_date": day}
    return {"text": document.text, "source": "sandbox", "added": "2026-01-01", "created": day, "metadata": facts}


def _arxiv(document: SandboxDocument) -> Row:
    return {"text": document.text, "label": stable_number(document.native_id, 11)}


def _fallacy(document: SandboxDocument) -> Row:
    inputs, target = _cut_last(document.text, "\n")
    choices = list(dict.fromkeys([target, "Valid", "Invalid"]))
    scores = [int(choice == target) for choice in choices]
    row: Row = {"inputs": inputs, "targets": [target], "idx": stable_number(document.native_id, 2**31)}
    return row | {"multiple_choice_targets": choices, "multiple_choice_scores": scores}


def _science_question(document: SandboxDocument) -> Row:
    support, answer = _cut_last(document.text, " ")
    row: Row = {"question": document.title or "", "support": support, "correct_answer": answer}
    return row | {"distractor1": "", "distractor2": "", "distractor3": ""}


def _cut_last(text: str, separator: str) -> tuple[str, str]:
    """Cut a text in two so that the separator between both makes it whole again; ("text", "") where none can."""
    text = text.strip()
    head, _, tail = text.rpartition(separator)
    whole = bool(head) and head == head.rstrip() and tail == tail.lstrip()
    return (head, tail) if whole else (text, "")


def _news(document: SandboxDocument) -> Row:
    return {"article": document.text, "highlights": document.title or ""}


def _health_advice(document: SandboxDocument) -> Row:
    return {"instruction": "Read the advice.", "input": document.title or "", "output": document.text}


def _wiki(document: SandboxDocument) -> Row:
    return {"url": document.url or "", "text": document.text}


def _modern_patent(document: SandboxDocument) -> Row:
    return {"description": document.text, "abstract": document.title or ""}


def _speech(document: SandboxDocument) -> Row:
    day: date | None
    try:
        day = date.fromisoformat(_first_day(document) or "")
    except ValueError:
        day = None if document.year is None else date(max(document.year, 1), 1, 1)
    moment = None if day is None else datetime.combine(day, time.min)
    row: Row = {"speech_id": stable_number(document.native_id, 2**53), "text": document.text, "date": moment}
    return row | {"chamber": "sandbox", "speaker": document.author, "word_count": len(document.text.split())}


_STRING, _STRINGS = pa.string(), pa.list_(pa.string())

REPOSITORIES: dict[str, Repository] = {
    "us_patents": Repository(
        repo="common-pile/uspto",
        row=_patent,
        columns={
            **dict.fromkeys(("text", "source", "added", "created"), _STRING),
            "metadata": pa.struct(dict.fromkeys(("license", "language", "publication_date"), _STRING).items()),
        },
        form="jsonl.gz",
    ),
    "arxiv_preprints": Repository(
        repo="ccdv/arxiv-classification", row=_arxiv, columns={"text": _STRING, "label": pa.int64()}
    ),
    "logical_reasoning": Repository(
        repo="tasksource/bigbench",
        config="logical_fallacy_detection",
        row=_fallacy,
        columns={
            "inputs": _STRING,
            "targets": _STRINGS,
            "multiple_choice_targets": _STRINGS,
            "multiple_choice_scores": pa.list_(pa.int32()),
            "idx": pa.int32(),
        },
        reads=("{inputs}\n{targets.0}", "inputs"),
    ),
    "scientific_papers": Repository(
        repo="allenai/sciq",
        row=_science_question,
        columns=dict.fromkeys(
            ("question", "distractor1", "distractor2", "distractor3", "correct_answer", "support"), _STRING
        ),
        reads=("{support} {correct_answer}", "support"),
    ),
    "news_summaries": Repository(
        repo="abisee/cnn_dailymail",
        config="3.0.0",
        row=_news,
        columns=dict.fromkeys(("article", "highlights"), _STRING),
        reads="article",
    ),
    "medical_guidelines": Repository(
        repo="medalpaca/medical_meadow_health_advice",
        row=_health_advice,
        columns=dict.fromkeys(("instruction", "input", "output"), _STRING),
        reads="output",
        form="json",
    ),
    "wikipedia": Repository(
        repo="wikimedia/wikipedia",
        config="20231101.simple",
        row=_wiki,
        columns={"url": _STRING, "text": _STRING},
    ),
    "big_patent": Repository(
        repo="NortheasternUniversity/big_patent",
        config="all",
        row=_modern_patent,
        columns=dict.fromkeys(("description", "abstract"), _STRING),
        reads="description",
    ),
    "government_documents": Repository(
        repo="Eugleo/us-congressional-speeches",
        row=_speech,
        columns={
            "speech_id": pa.int64(),
            "text": _STRING,
            "date": pa.timestamp("us"),
            "chamber": _STRING,
            "speaker": _STRING,
            "word_count": pa.int64(),
        },
    ),
}
"""The repository of every source that the sandbox hub serves."""
