"""Question sets of the user's own: JSON Lines of a question, its options and the right one, scored by likelihood.

Every option is scored as an answer to the question in the model's own chat layout; the likeliest one is the model's
choice. Nothing is generated, and no word of the project's stands in the prompt.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.errors import ParameterError
from storage.untrusted import parse_json, read_bounded
from tasks.evals.cached_answers import Model
from tasks.evals.parameters import Norm
from tasks.evals.section import Numbers, Outcome, PairedShares, Record, SampleRow, Section
from tasks.evals.verdicts import judge_change

NORMS: dict[Norm, str] = {
    "none": "the likelihood of the whole option, not normalised",
    "byte": "the likelihood of the option divided by its length in UTF-8 bytes",
}

MOST_BYTES = 64 << 20
MOST_QUESTIONS = 10_000
MOST_OPTIONS = 26
MOST_CHARACTERS = 20_000
"""Of a question or an option."""
MOST_SHOWN = 100
"""Questions listed in the report, of those whose answer changed."""
TIE_DIGITS = 6
SHOWN_CHARACTERS = 60
ALL = "all files"


class OwnQuestion(Record):
    """One question; `right` is the index of the right option."""

    file: str
    line: int
    question: str
    options: tuple[str, ...]
    right: int

    @property
    def id(self) -> str:
        """Where it stands."""
        return f"{self.file}:{self.line}"


def find_files(paths: Sequence[Path]) -> list[Path]:
    """List the files named and all ``*.jsonl`` of a folder; ParameterError if it has none, or two have one name."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not inside:
            raise ParameterError(f"{path} holds no file *.jsonl; name a file or a folder with questions")
        found += inside
    for name, times in Counter(path.name for path in found).items():
        if times > 1:
            raise ParameterError(f"{times} files of questions are called {name!r}; give each its own name")
    return found


def read_questions(path: Path, limit: int | None = None) -> list[OwnQuestion]:
    """Read the questions of a file, or the first of them; ParameterError names file, line, value and bound."""
    try:
        lines = read_bounded(path, MOST_BYTES).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except (OSError, ValueError) as error:
        raise ParameterError(f"the questions in {path} cannot be read ({error}); name a file of JSON lines") from error
    found: list[OwnQuestion] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if len(found) == MOST_QUESTIONS:
            raise ParameterError(f"{path}:{number}: more than {MOST_QUESTIONS:,} questions; use several files")
        try:
            found.append(_read_line(path.name, number, line))
        except ValueError as error:  # of a character that is not UTF-8 too
            raise ParameterError(f"{path}:{number}: {error}; correct or remove the line") from None
    if not found:
        raise ParameterError(
            f'{path} holds no question; write lines such as {{"question": "…", "options": ["…", "…"], "answer": 0}}'
        )
    return found[:limit]


def _read_line(file: str, number: int, line: bytes) -> OwnQuestion:
    row = parse_json(line)
    if not isinstance(row, dict):
        raise ValueError(f"{_shown(row)} is not an object with question, options and answer")
    if missing := [name for name in ("question", "options", "answer") if name not in row]:
        raise ValueError(f"{' and '.join(missing)} missing; a line has question, options and answer")
    question, options, answer = row["question"], row["options"], row["answer"]
    _check_text("question", question)
    if not isinstance(options, list):
        raise ValueError(f"options is {_shown(options)}, not a list of 2 to {MOST_OPTIONS} texts")
    if not 2 <= len(options) <= MOST_OPTIONS:
        raise ValueError(f"options has {len(options)} entries, not 2 to {MOST_OPTIONS}")
    for place, option in enumerate(options):
        _check_text(f"option {place}", option)
    if repeated := next((option for option, times in Counter(options).items() if times > 1), None):
        raise ValueError(f"option {_shown(repeated)} stands there twice; each must be different")
    if isinstance(answer, str) and answer in options:
        answer = options.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(options):
        last = len(options) - 1
        raise ValueError(f"answer {_shown(answer)} is neither an index from 0 to {last} nor the text of an option")
    return OwnQuestion(file=file, line=number, question=question, options=tuple(options), right=answer)


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {_shown(value)}, not a text")
    if len(value) > MOST_CHARACTERS:
        raise ValueError(f"{name} has {len(value):,} characters, more than {MOST_CHARACTERS:,}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} holds half a character, {_shown(value)}")


def _shown(value: Any) -> str:
    """Write a value of a line in few characters, all of them ASCII."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


class OwnAnswer(Record):
    """The score of each option of a question, in the order of the file."""

    nats: tuple[float, ...]
    """The log-likelihood, divided by the bytes of the option if that was asked for."""

    @property
    def chosen(self) -> int:
        """Index of the likeliest option."""
        return max(range(len(self.nats)), key=self.nats.__getitem__)

    def is_right(self, question: OwnQuestion) -> bool:
        """Whether the right option is likelier than every other; a tie is not."""
        best = round(self.nats[question.right], TIE_DIGITS)
        return all(best > round(nats, TIE_DIGITS) for place, nats in enumerate(self.nats) if place != question.right)


OwnAnswers = Mapping[str, OwnAnswer]
"""By the id of the question."""


class ChangedQuestion(Record):
    """A question that one model alone answers right, with the choices of both."""

    id: str
    question: str
    right: str
    base: str
    adapter: str


class OwnQuestions(Section):
    """The questions of the user's own, by file and together."""

    norm: Norm
    files: dict[str, PairedShares]
    together: PairedShares
    changed: list[ChangedQuestion]
    """At most `MOST_SHOWN`; the samples hold all."""

    @property
    def scored_by(self) -> str:
        """How options are compared, in words."""
        return NORMS[self.norm]

    @property
    def rows(self) -> dict[str, PairedShares]:
        """What the report shows: every file, and all together where there are several."""
        return self.files if len(self.files) == 1 else self.files | {ALL: self.together}

    def outcome(self) -> Outcome:
        """Say how many answers are right, and whether the adapter changed that."""
        found = self.together
        headline: Numbers = {"own_questions_base": found.base.share, "own_questions_adapter": found.adapter.share}
        change = found.difference.points()
        return Outcome(
            [],
            headline,
            [("Your questions answered right", str(found.base), str(found.adapter), change)],
            [judge_change("own_questions", "your questions", found.difference, change)],
        )


def answer_own(model: Model, questions: Sequence[OwnQuestion], norm: Norm) -> dict[str, OwnAnswer]:
    """Score every option of every question."""
    pairs = [(each.question, option) for each in questions for option in each.options]
    scores = iter(model.score_options(pairs))
    found = {each.id: [next(scores) for _ in each.options] for each in questions}
    return {
        name: OwnAnswer(nats=tuple(score.nats_per_byte if norm == "byte" else score.nats for score in some))
        for name, some in found.items()
    }


def compare_own(
    questions: Sequence[OwnQuestion], base: OwnAnswers, adapter: OwnAnswers, norm: Norm, seed: int
) -> OwnQuestions:
    """Compare the answers of both models in pairs."""
    files = {
        file: [each for each in questions if each.file == file] for file in dict.fromkeys(q.file for q in questions)
    }
    changed = [
        ChangedQuestion(
            id=each.id,
            question=each.question,
            right=each.options[each.right],
            base=each.options[base[each.id].chosen],
            adapter=each.options[adapter[each.id].chosen],
        )
        for each in questions
        if base[each.id].is_right(each) is not adapter[each.id].is_right(each)
    ]
    return OwnQuestions(
        norm=norm,
        files={file: _compare(some, base, adapter, seed) for file, some in files.items()},
        together=_compare(questions, base, adapter, seed),
        changed=changed[:MOST_SHOWN],
    )


def _compare(questions: Sequence[OwnQuestion], base: OwnAnswers, adapter: OwnAnswers, seed: int) -> PairedShares:
    before, after = ([found[each.id].is_right(each) for each in questions] for found in (base, adapter))
    return PairedShares.of(before, after, seed)


def own_rows(questions: Sequence[OwnQuestion], found: OwnAnswers) -> Iterator[SampleRow]:
    """Return a row for each question that was asked."""
    for each in questions:
        if answer := found.get(each.id):
            right = answer.is_right(each)
            yield SampleRow(
                "own_questions",
                each.id,
                "pass" if right else "fail",
                float(right),
                each.question,
                each.options[answer.chosen],
                f"the right answer is {each.options[each.right]!r}",
                {"options": list(each.options), "nats": list(answer.nats)},
            )
