"""Text and metadata of HTML, and of XML such as TEI and ALTO. Runs in the child process of the parsers."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.entities import html5
from html.parser import HTMLParser
from xml.parsers import expat

from tasks.sources.files.encoding import decode
from tasks.sources.files.record import FileText, Unreadable

_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "br",
        "caption",
        "center",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hr",
        "li",
        "main",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "tbody",
        "tfoot",
        "thead",
        "title",
        "tr",
        "ul",
    ]
)
_UNSEEN = frozenset(["script", "style", "noscript", "template", "svg", "math", "object", "iframe", "select", "button"])
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

_XML_BLOCKS = frozenset(
    [
        "p",
        "ab",
        "l",
        "lg",
        "lb",
        "pb",
        "cb",
        "head",
        "div",
        "div1",
        "div2",
        "div3",
        "item",
        "note",
        "table",
        "row",
        "opener",
        "closer",
        "dateline",
        "salute",
        "signed",
        "byline",
        "sp",
        "speaker",
        "stage",
        "textline",
        "textblock",
        "textregion",
        "entry",
        "para",
        "title",
        "section",
        "abstract",
    ]
)


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
    """Read a page: its visible text, its title, author and date.

    Raises:
        Unreadable: It is not text, or the page that a server sends in place of another.
    """
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


class _Tree:
    """Gathers the text of an XML file, and the header of a TEI one, element by element."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.path: list[str] = []
        self.fields: dict[str, list[str]] = {"title": [], "author": [], "date": [], "source_date": []}
        self.is_tei = self.is_alto = False
        self.language = ""
        self._header = 0
        self._field = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(":")[2].lower()
        self.path.append(tag)
        if len(self.path) == 1:
            self.is_tei, self.is_alto = tag in ("tei", "tei.2", "teicorpus"), tag == "alto"
            self.language = attributes.get("xml:lang", "")
        if tag in ("teiheader", "metadata"):
            self._header += 1
        elif self._header and tag in ("title", "author", "date"):
            in_source = "sourcedesc" in self.path or "creation" in self.path
            self._field = "source_date" if tag == "date" and in_source else tag
            if self._field in ("title", "author") and "titlestmt" not in self.path:
                self._field = ""
            elif tag == "date" and (when := attributes.get("when") or attributes.get("value")):
                self.fields[self._field].append(when)
                self._field = ""
            elif self.fields.get(self._field):
                self.fields[self._field].append("; " if tag == "author" else " ")
        if not self._header:
            if self.is_alto and tag == "string":
                self.parts.append(attributes.get("CONTENT", "") + " ")
            elif tag in _XML_BLOCKS or not (self.is_tei or self.is_alto):
                self.parts.append("\n")

    def end(self, name: str) -> None:
        tag = self.path.pop()
        if tag in ("teiheader", "metadata"):
            self._header -= 1
        if self._field and tag in ("title", "author", "date"):
            self._field = ""
        if not self._header and tag in _XML_BLOCKS:
            self.parts.append("\n\n" if tag in ("p", "head", "div", "ab") else "\n")

    def data(self, text: str) -> None:
        if self._field:
            self.fields[self._field].append(text)
        elif not self._header:
            self.parts.append(text if self.path and self.path[-1] == "code" else re.sub(r"\s+", " ", text))

    def value(self, field: str) -> str:
        return " ".join("".join(self.fields[field]).split())


def parse_xml(
    data: bytes,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    text: Callable[[str], None],
) -> None:
    """Feed an XML file to handlers; no entity of its own is expanded and nothing outside is read.

    Raises:
        Unreadable: It is not well formed, or declares entities.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def entity(name: str, is_parameter: bool, value: str | None, *rest: object) -> None:
        raise Unreadable("xml-entities", f"it declares the entity {name!r}, which could expand without end")

    def skipped(name: str, is_parameter: bool) -> None:
        if not is_parameter:
            text(html5.get(f"{name};", ""))

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.EntityDeclHandler, parser.SkippedEntityHandler = entity, skipped
    parser.UseForeignDTD(True)  # an entity whose list is not read, such as &eacute; is told, not an error
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Unreadable("broken-file", f"it is not well-formed XML ({error})") from error


def read_xml(data: bytes) -> FileText:
    """Read an XML file: TEI with its header, ALTO, or the text of all elements.

    Raises:
        Unreadable: It is not well formed, or declares entities.
    """
    tree = _Tree()
    parse_xml(data, tree.start, tree.end, tree.data)
    return FileText(
        tidy("".join(tree.parts)),
        title=tree.value("title"),
        author=tree.value("author"),
        date=tree.value("source_date") or ("" if tree.is_alto else tree.value("date")),
        language=tree.language,
    )
