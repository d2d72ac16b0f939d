"""Writes a folder as people have them: documents of every kind, packed and broken ones, and what is none."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

WORDS = "Ich schrieb den Brief am Fenster, während draußen die Straßenbahn fuhr, und dachte an Zürich."
CYRILLIC = "Дорогой Иван, пишу тебе из Москвы. Зима была холодная, но мы все здоровы."
JAPANESE = "拝啓、春の候、ますますご清栄のこととお慶び申し上げます。先日の手紙をありがとう。"
ROWS = [
    {"title": "First", "text": "The first row of a table, long enough to be kept.", "year": 1881, "author": "A. One"},
    {"title": "Second", "text": "The second row of a table, with a comma; and a semicolon.", "year": 1882},
]


def pdf(text: str = "", title: str = "", *, encrypted: bool = False, made: str = "") -> bytes:
    """Make a PDF file of one page."""
    lines = "".join(f"({line}) Tj 0 -14 Td " for line in text.split("\n")) if text else ""
    content = f"BT /F1 12 Tf 72 720 Td {lines}ET".encode("latin-1")
    key = "<" + "00" * 32 + ">"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Title ({title}) /Author (P. D. Effe) /CreationDate ({made}) >>".encode("latin-1"),
        f"<< /Filter /Standard /V 1 /R 2 /O {key} /U {key} /P -4 >>".encode(),
    ]
    body, places = b"%PDF-1.4\n", []
    for number, part in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    lock = f"/Encrypt 7 0 R /ID [<{'11' * 16}> <{'11' * 16}>]" if encrypted else ""
    trailer = f"trailer << /Size 8 /Root 1 0 R /Info 6 0 R {lock} >>\nstartxref\n{len(body)}\n%%EOF\n"
    return body + b"xref\n0 8\n0000000000 65535 f \n" + table + trailer.encode()


def packed(parts: Mapping[str, str | bytes]) -> bytes:
    """Make a zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(parts: Mapping[str, bytes], mode: str = "w") -> bytes:
    """Make a tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def docx(text: str, title: str = "", created: str = "2019-01-01T00:00:00Z") -> bytes:
    """Make a Word document; each line is a paragraph."""
    w = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    body = "".join(f"<w:p><w:r><w:t>{escape(line)}</w:t></w:r></w:p>" for line in text.split("\n"))
    deleted = "<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>"
    core = (
        f'<cp:coreProperties xmlns:cp="c" xmlns:dc="d" xmlns:dcterms="t"><dc:title>{title}</dc:title>'
        f"<dc:creator>W. Ord</dc:creator><dcterms:created>{created}</dcterms:created></cp:coreProperties>"
    )
    return packed(
        {
            "[Content_Types].xml": "<Types/>",
            "word/document.xml": f"<w:document {w}><w:body>{body}{deleted}</w:body></w:document>",
            "docProps/core.xml": core,
        }
    )


def odt(text: str) -> bytes:
    """Make an OpenDocument text."""
    names = 'xmlns:office="o" xmlns:text="t" xmlns:meta="m" xmlns:dc="d"'
    body = "".join(f"<text:p>{escape(line)}</text:p>" for line in text.split("\n"))
    return packed(
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "content.xml": f"<office:document {names}><office:body>{body}</office:body></office:document>",
            "meta.xml": f"<office:document-meta {names}><dc:title>Open</dc:title>"
            "<meta:initial-creator>O. Dette</meta:initial-creator></office:document-meta>",
        }
    )


def epub(chapters: list[str], date: str = "1851") -> bytes:
    """Make an e-book."""
    pages = {f"OEBPS/c{n}.xhtml": f"<html><body><p>{escape(text)}</p></body></html>" for n, text in enumerate(chapters)}
    items = "".join(f'<item id="c{n}" href="c{n}.xhtml"/>' for n in range(len(chapters)))
    spine = "".join(f'<itemref idref="c{n}"/>' for n in reversed(range(len(chapters))))
    opf = (
        '<package xmlns:dc="d"><metadata><dc:title>The Whale</dc:title><dc:creator>H. Melville</dc:creator>'
        f"<dc:date>{date}</dc:date><dc:language>en</dc:language></metadata>"
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    return packed(
        {"mimetype": "application/epub+zip", "META-INF/container.xml": container, "OEBPS/book.opf": opf, **pages}
    )


def xlsx(rows: list[list[str | int]]) -> bytes:
    """Make a workbook of one sheet."""

    def cell(value: str | int) -> str:
        if isinstance(value, int):
            return f"<c><v>{value}</v></c>"
        return f'<c t="inlineStr"><is><t>{escape(value)}</t></is></c>'

    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    data = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
    return packed(
        {
            "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
            "_rels/.rels": f'<Relationships xmlns="{package}"><Relationship Id="r1" Type="{office}/officeDocument"'
            ' Target="xl/workbook.xml"/></Relationships>',
            "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
            '<sheet name="Letters" sheetId="1" r:id="r1"/></sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}"><Relationship Id="r1"'
            f' Type="{office}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
            "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{data}</sheetData></worksheet>',
        }
    )


TEI = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE TEI SYSTEM "tei.dtd">
<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader><fileDesc><titleStmt><title>A Letter to Babbage</title>
<author>Ada Lovelace</author></titleStmt><publicationStmt><date when="2011"/></publicationStmt>
<sourceDesc><p>Manuscript <date when="1843-07-05">5 July</date></p></sourceDesc></fileDesc></teiHeader>
<text><body><p>My dear Babbage, caf&eacute;s are closed.</p><p>I am working very hard.</p></body></text></TEI>"""
PAGE = """<!DOCTYPE html><html lang="en"><head><title>On Tea</title><meta name="author" content="A. Bee">
<meta name="date" content="1899-03-01"><style>p { color: red }</style></head><body><h1>On Tea</h1>
<p>Tea is   hot &amp; good.<br>Yes, it is.</p><script>alert("never seen")</script></body></html>"""
GUTENBERG = """The Project Gutenberg eBook of Emma

Title: Emma

Author: Jane Austen

Release date: August 1, 1994 [eBook #158]

Language: English

Original publication: London, 1815

*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***

Produced by volunteers

Emma Woodhouse, handsome, clever, and rich.

*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***
This licence is not part of the book."""


def csv_of(delimiter: str, text: str = "text") -> str:
    """Write the rows of a table as CSV."""
    lines = [delimiter.join(["title", text, "year"])]
    return "\n".join([*lines, *(f'{r["title"]}{delimiter}"{r["text"]}"{delimiter}{r["year"]}' for r in ROWS)]) + "\n"


def files() -> dict[str, bytes]:
    """Return the files by their path."""
    row_lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), table)
    workbook = [["Title", "Body", "Year"], *([str(r["title"]), str(r["text"]), int(str(r["year"]))] for r in ROWS)]
    letter = b"A letter that somebody packed, of more than twenty letters."
    return {
        # Texts in every encoding.
        "texts/plain.txt": b"A plain letter in ASCII, which is the simplest case of all.",
        "texts/utf8.TXT": WORDS.encode(),
        "texts/bom.txt": WORDS.encode("utf-8-sig"),
        "texts/windows.txt": WORDS.encode("cp1252"),
        "texts/mac.txt": f"Lettre à André: «{WORDS}», écrite le 3 août.".encode("mac_roman"),
        "texts/cyrillic.txt": (CYRILLIC * 3).encode("cp1251"),
        "texts/japanese.txt": (JAPANESE * 3).encode("cp932"),
        "texts/utf16.txt": WORDS.encode("utf-16"),
        "texts/utf16-unmarked.txt": WORDS.encode("utf-16-le"),
        "texts/stray.txt": (WORDS * 3).encode() + b" It cost \xa35.",
        "texts/without-ending": b"A text in a file whose name has no ending at all.",
        # What names say.
        "names/1912-03-04 Letter to Ada.txt": b"Dear Ada, the fourth of March was a cold day.",
        "names/Darwin, Charles - On Species (1859).txt": b"When on board H.M.S. Beagle, as naturalist.",
        "names/1914-1918/trench.txt": b"A letter out of the trench, which came late.",
        "names/pg158.txt": GUTENBERG.encode(),
        # What a table says.
        "described/b.txt": b"The text of the letter that a table describes.",
        "described/inventory.csv": b"file;title;author;year\nb.txt;The B Letter;Bob;1875\nlost.txt;Lost;;1\n",
        # Documents.
        "docs/note.md": b"---\ntitle: Front\nauthor: M. Arkdown\ndate: 1931-05-01\n---\n# H\n\nThe text of a note.",
        "docs/page.html": PAGE.encode(),
        "docs/page-named.txt": PAGE.replace("On Tea", "On Coffee").encode(),
        "docs/letter.xml": TEI.encode(),
        "docs/book.epub": epub(["The second chapter of it.", "Call me Ishmael."]),
        "docs/memoir.docx": docx("The first paragraph.\nThe second paragraph.", "Memoir"),
        "docs/open.odt": odt("An open document text.\nIts second paragraph."),
        "docs/scan.PDF": pdf("The text of a PDF file.\nIts second line.", "A Scan", made="D:20150101"),
        "docs/report.bin": pdf("A PDF file with another ending."),
        # Tables.
        "tables/comma.csv": csv_of(",").encode(),
        "tables/semicolon.csv": csv_of(";", "Content").encode("cp1252"),
        "tables/tabs.TSV": csv_of("\t", "body").encode("utf-16"),
        "tables/lines.ndjson": row_lines.encode(),
        "tables/lines.jsonl.zst": zstandard.compress(row_lines.encode()),
        "tables/array.json": json.dumps(ROWS).encode(),
        "tables/object.json": json.dumps({"count": 2, "rows": ROWS}).encode(),
        "tables/table.parquet": table.getvalue(),
        "tables/book.xlsx": xlsx(workbook),  # type: ignore[arg-type]
        # Packed.
        "packed/a.txt.gz": gzip.compress(letter),
        "packed/b.txt.bz2": bz2.compress(letter),
        "packed/c.txt.XZ": lzma.compress(letter),
        "packed/d.txt.zst": zstandard.compress(letter),
        "packed/e.docx.gz": gzip.compress(docx("A packed Word document.", "Packed")),
        "packed/f.zip": packed(
            {
                "in/one.txt": letter,
                "in/t.csv": csv_of(","),
                "in/two.pdf": pdf("A PDF file in an archive."),
                "inner.zip": packed({"deep.md": "# Deep\n\nAn archive in an archive."}),
                "in/picture.png": b"\x89PNG\r\n\x1a\n",
                "__MACOSX/in/._one.txt": b"\0",
            }
        ),
        "packed/g.tar.gz": tarred({"t/one.txt": letter, "t/empty.txt": b""}, "w:gz"),
        # What is no document.
        "bad/empty.txt": b"",
        "bad/short.txt": b"Short.",
        "bad/picture.jpg": b"\xff\xd8\xff\xe0" + bytes(100),
        "bad/program.py": b"print('a program that nobody wants to read')\n",
        "bad/noise.txt": bytes(range(256)) * 8,
        "bad/broken.pdf": b"%PDF-1.4 and then nothing of the kind",
        "bad/blank.pdf": pdf(),
        "bad/locked.pdf": pdf("secret", encrypted=True),
        "bad/broken.docx": b"PK\x03\x04 and then nothing of the kind",
        "bad/fake.epub": b"A text that somebody called an e-book.",
        "bad/numbers.csv": b"a,b\n1,2\n3,4\n",
        "bad/error.txt": b"<html><head><title>404 Not Found</title></head><body>Not here.</body></html>",
        "bad/old.doc": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
        "bad/rich.rtf": b"{\\rtf1 A Rich Text file.}",
        ".DS_Store": b"\0",
    }


def write_folder(folder: Path) -> None:
    """Write the files, a name that is not UTF-8, and links that lead out of the folder."""
    for name, content in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with open(os.fsencode(folder) + b"/bad/\xff\xfe.txt", "wb") as file:
        file.write(b"A text whose name is not UTF-8, in some old encoding.")
    (folder / "bad" / "outside.txt").symlink_to("/etc/hostname")
    (folder / "bad" / "nowhere.txt").symlink_to("nothing")
    (folder / "bad" / "circle").symlink_to(".")
