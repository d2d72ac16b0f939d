"""What is taken from a folder of untrusted lines, and what is said about the rest."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import zstandard
from pydantic import ValidationError

from sandbox.archives import DocumentFolder, SandboxDocument, summarise
from sandbox.archives import document_folder as folders
from sandbox.archives.documents import ARCHIVE_OF, day_of
from storage.errors import ParameterError

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"


def write_lines(path: Path, *lines: bytes | dict[str, object]) -> None:
    content = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    path.write_bytes(zstandard.ZstdCompressor().compress(content))


def corpus_row(**fields: object) -> dict[str, object]:
    return {
        "id": "wikipedia:euler:0000",
        "doc_id": "wikipedia:euler",
        "source_type": "wikipedia",
        "title": "Euler",
        "author": None,
        "year": 2004,
        "text": "Leonhard Euler was a mathematician.",
        "licence_note": "CC BY-SA",
        **fields,
    }


def test_both_line_shapes_become_documents(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl.zst", corpus_row(source_url="https://x.org/e", origin_path="dropped"))
    plain = {"source": "historical_newspapers", "native_id": "p1", "text": "NEWS", "date": "1901-02-03"}
    write_lines(tmp_path / "historical_newspapers.jsonl.zst", plain, b"")
    folder = DocumentFolder(tmp_path)
    first, second = folder
    assert first == SandboxDocument(
        source="wikipedia",
        native_id="euler:0000",
        text="Leonhard Euler was a mathematician.",
        title="Euler",
        year=2004,
        licence="CC BY-SA",
        part_of="wikipedia:euler",
        url="https://x.org/e",
    )
    assert second.date == "1901-02-03"
    assert folder.skipped == []
    assert list(folder) == [first, second], "a folder can be read again"


@pytest.mark.parametrize(
    ("stem", "source_type", "source"),
    [
        ("archive_org_philtrans_modern_ocr", "archive_org_philtrans_modern_ocr", "internet_archive_books"),
        ("patents_post1976", "patents_post1976", "big_patent"),
        ("us_patents", "anything", "us_patents"),
        ("my-own-name", "medical_guidelines", "medical_guidelines"),
        ("my-own-name", "classical_rhetoric", "historical_speeches"),
    ],
)
def test_file_name_then_source_type_decide_the_source(tmp_path: Path, stem: str, source_type: str, source: str) -> None:
    write_lines(tmp_path / f"{stem}.jsonl.zst", corpus_row(source_type=source_type))
    assert [document.source for document in DocumentFolder(tmp_path)] == [source]


def test_bad_lines_are_named_and_the_rest_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_LINE_BYTES", 4_000)
    monkeypatch.setattr(folders, "_CHUNK_BYTES", 512)
    write_lines(
        tmp_path / "wikipedia.jsonl.zst",
        b"{not json",
        b"[" * 3_000,
        b'"a string"',
        corpus_row(text="  "),
        corpus_row(year="long ago"),
        corpus_row(text="x" * 9_000),
        b"\xff\xfe",
        corpus_row(title=["a", "list"]),
        b'{"native_id": "a", "source": "no_such", "text": "b"}',
        b'{"native_id": "a", "source": "wikipedia", "text": "half \\ud800 a pair"}',
        corpus_row(),
    )
    folder = DocumentFolder(tmp_path)
    assert [document.native_id for document in folder] == ["euler:0000"]
    assert [skipped.line for skipped in folder.skipped] == list(range(1, 11))
    assert folder.skipped_count == 10
    texts = [str(skipped) for skipped in folder.skipped]
    assert texts[0].startswith("wikipedia.jsonl.zst:1: not JSON")
    assert "longer than 4,000 bytes" in texts[5]
    assert "no_such" in texts[8]
    assert "us_patents" in texts[8], "the sources that are known are listed"


def test_a_file_of_no_known_source_is_refused_with_the_known_names(tmp_path: Path) -> None:
    write_lines(tmp_path / "tweets.jsonl.zst", corpus_row(source_type="tweet"))
    with pytest.raises(ParameterError, match=r"tweets\.jsonl\.zst:1: source_type 'tweet' is unknown.*newspapers_ocr"):
        list(DocumentFolder(tmp_path))


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "contains no documents: mine.jsonl.zst is empty"),
        ([b"", {"id": "a", "body": "b"}], "mine.jsonl.zst:2: `text` is missing"),
        ([{"id": "a", "text": 3}], "mine.jsonl.zst:1: text: must be a string"),
        ([b"{broken"], "mine.jsonl.zst:1: not JSON"),
    ],
)
def test_the_true_fault_is_told_with_file_and_line(tmp_path: Path, lines: list[Any], told: str) -> None:
    for stem in ("mine", "wikipedia"):
        write_lines(tmp_path / f"{stem}.jsonl.zst", *lines)
        with pytest.raises(ParameterError) as caught:
            list(DocumentFolder(tmp_path))
        assert told.replace("mine", stem) in str(caught.value) and "does not belong to a source" not in str(
            caught.value
        )
        (tmp_path / f"{stem}.jsonl.zst").unlink()


def test_a_wrong_folder_is_called_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no documents"):
        summarise([])
    (tmp_path / "letters.txt").write_text("Dear")
    for folder, told in [
        (tmp_path, r"contains no \*.jsonl.zst files, only letters.txt"),
        (tmp_path / "missing", f"the folder {tmp_path / 'missing'} does not exist"),
        (tmp_path / "letters.txt", "is a file, not a folder"),
    ]:
        with pytest.raises(ParameterError, match=told):
            DocumentFolder(folder)


def test_a_small_file_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_FOLDER_BYTES", 3 * 2**20)
    write_lines(tmp_path / "wikipedia.jsonl.zst", b" " * 2**24)
    assert (tmp_path / "wikipedia.jsonl.zst").stat().st_size < 10_000
    with pytest.raises(ParameterError, match="unpacks to more than"):
        list(DocumentFolder(tmp_path))


def test_a_newspaper_page_needs_a_day() -> None:
    with pytest.raises(ValidationError, match="a date"):
        SandboxDocument(source="historical_newspapers", native_id="a", text="b", year=-5)
    page = SandboxDocument(source="historical_newspapers", native_id="a", text="b", year=1888, part_of="issue")
    other = page.model_copy(update={"native_id": "another page of the issue"})
    day = day_of(page)
    assert day is not None
    assert day.year == 1888
    assert day_of(other) == day
    days = {day_of(page.model_copy(update={"part_of": str(number)})) for number in range(200)}
    assert len(days) > 100, "issues spread over the year"


def test_summary_changes_with_any_field_and_with_the_order() -> None:
    first = SandboxDocument(source="wikipedia", native_id="a", text="b", year=2001)
    second = SandboxDocument(source="wikipedia", native_id="c", text="b", year=1999)
    page = SandboxDocument(source="historical_newspapers", native_id="p", text="b", date="1901-02-03")
    summaries = summarise([first, page, second])
    assert list(summaries) == ["historical_newspapers", "wikipedia"]
    assert summaries["wikipedia"].documents == 2
    assert summaries["wikipedia"].years == (1999, 2001)
    assert summaries["historical_newspapers"].days == (date(1901, 2, 3), date(1901, 2, 3))
    assert summarise([page, first, second]) == summaries, "sources do not depend on each other"
    reordered = summarise([second, first])["wikipedia"]
    changed = summarise([first, second.model_copy(update={"author": "me"})])["wikipedia"]
    digests = {summaries["wikipedia"].digest, reordered.digest, changed.digest}
    assert len(digests) == 3
    assert len({summaries["wikipedia"].revision, reordered.revision, changed.revision}) == 3
    assert len(changed.revision) == 40


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no folder of real documents beside the project")
def test_a_folder_of_real_documents_is_read_whole() -> None:
    folder = DocumentFolder(CORPUS)
    counts = {source: summary.documents for source, summary in summarise(folder).items()}
    assert folder.skipped == []
    assert set(ARCHIVE_OF) - set(counts) == {"us_patents", "logical_reasoning"}
    assert min(counts.values()) > 10


def test_what_is_no_file_is_not_waited_for_and_a_linked_one_is_a_file(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    os.mkfifo(folder / "pipe.jsonl.zst")
    (folder / "endless.jsonl.zst").symlink_to("/dev/zero")
    (folder / "nowhere.jsonl.zst").symlink_to(tmp_path / "nowhere")
    (folder / "folder.jsonl.zst").mkdir()
    with pytest.raises(ParameterError, match="contains no"):
        DocumentFolder(folder)
    write_lines(elsewhere, corpus_row())
    (folder / "wikipedia.jsonl.zst").symlink_to(elsewhere)
    assert [document.title for document in DocumentFolder(folder)] == ["Euler"], "a user may link a large file"


def test_a_link_to_something_else_is_refused_without_a_word_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "wikipedia.jsonl.zst").symlink_to(tmp_path / "secret")
    with pytest.raises(ParameterError, match="cannot be unpacked") as error:
        list(DocumentFolder(tmp_path))
    assert "hunter2" not in str(error.value)
