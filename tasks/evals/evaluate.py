"""Evaluate one run: base and adapter over the same questions and texts, then results and report, once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
from pydantic import JsonValue

from storage.atomic import remove_temporaries, write_json, write_text
from storage.events import Emit
from storage.manifest import digest_of
from storage.parquet import write_shard
from storage.untrusted import read_bounded
from tasks.evals.cached_answers import CachedModel
from tasks.evals.inputs import EvaluationSpec, Method, hash_inputs, read_objective, read_training_curve
from tasks.evals.mixture import HeldOut, Mixture
from tasks.evals.model_under_test import load_model
from tasks.evals.parameters import SUITES
from tasks.evals.preference import deciding_way
from tasks.evals.questions import QuestionSet, load_questions
from tasks.evals.report import render_report
from tasks.evals.results import (
    EVALUATION_RESULTS,
    MOST_BYTES,
    REPORT,
    SAMPLES,
    VALIDATION_RESULTS,
    EvaluationResult,
    EvaluationResults,
    OtherAdapter,
    ValidationResults,
    read_results,
)
from tasks.evals.section import SAMPLE_SCHEMA
from tasks.evals.suites import Measurements, compare_models, measure_model, sample_rows, stages_of
from tasks.evals.verdicts import all_passed, suggest


def evaluate_run(spec: EvaluationSpec, emit: Emit) -> EvaluationResult:
    """Evaluate base and adapter, or return what an evaluation of the same inputs already found.

    Raises:
        PrerequisiteError: The base model or the adapter is missing.
        StoreError: There is no finished mixture, or it has no validation samples.
    """
    start, parameters, folder = time.monotonic(), spec.parameters, spec.reports_folder
    questions = load_questions().first(parameters.eval_limit)
    mixture = Mixture.open(spec.balanced_folder)
    inputs = hash_inputs(spec, questions, mixture.manifest)
    digest = digest_of({"inputs": inputs, "parameters": parameters.model_dump(mode="json", exclude={"gate"})})
    if finished := read_finished(folder, digest):
        emit("log", message=f"an evaluation of the same inputs is finished; keeping {folder / REPORT}")
        return EvaluationResult.of(finished, folder, gate=parameters.gate, reused=True)
    held_out = []
    if "perplexity" in parameters.suites:
        held_out = mixture.choose_held_out(parameters.perplexity_samples, parameters.seed)
    models = _measure_all(spec, questions, held_out, inputs, emit)
    results = _collect(spec, questions, held_out, models, mixture, inputs, digest)
    results.seconds["total"] = round(time.monotonic() - start, 3)
    _write(folder, questions, held_out, models, results)
    return EvaluationResult.of(results, folder, gate=parameters.gate, reused=False)


def read_finished(folder: Path, digest: str) -> EvaluationResults | None:
    """Return the results in a folder if they and their report were made from the inputs of this digest."""
    try:
        results = read_results(folder)
        report = read_bounded(folder / REPORT, MOST_BYTES).decode()
    except (OSError, ValueError):
        return None
    return results if results.digest == digest and digest in report else None


def _measure_all(
    spec: EvaluationSpec,
    questions: QuestionSet,
    held_out: Sequence[HeldOut],
    inputs: dict[str, JsonValue],
    emit: Emit,
) -> dict[str, Measurements]:
    """Measure one model after the other, so that no more than one is in memory."""
    adapters: dict[str, Path | None] = {"base": None, **spec.adapters}
    total, done = len(adapters) * len(stages_of(spec.parameters)), 0
    spec.reports_folder.mkdir(parents=True, exist_ok=True)
    hashes = inputs["adapters"]
    assert isinstance(hashes, dict)
    measured: dict[str, Measurements] = {}
    for name, adapter in adapters.items():

        def on_stage(stage: str, name: str = name) -> None:
            nonlocal done
            done += 1
            emit("progress", stage=f"{name}: {stage}", done=done, total=total)

        identity = {"model": inputs["model"], "adapter": hashes.get(name), "versions": inputs["versions"]}
        load = partial(load_model, spec.model_path, adapter, spec.parameters.eval_batch_size)
        model = CachedModel(load, identity, spec.reports_folder)
        try:
            measured[name] = measure_model(model, questions, held_out, spec.parameters, on_stage)
        finally:
            model.close()
    return measured


def _collect(
    spec: EvaluationSpec,
    questions: QuestionSet,
    held_out: Sequence[HeldOut],
    models: dict[str, Measurements],
    mixture: Mixture,
    inputs: dict[str, JsonValue],
    digest: str,
) -> EvaluationResults:
    way = deciding_way(models["adapter"].choices)
    sections = {
        name: compare_models(questions, held_out, models["base"], models[name], way, spec.parameters.seed)
        for name in spec.adapters
    }
    outcomes = {name: found.outcome() for name, found in sections.items()}
    verdicts = outcomes["adapter"].verdicts
    passed = all_passed(verdicts)
    if passed and set(spec.parameters.suites) != set(SUITES):
        passed = None  # a part of the suites can refute a model, but not approve it
    trained_on = mixture.count_training_samples()
    return EvaluationResults(
        **dict(sections["adapter"]),
        digest=digest,
        run=spec.run_folder.name,
        model=spec.model_name,
        adapter=spec.adapter_folder.name,
        passed=passed,
        verdicts=verdicts,
        next_steps=suggest(verdicts, trained_on.bands["low"], passed),
        lm_eval={name: found.lm_eval for name, found in models.items()} if models["base"].lm_eval else None,
        others={
            name: OtherAdapter(headline=outcomes[name].headline, verdicts=outcomes[name].verdicts)
            for name in spec.others
        },
        mixture=trained_on,
        contaminated_prompts=mixture.find_trained_prompts(questions.prompts),
        histograms=mixture.read_histograms(),
        objective=read_objective(spec.run_folder),
        training_curve=read_training_curve(spec.run_folder),
        seconds={name: found.seconds for name, found in models.items()},
        spec=Method(
            question_versions=questions.versions, arguments=spec.parameters.model_dump(mode="json"), inputs=inputs
        ),
        headline=outcomes["adapter"].headline,
    )


def _write(
    folder: Path,
    questions: QuestionSet,
    held_out: Sequence[HeldOut],
    models: dict[str, Measurements],
    results: EvaluationResults,
) -> None:
    """Write everything, the report last; the report names the digest, so a stale one is never taken for this."""
    remove_temporaries(folder)
    way = deciding_way(models["adapter"].choices)
    rows = [row.columns(name) for name, found in models.items() for row in sample_rows(questions, held_out, found, way)]
    write_shard(folder / SAMPLES, pa.Table.from_pylist(rows, SAMPLE_SCHEMA), SAMPLE_SCHEMA)
    if results.behaviours:
        write_json(folder / VALIDATION_RESULTS, ValidationResults.of(results, results.behaviours).model_dump())
    else:
        (folder / VALIDATION_RESULTS).unlink(missing_ok=True)  # of an earlier evaluation
    write_json(folder / EVALUATION_RESULTS, results.model_dump())
    write_text(folder / REPORT, render_report(results))
