"""Files made to harm the reader: each ends in a reason, in bounded time and memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import resource
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from tasks.sources.files import containers, parsers
from tests.tasks.sources.files.own_folder import docx, packed, tarred, xlsx
from tests.tasks.sources.files.test_own_folder import read

BOMB = bytes(8 * 2**20)


async def reasons(folder: Path) -> dict[str, str]:
    (folder / "good.txt").write_text("A good text beside the hostile one.")
    documents, rejects, _ = await read(folder)
    assert documents.pop("good.txt")
    assert not documents
    return {id: reject.reason for id, reject in rejects.items()}


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "EXPANSION_FLOOR_BYTES", 2**20)
    monkeypatch.setattr(containers, "LARGEST_EXPANSION", 50)


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.compress),
        ("a.csv.xz", lzma.compress),
        ("a.jsonl.bz2", bz2.compress),
        ("a.docx.gz", lambda data: gzip.compress(b"PK\x03\x04" + data)),
        ("a.tar.gz", lambda data: gzip.compress(tarred({"a.txt": data}))),
        ("a.zip", lambda data: packed({"a.txt": data})),
    ],
)
async def test_bombs_of_every_container(tmp_path: Path, name: str, pack: object) -> None:
    body = b'{"text": "' + b" " * 8 * 2**20 + b'"}\n' if name.endswith(("gz", "zst", "xz", "bz2")) else BOMB
    assert callable(pack)
    (tmp_path / name).write_bytes(pack(body))
    assert "expands-too-far" in set((await reasons(tmp_path)).values())


async def test_a_bomb_in_an_office_file(tmp_path: Path) -> None:
    part = b"<w:document xmlns:w='w'>" + b" " * (80 * 2**20) + b"</w:document>"
    (tmp_path / "a.docx").write_bytes(packed({"word/document.xml": part}))
    assert await reasons(tmp_path) == {"a.docx": "expands-too-far"}


async def test_archives_in_archives_end(tmp_path: Path) -> None:
    body = packed({"a.txt": b"A text that is buried too deep to be found."})
    for _ in range(5):
        body = packed({"a.zip": body})
    (tmp_path / "a.zip").write_bytes(body)
    assert list((await reasons(tmp_path)).values()) == ["too-deep"]


async def test_a_directory_of_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MOST_MEMBERS", 10)
    (tmp_path / "a.zip").write_bytes(packed({f"{n}.txt": b"text" for n in range(50)}))
    (tmp_path / "b.tar").write_bytes(tarred({f"{n}.png": b"\x89PNG" for n in range(50)}))
    assert {"a.zip": "too-many-members", "b.tar": "too-many-members"}.items() <= (await reasons(tmp_path)).items()


async def test_members_that_lead_elsewhere(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as zipped:
        zipped.writestr("../../up.txt", b"A text that wants to climb out of the archive.")
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        zipped.writestr(link, "/etc/passwd")
    (tmp_path / "good.txt").write_text("A good text beside the hostile one.")
    documents, rejects, _ = await read(tmp_path)
    assert sorted(documents) == ["b.zip/up.txt", "good.txt"]
    assert {id: reject.reason for id, reject in rejects.items()} == {
        "a.tar/link": "link-in-archive",
        "a.tar/hard": "link-in-archive",
        "a.tar/pipe": "not-a-file",
        "b.zip/link": "link-in-archive",
    }
    assert not (tmp_path.parent.parent / "up.txt").exists()


async def test_a_tar_file_that_leads_backwards(tmp_path: Path) -> None:
    body = bytearray(tarred({"a.png": b"\x89PNG", "b.png": b"\x89PNG"}))
    body[124:136] = b"\xff" * 11 + b"\x00"  # a size below zero
    body[148:156] = b"%06o\0 " % (sum(body[:148]) + 8 * 32 + sum(body[156:512]))
    (tmp_path / "a.tar").write_bytes(body)
    (tmp_path / "b.tar").write_bytes(tarred({"a.png": b"\x89PNG"})[:1024] + b"noise" * 200)
    assert {"a.tar": "broken-file", "b.tar": "broken-file"}.items() <= (await reasons(tmp_path)).items()


async def test_xml_whose_entities_expand_without_end(tmp_path: Path) -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    (tmp_path / "a.xml").write_text(f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]><x>&l9;</x>')
    outside = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e; and more text</x>'
    (tmp_path / "b.xml").write_text(outside)
    (tmp_path / "c.docx").write_bytes(packed({"word/document.xml": outside}))
    assert await reasons(tmp_path) == dict.fromkeys(["a.xml", "b.xml", "c.docx"], "xml-entities")


async def test_nested_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 200_000)
    (tmp_path / "b.html").write_text("<html>" + "<div>" * 200_000)
    (tmp_path / "c.xml").write_text("<?xml version='1.0'?>" + "<a>" * 200_000)
    found = await reasons(tmp_path)
    assert (found["a.json"], found["b.html"], found["c.xml"]) == ("bad-json", "no-text", "broken-file")


async def test_locked_files(tmp_path: Path) -> None:
    body = bytearray(packed({"a.txt": b"A secret text of a zip file."}))
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(magic) + at] |= 1
    (tmp_path / "b.zip").write_bytes(body)
    (tmp_path / "c.docx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    assert await reasons(tmp_path) == {"b.zip/a.txt": "encrypted", "c.docx": "encrypted"}


async def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "parent").symlink_to("..")
    found = await reasons(tmp_path)
    assert found == {"pipe.txt": "not-a-file", "loop.txt": "broken-link", "parent": "outside-folder"}


async def test_a_parser_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(parsers, "SECONDS_A_FILE", 0.5)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.docx").write_bytes(docx("A text that nobody waits for."))
    assert await reasons(tmp_path / "own") == {"a.docx": "too-slow"}


async def test_a_parser_that_dies_takes_only_its_file_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = "import os, tasks.sources.files.office as office\n"
    crash += (
        "read = office.read_docx\noffice.read_docx = lambda path: os.abort() if 'crash' in path.name else read(path)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(crash)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(parsers.ROOT)]))
    own = tmp_path / "own"
    own.mkdir()
    for name in ("a", "b-crash", "c"):
        (own / f"{name}.docx").write_bytes(docx("A text of a Word document."))
    documents, rejects, _ = await read(own)
    assert sorted(documents) == ["a.docx", "c.docx"]
    assert rejects["b-crash.docx"].reason == "parser-crashed"


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not bound the memory of a process")
async def test_a_parser_has_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eat = "import tasks.sources.files.office as office\noffice.read_docx = lambda path: bytearray(3 * 2**30)\n"
    (tmp_path / "sitecustomize.py").write_text(eat)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(parsers.ROOT)]))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.docx").write_bytes(docx("A text that takes much memory."))
    assert await reasons(tmp_path / "own") == {"a.docx": "needs-too-much-memory"}
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


async def test_a_sheet_that_spans_a_million_rows_with_two_cells(tmp_path: Path) -> None:
    body = xlsx([["text"], ["A text in a cell."]])
    parts = {
        info.filename: zipfile.ZipFile(io.BytesIO(body)).read(info)
        for info in zipfile.ZipFile(io.BytesIO(body)).infolist()
    }
    far = b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'
    parts["xl/worksheets/sheet1.xml"] = parts["xl/worksheets/sheet1.xml"].replace(b"</sheetData>", far)
    (tmp_path / "a.xlsx").write_bytes(packed(parts))
    (reason,) = (await reasons(tmp_path)).values()
    assert reason in ("expands-too-far", "needs-too-much-memory", "parser-crashed")


async def test_an_xz_file_that_asks_for_gigabytes(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**29, "mode": lzma.MODE_FAST, "mf": lzma.MF_HC3}]
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(b"text", filters=filters))
    assert await reasons(tmp_path) == {"a.txt.xz": "broken-file"}
