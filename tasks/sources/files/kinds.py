"""What kind of file a file is: told by its first bytes, and by the ending of its name where they leave it open."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from tasks.sources.files.encoding import detect_encoding
from tasks.sources.files.record import Unreadable

HEAD_BYTES = 64 * 2**10
PACKINGS = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst"}
PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zstd")
ENDINGS = {
    **dict.fromkeys(("txt", "text", "asc", "rst", "org", "tex", "adoc", "log", "srt", "vtt"), "text"),
    **dict.fromkeys(("md", "markdown", "mkd"), "markdown"),
    **dict.fromkeys(("html", "htm", "xhtml", "shtml"), "html"),
    **dict.fromkeys(("xml", "tei", "alto"), "xml"),
    **dict.fromkeys(("csv", "tsv", "tab"), "csv"),
    **dict.fromkeys(("jsonl", "ndjson", "jsonlines"), "jsonl"),
    **dict.fromkeys(("xlsx", "xlsm", "xls", "xlsb", "ods"), "sheet"),
    **{name: name for name in ("json", "pdf", "epub", "docx", "odt", "parquet", "zip", "tar")},
    "docm": "docx",
    "pq": "parquet",
    "tgz": "tar",
}
"""The kind that an ending, in any case, names."""
DOCUMENTS = frozenset({"text", "markdown", "html", "xml", "pdf", "epub", "docx", "odt"})
"""Kinds that are one document a file."""
TABLES = frozenset({"csv", "json", "jsonl", "parquet", "sheet"})
ARCHIVES = frozenset({"zip", "tar"})
NOT_DOCUMENTS = frozenset(
    (
        *("py", "js", "ts", "c", "h", "cpp", "java", "go", "rs", "rb", "sh", "bat", "ps1", "css", "scss", "toml"),
        *("yaml", "yml", "ini", "cfg", "lock", "map", "sql", "r", "ipynb"),
    )
)
"""Endings of text that nobody wrote to be read."""

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"BM", b"\0\0\0\x0cjP")
_MOVING = (b"RIFF", b"ID3", b"OggS", b"fLaC", b"\x1aE\xdf\xa3")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OFFICE = {
    "word/document.xml": "docx",
    "xl/workbook.xml": "sheet",
    "xl/workbook.bin": "sheet",
    "ppt/presentation.xml": "pptx",
}
_MIME = {
    b"application/epub+zip": "epub",
    b"application/vnd.oasis.opendocument.text": "odt",
    b"application/vnd.oasis.opendocument.spreadsheet": "sheet",
}


def packing_of(head: bytes) -> str | None:
    """Name the packing of a file by its first bytes."""
    return next((name for magic, name in PACKINGS.items() if head.startswith(magic)), None)


def ending_of(name: str) -> str:
    """Return the last ending of a name, without the dot and that of its packing, in small letters."""
    name = PurePosixPath(name).name.lower()
    for ending in PACKED_ENDINGS:
        name = name.removesuffix(ending)
    return name.rpartition(".")[2] if "." in name else ""


def unpacked_name(name: str) -> str:
    """Return the name of what a packed file holds."""
    for ending in PACKED_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name[: -len("tgz")] + "tar" if name.lower().endswith(".tgz") else name


def kind_of(head: bytes, name: str, path: Path | None = None) -> str:
    """Tell the kind of an unpacked file by its first bytes and its name; a zip file at `path` is looked into."""
    ending = ending_of(name)
    if not head:
        raise Unreadable("empty-file", f"{PurePosixPath(name).name} has 0 bytes")
    if b"%PDF-" in head[:1024]:
        return "pdf"
    if head.startswith(b"PK\x03\x04") or head.startswith(b"PK\x05\x06"):
        return _kind_of_zip(head, ending, path)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head[257:262] == b"ustar":
        return "tar"
    if head.startswith(_OLE):
        return _kind_of_ole(ending)
    if head.startswith(b"{\\rtf"):
        raise Unreadable("unsupported-kind", "a Rich Text file; save it as .docx, .odt or .txt")
    if head.startswith(_PICTURES) or head[4:8] == b"ftyp" or head.startswith(_MOVING):
        raise Unreadable("unsupported-kind", "a picture, sound or film; only texts are read")
    return _kind_of_text(head, ending)


def _kind_of_zip(head: bytes, ending: str, path: Path | None) -> str:
    if head[30:38] == b"mimetype":
        kind = next((kind for mime, kind in _MIME.items() if head[38:].startswith(mime)), None)
        if kind:
            return kind
    named = ENDINGS.get(ending)
    if named in ("docx", "epub", "odt", "sheet", "zip"):
        return named
    if path is not None:
        from tasks.sources.files.containers import zip_names

        names = zip_names(path)
        kind = next((kind for part, kind in _OFFICE.items() if part in names), "zip")
        if kind == "pptx":
            raise Unreadable("unsupported-kind", "a presentation; save its text as .docx, .odt or .txt")
        return "epub" if "META-INF/container.xml" in names else kind
    return "zip"


def _kind_of_ole(ending: str) -> str:
    if ENDINGS.get(ending) == "sheet":
        return "sheet"
    if ending in ("docx", "xlsx", "docm"):
        raise Unreadable("encrypted", f"a .{ending} file that is locked with a password; save it without one")
    raise Unreadable("unsupported-kind", "a file of Office 97 to 2003; save it as .docx, .odt or .txt")


def _kind_of_text(head: bytes, ending: str) -> str:
    named = ENDINGS.get(ending)
    encoding = detect_encoding(head, whole=len(head) < HEAD_BYTES)
    if encoding is None:
        detail = f"its bytes are not those of a .{ending} file" if named else "its bytes are not text"
        raise Unreadable("not-text" if named in (None, "text", "markdown") else "broken-file", detail)
    start = head.decode(encoding, "ignore").lstrip("\ufeff \t\r\n")[:4096]
    control = sum(1 for letter in start if letter < " " and letter not in "\t\n\r\f\x0b\x1a\x1b")
    if control > len(start) / 50:
        raise Unreadable("not-text", "its bytes are not text")
    small = start[:512].lower()
    if small.startswith(("<!doctype html", "<html", "<head", "<body")) or (
        small.startswith(("<?xml", "<!--")) and "<html" in start.lower()
    ):
        return "html"
    if named in ("pdf", "docx", "epub", "odt", "parquet", "zip", "tar", "sheet"):
        raise Unreadable("broken-file", f"its bytes are not those of a .{ending} file")
    if start.startswith("<?xml") or (named == "xml" and start.startswith("<")):
        return "xml"
    if named == "html" and "<" not in start:
        return "text"
    if named in ("json", "jsonl") or (named in (None, "text") and start.startswith('{"')):
        return _kind_of_json(start, named)
    if named is None and ending in NOT_DOCUMENTS:
        raise Unreadable(
            "unsupported-kind", f"a .{ending} file, which is code or settings; rename it to .txt to read it"
        )
    return "text" if named in (None, "xml") else named


def _kind_of_json(start: str, named: str | None) -> str:
    first, newline, rest = start.partition("\n")
    if named == "jsonl":
        return "json" if start.startswith("[") else "jsonl"
    try:
        is_object = isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        is_object = False
    if is_object and newline and rest.strip():
        return "jsonl"
    return "json" if named == "json" else "jsonl" if is_object else "text"
