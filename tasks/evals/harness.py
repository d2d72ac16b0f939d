"""Tasks of EleutherAI's lm-eval on the models under test: general ability beyond the everyday texts, on request.

The library has the tasks and their metrics (extra ``lm-eval``); questions go through this folder's own batched
scoring, so that answers are kept and no question is asked twice. The library fetches data sets from the Hub.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from statistics import fmean
from typing import Any

from storage.errors import ParameterError, PrerequisiteError
from tasks.evals.cached_answers import Model
from tasks.evals.estimates import Estimate, mean_of, number, paired_difference
from tasks.evals.section import Outcome, Record, Section
from tasks.evals.verdicts import judge_change

TASK = "lm_eval: "
"""Begins the name of a task's verdict and headline numbers."""
GENERATED_TOKENS = 256
"""Of an answer where a task does not say how long it may be."""


class Score(Record):
    """What a task found of one model by one metric."""

    value: float
    samples: tuple[float, ...] = ()
    """One number for each document, in their order, where `value` is their mean; else empty."""
    up: bool = True
    """Whether more is better."""


TaskScores = dict[str, Score]
"""By the library's name of the metric, such as ``acc,none``."""


class PairedScore(Record):
    """A metric of both models, and the adapter's less the base's, document by document."""

    base: Estimate
    adapter: Estimate
    difference: Estimate
    up: bool


class PublicTasks(Section):
    """Tasks of lm-eval, each with its metrics."""

    tasks: dict[str, dict[str, PairedScore]]

    def outcome(self) -> Outcome:
        """Say of each task's first metric whether the adapter changed it."""
        found = Outcome([], {}, [], [])
        for task, metrics in self.tasks.items():
            for metric, score in metrics.items():
                values = number(score.base.value, 3), number(score.adapter.value, 3)
                found.table_rows.append((f"{task}, {metric}", *values, score.difference.text(3)))
            first, name = next(iter(metrics.values())), TASK + task
            found.headline.update({f"{name}_base": first.base.value, f"{name}_adapter": first.adapter.value})
            found.relative.append(judge_change(name, task, first.difference, first.difference.text(3), up=first.up))
        return found


def require_library() -> None:
    """Raise PrerequisiteError where lm-eval is not installed."""
    if find_spec("lm_eval") is None:
        raise PrerequisiteError(
            "lm_eval_tasks need the library lm-eval, which is not installed; run .uv/bin/uv sync --frozen --extra "
            "lm-eval, or leave the tasks out"
        )


def run_tasks(
    model: Model, tasks: Sequence[str | Mapping[str, Any]], limit: int | None, seed: int
) -> dict[str, TaskScores]:
    """Run tasks, given by name or whole configuration, and return the numeric metrics of each.

    ParameterError if a task is unknown or its data cannot be loaded, PrerequisiteError without the library.
    """
    require_library()
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    named = any(isinstance(task, str) for task in tasks)
    try:
        found = simple_evaluate(
            model=_adapt(model),
            tasks=[task if isinstance(task, str) else dict(task) for task in tasks],
            task_manager=TaskManager(include_defaults=named),  # to list thousands of tasks takes long
            limit=limit,
            bootstrap_iters=0,
            random_seed=seed,
            numpy_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (KeyError, ValueError, OSError) as error:
        raise ParameterError(f"lm-eval could not run {', '.join(map(str, tasks))}: {error}") from error
    return {name: scores for name in found["results"] if (scores := _scores_of(name, found))}


def _scores_of(task: str, found: Mapping[str, Any]) -> TaskScores:
    """Take the metrics of a task out of the library's results, those that say something."""
    likelihood = found["configs"].get(task, {}).get("output_type") == "loglikelihood"
    scores = {}
    for metric, value in found["results"][task].items():
        name, _, kind = metric.partition(",")
        if (
            not isinstance(value, (int, float))
            or not kind
            or "stderr" in name
            or (likelihood and name.startswith("acc"))
        ):
            continue
        rows = [row for row in found["samples"].get(task, ()) if row["filter"] == kind]
        samples = [float(row[name]) for row in rows if isinstance(row.get(name), (int, float))]
        if len(samples) < len(rows) or not samples or not math.isclose(fmean(samples), value, abs_tol=1e-9):
            samples = []  # of a metric that is no mean over documents
        up = found["higher_is_better"].get(task, {}).get(name) is not False
        scores[metric] = Score(value=float(value), samples=tuple(samples), up=up)
    return scores


def compare_tasks(base: Mapping[str, TaskScores], adapter: Mapping[str, TaskScores], seed: int) -> PublicTasks:
    """Compare both models task by task."""
    return PublicTasks(
        tasks={
            task: {metric: _pair(score, adapter[task][metric], seed) for metric, score in scores.items()}
            for task, scores in base.items()
        }
    )


def _pair(base: Score, adapter: Score, seed: int) -> PairedScore:
    if not base.samples or len(base.samples) != len(adapter.samples):
        values = base.value, adapter.value, adapter.value - base.value
        before, after, difference = (Estimate(1, value) for value in values)
    else:
        before, after = mean_of(base.samples, seed), mean_of(adapter.samples, seed)
        difference = paired_difference(base.samples, adapter.samples, seed)
    return PairedScore(base=before, adapter=after, difference=difference, up=base.up)


def values_of(models: Mapping[str, Mapping[str, TaskScores]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return what the library itself reports, by model, task and metric."""
    return {
        name: {task: {metric: score.value for metric, score in scores.items()} for task, scores in found.items()}
        for name, found in models.items()
    }


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Return what a model wrote before the first of the stops."""
    ends = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def _adapt(model: Model) -> Any:
    from lm_eval.api.model import LM

    class Tested(LM):  # type: ignore[misc]
        """The model under test as the library asks it."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """Score continuations, without saying whether greedy decoding would give them.

            Tasks of choices do not ask; of the others `run_tasks` leaves out the accuracy, which would always be 0.
            """
            scores = model.score_options([(request.args[0], request.args[1]) for request in requests], plain=True)
            return [(score.nats, False) for score in scores]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            """Score whole texts."""
            texts = [request.args[0] for request in requests]
            return [-found.nats for found in model.negative_log_likelihoods(texts, 1 << 20)]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """Answer greedily, cut at the first stop."""
            asked = [request.args for request in requests]
            places: dict[int, list[int]] = {}
            for place, (_, options) in enumerate(asked):
                places.setdefault(int(options.get("max_gen_toks", GENERATED_TOKENS)), []).append(place)
            answers = [""] * len(asked)
            for limit, alike in places.items():
                written = model.generate([asked[place][0] for place in alike], limit, plain=True)
                for place, text in zip(alike, written, strict=True):
                    stops = asked[place][1].get("until") or []
                    answers[place] = cut_at(text, [stops] if isinstance(stops, str) else stops)
            return answers

    return Tested()
