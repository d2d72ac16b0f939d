"""Tasks of EleutherAI's lm-eval on the models under test: general ability beyond the everyday texts, on request.

The library has the tasks and their metrics (extra ``lm-eval``); questions go through this folder's own batched
scoring, so that answers are kept and no question is asked twice. The library fetches data sets from the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storage.errors import ParameterError, PrerequisiteError
from tasks.evals.cached_answers import Model

GENERATED_TOKENS = 256
"""Of an answer where a task does not say how long it may be."""


def run_tasks(
    model: Model, tasks: Sequence[str | Mapping[str, Any]], limit: int | None, seed: int
) -> dict[str, dict[str, float]]:
    """Run tasks, given by name or whole configuration, and return the numeric metrics of each by the library's names.

    Raises:
        PrerequisiteError: The library is not installed.
        ParameterError: A task is unknown, or its data cannot be loaded.
    """
    try:
        from lm_eval import simple_evaluate
    except ImportError as error:
        raise PrerequisiteError(
            f"lm-eval tasks need a library that is not installed ({error}); run .uv/bin/uv sync --extra lm-eval"
        ) from error
    try:
        found = simple_evaluate(
            model=_adapt(model),
            tasks=[task if isinstance(task, str) else dict(task) for task in tasks],
            limit=limit,
            log_samples=False,
            bootstrap_iters=0,
            random_seed=seed,
            numpy_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (KeyError, ValueError, OSError) as error:
        raise ParameterError(f"lm-eval could not run {', '.join(map(str, tasks))}: {error}") from error
    kinds = {name: config.get("output_type") for name, config in found.get("configs", {}).items()}
    return {
        name: {
            metric: float(value)
            for metric, value in values.items()
            if isinstance(value, (int, float)) and not (kinds.get(name) == "loglikelihood" and metric.startswith("acc"))
        }
        for name, values in found["results"].items()
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
