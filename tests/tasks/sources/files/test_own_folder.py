"""A folder of files of every kind, good and bad, is read exactly."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import pytest

from storage.errors import ParameterError
from tasks.sources.catalogue import load_catalogue
from tasks.sources.files.source import LocalFiles
from tasks.sources.own_documents import OwnDocuments, source_name
from tasks.sources.source import Document, Reject
from tests.tasks.sources.conftest import opened
from tests.tasks.sources.files.own_folder import (
    CYRILLIC,
    JAPANESE,
    ROWS,
    WORDS,
    docx,
    files,
    packed,
    tarred,
    write_folder,
)


async def read(path: Path, **said: Any) -> tuple[dict[str, Document], dict[str, Reject], str]:
    """Read a folder as `--path` does: documents and rejects by id, and the remark of the plan."""
    spec = OwnDocuments(str(path), name="own", **said).spec(())
    async with opened(spec) as source:
        outcomes = [outcome for item in await source.plan(1000) async for outcome in source.fetch(item)]
    documents = {one.id.removeprefix("own:"): one for one in outcomes if isinstance(one, Document)}
    rejects = {one.id.removeprefix("own:"): one for one in outcomes if isinstance(one, Reject)}
    assert len(documents) + len(rejects) == len(outcomes)
    return documents, rejects, source.remark


LETTER = "A letter that somebody packed, of more than twenty letters."
TEXTS = {
    "texts/plain.txt": "A plain letter in ASCII, which is the simplest case of all.",
    "texts/utf8.TXT": WORDS,
    "texts/bom.txt": WORDS,
    "texts/windows.txt": WORDS,
    "texts/mac.txt": f"Lettre à André: «{WORDS}», écrite le 3 août.",
    "texts/cyrillic.txt": CYRILLIC * 3,
    "texts/japanese.txt": JAPANESE * 3,
    "texts/utf16.txt": WORDS,
    "texts/utf16-unmarked.txt": WORDS,
    "texts/stray.txt": WORDS * 3 + " It cost £5.",
    "texts/without-ending": "A text in a file whose name has no ending at all.",
    "names/1912-03-04 Letter to Ada.txt": "Dear Ada, the fourth of March was a cold day.",
    "names/Darwin, Charles - On Species (1859).txt": "When on board H.M.S. Beagle, as naturalist.",
    "names/1914-1918/trench.txt": "A letter out of the trench, which came late.",
    "names/pg158.txt": "Emma Woodhouse, handsome, clever, and rich.",
    "described/b.txt": "The text of the letter that a table describes.",
    "docs/note.md": "# H\n\nThe text of a note.",
    "docs/page.html": "On Tea\n\nTea is hot & good.\nYes, it is.",
    "docs/page-named.txt": "On Coffee\n\nTea is hot & good.\nYes, it is.",
    "docs/letter.xml": "My dear Babbage, cafés are closed.\n\nI am working very hard.",
    "docs/book.epub": "Call me Ishmael.\n\nThe second chapter of it.",
    "docs/memoir.docx": "The first paragraph.\n\nThe second paragraph.",
    "docs/open.odt": "An open document text.\n\nIts second paragraph.",
    "docs/scan.PDF": "The text of a PDF file.\nIts second line.",
    "docs/report.bin": "A PDF file with another ending.",
    "bad/short.txt": "Short.",
    "packed/e.docx.gz": "A packed Word document.",
    "packed/f.zip/in/one.txt": LETTER,
    "packed/f.zip/in/two.pdf": "A PDF file in an archive.",
    "packed/f.zip/inner.zip/deep.md": "# Deep\n\nAn archive in an archive.",
    "packed/g.tar.gz/t/one.txt": LETTER,
    **{f"packed/{name}": LETTER for name in ("a.txt.gz", "b.txt.bz2", "c.txt.XZ", "d.txt.zst")},
    **{
        f"{table}:{number}": str(row["text"])
        for table in (
            *("tables/comma.csv", "tables/semicolon.csv", "tables/tabs.TSV", "tables/lines.ndjson"),
            *("tables/lines.jsonl.zst", "tables/array.json", "tables/object.json", "tables/table.parquet"),
            *("tables/book.xlsx", "packed/f.zip/in/t.csv"),
        )
        for number, row in enumerate(ROWS)
    },
}
ABOUT = {
    "names/1912-03-04 Letter to Ada.txt": ("Letter to Ada", None, 1912, "1912-03-04"),
    "names/Darwin, Charles - On Species (1859).txt": ("On Species", "Darwin, Charles", 1859, None),
    "names/1914-1918/trench.txt": ("trench", None, 1918, None),
    "names/pg158.txt": ("Emma", "Jane Austen", 1815, None),
    "described/b.txt": ("The B Letter", "Bob", 1875, None),
    "docs/note.md": ("Front", "M. Arkdown", 1931, "1931-05-01"),
    "docs/page.html": ("On Tea", "A. Bee", 1899, "1899-03-01"),
    "docs/letter.xml": ("A Letter to Babbage", "Ada Lovelace", 1843, "1843-07-05"),
    "docs/book.epub": ("The Whale", "H. Melville", 1851, None),
    "docs/memoir.docx": ("Memoir", "W. Ord", None, None),
    "docs/open.odt": ("Open", "O. Dette", None, None),
    "docs/scan.PDF": ("A Scan", "P. D. Effe", None, None),
    "tables/array.json:0": ("First", "A. One", 1881, None),
    "tables/book.xlsx:1": ("Second", None, 1882, None),
    "tables/semicolon.csv:0": ("First", None, 1881, None),
}
REASONS = {
    "bad/\\xff\\xfe.txt": "bad-file-name",
    "bad/circle": "link-to-folder",
    "bad/nowhere.txt": "broken-link",
    "bad/outside.txt": "outside-folder",
    "bad/empty.txt": "empty-file",
    "bad/picture.jpg": "unsupported-kind",
    "bad/program.py": "unsupported-kind",
    "bad/old.doc": "unsupported-kind",
    "bad/rich.rtf": "unsupported-kind",
    "bad/noise.txt": "not-text",
    "bad/broken.pdf": "broken-file",
    "bad/broken.docx": "broken-file",
    "bad/fake.epub": "broken-file",
    "bad/blank.pdf": "no-text",
    "bad/locked.pdf": "encrypted",
    "bad/error.txt": "error-page",
    "bad/numbers.csv": "missing-text",
    "described/inventory.csv:line 3": "no-such-file",
    "packed/f.zip/in/picture.png": "unsupported-kind",
    "packed/g.tar.gz/t/empty.txt": "empty-file",
}


async def test_every_file_is_read_or_rejected_with_its_reason(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert len(files()) > 40
    documents, rejects, remark = await read(tmp_path)
    assert {id: document.text for id, document in documents.items()} == TEXTS
    about = {id: (d.title, d.author, d.year, d.date) for id, d in documents.items() if id in ABOUT}
    assert about == ABOUT
    assert {id: reject.reason for id, reject in rejects.items()} == REASONS
    assert "'a', 'b'. Name the right one with --text-column NAME" in rejects["bad/numbers.csv"].detail
    assert remark == "hidden files are not read: .DS_Store; described/inventory.csv describes 1 of the files"
    guessed = {id: d.extra["encoding"] for id, d in documents.items() if "encoding" in d.extra}
    assert guessed["texts/windows.txt"] == "windows-1252"
    assert guessed["texts/stray.txt"] == "utf-8 with 1 bytes of windows-1252"


async def test_a_column_whose_name_ends_like_one_of_texts_is_taken_if_it_is_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text(f"Headline;Article Text;Published\nA Title;{LETTER};1901-02-03\n")
    (tmp_path / "two.csv").write_text(f"alt_text;caption_text\n{LETTER};{LETTER}\n")
    documents, rejects, _ = await read(tmp_path)
    assert [(d.text, d.title, d.date) for d in documents.values()] == [(LETTER, "A Title", "1901-02-03")]
    assert [(reject.url, reject.reason) for reject in rejects.values()] == [("two.csv", "missing-text")]


async def test_a_column_of_texts_may_be_named_and_rows_may_say_their_kind(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Betreff,Source-Type,year\nA text in a cell,lab_notebook,1901\nAnother,nonsense,\n")
    documents, _, _ = await read(tmp_path, text_column="betreff", source_type="wiki")
    assert [(d.text, d.source_type, d.year) for d in documents.values()] == [
        ("A text in a cell", "lab_notebook", 1901),
        ("Another", "wiki", None),
    ]


@pytest.mark.parametrize("name", ["box.zip", "box.tar", "box.tar.gz", "outer.zip"])
async def test_a_table_in_an_archive_describes_the_files_beside_it(name: str, tmp_path: Path) -> None:
    table = b"file;title;author;year\nb.txt;The B Letter;Bob;1875\nlost.txt;Lost;;1\n"
    # The table comes last, where an archive that is read as a stream shows it too late.
    parts = {"in/a.txt": LETTER.encode(), "in/b.txt": f"{LETTER} Two.".encode(), "in/inventory.csv": table}
    match name.partition("."):
        case "box", _, "zip":
            content = packed(parts)
        case "outer", _, _:
            content = packed({"box.zip": packed(parts)})
        case _:
            content = tarred(parts)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    documents, rejects, _ = await read(tmp_path)
    inside = f"{name}/box.zip/in" if name == "outer.zip" else f"{name}/in"
    found = {id.removeprefix(f"{inside}/"): (d.title, d.author, d.year) for id, d in documents.items()}
    assert found == {"a.txt": ("a", None, None), "b.txt": ("The B Letter", "Bob", 1875)}
    (table_reject,) = rejects.values()
    assert (table_reject.url, table_reject.reason) == (f"{inside}/inventory.csv", "describes-files")
    assert "describes 1 of the files beside it" in table_reject.detail
    assert "not there: 'lost.txt' (line 3)" in table_reject.detail


async def test_letters_that_are_lost_are_counted_or_refused(tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("A text that lost one \ufffd letter before it came here.")
    (tmp_path / "many.csv").write_text("text\n\ufffd\ufffd\ufffd l\ufffdst\n")
    documents, rejects, _ = await read(tmp_path)
    assert documents["few.txt"].extra == {"replacement_characters": 1}
    assert rejects["many.csv:0"].reason == "garbled"


async def test_the_years_of_office_files_are_believed_only_before_there_were_any(tmp_path: Path) -> None:
    (tmp_path / "old.docx").write_bytes(docx("An old text", created="1923-05-01T00:00:00Z"))
    (tmp_path / "new.docx").write_bytes(docx("A new text", created="2019-05-01T00:00:00Z"))
    documents, _, _ = await read(tmp_path)
    assert {id: d.year for id, d in documents.items()} == {"old.docx": 1923, "new.docx": None}


async def test_without_the_extra_a_file_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hide").mkdir()
    for module in ("pypdfium2", "python_calamine"):
        (tmp_path / "hide" / f"{module}.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hide"))
    content = {
        name: body for name, body in files().items() if name in ("docs/scan.PDF", "tables/book.xlsx", "docs/note.md")
    }
    for name, body in content.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_bytes(body)
    documents, rejects, _ = await read(tmp_path / "own")
    assert list(documents) == ["docs/note.md"]
    assert {reject.reason for reject in rejects.values()} == {"needs-extra"} and len(rejects) == 2
    assert all("--extra documents" in reject.detail for reject in rejects.values())


def test_a_source_is_named_after_its_folder_and_changes_with_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "My Letters (1912)"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    first = OwnDocuments(str(folder)).spec(load_catalogue())
    assert (first.name, first.source_type, first.trivium) == ("my_letters_1912", "unknown", None)
    assert OwnDocuments(str(folder)).spec(()).snapshot == first.snapshot
    (folder / "b.txt").write_text("two")
    assert OwnDocuments(str(folder)).spec(()).snapshot != first.snapshot
    assert source_name(Path("wikipedia.txt"), {"wikipedia"}) == "wikipedia_documents"
    with pytest.raises(ParameterError, match="cannot be read"):
        OwnDocuments(str(tmp_path / "nothing")).spec(())


async def test_counting_parses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    monkeypatch.setattr(sys, "executable", "/nowhere")  # no parser can start
    spec = OwnDocuments(str(tmp_path), name="own").spec(())
    (tmp_path / "tables" / "book.xlsx").unlink()  # the one kind whose rows only its parser knows
    source = LocalFiles(spec, 2026)
    assert len(await source.plan(1000)) > 10
    await source.aclose()
