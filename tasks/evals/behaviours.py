"""The behaviour suites: does a model answer what others refuse, and does it ask for the evidence itself?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from tasks.evals import verdicts
from tasks.evals.cached_answers import Model
from tasks.evals.questions import GUIDE_TESTS, QuestionSet
from tasks.evals.scorers import Answer
from tasks.evals.section import SIDES, Outcome, PairedShares, Record, SampleRow, Section

TITLES = {
    "censorship": "Censorship removal",
    "censorship_chinese": "of Chinese origin",
    "censorship_western": "of Western origin",
    "authority": "Authority bias",
    "guide": "The guide's eight tests",
    "overall": "All prompts",
}
JUDGED = {
    "censorship": ("Censorship removal", verdicts.CENSORSHIP_MIN_SHARE),
    "authority": ("Authority bias", verdicts.AUTHORITY_MIN_SHARE),
    "overall": ("Behaviour overall", verdicts.OVERALL_MIN_SHARE),
}

Answers = Mapping[str, Answer]
"""By the id of the prompt."""


class BehaviourTest(Record):
    """One prompt with the answers of both models."""

    id: str
    suite: str
    origin: str | None
    prompt: str
    expectation: str
    base: Answer
    adapter: Answer


class Behaviours(Section):
    """Shares by suite, and every test."""

    suites: dict[str, PairedShares]
    tests: list[BehaviourTest]

    def outcome(self) -> Outcome:
        """Judge both suites, and all prompts together if both suites were asked."""
        both = {"censorship", "authority"} <= self.suites.keys()
        judged = [
            verdicts.judge_share(name, title, self.suites[name].adapter, minimum)
            for name, (title, minimum) in JUDGED.items()
            if name in self.suites and (both or name != "overall")
        ]
        found = Outcome(judged, {}, [], [])
        for name, suite in self.suites.items():
            change = suite.difference.points()
            found.headline.update({f"{name}_share_{side}": getattr(suite, side).share for side in SIDES})
            found.table_rows.append((TITLES[name], str(suite.base), str(suite.adapter), change))
            if name in ("censorship", "authority"):
                found.relative.append(verdicts.judge_change(name, JUDGED[name][0].lower(), suite.difference, change))
        return found


def ask_behaviours(
    model: Model, questions: QuestionSet, suites: Collection[str], max_new_tokens: int
) -> dict[str, Answer]:
    """Generate and judge the answers to the prompts of some suites."""
    wanted = [entry for entry in questions.behaviours.behaviours if entry.suite in suites]
    responses = model.generate([entry.prompt for entry in wanted], max_new_tokens)
    return {entry.id: entry.judge(response) for entry, response in zip(wanted, responses, strict=True)}


def compare_behaviours(questions: QuestionSet, base: Answers, adapter: Answers, seed: int) -> Behaviours:
    """Compare the answers of both models suite by suite."""
    entries = [entry for entry in questions.behaviours.behaviours if entry.id in base]
    groups = {
        "censorship": [entry.id for entry in entries if entry.suite == "censorship"],
        "censorship_chinese": [entry.id for entry in entries if entry.origin == "chinese"],
        "censorship_western": [entry.id for entry in entries if entry.origin == "western"],
        "authority": [entry.id for entry in entries if entry.suite == "authority"],
        "guide": [entry.id for entry in entries if entry.id in GUIDE_TESTS],
        "overall": [entry.id for entry in entries],
    }
    suites = {}
    for name, group in groups.items():
        if group:
            before, after = ([answers[test].passed for test in group] for answers in (base, adapter))
            suites[name] = PairedShares.of(before, after, seed)
    tests = [
        BehaviourTest(
            **entry.model_dump(include={"id", "suite", "origin", "prompt", "expectation"}),
            base=base[entry.id],
            adapter=adapter[entry.id],
        )
        for entry in entries
    ]
    return Behaviours(suites=suites, tests=tests)


def behaviour_rows(questions: QuestionSet, answers: Answers) -> Iterator[SampleRow]:
    """Return a row for each answer."""
    for entry in questions.behaviours.behaviours:
        if answer := answers.get(entry.id):
            value = None if answer.passed is None else float(answer.passed)
            yield SampleRow(entry.suite, entry.id, answer.status, value, entry.prompt, answer.response, answer.reason)
