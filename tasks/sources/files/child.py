"""The process that parses untrusted files: a request a line on standard input, an answer a line on standard output."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import sys
import zipfile
from pathlib import Path

from tasks.sources.files import binary, markup, office, xml_text
from tasks.sources.files.record import Unreadable

MEMORY_BYTES = 2 * 2**30


def answer(kind: str, path: Path, most_chars: int) -> dict[str, object]:
    """Parse one file; return the text with what the file says about it, or the rows of its sheets."""
    match kind:
        case "sheet":
            return {"sheets": binary.read_sheets(path)}
        case "pdf":
            found = binary.read_pdf(path, most_chars)
        case "docx":
            found = office.read_docx(path)
        case "odt":
            found = office.read_odt(path)
        case "epub":
            found = office.read_epub(path)
        case "html":
            found = markup.read_html(path.read_bytes())
        case _:
            found = xml_text.read_xml(path.read_bytes())
    if len(found.text) > most_chars:
        raise Unreadable("too-large", f"it has {len(found.text):,} characters, at most {most_chars:,} are read")
    return dataclasses.asdict(found)


def serve() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    for line in sys.stdin.buffer:
        kind, path, most_chars = json.loads(line)
        try:
            found = answer(kind, Path(path), most_chars)
        except Unreadable as error:
            found = {"reason": error.reason, "detail": error.detail}
        except zipfile.BadZipFile as error:
            found = {"reason": "broken-file", "detail": f"it is not a whole .{kind} file ({error})"}
        except MemoryError:
            found = {"reason": "needs-too-much-memory", "detail": f"parsing it takes more than {MEMORY_BYTES:,} bytes"}
        except Exception as error:  # a parser that fails in its own way on a damaged file
            said = " ".join(str(error).split())[:200]
            found = {"reason": "broken-file", "detail": f"it cannot be parsed ({type(error).__name__}: {said})"}
        answers.write(json.dumps(found).encode() + b"\n")
        answers.flush()


def limit() -> None:
    """Bound what this process may use; macOS does not know all the limits."""
    for name, value in (("RLIMIT_AS", MEMORY_BYTES), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        with contextlib.suppress(ValueError, OSError, AttributeError):
            resource.setrlimit(getattr(resource, name), (value, value))


if __name__ == "__main__":
    limit()
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        serve()
