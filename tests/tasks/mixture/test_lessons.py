from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from storage.errors import ParameterError
from tasks.mixture.lesson_file import FILE, read_lesson_file
from tasks.mixture.lessons import Lesson, LessonMaker, Subject, subject_of
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.suites import suite_runs
from tests.tasks.mixture.corpora import balanced_sources
from tests.tasks.mixture.test_build import build, rows_of

WORDS = ("apples", "bridges", "clocks", "dams", "eels", "ferns", "gates", "hops", "inks", "jars", "kilns", "looms")
SUBJECTS = [
    Subject(f"s:{n}", f"The matter of {word}", year, kind, "Ann Lee" if n % 2 else None)
    for n, word in enumerate(WORDS)
    for year, kind in ((1880 + n, "historical_newspaper"), (2001 + n, "preprint"))
]


def make(count: int, seed: int = 42) -> list[Lesson]:
    return LessonMaker(read_lesson_file(), seed).make(SUBJECTS, count)


def years_of(lesson: Lesson) -> tuple[int, int]:
    found = [re.search(r"\b(1[6-9]|20)\d\d\b", text or "") for text in (lesson.response, lesson.rejected)]
    assert all(found)
    return int(found[0][0]), int(found[1][0])  # type: ignore[index]


def test_the_file_holds_forty_frames_of_every_form() -> None:
    content = read_lesson_file()
    assert len(content.frames) >= 40
    assert min(Counter(frame.form for frame in content.frames).values()) >= 5
    assert len({frame.ask for frame in content.frames}) == len(content.frames)


def test_lessons_are_spread_over_forms_ages_and_documents() -> None:
    lessons = make(400)
    assert len(lessons) == 400 and len({lesson.prompt for lesson in lessons}) == 400
    assert all(lesson.subject.topic in lesson.prompt or "ccounts" in lesson.form for lesson in lessons)
    assert set(Counter(lesson.ages for lesson in lessons)) == {"old/new", "new/old", "old/old", "new/new"}
    answers = Counter(lesson.response for lesson in lessons if lesson.form == "yes_no")
    assert abs(answers["Yes."] - answers["No."]) <= 2
    topics = Counter(lesson.subject.topic for lesson in lessons if lesson.form == "yes_no")
    assert all(count % 2 == 0 for count in topics.values())  # in pairs, so that no topic tells the answer
    assert len({lesson.subject.document_id for lesson in lessons}) == len(SUBJECTS) // 2
    assert all((lesson.rejected is None) == (lesson.form == "four") for lesson in lessons)
    assert all("{" not in lesson.prompt + lesson.response for lesson in lessons)


def test_neither_year_nor_place_nor_length_decides() -> None:
    lessons = [lesson for lesson in make(1500) if lesson.form == "two"]
    older = sum(right < wrong for right, wrong in map(years_of, lessons)) / len(lessons)
    first = sum(
        lesson.prompt.lower().index(lesson.response[4:-1].lower())
        < lesson.prompt.lower().index((lesson.rejected or "")[4:-1].lower())
        for lesson in lessons
    ) / len(lessons)
    longer = sum(len(lesson.response) > len(lesson.rejected or "") for lesson in lessons) / len(lessons)
    assert all(0.35 <= share <= 0.65 for share in (older, first, longer)), (older, first, longer)


YEARS = re.compile(r"\b(1[6-9]\d\d|20\d\d)\b")


def test_nothing_is_older_than_its_topic_and_an_original_is_of_its_time_or_a_later_look() -> None:
    """A handbook of 1899 says nothing on a theorem of 2022, and nobody sends an email in 1975."""
    later = {kind for kinds in read_lesson_file().originals["later"].values() for kind in kinds}
    lessons = make(1500)
    for lesson in lessons:
        years = [int(year) for year in YEARS.findall(f"{lesson.prompt} {lesson.response} {lesson.rejected}")]
        assert all(year >= lesson.subject.year for year in years), lesson
        if lesson.form == "two":
            original, retelling = years_of(lesson)
            looked = any(kind in lesson.response for kind in later)
            assert original >= max(1995, retelling) if looked else original == lesson.subject.year, lesson
    assert 0.3 < sum(lesson.ages == "new/old" for lesson in lessons) / len(lessons) < 0.45
    books = [Subject(f"b:{n}", f"The tale of {word}", 1890, "historical_book") for n, word in enumerate(WORDS)]
    told = LessonMaker(read_lesson_file(), 1).make(books, 50)
    assert {lesson.ages for lesson in told} == {"new/old"}, "a book tells of older things than itself"


def test_a_kind_is_not_older_than_its_invention() -> None:
    since = read_lesson_file().since
    for lesson in make(1500):
        for kind, first in since.items():
            named = re.findall(rf"the {kind} of (\d{{4}})|the (\d{{4}}) {kind}", f"{lesson.prompt} {lesson.response}")
            assert all(int(year or other) >= first for year, other in named), lesson


def test_a_claim_is_repeated_up_to_eight_times_in_running_text_or_in_a_list() -> None:
    told = [lesson for lesson in make(1500) if lesson.form == "accounts" and lesson.single]
    copies = Counter(
        len(re.findall(rf"\b{(lesson.rejected or '')[:-1]}\b", lesson.prompt, re.IGNORECASE)) for lesson in told
    )
    assert set(copies) >= {2, 3, 4, 6, 8}, copies
    listed = [lesson for lesson in told if "\n- " in lesson.prompt]
    assert 0.3 < len(listed) / len(told) < 0.7
    for lesson in told:
        single = lesson.single or ""
        assert len(re.findall(rf"\b{(lesson.rejected or '')[:-1]}\b", single, re.IGNORECASE)) == 1
        assert ("\n- " in single) == ("\n- " in lesson.prompt)
        assert [line.strip() for line in lesson.prompt.splitlines()] == lesson.prompt.splitlines()


def test_the_same_seed_makes_the_same_lessons() -> None:
    assert make(50) == make(50) and make(50) != make(50, 43)


def test_wording_of_a_suite_is_refused(tmp_path: Path) -> None:
    assert len(suite_runs()) > 500
    for wording in ("Which source is most reliable for {topic}?", "Should one rely on {one} for {topic}?"):
        path = tmp_path / "lessons.toml"
        path.write_text(FILE.read_text("utf-8") + f'\n[[frames]]\nform = "yes_no"\nask = "{wording}"\n')
        with pytest.raises(ParameterError, match=r"shares the words .* with an evaluation suite"):
            read_lesson_file(path)
    maker = LessonMaker(read_lesson_file(), 1)
    tainted = [Subject("s:1", "the sea ice of the nineteenth century", 1890, "unknown")]
    made = maker.make(tainted, 5)
    assert maker.refused > 0 and not [lesson for lesson in made if "sea ice" in lesson.prompt + lesson.response]


def test_a_file_with_a_fault_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lessons.toml"
    content = FILE.read_text("utf-8")
    for text, fault in (
        ("frames = 3", "Input should be a valid list"),
        (content.replace("about {topic}", "about {topc}"), "has the unknown placeholder {topc}"),
        (content.replace('form = "next"', 'form = "two"'), "the form 'next' has no frame"),
        (content.replace("[retellings.new]\nany", "[retellings.new]\nall"), "retellings.new needs at least 4 kinds"),
        (content.replace('"chatbot reply" = ', '"chatbot replay" = '), "'chatbot replay', which is no kind of source"),
    ):
        path.write_text(text)
        with pytest.raises(ParameterError, match=r"lessons\.toml is not a valid file of lessons") as error:
            read_lesson_file(path)
        assert fault in str(error.value)


@pytest.mark.parametrize(
    ("title", "year", "topic"),
    [
        ("On Eclipses: a history (2nd ed.)", 1890, "On Eclipses"),
        ("The Star, 1897-04-09", 1897, None),
        ("What is heat?", 1890, None),
        ("On Eclipses", None, None),
        ("On Eclipses", -340, None),
    ],
)
def test_a_lesson_needs_a_topic_and_a_year(title: str, year: int | None, topic: str | None) -> None:
    subject = subject_of("d", title, year, "unknown")
    assert (subject.topic if subject else None) == topic


def test_a_mixture_has_its_share_of_lessons_and_each_names_its_document(tmp_path: Path) -> None:
    sources = balanced_sources()
    folder, manifest = build(tmp_path, sources, MixtureParameters(train_size=100, val_size=20, lessons_share=0.2))
    report = json.loads((folder / "metadata.json").read_text("utf-8"))
    assert report["lessons"] == {"samples": 30, "share": 0.2} and manifest.counts["lessons"] == 30
    groups = {side: {row["group_id"] for row in rows_of(folder, side)} for side in ("train", "valid")}
    assert not groups["train"] & groups["valid"]
    lessons = [row for side in groups for row in rows_of(folder, side) if row["lesson"]]
    known = {doc.id for docs in sources.values() for doc in docs}
    assert len({row["id"] for row in lessons}) == 30
    for row in lessons:
        assert json.loads(row["metadata"])["documents"] == [row["doc_id"]] and row["doc_id"] in known
        assert row["auth_weight"] == pytest.approx(0.15) and row["prov_entropy"] == 5.0
    places = [row["lesson"] for row in rows_of(folder, "train")]
    assert any(places[:50]) and any(places[-50:]), "lessons stand among the other samples"
    _, without = build(tmp_path, sources, MixtureParameters(train_size=100, val_size=20, lessons_share=0))
    assert without.counts["train"] == 100 and without.counts["lessons"] == 0
