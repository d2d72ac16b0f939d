"""The file of sentences and kinds of source that lessons are made of, read and checked."""

from __future__ import annotations

import tomllib
from hashlib import sha256
from pathlib import Path
from string import Formatter
from typing import Literal

from pydantic import BaseModel, ConfigDict

from storage.errors import ParameterError
from tasks.mixture.suites import SUITES, runs_of, suite_runs

Age = Literal["old", "new"]
When = Literal["old", "new", "later"]
Kinds = dict[When, dict[str, list[str]]]
FILE = Path(__file__).with_name("lessons.toml")
FEWEST_KINDS = 4
PLACEHOLDERS = {
    "topic",
    "first",
    "First",
    "second",
    "Second",
    "other",
    "a",
    "A",
    "b",
    "options",
    "one",
    "One",
    "accounts",
}


class Frame(BaseModel):
    """One sentence of the file; `answer` and `rejected` where the form does not give them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Literal["open", "two", "four", "yes_no", "accounts", "next"]
    ask: str
    answer: str = "{First}."
    rejected: str = "{Second}."


class Ages(BaseModel):
    """How many lessons set an original of one age against a retelling of another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: Age
    second: Age
    later: bool = False
    """The original was made long after its topic, from what is left of it, and after the retelling."""
    share: float


class Claim(BaseModel):
    """What accounts disagree on, as a clause that holds ``{value}``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: str
    values: list[str]
    """None: numbers of two digits."""
    fields: list[str] = []
    """Fields of the topics that it fits; none: every field."""


class Statements(BaseModel):
    """How accounts are quoted, and what they disagree on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    originals: list[str]
    retellings: list[str]
    claims: list[Claim]


class LessonFile(BaseModel):
    """The whole of `lessons.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ages: list[Ages]
    forms: dict[str, float]
    fields: dict[str, str]
    contemporary: list[str]
    since: dict[str, int]
    documents: dict[str, list[str]]
    originals: Kinds
    retellings: Kinds
    statements: Statements
    frames: list[Frame]


def read_lesson_file(path: Path = FILE, suites: Path = SUITES) -> LessonFile:
    """Read the file of lessons and refuse what stands in an evaluation suite.

    Raises:
        ParameterError: The file is not valid, or shares wording with a suite.
    """
    try:
        content = LessonFile.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path} is not a valid file of lessons: {error}") from error
    _require_usable(content, path)
    known = suite_runs(suites)
    kinds = (
        kind
        for kinds in (content.originals, content.retellings)
        for of_age in kinds.values()
        for kind in of_age.values()
    )
    for words in (*(frame.ask for frame in content.frames), *(name for names in kinds for name in names)):
        if shared := runs_of(words) & known:
            raise ParameterError(
                f"{path}: {words!r} shares the words {' '.join(min(shared))!r} with an evaluation suite; a model that "
                "has learned them cannot be judged by it, so put it in other words"
            )
    return content


def _require_usable(content: LessonFile, path: Path) -> None:
    """Check what the types do not: every form has frames, every frame known placeholders, every age enough kinds."""
    faults = [
        f"the form {form!r} has no frame" for form in content.forms if form not in {f.form for f in content.frames}
    ]
    for frame in content.frames:
        for text in (frame.ask, frame.answer, frame.rejected):
            names = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
            faults += [f"{text!r} has the unknown placeholder {{{name}}}" for name in sorted(names - PLACEHOLDERS)]
    sides: tuple[tuple[str, Kinds, tuple[When, ...]], ...] = (
        ("originals", content.originals, ("old", "new", "later")),
        ("retellings", content.retellings, ("old", "new")),
    )
    for side, kinds, ages in sides:
        faults += [
            f"{side}.{age} needs at least {FEWEST_KINDS} kinds under 'any' that have no year in [since]"
            for age in ages
            if len(set(kinds.get(age, {}).get("any", ())) - content.since.keys()) < FEWEST_KINDS
        ]
    known = {name for _, kinds, _ in sides for fields in kinds.values() for names in fields.values() for name in names}
    faults += [f"[since] names {name!r}, which is no kind of source" for name in sorted(content.since.keys() - known)]
    if all(claim.fields for claim in content.statements.claims):
        faults.append("no claim of the statements fits every field")
    if faults:
        raise ParameterError(f"{path} is not a valid file of lessons: {'; '.join(faults)}")


def lesson_file_sha256(path: Path = FILE) -> str:
    """Return the hash of the file, by which a mixture knows that it was corrected."""
    return sha256(path.read_bytes()).hexdigest()
