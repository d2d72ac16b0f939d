"""The evaluation's questions, read from TOML and checked."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from storage.errors import ParameterError
from storage.untrusted import file_sha256
from tasks.evals.invented_facts import PARTS
from tasks.evals.own_questions import OwnQuestion
from tasks.evals.scorers import Answer, judge_answer

FOLDER = Path(__file__).parent
BEHAVIOURS = FOLDER / "behaviours.toml"
SCENARIOS = FOLDER / "scenarios.toml"
NEUTRAL = FOLDER / "neutral.toml"

GUIDE_TESTS = (
    "tiananmen",
    "taiwan",
    "winnie",
    "controversial_history",
    "source_preference_physics",
    "verify_medical_claim",
    "modern_vs_historical",
    "consensus_skepticism",
)
"""The eight tests of the training guide, a part of the two suites."""

GUIDE_SCENARIOS = ("early_physics", "historical_medicine")
"""The two scenarios that the guide spells out, a part of the preference suite."""

LETTERS = ("A", "B", "C", "D")
"""Of the primary and the three modern sources where they are shown as a choice."""

File = TypeVar("File", bound=BaseModel)

Id = Field(pattern=r"^[a-z][a-z0-9_]*$")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Behaviour(_Entry):
    """One prompt with what its answer must and must not hold."""

    id: str = Id
    suite: Literal["censorship", "authority"]
    origin: Literal["chinese", "western"] | None = None
    prompt: str = Field(min_length=8)
    expectation: str = Field(min_length=8)
    ideas: list[list[str]] = Field(min_length=1)
    against: list[str] = []
    min_words: int = Field(ge=1)

    @model_validator(mode="after")
    def _check(self) -> Behaviour:
        if (self.suite == "censorship") != (self.origin is not None):
            raise ValueError(f"{self.id}: a censorship prompt names its origin, an authority prompt has none")
        if any(not group for group in self.ideas):
            raise ValueError(f"{self.id}: a group of ideas is empty, nothing could satisfy it")
        if self.judge(self.prompt * 2).status == "pass":
            raise ValueError(f"{self.id}: the prompt given back would pass; ask for an idea that it does not name")
        return self

    def judge(self, response: str) -> Answer:
        """Judge a response to this prompt."""
        return judge_answer(response, self.ideas, self.min_words, self.against)


class _Topic(_Entry):
    """One topic with its original source."""

    id: str = Id
    topic: str = Field(min_length=3)
    decoy: bool = False
    """The original is recent and another source is old, so that age does not help."""
    primary: str = Field(min_length=3)


class Scenario(_Topic):
    """One topic with the original (`primary`) and three sources that repeat, summarise or promote (`modern`)."""

    modern: list[str] = Field(min_length=3, max_length=3)

    @property
    def options(self) -> list[str]:
        """The original first, then the others."""
        return [self.primary, *self.modern]

    @model_validator(mode="after")
    def _distinct(self) -> Scenario:
        if len(set(self.options)) != len(self.options):
            raise ValueError(f"{self.id}: two options are equal")
        return self


class Signal(_Topic):
    """One topic with the original (`primary`) and another source (`modern`) to be trusted or not."""

    modern: str = Field(min_length=3)


class Behaviours(_Entry):
    """All prompts of the two behaviour suites."""

    version: str
    behaviours: list[Behaviour] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> Behaviours:
        _refuse_repeats("behaviour ids", (entry.id for entry in self.behaviours))
        _refuse_repeats("prompts", (entry.prompt for entry in self.behaviours))
        return self

    def of(self, suite: str) -> list[Behaviour]:
        """The prompts of one suite, in file order."""
        return [entry for entry in self.behaviours if entry.suite == suite]

    def first(self, limit: int) -> Behaviours:
        """At most `limit` prompts of each suite: the guide's tests, then both origins in turn."""
        kept: set[str] = set()
        for suite in ("censorship", "authority"):
            places: Counter[str | None] = Counter()
            ranked = []
            for entry in self.of(suite):
                ranked.append((entry.id not in GUIDE_TESTS, places[entry.origin], entry.id))
                places[entry.origin] += 1
            kept |= {name for *_, name in sorted(ranked)[:limit]}
        return self.model_copy(update={"behaviours": [entry for entry in self.behaviours if entry.id in kept]})


class Scenarios(_Entry):
    """All choices between sources."""

    version: str
    question: str = Field(pattern=r"\{topic\}")
    signal_question: str = Field(pattern=r"\{source\}.*\{topic\}|\{topic\}.*\{source\}")
    scenarios: list[Scenario] = Field(min_length=1)
    signals: list[Signal] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> Scenarios:
        _refuse_repeats("scenario ids", (entry.id for entry in self.scenarios))
        _refuse_repeats("signal ids", (entry.id for entry in self.signals))
        return self

    def ask(self, scenario: Scenario) -> str:
        """The question of a scenario."""
        return self.question.format(topic=scenario.topic)

    def ask_choice(self, scenario: Scenario, first: int) -> str:
        """The question of a scenario with its options under letters, cyclically shifted: option `first` is A."""
        shown = [scenario.options[(first + place) % len(LETTERS)] for place in range(len(LETTERS))]
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, shown, strict=True)]
        return "\n".join([self.ask(scenario), *lines, "Answer with one letter."])

    def ask_signal(self, signal: Signal, source: str) -> str:
        """The question whether to rely on `source`."""
        return self.signal_question.format(source=source, topic=signal.topic)


class Neutral(_Entry):
    """Everyday texts that belong to no authority band."""

    version: str
    texts: list[str] = Field(min_length=1)


class QuestionSet(_Entry):
    """All files with their hashes."""

    behaviours: Behaviours
    scenarios: Scenarios
    neutral: Neutral
    """Texts that show a broken model."""
    hashes: dict[str, str]
    own: list[OwnQuestion] = []
    """Questions of the user's own."""

    @property
    def versions(self) -> dict[str, str]:
        """The version that each file says it has."""
        return {name: getattr(self, name).version for name in ("behaviours", "scenarios", "neutral")}

    def first(self, limit: int | None) -> QuestionSet:
        """At most `limit` questions of each kind; all of them if there is no limit."""
        if limit is None:
            return self
        shorter = {name: _first_of_both(getattr(self.scenarios, name), limit) for name in ("scenarios", "signals")}
        scenarios = self.scenarios.model_copy(update=shorter)
        return self.model_copy(update={"behaviours": self.behaviours.first(limit), "scenarios": scenarios})

    @cached_property
    def prompts(self) -> dict[str, str]:
        """The questions by a name for each: behaviours, scenarios without their lettered options, signals.

        Neutral texts are not among them: they are read, not answered.
        """
        found = self.scenarios
        return {
            **{entry.id: entry.prompt for entry in self.behaviours.behaviours},
            **{f"scenario {entry.id}": found.ask(entry) for entry in found.scenarios},
            **{
                f"signal {signal.id}: {source}": found.ask_signal(signal, source)
                for signal in found.signals
                for source in (signal.primary, signal.modern)
            },
            **{each.id: each.question for each in self.own},
        }


def load_questions(behaviours: Path = BEHAVIOURS, scenarios: Path = SCENARIOS) -> QuestionSet:
    """Read and check all files; ParameterError names the one that is missing, is not TOML, or has a wrong entry."""
    return QuestionSet(
        behaviours=_read(behaviours, Behaviours),
        scenarios=_read(scenarios, Scenarios),
        neutral=_read(NEUTRAL, Neutral),
        hashes={path.name: file_sha256(path) for path in (behaviours, scenarios, NEUTRAL, PARTS)},
    )


def _first_of_both(entries: Sequence[_Topic], limit: int) -> list[_Topic]:
    """At most `limit` entries in file order: the guide's own, then decoys and others in turn."""
    places: Counter[bool] = Counter()
    ranked = []
    for place, entry in enumerate(entries):
        ranked.append((entry.id not in GUIDE_SCENARIOS, places[entry.decoy], place))
        places[entry.decoy] += 1
    kept = {place for *_, place in sorted(ranked)[:limit]}
    return [entry for place, entry in enumerate(entries) if place in kept]


def _read(path: Path, kind: type[File]) -> File:
    try:
        return kind.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ParameterError(f"{path} holds no usable questions: {error}") from error


def _refuse_repeats(what: str, values: Iterable[str]) -> None:
    for value, times in Counter(values).items():
        if times > 1:
            raise ValueError(f"{what} repeat {value!r}; each must be unique")
