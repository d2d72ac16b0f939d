"""The real clients against the sandbox: the `datasets` library, and every source of the project.

Both read `HF_ENDPOINT` when `datasets` is imported, which is slow, so that one child process serves all.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.archives import Fault, SandboxArchives, SandboxDocument, write_catalogue
from sandbox.archives import hub_files as files
from sandbox.archives.documents import ARCHIVE_OF
from sandbox.archives.hub_rows import REPOSITORIES
from sandbox.archives.internet_archive_items import UNAVAILABLE

CLIENT = """
import asyncio, json, sys
from dataclasses import asdict
from pathlib import Path
from datasets import load_dataset
from sandbox.archives.documents import ARCHIVE_OF
from tasks.sources.catalogue import load_catalogue
from tasks.sources.connection import Archives, Connection, Pace
from tasks.sources.opening import open_source
from tasks.sources.web import Web

found = {"rows": {}, "resumed": {}, "read": {}}
catalogue = {name: spec for name, spec in load_catalogue(Path(sys.argv[1])).items() if name in ARCHIVE_OF}
for name, spec in catalogue.items():
    if spec.archive != "hugging_face":
        continue
    def open_stream():
        return load_dataset(spec.repo, spec.config or None, split=spec.split, streaming=True, revision=spec.revision)
    rows = found["rows"][name] = list(open_stream())
    if name in ("us_patents", "logical_reasoning"):
        stream = open_stream()
        iterator = iter(stream)
        head = [next(iterator) for _ in range(3)]
        state = stream.state_dict()
        resumed = open_stream()
        resumed.load_state_dict(state)
        found["resumed"][name] = head + list(resumed) == rows
try:
    load_dataset(spec.repo, revision="f" * 40, streaming=True)
except Exception as error:
    found["wrong revision"] = repr(error)

async def read(spec):
    pace = Pace(requests_per_second=1000, first_delay_seconds=0.01)
    outcomes = []
    connection = Connection.from_environment()
    async with Web() as web, open_source(spec, Archives(connection, pace, web)) as source:
        for item in await source.plan(spec.target):
            outcomes += [asdict(one) async for one in source.fetch(item)]
    return outcomes

for name, spec in catalogue.items():
    found["read"][name] = asyncio.run(read(spec))
print(json.dumps(found, default=str))
"""


NEED_A_YEAR = {"us_patents", "government_documents", "historical_newspapers"}


def document(source: str, number: int) -> SandboxDocument:
    if source not in NEED_A_YEAR and number < 5:
        # The first rows know nothing but their text; later ones do: the types of columns must not depend on it.
        return SandboxDocument(source=source, native_id=f"{source}-{number}", text=f"Number {number} in one line.")
    return SandboxDocument(
        source=source,
        native_id=f"{source}-{number}",
        text=f"Line one of {number}.\nThe last line, ünicode.",
        title=f"Title {number}",
        author="Somebody",
        year=(1901 if source in (*UNAVAILABLE, "historical_newspapers", "us_patents") else 1995) + number // 2,
        part_of=f"{source} {number // 2}",
        licence="CC0",
    )


async def run_client(archives: SandboxArchives, folder: Path) -> dict[str, Any]:
    write_catalogue(folder / "sandbox.toml", archives.summaries)
    environment = {**os.environ, **archives.environment, "HF_HOME": str(folder / "home"), "PYTHONPATH": os.getcwd()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, str(folder / "sandbox.toml"), env=environment, stdout=-1, stderr=-1
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-3_000:]
    found: dict[str, Any] = json.loads(output)
    return found


async def test_every_document_reaches_the_real_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "GROUP_ROWS", 2)
    monkeypatch.setattr(files, "FILE_ROWS", 4)
    documents = [document(source, number) for number in range(7) for source in ARCHIVE_OF]
    faults = {"hub-resolve": [Fault()], "loc-text": [Fault("drop")]}
    faults |= {"ia-file": [Fault("corrupt"), Fault("truncate")]}
    async with SandboxArchives(documents, unavailable_items=True, faults=faults) as archives:
        found = await run_client(archives, tmp_path)
    assert "f" * 40 in found["wrong revision"]
    assert found["resumed"] == {"us_patents": True, "logical_reasoning": True}
    assert found["rows"].keys() == REPOSITORIES.keys()
    for source, rows in found["rows"].items():
        sent = [one for one in documents if one.source == source]
        for name, key in (("id", "native_id"), ("part_of", "part_of"), ("year", "year"), ("title", "title")):
            assert [row[name] for row in rows] == [getattr(one, key) for one in sent], (source, name)
    check_row_shapes(found["rows"])
    for source, outcomes in found["read"].items():
        sent = [one for one in documents if one.source == source]
        check_documents(source, sent, [one for one in outcomes if "text" in one])
        reasons = [one["reason"] for one in outcomes if "reason" in one]
        assert reasons == ([REASONS[source]] if source in REASONS else []), source


REASONS = {
    "classical_philosophy": "access-restricted",
    "internet_archive_books": "private-file",
    "classical_literature": "dark",
    "historical_speeches": "no-text",
}


def check_row_shapes(rows: dict[str, list[dict[str, Any]]]) -> None:
    # The JSON reader of `datasets` takes ISO dates for times, and writes them out again with midnight.
    patent = rows["us_patents"][6]["metadata"]
    assert patent == {"license": "CC0", "language": "en", "publication_date": "1904-01-01 00:00:00"}
    assert rows["logical_reasoning"][6]["inputs"] == "Line one of 6."
    assert rows["logical_reasoning"][6]["targets"] == ["The last line, ünicode."]
    science = rows["scientific_papers"][6]
    assert (science["question"], science["correct_answer"]) == ("Title 6", "ünicode.")
    assert rows["government_documents"][6]["date"].startswith("1998-01-01")
    assert rows["news_summaries"][6]["article"] == rows["medical_guidelines"][6]["output"]


def check_documents(source: str, sent: list[SandboxDocument], read: list[dict[str, Any]]) -> None:
    """Compare what was served with what a source of the project made of it."""
    assert sorted(one["text"] for one in read) == sorted(one.text for one in sent), source
    by_text = {one["text"]: one for one in read}
    for one in sent:
        other = by_text[one.text]
        assert other["year"] == one.year, source
        if ARCHIVE_OF[source] == "chronicling_america":
            assert other["extra"]["part_of"] == by_text[sent[sent.index(one) & ~1].text]["extra"]["part_of"]
            continue
        assert other["title"] == one.title, source
        assert other["author"] == one.author, source
        assert other["extra"].get("part_of") == one.part_of, source
        assert one.licence is None or other["licence"] == one.licence, source
        assert other["id"] == f"{source}:{one.native_id}", source
