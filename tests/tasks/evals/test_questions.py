from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import ParameterError
from tasks.evals.questions import GUIDE_SCENARIOS, GUIDE_TESTS, SCENARIOS, load_questions

ENTRY = """
[[behaviours]]
id = "{id}"
suite = "{suite}"
prompt = "Is a summary enough?"
expectation = "Wants the records."
ideas = {ideas}
min_words = 3
"""


def test_the_bundled_questions_are_as_many_as_promised() -> None:
    questions = load_questions()
    censorship = questions.behaviours.of("censorship")
    assert sum(entry.origin == "chinese" for entry in censorship) >= 12
    assert sum(entry.origin == "western" for entry in censorship) >= 12
    assert len(questions.behaviours.of("authority")) == 24
    assert len(questions.scenarios.scenarios) >= 60
    assert len(questions.scenarios.signals) >= 40
    assert [entry.id for entry in questions.scenarios.scenarios[:2]] == list(GUIDE_SCENARIOS)
    suites = {entry.id: entry.suite for entry in questions.behaviours.behaviours}
    assert [suites[name] for name in GUIDE_TESTS] == ["censorship"] * 4 + ["authority"] * 4
    assert len(set(questions.prompts.values())) == len(questions.prompts), "every prompt is asked once"


RECORD_WORDS = re.compile(
    r"\b(?:notebook|notes|journal|diar(?:y|ies)|letters?|log|logbooks?|records?|patent|manuscript|ledgers?|sheets?|"
    r"lists?|data|readings|eyewitness|raw|original|book|archive|account)\b",
    re.IGNORECASE,
)


def year_of(source: str) -> int | None:
    years = re.findall(r"\b1[4-9]\d\d\b|\b20\d\d\b", source)
    return int(years[0]) if years else None


CUES: dict[str, Callable[[str], float]] = {
    "the oldest year": lambda source: -(year_of(source) or 9999),
    "the newest year": lambda source: year_of(source) or -1,
    "a word of records": lambda source: float(bool(RECORD_WORDS.search(source))),
    "the longest": len,
    "the shortest": lambda source: -len(source),
    "the first letter": lambda source: -ord(source.removeprefix("The ")[0].lower()),
}


@pytest.mark.parametrize("cue", CUES)
def test_no_rule_that_knows_nothing_passes_the_choices(cue: str) -> None:
    scenarios = load_questions().scenarios.scenarios
    right = 0.0
    for scenario in scenarios:
        values = [CUES[cue](source) for source in scenario.options]
        best = max(values)
        right += (values[0] == best) / values.count(best)  # a tie is drawn by lot
    assert right / len(scenarios) <= 0.45, cue


def test_a_third_of_scenarios_and_signals_are_decoys_with_an_old_second_hand_source() -> None:
    found = load_questions().scenarios
    for entries in (found.scenarios, found.signals):
        assert sum(entry.decoy for entry in entries) * 3 >= len(entries)
    for scenario in found.scenarios:
        if scenario.decoy:
            assert min(year_of(source) or 9999 for source in scenario.modern) < 1950, scenario.id
            assert (year_of(scenario.primary) or 2000) > 1990, scenario.id
    for signal in found.signals:
        old = (year_of(signal.modern) or 9999) < (year_of(signal.primary) or 2000)
        assert old is signal.decoy, signal.id


@pytest.mark.parametrize("cue", CUES)
def test_a_rule_that_knows_nothing_cannot_tell_the_sources_of_a_signal_apart(cue: str) -> None:
    signals = load_questions().scenarios.signals
    right = [CUES[cue](signal.primary) - CUES[cue](signal.modern) for signal in signals]
    share = sum((value > 0) + (value == 0) / 2 for value in right) / len(right)
    assert share <= 0.7, (cue, share)


def test_a_limit_keeps_the_guides_tests_and_both_origins() -> None:
    questions = load_questions()
    assert questions.first(None) is questions
    short = questions.first(4)
    assert tuple(entry.id for entry in short.behaviours.behaviours) == GUIDE_TESTS
    assert len(short.scenarios.scenarios) == len(short.scenarios.signals) == 4
    assert [entry.id for entry in short.scenarios.scenarios[:2]] == list(GUIDE_SCENARIOS)
    assert sum(entry.decoy for entry in short.scenarios.signals) == 2, "a short look has decoys too"
    origins = [entry.origin for entry in questions.first(10).behaviours.of("censorship")]
    assert sorted(map(str, origins)) == ["chinese"] * 5 + ["western"] * 5
    assert questions.first(100).prompts == questions.prompts


def test_a_refusal_passes_no_behaviour_and_the_expectation_is_reachable() -> None:
    for entry in load_questions().behaviours.behaviours:
        assert entry.judge("I'm sorry, but I can't discuss this topic. " * 2).status == "fail", entry.id
        # One alternative of every group, in plain clauses, is an answer; else nothing could pass.
        ideal = ". ".join(group[0] for group in entry.ideas) + ". " + " ".join(f"word{n}" for n in range(20))
        assert entry.judge(ideal).status == "pass", (entry.id, entry.judge(ideal))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("a", "authority", '[["record"]]'), ("a", "authority", '[["record"]]')], "repeat 'a'"),
        ([("a", "censorship", '[["record"]]')], "names its origin"),
        ([("a", "authority", "[[]]")], "could satisfy"),
        ([("a", "authority", '[["summary"]]')], "the prompt given back would pass"),
        ([("a", "charm", '[["record"]]')], "charm"),
        ([("Not a name", "authority", '[["record"]]')], "pattern"),
    ],
)
def test_a_wrong_behaviour_file_is_refused(tmp_path: Path, entries: list[tuple[str, str, str]], message: str) -> None:
    path = tmp_path / "behaviours.toml"
    path.write_text('version = "t"\n' + "".join(ENTRY.format(id=i, suite=s, ideas=g) for i, s, g in entries))
    with pytest.raises(ParameterError, match=message):
        load_questions(behaviours=path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('question = "Which source is most reliable for {topic}?"', 'question = "Which source?"', "question"),
        ('"The modern physics textbook of 2021", ', "", "at least 3"),
        ('"The modern physics textbook of 2021"', '"The online encyclopedia article of 2024"', "two options are equal"),
        ('version = "3"', "version = ", "no usable questions"),
    ],
)
def test_a_wrong_scenario_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = SCENARIOS.read_text("utf-8")
    assert old in text
    path = tmp_path / "scenarios.toml"
    path.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(ParameterError, match=message):
        load_questions(scenarios=path)
    with pytest.raises(ParameterError, match=r"nowhere\.toml"):
        load_questions(scenarios=tmp_path / "nowhere.toml")
