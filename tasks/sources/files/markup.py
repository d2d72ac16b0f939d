"""Text and metadata of web pages. Runs in the child process of the parsers."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from tasks.sources.files.encoding import decode
from tasks.sources.files.record import FileText, Unreadable

_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "br", "caption", "center", "dd", "details", "div"),
        *("dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6"),
        *("header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "summary", "table", "tbody", "tfoot"),
        *("thead", "title", "tr", "ul"),
    )
)
_UNSEEN = frozenset(("script", "style", "noscript", "template", "svg", "math", "object", "iframe", "select", "button"))
_META = {
    "title": ("citation_title", "dc.title", "dcterms.title", "og:title"),
    "author": ("author", "citation_author", "dc.creator", "dcterms.creator", "article:author"),
    "date": (
        *("dcterms.issued", "dcterms.created", "citation_publication_date", "citation_date", "dc.date", "dcterms.date"),
        *("date", "article:published_time", "pubdate"),
    ),
}
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([\w-]{2,40})", re.IGNORECASE)
_ERROR_TITLE = re.compile(
    r"\s*(?:error\s*)?(?:40[0-9]|41[0-9]|429|50[0-9])\b|.*\b(?:not found|access denied|forbidden|just a moment)\b", re.I
)
_SHORT_PAGE_CHARS = 2000
_BLANKS = re.compile(r"[ \t\r\f\v]+")
_LINES = re.compile(r" ?\n ?")
_MANY_LINES = re.compile(r"\n{3,}")


class _Page(HTMLParser):
    """Gathers what a reader of a page sees."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.heading: list[str] = []
        self.title: list[str] = []
        self.meta: dict[str, str] = {}
        self.language = ""
        self._unseen = 0
        self._in = ""
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in _UNSEEN:
            self._unseen += 1
        elif tag == "meta":
            name = (given.get("name") or given.get("property") or "").lower()
            self.meta.setdefault(name, given.get("content", ""))
        elif tag == "html":
            self.language = given.get("lang") or given.get("xml:lang") or ""
        elif tag in ("title", "h1"):
            self._in = tag
        if tag in _BLOCKS:
            self.parts.append("\n\n" if tag in ("p", "h1", "h2", "h3", "h4") else "\n")
        elif tag in ("td", "th"):
            self.parts.append("\t")
        self._preformatted += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        if tag == self._in:
            self._in = ""
        if tag in _BLOCKS and tag != "br":
            self.parts.append("\n\n" if tag in ("p", "h1", "h2", "h3", "h4", "title") else "\n")
        self._preformatted -= tag == "pre" and self._preformatted > 0

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _UNSEEN:
            self.handle_starttag(tag, attrs)
            self._preformatted -= tag == "pre"
        if tag == self._in:
            self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "title":
            self.title.append(data)
            return
        if self._unseen:
            return
        if self._in == "h1":
            self.heading.append(data)
        self.parts.append(data if self._preformatted else " ".join(re.split(r"\s+", data)))


def tidy(text: str) -> str:
    """Return a text with single blanks in a line and at most one empty line in a row."""
    text = _LINES.sub("\n", _BLANKS.sub(" ", text.replace("\u00a0", " ").replace("\u00ad", "")))
    return _MANY_LINES.sub("\n\n", text).strip()


def read_html(data: bytes) -> FileText:
    """Read a page: its visible text, its title, author and date."""
    declared = _CHARSET.search(data[:4096])
    text, encoding = decode(data, declared[1].decode("ascii") if declared else "")
    return html_text(text, encoding)


def html_text(source: str, encoding: str = "utf-8") -> FileText:
    """Read a page that is decoded."""
    page = _Page()
    page.feed(source)
    page.close()
    found = {field: next((page.meta[n] for n in names if page.meta.get(n)), "") for field, names in _META.items()}
    title = " ".join("".join(page.title).split())
    text = tidy("".join(page.parts))
    if len(text) < _SHORT_PAGE_CHARS and _ERROR_TITLE.match(title):
        raise Unreadable("error-page", f"the page of a server that had no document: {title[:80]!r}")
    heading = " ".join("".join(page.heading).split())
    return FileText(
        text,
        title=found["title"] or title or heading,
        author=found["author"],
        date=found["date"],
        language=page.language,
        extra={} if encoding == "utf-8" else {"encoding": encoding},
    )
