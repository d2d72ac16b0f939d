"""The list of subjects that a person writes: one a line."""

from __future__ import annotations

import re
from pathlib import Path

from storage.errors import ParameterError

BUNDLED = "bundled"
MOST_SUBJECTS = 2000
LONGEST_SUBJECT = 80
MOST_BYTES = 2**20

_COMMENT = re.compile(r"(?:^|\s)#.*")
_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Return the words of a text as subjects are compared: without case and punctuation."""
    return _WORD.findall(text.casefold())


def read_subjects(name: str) -> tuple[str, ...]:
    """Read a list of subjects, one a line; what follows a ``#`` is a comment. `BUNDLED` names the list of this project.

    Raises:
        ParameterError: The list cannot be read, holds nothing or too much, or a line is no subject.
    """
    path = Path(__file__).with_name("subjects.txt") if name == BUNDLED else Path(name).expanduser()
    try:
        with path.open("rb") as file:
            body = file.read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            raise ParameterError(f"{path} is larger than {MOST_BYTES:,} bytes; name a list with one subject a line")
        lines = body.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise ParameterError(
            f"{path} cannot be read ({error.strerror}); name a file with one subject a line, or {BUNDLED!r}"
        ) from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    subjects: dict[tuple[str, ...], str] = {}
    for number, line in enumerate(lines, 1):
        subject = " ".join(_COMMENT.sub("", line).split())
        words = tuple(words_of(subject))
        if len(subject) > LONGEST_SUBJECT or (subject and not (words and subject.isprintable())):
            raise ParameterError(
                f"line {number} of {path} is no subject: {subject[:LONGEST_SUBJECT]!r}; write a few words, at most "
                f"{LONGEST_SUBJECT} characters"
            )
        if subject:
            subjects.setdefault(words, subject)
    if not 0 < len(subjects) <= MOST_SUBJECTS:
        raise ParameterError(f"{path} holds {len(subjects):,} subjects; write 1 to {MOST_SUBJECTS:,}, one a line")
    return tuple(subjects.values())
