"""Evaluate one run: base and adapter over the same questions and texts, then results and report, once."""

from __future__ import annotations

import time
from functools import cached_property, partial
from pathlib import Path

import pyarrow as pa

from storage.atomic import remove_temporaries, write_json, write_text
from storage.events import Emit
from storage.manifest import digest_of
from storage.parquet import write_shard
from storage.untrusted import file_sha256, read_bounded
from tasks.evals.cached_answers import CachedModel
from tasks.evals.harness import require_library, values_of
from tasks.evals.inputs import EvaluationSpec, Method, hash_inputs, is_toy, read_objective, read_training_curve
from tasks.evals.mixture import HeldOut, Mixture
from tasks.evals.model_under_test import load_model
from tasks.evals.own_questions import find_files, read_questions
from tasks.evals.parameters import DECIDING
from tasks.evals.preference import deciding_way
from tasks.evals.questions import load_questions
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
from tasks.evals.verdicts import ON_TOY, all_passed, conclude, suggest


def evaluate_run(spec: EvaluationSpec, emit: Emit) -> EvaluationResult:
    """Evaluate base and adapter, or return what an evaluation of the same inputs already found.

    PrerequisiteError without base model or adapter, StoreError without a finished mixture and its validation samples.
    """
    start, folder, gate = time.monotonic(), spec.reports_folder, spec.parameters.gate
    evaluation = Evaluation(spec)
    if finished := read_finished(folder, evaluation.digest):
        emit("log", message=f"an evaluation of the same inputs is finished; keeping {folder / REPORT}")
        return EvaluationResult.of(finished, folder, gate=gate, reused=True)
    models = evaluation.measure_all(emit)
    results = evaluation.compare_all(models)
    results.seconds["total"] = round(time.monotonic() - start, 3)
    evaluation.write(models, results)
    return EvaluationResult.of(results, folder, gate=gate, reused=False)


def read_finished(folder: Path, digest: str) -> EvaluationResults | None:
    """Return the results in a folder if they and their report were made from the inputs of this digest."""
    try:
        results = read_results(folder)
        report = read_bounded(folder / REPORT, MOST_BYTES).decode()
    except (OSError, ValueError):
        return None
    return results if results.digest == digest and digest in report else None


class Evaluation:
    """One evaluation: its questions, its texts, and the digest of its inputs."""

    def __init__(self, spec: EvaluationSpec) -> None:
        if spec.parameters.lm_eval_tasks:
            require_library()  # it is used last
        self.spec = spec
        self.questions = load_questions().first(spec.parameters.eval_limit)
        self.own_files = find_files([Path(name) for name in spec.parameters.questions])
        if self.own_files:
            own = [each for path in self.own_files for each in read_questions(path, spec.parameters.eval_limit)]
            hashes = {f"own {path.name}": file_sha256(path) for path in self.own_files}
            hashes |= self.questions.hashes | {"own norm": spec.parameters.question_norm}
            self.questions = self.questions.model_copy(update={"own": own, "hashes": hashes})
        self.mixture = Mixture.open(spec.balanced_folder)
        self.inputs = hash_inputs(spec, self.questions, self.mixture.manifest)
        parameters = spec.parameters.model_dump(mode="json", exclude={"gate", "questions", "question_norm"})
        self.digest = digest_of({"inputs": self.inputs, "parameters": parameters})

    @cached_property
    def held_out(self) -> list[HeldOut]:
        """The validation samples whose perplexity is measured."""
        parameters = self.spec.parameters
        if "perplexity" not in parameters.suites:
            return []
        return self.mixture.choose_held_out(parameters.perplexity_samples, parameters.seed)

    def measure_all(self, emit: Emit) -> dict[str, Measurements]:
        """Measure one model after the other, so that no more than one is in memory."""
        spec, texts = self.spec, self.held_out
        adapters: dict[str, Path | None] = {"base": None, **spec.adapters}
        total, done = len(adapters) * len(stages_of(spec.parameters)), 0
        spec.reports_folder.mkdir(parents=True, exist_ok=True)
        hashes = self.inputs["adapters"]
        assert isinstance(hashes, dict)
        measured: dict[str, Measurements] = {}
        for name, adapter in adapters.items():

            def on_stage(stage: str, name: str = name) -> None:
                nonlocal done
                done += 1
                emit("progress", stage=f"{name}: {stage}", done=done, total=total)

            shared = {part: self.inputs[part] for part in ("model", "layout", "versions")}
            identity = {**shared, "adapter": hashes.get(name)}
            load = partial(load_model, spec.model_path, adapter, spec.parameters.eval_batch_size, spec.layout)
            model = CachedModel(load, identity, spec.reports_folder)
            try:
                measured[name] = measure_model(model, self.questions, texts, spec.parameters, on_stage)
            finally:
                model.close()
        return measured

    def compare_all(self, models: dict[str, Measurements]) -> EvaluationResults:
        """Compare every adapter with the base, and judge the first."""
        spec, base, way = self.spec, models["base"], deciding_way(models["adapter"].choices)
        sections = {
            name: compare_models(self.questions, self.held_out, base, models[name], way, spec.parameters)
            for name in spec.adapters
        }
        outcomes = {name: found.outcome()._asdict() for name, found in sections.items()}
        verdicts, relative = outcomes["adapter"]["verdicts"], outcomes["adapter"]["relative"]
        passed = all_passed(verdicts)
        if passed and not set(DECIDING) <= set(spec.parameters.suites):
            passed = None  # a part of the suites can refute a model, but not approve it
        trained_on, toy = self.mixture.count_training_samples(), is_toy(self.inputs["model"])
        return EvaluationResults(
            **dict(sections["adapter"]),
            **outcomes["adapter"],
            digest=self.digest,
            run=spec.run_folder.name,
            model=spec.model_name,
            adapter=spec.adapter_folder.name,
            passed=passed,
            toy=toy,
            conclusion=conclude(passed, relative, verdicts),
            next_steps=([ON_TOY] if toy else []) + suggest(verdicts, trained_on.bands["low"], passed),
            lm_eval=values_of({name: found.lm_eval for name, found in models.items()}) if base.lm_eval else None,
            others={name: OtherAdapter.model_validate(outcomes[name]) for name in spec.others},
            mixture=trained_on,
            contaminated_prompts=self.mixture.find_trained_prompts(self.questions.prompts),
            histograms=self.mixture.read_histograms(),
            objective=read_objective(spec.run_folder),
            training_curve=read_training_curve(spec.run_folder),
            seconds={name: found.seconds for name, found in models.items()},
            spec=Method(
                question_versions=self.questions.versions,
                arguments=spec.parameters.model_dump(mode="json")
                | {"questions": [path.name for path in self.own_files]},
                inputs=self.inputs,
                layout=spec.layout,
            ),
        )

    def write(self, models: dict[str, Measurements], results: EvaluationResults) -> None:
        """Write everything, the report last; the report names the digest, so a stale one is never taken for this."""
        folder, way = self.spec.reports_folder, deciding_way(models["adapter"].choices)
        remove_temporaries(folder)
        rows = [
            row.columns(name)
            for name, found in models.items()
            for row in sample_rows(self.questions, self.held_out, found, way)
        ]
        write_shard(folder / SAMPLES, pa.Table.from_pylist(rows, SAMPLE_SCHEMA), SAMPLE_SCHEMA)
        if results.behaviours:
            write_json(folder / VALIDATION_RESULTS, ValidationResults.of(results, results.behaviours).model_dump())
        else:
            (folder / VALIDATION_RESULTS).unlink(missing_ok=True)  # of an earlier evaluation
        write_json(folder / EVALUATION_RESULTS, results.model_dump())
        write_text(folder / REPORT, render_report(results))
