"""Title, author and year out of a file's name, its front matter, or the frame of Project Gutenberg."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from tasks.sources.files.record import FileText

FIRST_YEAR = 1400
_DAY = r"(?:0[1-9]|[12]\d|3[01])"
_MONTH = r"(?:0[1-9]|1[0-2])"
_COMPACT_DATE = re.compile(rf"(?<!\d)(1[4-9]\d\d|20\d\d)({_MONTH})({_DAY})(?!\d)")
_DATE = re.compile(rf"(?<!\d)(1[4-9]\d\d|20\d\d)[-_. ]({_MONTH})(?:[-_. ]({_DAY}))?(?!\d)")
_YEARS = re.compile(r"(?<![0-9A-Za-z])((?:1[4-9]|20)\d\d)(?:\s?[-\u2013]\s?((?:1[4-9]|20)\d\d))?(?![0-9A-Za-z])")
_LEADING_DATE = re.compile(rf"(?:1[4-9]|20)\d\d(?:[-. ]?{_MONTH}(?:[-. ]?{_DAY})?)?[-. ]+(?=[^\W\d])")
_AUTHOR_TITLE_YEAR = re.compile(r"(?P<author>[^()]{2,80}?) - (?P<title>.{2,200}?) \((?P<year>\d{4})\)")
_LAST_FIRST = re.compile(r"(?P<author>[^\W\d][\w'.]+, [^\W\d][\w'. ]*?) - (?P<title>.{2,200})")

_FRONT_MATTER = re.compile(r"---[ \t]*\n(?P<fields>(?:[^\n]{0,2000}\n){1,60}?)---[ \t]*(?:\n|$)")
_FIELD = re.compile(r"(?P<name>[A-Za-z_-]{2,30}):[ \t]*(?P<value>.+?)[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"\s*# +(?P<title>[^\n]{1,200}?)[ #]*(?:\n|$)")

_GUTENBERG = re.compile(r"project gutenberg", re.IGNORECASE)
_START = re.compile(
    r"^\s*(?:\*\*\* ?START OF (?:THIS|THE) PROJECT GUTENBERG.*?\*\*\*|\*END\*? ?THE SMALL PRINT!.*?\*END\*)[^\n]*$",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
_END = re.compile(
    r"^\s*(?:\*\*\* ?END OF (?:THIS|THE) PROJECT GUTENBERG|End of (?:The |this )?Project Gutenberg)",
    re.IGNORECASE | re.MULTILINE,
)
_FRAME_FIELD = re.compile(
    r"^(Title|Author|Language|Original publication|Translator):[ \t]*(.+(?:\n[ \t]{4,}\S.*)*)$", re.MULTILINE
)
_NUMBER = re.compile(r"(?:EBook|eText|Etext)\s*(?:#|No\.)\s*(\d{1,6})", re.IGNORECASE)
_CREDITS = re.compile(r"\s*(?:Produced by|E-text prepared by|\[Transcriber's note)[^\n]*(?:\n[^\n]+)*\n", re.IGNORECASE)
LONGEST_FRAME_CHARS = 40_000


def fields_of_name(file: str, current_year: int) -> dict[str, str]:
    """Return what the path of a file says: its date or years, its author and its title."""
    path = PurePosixPath(file)
    stem = path.name.split(".")[0] if path.name.count(".") > 1 and not re.search(r"\d\.\d", path.name) else path.stem
    fields = {"title": title_of(path.stem) or path.name}
    if match := _AUTHOR_TITLE_YEAR.fullmatch(stem) or _LAST_FIRST.match(stem):
        fields |= {"author": match["author"].strip(), "title": match["title"].strip()}
    for part in (stem, *(parent.name for parent in path.parents)):
        if when := date_in(part, current_year):
            return fields | {"date": when}
    return fields


def title_of(stem: str) -> str:
    """Return the words of a name, without the date that it begins with."""
    plain = stem.replace("_", " ").strip()
    return _LEADING_DATE.sub("", plain) or plain


def date_in(name: str, current_year: int) -> str:
    """Return the one date, year or span of years in a name; empty if there is none, or several."""
    for pattern in (_DATE, _COMPACT_DATE):
        if (match := pattern.search(name)) and int(match[1]) <= current_year:
            return "-".join(part for part in match.groups() if part)
    found = {match.groups() for match in _YEARS.finditer(name)}
    if len(found) != 1:
        return ""
    first, last = found.pop()
    if not FIRST_YEAR <= int(first) <= int(last or first) <= current_year:
        return ""
    return f"{first}-{last}" if last else first


def read_frame(found: FileText) -> FileText:
    """Take Project Gutenberg's frame off a text and use it as metadata; other texts stay as they are."""
    text = found.text
    head = text[:LONGEST_FRAME_CHARS]
    start = _START.search(head) if _GUTENBERG.search(head[:5000]) else None
    if start is None:
        return found
    fields = {name.lower(): " ".join(value.split()) for name, value in _FRAME_FIELD.findall(head[: start.end()])}
    tail_from = max(start.end(), len(text) - LONGEST_FRAME_CHARS)
    end = _END.search(text, tail_from) or _END.search(text, start.end())
    body = text[start.end() : end.start() if end else len(text)]
    if credits := _CREDITS.match(body):
        body = body[credits.end() :]
    number = _NUMBER.search(head)
    return FileText(
        body.strip(),
        title=fields.get("title") or found.title,
        author=fields.get("author") or found.author,
        # Never the date of the release, which is when volunteers typed it.
        date=fields.get("original publication", ""),
        language=fields.get("language") or found.language,
        extra=found.extra | ({"gutenberg": number[1]} if number else {}),
    )


def read_front_matter(text: str) -> FileText:
    """Read a Markdown text: the fields above it, and its first heading as title."""
    fields: dict[str, str] = {}
    if match := _FRONT_MATTER.match(text):
        fields = {field["name"].lower(): field["value"].strip("\"'") for field in _FIELD.finditer(match["fields"])}
        text = text[match.end() :] if fields else text
    heading = _HEADING.match(text)
    return FileText(
        text,
        title=fields.get("title") or (heading["title"].strip() if heading else ""),
        author=fields.get("author", ""),
        date=fields.get("date") or fields.get("year", ""),
        language=fields.get("lang") or fields.get("language", ""),
    )
