"""Base against adapter: every number of the report, from the measurements of both models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from storage.vocabulary import BANDS
from tasks.evals import verdicts
from tasks.evals.corpus import HeldOut
from tasks.evals.measure import Measurements, Way
from tasks.evals.metrics import (
    Estimate,
    Share,
    distrust_ratio,
    mean_of,
    paired_difference,
    perplexity,
    perplexity_ratio,
    perplexity_shift,
    relative_distrust,
    share_of,
)
from tasks.evals.suites import GUIDE_TESTS, Behaviour, QuestionSet, Scenario
from tasks.evals.verdicts import Verdict

MODELS = ("base", "adapter")


def compare_behaviours(
    questions: QuestionSet, base: Measurements, adapter: Measurements, seed: int
) -> tuple[dict[str, Any], list[Verdict]]:
    """Compare the behaviour suites; the verdicts are the adapter's."""
    entries = [entry for entry in questions.behaviours.behaviours if entry.id in base.answers]
    groups: dict[str, list[Behaviour]] = {
        "censorship": [entry for entry in entries if entry.suite == "censorship"],
        "censorship_chinese": [entry for entry in entries if entry.origin == "chinese"],
        "censorship_western": [entry for entry in entries if entry.origin == "western"],
        "authority": [entry for entry in entries if entry.suite == "authority"],
        "guide": [entry for entry in entries if entry.id in GUIDE_TESTS],
        "overall": entries,
    }
    suites, adapter_shares = {}, {}
    for name, group in groups.items():
        if group:
            suites[name], adapter_shares[name] = _compare_group(group, base, adapter, seed)
    both = {"censorship", "authority"} <= adapter_shares.keys()
    minimums = (
        ("censorship", "Censorship removal", verdicts.CENSORSHIP_MIN_SHARE),
        ("authority", "Authority bias", verdicts.AUTHORITY_MIN_SHARE),
        ("overall", "Behaviour overall", verdicts.OVERALL_MIN_SHARE),
    )
    found = [
        verdicts.judge_share(name, title, adapter_shares[name], minimum)
        for name, title, minimum in minimums
        if name in adapter_shares and (both or name != "overall")
    ]
    return {"suites": suites, "tests": [_test_record(entry, base, adapter) for entry in entries]}, found


def compare_preference(
    questions: QuestionSet, base: Measurements, adapter: Measurements, way: Way, seed: int
) -> tuple[dict[str, Any], list[Verdict]]:
    """Compare the choices between sources, in every way they were asked for.

    Args:
        questions: The scenarios.
        base: Measurements of the base model.
        adapter: Measurements of an adapter.
        way: What both are judged by; see `deciding_way`.
        seed: Seed of the intervals.
    """
    result: dict[str, Any] = {}
    chosen: dict[str, dict[str, list[bool | None]]] = {}
    for name, found in zip(MODELS, (base, adapter), strict=True):
        choices = list(found.choices.values())
        chosen[name] = {
            "text": [choice.chosen == 0 for choice in choices],
            "letter": [choice.chosen_by_letter == 0 for choice in choices],
            "stated": [None if choice.stated is None else choice.stated == 0 for choice in choices],
        }
        result[name] = {
            "primary_chosen": share_of(chosen[name]["text"]).as_record(),
            "primary_chosen_by_letter": share_of(chosen[name]["letter"]).as_record(),
            "primary_chosen_as_stated": share_of(chosen[name]["stated"]).as_record(),
            "letter_mass": mean_of([choice.letter_mass for choice in choices], seed).value,
            "primary_chosen_by_advantage": share_of([c.chosen_by_advantage == 0 for c in choices]).as_record(),
            "margin_nats_per_byte": mean_of([choice.margin for choice in choices], seed).as_record(),
        }
    for name, kind in (("difference", "text"), ("letter_difference", "letter")):
        result[name] = paired_difference(chosen["base"][kind], chosen["adapter"][kind], seed).as_record()
    result["margin_difference"] = paired_difference(
        [choice.margin for choice in base.choices.values()],
        [choice.margin for choice in adapter.choices.values()],
        seed,
    ).as_record()
    result["decided_by"] = way
    result["scenarios"] = [
        _scenario_record(questions, each, base, adapter, way) for each in questions.scenarios.scenarios
    ]
    return result, [verdicts.judge_preference(share_of(chosen["adapter"][way]))]


def deciding_way(found: Measurements) -> Way:
    """Return how choices are read, given the adapter that is judged: all models beside it are read the same way.

    A model that answers with letters is judged by them; one that does not, such as a small base model, by the
    likelihood of the options' text.
    """
    mass = mean_of([choice.letter_mass for choice in found.choices.values()]).value
    return "letter" if mass is not None and mass >= verdicts.LETTER_MIN_MASS else "text"


def _scenario_record(
    questions: QuestionSet, scenario: Scenario, base: Measurements, adapter: Measurements, way: Way
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": scenario.id,
        "prompt": questions.scenarios.ask(scenario),
        "options": scenario.options,
    }
    for name, found in zip(MODELS, (base, adapter), strict=True):
        choice = found.choices[scenario.id]
        record[name] = {
            "decided": choice.decided(way),
            "chosen": choice.chosen,
            "chosen_by_letter": choice.chosen_by_letter,
            "stated": choice.stated,
            "nats_per_byte": list(choice.nats_per_byte),
            "advantage_nats": list(choice.advantage_nats),
            "letter_nats": list(choice.letter_nats),
        }
    return record


def compare_general_ability(
    base: Measurements, adapter: Measurements, seed: int
) -> tuple[dict[str, Any], list[Verdict]]:
    """Compare the perplexity on everyday texts."""
    tokens = [found.tokens for found in base.neutral]
    before, after = [found.nats for found in base.neutral], [found.nats for found in adapter.neutral]
    ratio = perplexity_ratio(before, after, tokens, seed)
    record = {
        "texts": len(tokens),
        "base": perplexity(before, tokens, seed).as_record(),
        "adapter": perplexity(after, tokens, seed).as_record(),
        "ratio": ratio.as_record(),
    }
    return record, [verdicts.judge_general_ability(ratio)]


def compare_perplexity(
    held_out: Sequence[HeldOut], base: Measurements, adapter: Measurements, seed: int
) -> tuple[dict[str, Any], list[Verdict]]:
    """Compare perplexity by authority band, absolutely and relative to the base."""
    bands: dict[str, Any] = {}
    absolute: dict[str, Estimate] = {}
    gains: dict[str, tuple[list[float], list[int]]] = {}
    for band in BANDS:
        rows = [row for row, sample in enumerate(held_out) if sample.band == band]
        tokens = [base.likelihoods[row].tokens for row in rows]
        before = [base.likelihoods[row].nats for row in rows]
        after = [adapter.likelihoods[row].nats for row in rows]
        absolute[band] = perplexity(after, tokens, seed)
        gains[band] = ([a - b for a, b in zip(after, before, strict=True)], tokens)
        bands[band] = {
            "samples": len(rows),
            "unscored": sum(count == 0 for count in tokens),
            "tokens": sum(tokens),
            "base": perplexity(before, tokens, seed).as_record(),
            "adapter": absolute[band].as_record(),
            "ratio": perplexity_ratio(before, after, tokens, seed).as_record(),
        }
    shift = perplexity_shift(gains["low"], gains["high"], seed)
    found = [verdicts.judge_shift(shift), verdicts.judge_pattern(absolute)]
    return {"bands": bands, "shift": shift.as_record()}, found


def compare_trust(
    questions: QuestionSet, base: Measurements, adapter: Measurements, seed: int
) -> tuple[dict[str, Any], list[Verdict]]:
    """Compare the confidence in primary and modern sources."""
    columns = {
        name: ([trust.primary for trust in found.trust.values()], [trust.modern for trust in found.trust.values()])
        for name, found in zip(MODELS, (base, adapter), strict=True)
    }
    result: dict[str, Any] = {}
    ratios: dict[str, Estimate] = {}
    answered = {
        name: mean_of([trust.answered for trust in found.trust.values()]).value
        for name, found in zip(MODELS, (base, adapter), strict=True)
    }
    for name, (primary, modern) in columns.items():
        ratios[name] = distrust_ratio(primary, modern, seed)
        result[name] = {
            "primary": mean_of(primary, seed).as_record(),
            "modern": mean_of(modern, seed).as_record(),
            "ratio": ratios[name].as_record(),
            "answered": answered[name],
        }
    result["relative_ratio"] = relative_distrust(columns["base"], columns["adapter"], seed).as_record()
    result["signals"] = [
        {
            "id": signal.id,
            "topic": signal.topic,
            "sources": {"primary": signal.primary, "modern": signal.modern},
            **{
                name: {"primary": found.trust[signal.id].primary, "modern": found.trust[signal.id].modern}
                for name, found in zip(MODELS, (base, adapter), strict=True)
            },
        }
        for signal in questions.scenarios.signals
    ]
    return result, [verdicts.judge_distrust(ratios["adapter"], answered["adapter"])]


def _compare_group(
    group: Sequence[Behaviour], base: Measurements, adapter: Measurements, seed: int
) -> tuple[dict[str, Any], Share]:
    before = [base.answers[entry.id].judgement.passed for entry in group]
    after = [adapter.answers[entry.id].judgement.passed for entry in group]
    share = share_of(after)
    record = {
        "base": share_of(before).as_record(),
        "adapter": share.as_record(),
        "difference": paired_difference(before, after, seed).as_record(),
    }
    return record, share


def _test_record(entry: Behaviour, base: Measurements, adapter: Measurements) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": entry.id,
        "suite": entry.suite,
        "origin": entry.origin,
        "prompt": entry.prompt,
        "expectation": entry.expectation,
    }
    for name, found in zip(MODELS, (base, adapter), strict=True):
        answer = found.answers[entry.id]
        record[name] = {
            "response": answer.response,
            "status": answer.judgement.status,
            "reason": answer.judgement.reason,
        }
    return record
