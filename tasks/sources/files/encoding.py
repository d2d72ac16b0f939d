"""The encoding of a text that does not say which one it is in."""

from __future__ import annotations

import codecs
import re

from tasks.sources.files.record import Unreadable

SAMPLE_BYTES = 64 * 2**10
ENCODINGS = (
    *("cp1252", "cp1250", "iso8859_2", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949", "mac_roman", "cp850"),
)
"""What people's files are in, if they are not in Unicode; a longer list is guessed wrong more often."""
WESTERN = ("cp1252", "mac_roman", "cp850")
"""Encodings of the same languages, the likeliest first; two umlauts are too little for a guess by statistics."""
WESTERN_LETTERS = frozenset(
    "äöüßÄÖÜéèêëÉÈÊàâáãåÀÂÁÅçÇñÑóòôõøÓÔØíìîïúùûæœÆŒÿý€£§°«»„“”…·•¿¡©®½¼"
    "\N{NO-BREAK SPACE}\N{EN DASH}\N{EM DASH}\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}"
)
NEARLY = 0.05
"""Two guesses whose mess differs by less are equally good."""
LARGEST_SHARE_OF_STRAY_BYTES = 0.01
REPLACEMENT = "\ufffd"
MIXED = "windows-1252"
"""How to decode UTF-8 with single bytes of Windows-1252 in it."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WINDOWS_CONTROLS = re.compile(rb"[\x80-\x9f]")


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error(MIXED, _as_windows)


def detect_encoding(head: bytes, *, whole: bool = True) -> str | None:
    """Name the codec of a text by its first bytes; none if they are not text.

    If they are not the `whole` text, its last character may be cut in two.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if b"\0" in head:
        return _wide(head)
    if _is_utf8(head, whole=whole):
        return "utf-8"
    if _stray_share(head) < LARGEST_SHARE_OF_STRAY_BYTES:
        return "utf-8"
    return _guess(head)


def decode(data: bytes, declared: str = "") -> tuple[str, str]:
    """Decode a whole text; return it and what its encoding is called.

    Single bytes that do not belong to a text in UTF-8 are read as Windows-1252, which is where they come from. A codec
    that the file itself has `declared` is tried as well.
    """
    if not (encoding := detect_encoding(data)):
        raise Unreadable("not-text", "its bytes are not text in any known encoding")
    for name in dict.fromkeys((encoding, declared) if encoding.startswith("utf") else (declared, encoding)):
        try:
            if name:
                return data.decode(name).removeprefix("\ufeff"), _called(name)
        except (UnicodeDecodeError, LookupError):
            continue
    if encoding == "utf-8":
        stray = len(data) - len(data.decode(errors="ignore").encode())
        return data.decode(errors=MIXED).removeprefix("\ufeff"), f"utf-8 with {stray} bytes of windows-1252"
    raise Unreadable("unknown-encoding", f"looks like {_called(encoding)}, but some of its bytes do not fit")


def _called(codec: str) -> str:
    return {"utf-8-sig": "utf-8", "cp1252": "windows-1252", "cp1250": "windows-1250", "cp1251": "windows-1251"}.get(
        codec, codec
    )


def _wide(head: bytes) -> str | None:
    """Tell UTF-16 without a mark by where its zeros are."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    half = max(1, len(head) // 2)
    if odd > 0.3 * half and even < 0.05 * half:
        return "utf-16-le"
    if even > 0.3 * half and odd < 0.05 * half:
        return "utf-16-be"
    return None


def _is_utf8(head: bytes, *, whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=whole)
    except UnicodeDecodeError:
        return False
    return True


def _stray_share(head: bytes) -> float:
    """Return the share of bytes that do not belong to UTF-8 in a text that is otherwise in it; 1 if it is not."""
    text = head.decode("utf-8", "replace")
    wrong = text.count(REPLACEMENT)
    right = sum(1 for letter in text[:SAMPLE_BYTES] if letter > "\x7f" and letter != REPLACEMENT)
    return wrong / max(1, len(text)) if right > 2 * wrong else 1.0


def _guess(head: bytes) -> str | None:
    from charset_normalizer import from_bytes

    # The part with the most to go by: from the first byte on that is not ASCII.
    first = next((at for at, byte in enumerate(head) if byte > 127), 0)
    start = max(0, first - SAMPLE_BYTES // 4)
    sample = head[start : start + SAMPLE_BYTES]
    found = [
        match
        for match in from_bytes(sample, cp_isolation=list(ENCODINGS), threshold=0.35)
        if match.encoding in ENCODINGS
    ]
    if not found:
        return None
    best = found[0]
    near = {match.encoding for match in found if match.chaos <= best.chaos + NEARLY}
    if best.encoding in ("cp1250", "iso8859_2"):  # Latin texts of which only some letters tell west from east
        if "cp1252" in near or _same(sample, best.encoding, "cp1252"):
            return "cp1252"
        if near >= {"cp1250", "iso8859_2"}:
            return "cp1250" if _WINDOWS_CONTROLS.search(sample) else "iso8859_2"
    if best.encoding in WESTERN:
        return max(WESTERN, key=lambda name: _western_share(sample, name))
    return str(best.encoding)


def _western_share(sample: bytes, encoding: str) -> float:
    """Return which share of the letters beyond ASCII is one that western texts have, if they were in this encoding."""
    beyond = [letter for letter in sample.decode(encoding, "replace") if letter > "\x7f"]
    return sum(letter in WESTERN_LETTERS for letter in beyond) / max(1, len(beyond))


def _same(sample: bytes, one: str, other: str) -> bool:
    return sample.decode(one, "replace") == sample.decode(other, "replace")
