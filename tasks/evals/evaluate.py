"""Evaluate one run: base and adapter over the same questions and texts, then results and report, once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from storage.atomic import remove_temporaries, write_json, write_text
from storage.events import Emit
from storage.manifest import Manifest, digest_of
from storage.untrusted import read_bounded, read_object
from tasks.evals import compare
from tasks.evals.corpus import (
    HeldOut,
    choose_held_out,
    describe_training_mixture,
    find_contamination,
    open_mixture,
    read_histograms,
    read_objective,
    read_training_curve,
)
from tasks.evals.measure import Measurements, Way, count_steps, measure_model
from tasks.evals.model_under_test import load_model
from tasks.evals.next_steps import suggest
from tasks.evals.parameters import SUITES
from tasks.evals.records import write_samples
from tasks.evals.remembered import KeptAnswers, RememberedModel
from tasks.evals.report import render_report, report_markdown
from tasks.evals.spec import EvaluationSpec, describe, hash_inputs, model_name
from tasks.evals.suites import QuestionSet, load_questions
from tasks.evals.verdicts import Verdict, all_passed

MOST_REPORT_BYTES = 256 << 20
VALIDATION_RESULTS = "validation_results.json"
EVALUATION_RESULTS = "evaluation_results.json"
REPORT = "report.html"


def evaluate_run(spec: EvaluationSpec, emit: Emit) -> dict[str, Any]:
    """Evaluate base and adapter, or return what an evaluation of the same inputs already found.

    Returns:
        Headline numbers, verdicts, paths of the written files, and a Markdown summary.

    Raises:
        PrerequisiteError: The base model or the adapter is not there.
        StoreError: There is no finished mixture, or it has no validation samples.
    """
    questions = load_questions().first(spec.parameters.eval_limit)
    manifest = open_mixture(spec.balanced_folder)
    inputs = hash_inputs(spec, questions, manifest)
    digest = digest_of({"inputs": inputs, "parameters": spec.parameters.model_dump(mode="json", exclude={"gate"})})
    finished = read_finished(spec.reports_folder, digest)
    if finished is not None:
        emit("log", message=f"an evaluation of the same inputs is finished; keeping {spec.reports_folder / REPORT}")
        return summarise(finished, spec, reused=True)

    start = time.monotonic()
    held_out = (
        choose_held_out(spec.balanced_folder, manifest, spec.parameters.perplexity_samples, spec.parameters.seed)
        if "perplexity" in spec.parameters.suites
        else []
    )
    models = _measure_all(spec, questions, held_out, inputs, emit)
    results = _collect(spec, questions, held_out, models, manifest)
    results["spec"]["inputs"] = inputs
    results["seconds"]["total"] = round(time.monotonic() - start, 3)
    results = {"digest": digest, **results, "headline": headline(results)}
    _write(spec, questions, held_out, models, results)
    return summarise(results, spec, reused=False)


def read_finished(reports_folder: Path, digest: str) -> dict[str, Any] | None:
    """Return the results in a folder if they and their report were made from the inputs of this digest."""
    try:
        results = read_object(reports_folder / EVALUATION_RESULTS)
        report = read_bounded(reports_folder / REPORT, MOST_REPORT_BYTES).decode()
    except (OSError, ValueError):
        return None
    return results if results.get("digest") == digest and digest in report else None


def summarise(results: dict[str, Any], spec: EvaluationSpec, *, reused: bool) -> dict[str, Any]:
    """The record that the parent process gets."""
    passed = results["passed"]
    return {
        "headline": results["headline"],
        "verdicts": results["verdicts"],
        "passed": passed,
        "gate_failed": spec.parameters.gate and passed is not True,
        "failed_verdicts": [v["name"] for v in results["verdicts"] if v["decides"] and v["passed"] is not True],
        "report": str(spec.reports_folder / REPORT),
        "results": str(spec.reports_folder / EVALUATION_RESULTS),
        "validation": str(spec.reports_folder / VALIDATION_RESULTS) if results["behaviours"] else None,
        "markdown": report_markdown(results),
        "seconds": results["seconds"],
        "reused": reused,
    }


def headline(results: dict[str, Any]) -> dict[str, float | None]:
    """The numbers by which one evaluation is told from another, flat; only those that were measured."""
    numbers: dict[str, float | None] = {}
    for name, suite in ((results["behaviours"] or {}).get("suites") or {}).items():
        for model in compare.MODELS:
            numbers[f"{name}_share_{model}"] = suite[model]["share"]
    if preference := results["source_preference"]:
        way = "primary_chosen_by_letter" if preference["decided_by"] == "letter" else "primary_chosen"
        for model in compare.MODELS:
            numbers[f"source_preference_{model}"] = preference[model][way]["share"]
    if perplexities := results["perplexity"]:
        for band, record in perplexities["bands"].items():
            for part in (*compare.MODELS, "ratio"):
                numbers[f"perplexity_{band}_{part}"] = record[part]["value"]
        numbers["perplexity_shift"] = perplexities["shift"]["value"]
    if trust := results["distrust_signal"]:
        for model in compare.MODELS:
            numbers[f"distrust_ratio_{model}"] = trust[model]["ratio"]["value"]
        numbers["distrust_ratio_relative"] = trust["relative_ratio"]["value"]
    if general := results["general_ability"]:
        numbers["perplexity_neutral_ratio"] = general["ratio"]["value"]
    return numbers


def _measure_all(
    spec: EvaluationSpec, questions: QuestionSet, held_out: Sequence[HeldOut], inputs: dict[str, Any], emit: Emit
) -> dict[str, Measurements]:
    """Measure one model after the other, so that no more than one is in memory."""
    adapters: dict[str, Path | None] = {"base": None, **spec.adapters}
    total, done = len(adapters) * count_steps(spec.parameters), 0
    spec.reports_folder.mkdir(parents=True, exist_ok=True)
    kept = KeptAnswers(spec.reports_folder)
    measured: dict[str, Measurements] = {}
    for name, adapter in adapters.items():

        def report(stage: str, name: str = name) -> None:
            nonlocal done
            done += 1
            emit("progress", stage=f"{name}: {stage}", done=done, total=total)

        identity = {
            "model": inputs["model"],
            "adapter": inputs["adapters"].get(name),
            "versions": inputs["versions"],
        }
        load = partial(load_model, spec.model_path, adapter, spec.parameters.eval_batch_size)
        model = RememberedModel(load, identity, kept)
        try:
            measured[name] = measure_model(model, questions, held_out, spec.parameters, report)
        finally:
            model.close()
    return measured


def _collect(
    spec: EvaluationSpec,
    questions: QuestionSet,
    held_out: Sequence[HeldOut],
    models: dict[str, Measurements],
    manifest: Manifest,
) -> dict[str, Any]:
    way = compare.deciding_way(models["adapter"])
    sections, found = _compare(spec, questions, held_out, models["base"], models["adapter"], way)
    passed = all_passed(found)
    if passed and set(spec.parameters.suites) != set(SUITES):
        passed = None  # a part of the suites can refute a model, but not approve it
    others = {}
    for name in spec.others:
        parts, others_found = _compare(spec, questions, held_out, models["base"], models[name], way)
        records = [verdict.as_record() for verdict in others_found]
        others[name] = {"headline": headline(parts), "verdicts": records}
    mixture = describe_training_mixture(spec.balanced_folder, manifest)
    judged = [verdict.as_record() for verdict in found]
    return {
        "run": spec.run_folder.name,
        "model": model_name(spec),
        "adapter": spec.adapter_folder.name,
        "passed": passed,
        "verdicts": judged,
        "next_steps": suggest(judged, mixture, passed),
        **sections,
        "lm_eval": {name: measured.harness for name, measured in models.items()} if models["base"].harness else None,
        "others": others,
        "mixture": mixture,
        "contaminated_prompts": find_contamination(spec.balanced_folder, manifest, questions.prompts),
        "histograms": read_histograms(spec.balanced_folder),
        "objective": read_objective(spec.run_folder),
        "training_curve": read_training_curve(spec.run_folder),
        "seconds": {name: measured.seconds for name, measured in models.items()},
        "spec": describe(spec, questions),
    }


def _compare(
    spec: EvaluationSpec,
    questions: QuestionSet,
    held_out: Sequence[HeldOut],
    base: Measurements,
    adapter: Measurements,
    way: Way,
) -> tuple[dict[str, Any], list[Verdict]]:
    """Compare the base with one adapter, section by section; one that was not asked for is none."""
    sections: dict[str, Any] = {}
    found: list[Verdict] = []

    def add(name: str, section: tuple[dict[str, Any], list[Verdict]] | None) -> None:
        sections[name] = section[0] if section else None
        found.extend(section[1] if section else ())

    seed = spec.parameters.seed
    add("behaviours", compare.compare_behaviours(questions, base, adapter, seed) if base.answers else None)
    add("source_preference", compare.compare_preference(questions, base, adapter, way, seed) if base.choices else None)
    add("perplexity", compare.compare_perplexity(held_out, base, adapter, seed) if base.likelihoods else None)
    add("distrust_signal", compare.compare_trust(questions, base, adapter, seed) if base.trust else None)
    add("general_ability", compare.compare_general_ability(base, adapter, seed) if base.neutral else None)
    return sections, found


def _write(
    spec: EvaluationSpec,
    questions: QuestionSet,
    held_out: Sequence[HeldOut],
    models: dict[str, Measurements],
    results: dict[str, Any],
) -> None:
    """Write everything, the report last; the report names the digest, so a stale one is never taken for this."""
    folder = spec.reports_folder
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporaries(folder)
    write_samples(folder, questions, held_out, models)
    if results["behaviours"]:
        write_json(folder / VALIDATION_RESULTS, _validation_record(results))
    else:
        (folder / VALIDATION_RESULTS).unlink(missing_ok=True)  # of an earlier evaluation
    write_json(folder / EVALUATION_RESULTS, results)
    write_text(folder / REPORT, render_report(results))


def _validation_record(results: dict[str, Any]) -> dict[str, Any]:
    """The guide's phase 7: every test with prompt, response and status, the suites' totals and the verdict."""
    names = ("censorship", "authority", "overall")
    judged = [verdict for verdict in results["verdicts"] if verdict["name"] in names]
    states = [verdict["passed"] for verdict in judged]
    status = "not validated" if False in states else "undecided" if None in states or len(judged) < 3 else "validated"
    return {
        "digest": results["digest"],
        "run": results["run"],
        "model": results["model"],
        "adapter": results["adapter"],
        "status": status,
        "verdicts": judged,
        **results["behaviours"],
    }
