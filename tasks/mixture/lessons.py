"""Lessons about sources: questions with answers, made from the titles, years and kinds of the corpus's documents.

`lessons.toml` holds the sentences and the kinds of source, for a historian to read and correct. Each lesson names the
document that it is made of. All lessons weigh the same in training, as a primary source of average rank does: with the
weights of their documents the modern originals would hardly be learned.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeVar

import orjson
import pyarrow as pa

from storage.chat import escape_control
from tasks.mixture.lesson_file import Age, Frame, LessonFile
from tasks.mixture.prompts import title_subject
from tasks.mixture.samples import RANKED_SCHEMA
from tasks.mixture.sides import keyed_hashes
from tasks.mixture.suites import shares_run, suite_runs

Kind = TypeVar("Kind")

AUTHORITY, ENTROPY_BITS = 0.15, 5.0
"""The scores of every lesson."""
NEW_SINCE = 1970
NEW_RETELLINGS_SINCE = 2008
"""Web pages and chatbots are not older."""
OLDEST, NEWEST = 1600, 2024
TOPIC_CHARS = 80
FEWEST_SUBJECTS, MOST_SUBJECTS = 500, 20_000
"""Samples of one side whose documents lessons are made of."""
TRIES = 20
DOCUMENT_ITSELF = 0.25
"""Share of the originals that are the document of the lesson."""
CONFIRMED = 0.25
"""Share of the conflicting accounts in which a second original gives the value of the first."""
COPIES = (1, 2, 3, 4, 6, 8)
"""How many retellings of a conflicting account repeat the same value."""
LISTED = 0.5
"""Share of the conflicting accounts that stand in a list."""


@dataclass(frozen=True)
class Subject:
    """A document that a lesson can be made of."""

    document_id: str
    topic: str
    year: int
    source_type: str
    author: str | None = None


@dataclass(frozen=True)
class Lesson:
    """A question about sources, its answer and, where there is one, the answer that should lose."""

    subject: Subject
    form: str
    ages: str
    prompt: str
    response: str
    rejected: str | None
    single: str | None = None
    """The question with one copy of the claim that `prompt` repeats; None where nothing is repeated."""


def subject_of(
    document_id: str, title: str | None, year: int | None, source_type: str, author: str | None = None
) -> Subject | None:
    """Return what a lesson needs of a document; None if it has no year, or no title that says what it is about."""
    topic = title_subject(title)
    if topic is None or topic.endswith("?") or year is None or not OLDEST <= year <= NEWEST:
        return None
    topic = re.split(r"[;:(\[]| by |, (?=[A-Z0-9])", topic)[0].strip(" .,")
    maker = " ".join((author or "").split())
    known = maker if 3 < len(maker) <= 40 and maker.replace(" ", "").replace(".", "").isalpha() else None
    return Subject(document_id, topic, year, source_type, known) if 3 < len(topic) <= TOPIC_CHARS else None


@dataclass
class LessonMaker:
    """Makes lessons; which ones depends on the file, the seed and the documents alone."""

    content: LessonFile
    seed: int
    refused: int = 0
    suites: frozenset[tuple[str, ...]] = field(default_factory=suite_runs)
    twin: Lesson | None = None
    """The second of two lessons that ask for yes or no in the same words, if the next one is it."""

    def __post_init__(self) -> None:
        """Sort the frames by form once."""
        self.by_form: dict[str, list[Frame]] = {}
        for frame in self.content.frames:
            self.by_form.setdefault(frame.form, []).append(frame)

    def make(self, subjects: Sequence[Subject], count: int) -> list[Lesson]:
        """Make `count` lessons, spread over the forms, the ages and the documents; none without documents."""
        if not subjects:
            return []
        by_age: dict[Age, list[Subject]] = {"old": [], "new": []}
        for subject in sorted(subjects, key=self._order):
            by_age["new" if subject.year >= NEW_SINCE else "old"].append(subject)
        lessons, seen = [], set[str]()
        ages = self._spread([(ages, ages.share) for ages in self.content.ages], count)
        forms = self._spread(list(self.content.forms.items()), count)
        dice = random.Random(self.seed)  # noqa: S311 - reproducible, not secret
        dice.shuffle(ages)
        dice.shuffle(forms)
        used = {"old": 0, "new": 0}
        self.twin = None
        for age, form in zip(ages, forms, strict=True):
            first = age.first if by_age[age.first] else ("old" if age.first == "new" else "new")
            for _ in range(TRIES):
                subject = by_age[first][used[first] % len(by_age[first])]
                used[first] += 1
                lesson = self._one(dice, subject, first, age.second, form)
                if shares_run(f"{lesson.prompt} {lesson.response}", self.suites):
                    self.refused += 1
                elif lesson.prompt not in seen:
                    seen.add(lesson.prompt)
                    lessons.append(lesson)
                    break
        return lessons

    def _order(self, subject: Subject) -> bytes:
        return blake2b(f"{self.seed}/lesson/{subject.document_id}".encode(), digest_size=8).digest()

    @staticmethod
    def _spread(shares: list[tuple[Kind, float]], count: int) -> list[Kind]:
        """Repeat each kind in proportion to its share, `count` in all."""
        whole = sum(share for _, share in shares)
        ends, at = [], 0.0
        for _, share in shares:
            at += share / whole
            ends.append(round(at * count))
        starts = [0, *ends[:-1]]
        return [kind for (kind, _), start, end in zip(shares, starts, ends, strict=True) for _ in range(end - start)]

    def _one(self, dice: random.Random, subject: Subject, first_age: Age, second_age: Age, form: str) -> Lesson:
        if form == "yes_no" and (twin := self.twin):
            self.twin = None
            return twin
        frame = dice.choice(self.by_form[form])
        topic_field = self.content.fields.get(subject.source_type, "any")
        if form == "next" and first_age == "new":
            second_age = "new"  # what goes back to an original cannot be older
        first = self._original(dice, subject, first_age, topic_field)
        chosen = dice.sample(self._fitting(self.content.retellings[second_age], topic_field), 3)
        retellings = [_with_year(name, self._year_of_retelling(dice, subject.year, second_age)) for name in chosen]
        second, other = retellings[:2]
        words = {"topic": subject.topic, "first": first, "second": second, "other": other}
        answer, rejected = frame.answer, frame.rejected
        shown = [first, second]
        dice.shuffle(shown)
        words |= {"a": shown[0], "b": shown[1]}
        single = ""
        match form:
            case "four":
                options = [first, *retellings]
                dice.shuffle(options)
                words["options"] = ", ".join(options[:3]) + " and " + options[3]
            case "yes_no":
                # Asked about both in the same words, so that nothing but the source can decide the answer.
                self.twin = Lesson(
                    subject, form, f"{first_age}/{second_age}", _asked(frame, words | _one_of(second)), "No.", "Yes."
                )
                words |= _one_of(first)
                answer, rejected = "Yes.", "No."
            case "accounts":
                originals = self._fitting(self.content.originals[first_age], topic_field)
                others = [name for name in (_with_year(name, subject.year) for name in originals) if name != first]
                words["again"] = dice.choice(others)
                pool = {*chosen, *self._fitting(self.content.retellings[second_age], "any")}
                copiers = [
                    _with_year(name, self._year_of_retelling(dice, subject.year, second_age))
                    for name in dice.sample(sorted(pool), COPIES[-1])
                ]
                words["accounts"], single, answer, rejected = self._accounts(dice, words, copiers, topic_field)
        words |= {"A": _capital(words["a"]), "First": _capital(first), "Second": _capital(second)}
        return Lesson(
            subject=subject,
            form=form,
            ages=f"{first_age}/{second_age}",
            prompt=_asked(frame, words),
            response=answer.format(**words),
            rejected=None if form == "four" else rejected.format(**words),
            single=_asked(frame, words | {"accounts": single}) if single else None,
        )

    def _accounts(
        self, dice: random.Random, words: dict[str, str], copiers: list[str], topic_field: str
    ) -> tuple[str, str, str, str]:
        """Write accounts that disagree; the same with one copy, if there are more; the right value; the copied one."""
        s = self.content.statements
        kind = dice.choice([claim for claim in s.claims if not claim.fields or topic_field in claim.fields])
        right, wrong = dice.sample(kind.values or [str(number) for number in range(11, 99)], 2)
        true = {"value": right, "claim": kind.claim.format(value=right)}
        false = {"value": wrong, "claim": kind.claim.format(value=wrong)}
        original = dice.choice(s.originals).format(first=words["first"], First=_capital(words["first"]), **true)
        confirmed = dice.random() < CONFIRMED
        copies = [
            dice.choice(s.retellings).format(second=name, Second=_capital(name), **false)
            for name in copiers[: 1 if confirmed else dice.choice(COPIES)]
        ]
        place = dice.randint(0, len(copies))
        lines = [*copies[:place], original, *copies[place:]]
        single = [original, copies[0]] if place == 0 else [copies[0], original]
        if confirmed:  # the right value is not always the rarer one
            again = dice.choice(s.originals).format(first=words["again"], First=_capital(words["again"]), **true)
            lines.insert(dice.randint(0, len(lines)), again)
        mark, end = ("\n- ", "\n") if dice.random() < LISTED else (" ", "")
        told, once = ("".join(mark + line for line in some) + end for some in (lines, single))
        return told, once if len(copies) > 1 else "", _capital(right) + ".", _capital(wrong) + "."

    def _original(self, dice: random.Random, subject: Subject, age: Age, topic_field: str) -> str:
        """Name the document itself where it is an original, now and then, else another original of its year."""
        itself = self.content.documents.get(subject.source_type)
        if itself and dice.random() < DOCUMENT_ITSELF:
            maker = f" by {subject.author}" if subject.author else ""
            return f"the {dice.choice(itself)}{maker} of {subject.year}"
        return _with_year(dice.choice(self._fitting(self.content.originals[age], topic_field)), subject.year)

    @staticmethod
    def _fitting(kinds: dict[str, list[str]], topic_field: str) -> list[str]:
        """Return the kinds of a topic's field, and the general ones where a field has few or stands for events."""
        fitting = kinds.get(topic_field, [])
        return fitting if len(fitting) > 3 and topic_field != "event" else [*fitting, *kinds["any"]]

    @staticmethod
    def _year_of_retelling(dice: random.Random, year: int, age: Age) -> int:
        """Choose the year of a retelling: after the original where it can be, and of the age that is wanted."""
        if age == "new":
            return dice.randint(min(max(NEW_RETELLINGS_SINCE, year), NEWEST), NEWEST)
        return dice.randint(min(max(1850, year), NEW_SINCE - 1) if year < NEW_SINCE else 1850, NEW_SINCE - 1)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _one_of(name: str) -> dict[str, str]:
    return {"one": name, "One": _capital(name)}


def _asked(frame: Frame, words: dict[str, str]) -> str:
    """Fill a frame; a list stands on lines of its own."""
    lines = (" ".join(line.split()) for line in frame.ask.format(**words).splitlines())
    return _capital("\n".join(line for line in lines if line))


def _with_year(name: str, year: int) -> str:
    return f"the {name} of {year}" if name.count(" ") < 2 else f"the {year} {name}"


def lesson_table(tables: list[pa.Table], maker: LessonMaker | None, count: int, seed: int) -> pa.Table:
    """Make the lessons of one side out of its own documents, which stay on this side with their whole group."""
    subjects, rows_of = {}, {}
    if maker is not None:
        columns = ["doc_id", "group_id", "source", "source_type", "trivium_category", "metadata"]
        wanted = min(MOST_SUBJECTS, 2 * count + FEWEST_SUBJECTS)
        fraction = min(1.0, wanted / max(1, sum(table.num_rows for table in tables)))
        for table in tables:
            seen = table.select(columns)
            hashes = keyed_hashes(f"{seed}/subject", seen.column("doc_id").to_pylist())
            for row in seen.filter(pa.array(hashes <= fraction * 2.0**64)).to_pylist():
                about = orjson.loads(row["metadata"])
                subject = subject_of(row["doc_id"], about["title"], about["year"], row["source_type"], about["author"])
                if subject and subject.document_id not in subjects:
                    subjects[subject.document_id], rows_of[subject.document_id] = subject, row
    made = maker.make(list(subjects.values()), count) if maker else []
    rows = [
        {
            **rows_of[lesson.subject.document_id],
            "id": f"{lesson.subject.document_id}#lesson-{number}",
            "auth_weight": AUTHORITY,
            "prov_entropy": ENTROPY_BITS,
            "metadata": orjson.dumps(
                {
                    **{"title": lesson.subject.topic, "year": lesson.subject.year, "band": "low"},
                    **{"form": lesson.form, "ages": lesson.ages, "documents": [lesson.subject.document_id]},
                }
            ).decode(),
            "prompt": escape_control(lesson.prompt),
            "response": lesson.response,
            "lesson": True,
            "rejected": lesson.rejected,
            "single": None if lesson.single is None else escape_control(lesson.single),
            "rank": number,
        }
        for number, lesson in enumerate(made)
    ]
    return pa.Table.from_pylist(rows, schema=RANKED_SCHEMA)
