"""Text of PDF files and rows of spreadsheets, by the libraries of the extra `documents`. Runs in the child process."""

from __future__ import annotations

from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from tasks.sources.files.markup import tidy
from tasks.sources.files.record import FileText, Unreadable

INSTALL = ".uv/bin/uv sync --frozen --inexact --extra documents"
MOST_CELLS = 20_000_000


def read_pdf(path: Path, most_chars: int) -> FileText:
    """Read the text of a PDF file, page by page."""
    try:
        import pypdfium2
    except ImportError:
        raise Unreadable("needs-extra", f"PDF files need the extra `documents`; install it: {INSTALL}") from None
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower() or "security" in str(error).lower():
            raise Unreadable("encrypted", "locked with a password; save it without one") from error
        raise Unreadable("broken-file", f"it is not a PDF file that can be read ({error})") from error
    pages, chars = [], 0
    for number in range(len(document)):
        try:
            page = document[number].get_textpage().get_text_bounded()
        except pypdfium2.PdfiumError:
            continue
        pages.append(page.replace("\r\n", "\n").replace("\ufffe", "-\n"))
        chars += len(page)
        if chars > most_chars:
            raise Unreadable("too-large", f"it has more than {most_chars:,} characters")
    text = tidy("\n\n".join(pages))
    if not text:
        raise Unreadable("no-text", f"its {len(document)} pages are pictures; recognise their text (OCR) first")
    about = document.get_metadata_dict()
    return FileText(text, title=about["Title"], author=about["Author"], made=about["CreationDate"].removeprefix("D:"))


def read_sheets(path: Path) -> list[tuple[str, list[list[Any]]]]:
    """Read the sheets of a workbook: the name of each and its rows."""
    try:
        import python_calamine
    except ImportError:
        raise Unreadable("needs-extra", f"spreadsheets need the extra `documents`; install it: {INSTALL}") from None
    try:
        book = python_calamine.load_workbook(str(path))
        sheets, cells = [], 0
        for name in book.sheet_names:
            sheet = book.get_sheet_by_name(name)
            cells += sheet.total_height * sheet.total_width
            if cells > MOST_CELLS:
                raise Unreadable("expands-too-far", f"its sheets span more than {MOST_CELLS:,} cells")
            sheets.append((name, [[_cell(value) for value in row] for row in sheet.iter_rows()]))
    except python_calamine.PasswordError as error:
        raise Unreadable("encrypted", "locked with a password; save it without one") from error
    except python_calamine.CalamineError as error:
        raise Unreadable("broken-file", f"it is not a spreadsheet that can be read ({error})") from error
    return sheets


def _cell(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value.isoformat() if isinstance(value, date | datetime | time) else value if value is None else str(value)
