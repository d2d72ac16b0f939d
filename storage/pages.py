"""Page furniture out of scanned and downloaded texts, by rules that are counted.

Only what is trained on and compared changes: the raw store keeps every text, and scores are of the text as it came.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import pairwise

RULES = ("licence_lines", "page_numbers", "running_heads", "joined_lines")

HEAD_CHARS = 70
HEAD_DISTANCE_CHARS = 800
"""Running heads stand a page apart; a name above the lines of a play does not."""
WRAPPED_CHARS = 40
"""A line at least this long that breaks off in mid-sentence was broken by the page, not by its author."""

_PAGE_NUMBER = re.compile(
    r"(?:page|p\.|pg\.)?\s*[\[(\u2014-]*\s*(?:\d{1,4}|[ivxlc]{1,7})\s*[\])\u2014.-]*(?: of \d+)?", re.I
)
_LICENCE = re.compile(
    r"project gutenberg|digitized by|this e-?book is for the use of|distributed proofread|produced by .{3,60}(?:team"
    r"|proof)|www\.gutenberg|terms and conditions of use|jstor\.org|downloaded from https?:|creative ?commons\.org"
    r"|licensed under"
    r"|\ball rights reserved\b|google book search|this is a digital copy of a book|internet archive in \d{4}"
    r"|with funding from|archive\.org/details|early journal content",
    re.I,
)
LICENCE_NEEDLES = (
    *("gutenberg", "digitized by", "book is for the use of", "distributed proofread", "produced by"),
    *("conditions of use", "jstor.org", "downloaded from", "commons.org", "licensed under", "all rights reserved"),
    *("google book search", "digital copy of a book", "internet archive in", "with funding from"),
    *("archive.org/details", "early journal content"),
)
"""Every line of a licence holds one of these, in whatever case."""
_LICENCE_LINE_CHARS = 400
_GUTENBERG = re.compile(r"\*\*\* ?(START|END) OF (?:THE|THIS) PROJECT GUTENBERG[^\n]*|START: (FULL) LICENSE", re.I)
NOTHING: Counter[str] = Counter()
_GUTENBERG_PARAGRAPH = re.compile(
    r"(?<![^\n])(?:[^\n]+\n){0,20}[^\n]*Project Gutenberg[^\n]*(?:\n[^\n]+){0,20}(?=\n|\Z)", re.I
)


def clean_pages(text: str) -> tuple[str, Counter[str]]:
    """Take page numbers, running heads and licence lines out of a text and join lines that the page broke.

    Returns:
        The text, and how often each of `RULES` acted.
    """
    if "\n" not in text:
        return text, NOTHING
    counts: Counter[str] = Counter()
    body = _between_marks(text)
    if body is not text:
        counts["licence_lines"] += text.count("\n") - body.count("\n")
    if "roject gutenberg" in body.casefold():
        body, paragraphs = _GUTENBERG_PARAGRAPH.subn("\n", body)
        counts["licence_lines"] += paragraphs
    lines = body.split("\n")
    heads = _running_heads(lines)
    kept = []
    for line in lines:
        stripped = line.strip()
        rule = _rule_of(stripped, heads) if stripped else None
        if rule:
            counts[rule] += 1
        else:
            kept.append(line)
    joined = _join(kept, counts)
    return (joined if counts else text), counts


def _between_marks(text: str) -> str:
    """Return what stands between the marks of Project Gutenberg, if they are there."""
    found = [(mark[1] or "end", mark) for mark in _GUTENBERG.finditer(text)] if "utenberg" in text.casefold() else []
    start = max((mark.end() for kind, mark in found if kind.upper() == "START"), default=0)
    ends = (mark.start() for kind, mark in found if kind.upper() == "END" and mark.start() > start)
    end = min(ends, default=len(text))
    return text[start:end] if start or end < len(text) else text


def _rule_of(line: str, heads: set[str]) -> str | None:
    if len(line) <= 20 and _PAGE_NUMBER.fullmatch(line):
        return "page_numbers"
    if len(line) <= HEAD_CHARS and heads and _head(line) in heads:
        return "running_heads"
    return "licence_lines" if len(line) <= _LICENCE_LINE_CHARS and _LICENCE.search(line) else None


def _head(line: str) -> str:
    return re.sub(r"[\d\W_]+", " ", line).strip().casefold()


def _running_heads(lines: list[str]) -> set[str]:
    """Find short lines that come back page after page, in capitals or beside a page number."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    at = 0
    for line in lines:
        stripped = line.strip()
        numbered = 4 <= len(stripped) <= HEAD_CHARS and (stripped[0].isdigit() or stripped[-1].isdigit())
        if numbered or (4 <= len(stripped) <= HEAD_CHARS and stripped.isupper() and " " in stripped):
            places[_head(stripped)].append(at)
        at += len(line) + 1
    return {
        head
        for head, found in places.items()
        if len(head) > 3 and len(found) > 2 and min(two - one for one, two in pairwise(found)) >= HEAD_DISTANCE_CHARS
    }


def _join(lines: list[str], counts: Counter[str]) -> str:
    """Join a line to the one before where that one is long and ends in mid-sentence; verse and lists stay."""
    parts: list[str] = []
    for number, line in enumerate(lines):
        before = lines[number - 1].rstrip() if number else ""
        broken = len(before) >= WRAPPED_CHARS and before[-1] not in ".!?:;|" and line[:1].islower()
        if broken:
            counts["joined_lines"] += 1
        if number:
            parts.append(" " if broken else "\n")
        parts.append(line.rstrip() if broken else line)
    return "".join(parts)
