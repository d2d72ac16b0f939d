"""Lessons about sources: questions with answers, made from the titles, years and kinds of the corpus's documents.

`lessons.toml` holds the sentences and the kinds of source, for a historian to read and correct. Each lesson names the
document that it is made of. The kind of a source decides, never its year: an original is as old as its topic, or was
made first hand from what is left, after the retelling; no retelling is older than its topic.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeVar

from tasks.mixture.lesson_file import Ages, Frame, LessonFile
from tasks.mixture.prompts import title_subject
from tasks.mixture.suites import shares_run, suite_runs

Kind = TypeVar("Kind")

NEW_SINCE = 1970
OLD_RETELLINGS_SINCE, NEW_RETELLINGS_SINCE = 1850, 2008
LATER_ORIGINALS_SINCE = 1995
OLDEST, NEWEST = 1600, 2024
TOPIC_CHARS = 80
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
        ordered = sorted(subjects, key=self._order)
        rows = [(ages, pool) for ages in self.content.ages if (pool := self._pool(ages, ordered))]
        lessons, seen = [], set[str]()
        ages = self._spread([(row, row[0].share) for row in rows], count)
        forms = self._spread(list(self.content.forms.items()), count)
        dice = random.Random(self.seed)  # noqa: S311 - reproducible, not secret
        dice.shuffle(ages)
        dice.shuffle(forms)
        used: Counter[int] = Counter()
        self.twin = None
        for (age, pool), form in zip(ages, forms, strict=True):
            for _ in range(TRIES):
                subject = pool[used[id(pool)] % len(pool)]
                used[id(pool)] += 1
                lesson = self._one(dice, subject, age, form)
                if shares_run(f"{lesson.prompt} {lesson.response}", self.suites):
                    self.refused += 1
                elif lesson.prompt not in seen:
                    seen.add(lesson.prompt)
                    lessons.append(lesson)
                    break
        return lessons

    def _pool(self, ages: Ages, subjects: Sequence[Subject]) -> list[Subject]:
        """Return the documents whose topic such a lesson may have: as old as the original, or as what came first."""
        age = ages.second if ages.later else ages.first
        return [
            subject
            for subject in subjects
            if (subject.year >= NEW_SINCE) == (age == "new")
            and (ages.later or subject.source_type in self.content.contemporary)
        ]

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

    def _one(self, dice: random.Random, subject: Subject, ages: Ages, form: str) -> Lesson:
        if form == "yes_no" and (twin := self.twin):
            self.twin = None
            return twin
        frame = dice.choice(self.by_form[form])
        topic_field = self.content.fields.get(subject.source_type, "any")
        earliest = max(subject.year, OLD_RETELLINGS_SINCE if ages.second == "old" else NEW_RETELLINGS_SINCE)
        latest = NEW_SINCE - 1 if ages.second == "old" else NEWEST
        earliest = min(earliest, latest)
        retold = self.content.retellings[ages.second]
        retellings = [
            _with_year(name, dice.randint(max(earliest, self.content.since.get(name, 0)), latest))
            for name in dice.sample(self._fitting(retold, topic_field, latest), 3)
        ]
        made = dice.randint(LATER_ORIGINALS_SINCE, NEWEST) if ages.later else subject.year
        if ages.later and ages.second == "new":
            made = dice.randint(max(_year_of(name) for name in retellings), NEWEST)
        originals = self._fitting(self.content.originals["later" if ages.later else ages.first], topic_field, made)
        first = self._original(dice, subject, originals, made)
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
                    subject, form, f"{ages.first}/{ages.second}", _asked(frame, words | _one_of(second)), "No.", "Yes."
                )
                words |= _one_of(first)
                answer, rejected = "Yes.", "No."
            case "accounts":
                others = [name for name in (_with_year(name, made) for name in originals) if name != first]
                words["again"] = dice.choice(others)
                pool = {*self._fitting(retold, topic_field, earliest), *self._fitting(retold, "any", earliest)}
                copiers = [
                    _with_year(name, dice.randint(earliest, latest)) for name in dice.sample(sorted(pool), COPIES[-1])
                ]
                words["accounts"], single, answer, rejected = self._accounts(
                    dice, words, copiers, None if ages.later else topic_field
                )
        words |= {"A": _capital(words["a"]), "First": _capital(first), "Second": _capital(second)}
        return Lesson(
            subject=subject,
            form=form,
            ages=f"{ages.first}/{ages.second}",
            prompt=_asked(frame, words),
            response=answer.format(**words),
            rejected=None if form == "four" else rejected.format(**words),
            single=_asked(frame, words | {"accounts": single}) if single else None,
        )

    def _accounts(
        self, dice: random.Random, words: dict[str, str], copiers: list[str], topic_field: str | None
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

    def _original(self, dice: random.Random, subject: Subject, originals: list[str], made: int) -> str:
        """Name the document itself where it is an original, now and then, else another original of the year."""
        itself = self.content.documents.get(subject.source_type)
        if itself and made == subject.year and dice.random() < DOCUMENT_ITSELF:
            maker = f" by {subject.author}" if subject.author else ""
            return f"the {dice.choice(itself)}{maker} of {subject.year}"
        return _with_year(dice.choice(originals), made)

    def _fitting(self, kinds: dict[str, list[str]], topic_field: str, year: int) -> list[str]:
        """Return the kinds of a topic's field that a year knew, and general ones where these are few or of events."""
        known = {
            name: [kind for kind in kinds.get(name, []) if self.content.since.get(kind, 0) <= year]
            for name in (topic_field, "any")
        }
        fitting = known[topic_field]
        return (
            fitting if topic_field == "any" or (len(fitting) > 3 and topic_field != "event") else fitting + known["any"]
        )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _year_of(name: str) -> int:
    return int(re.findall(r"\d{4}", name)[0])


def _one_of(name: str) -> dict[str, str]:
    return {"one": name, "One": _capital(name)}


def _asked(frame: Frame, words: dict[str, str]) -> str:
    """Fill a frame; a list stands on lines of its own."""
    lines = (" ".join(line.split()) for line in frame.ask.format(**words).splitlines())
    return _capital("\n".join(line for line in lines if line))


def _with_year(name: str, year: int) -> str:
    return f"the {name} of {year}" if name.count(" ") < 2 else f"the {year} {name}"
