"""``python -m benchmarks.promise``: what each part of the method does to a real model.

SmolLM2-135M-Instruct (`sandbox.smollm2`) is trained on a mixture of the bundled documents with each recipe of `ROWS`
and each seed, then asked the suites of the evaluation beside its base. Every row is kept with its recipe, its seed and
the code's revision in ``--folder``; a run that was stopped goes on where it was, and a finished row is not made again.
A row takes some forty minutes to an hour on two cores, so name what you want: ``--rows weighted preference --seeds 1``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.stores import BUNDLED, write_store
from storage import blas

blas.load()

from sandbox import smollm2  # noqa: E402
from storage.manifest import read_manifest  # noqa: E402
from storage.markdown import table  # noqa: E402
from tasks.evals.evaluate import evaluate_run  # noqa: E402
from tasks.evals.inputs import EvaluationSpec, find_git_revision  # noqa: E402
from tasks.evals.parameters import EvaluationParameters  # noqa: E402
from tasks.evals.results import EvaluationResults, read_results  # noqa: E402
from tasks.lora.recipe import Recipe  # noqa: E402
from tasks.lora.trainer import train  # noqa: E402
from tasks.mixture.build import build_mixture  # noqa: E402
from tasks.mixture.parameters import MixtureParameters  # noqa: E402

SEEDS = (1, 2, 3)
LESSONS_SHARE = 0.3
COMMON: dict[str, Any] = {
    "batch_size": 2,
    "grad_accum": 1,
    "max_steps": 160,
    "max_seq_length": 256,
    "learning_rate": 1e-3,
    "lora_rank": 16,
    "lora_alpha": 32,
    "lora_layers": 8,
    "grad_checkpoint": False,
    "save_every": 40,
    "eval_every": 1000,
    "val_batches": 8,
}
TERMS: dict[str, Any] = {"preference_weight": 2.0, "preference_rows": 8, "anchor_weight": 1.0}
CONSISTENCY: dict[str, Any] = {"consistency_weight": 2.0, "consistency_rows": 3}
ROWS: dict[str, tuple[bool, dict[str, Any]]] = {
    "additive": (False, {"objective": "additive"}),
    "weighted": (False, {}),
    "lessons": (True, {}),
    "consistency": (True, CONSISTENCY),
    "preference": (True, TERMS),
    "all": (True, {**TERMS, **CONSISTENCY}),
}
"""Whether the mixture holds lessons, and what the recipe changes in `COMMON`."""
SUITES = ("source_preference", "distrust_signal", "repetition", "perplexity")
HEAD = ("row", "seed", "preference", "distrust / base", "repetition removed", "neutral perplexity", "minutes")


def make_mixtures(folder: Path) -> dict[bool, Path]:
    """Draw the two mixtures from the bundled documents, once: without lessons, and with them."""
    places = {lessons: folder / f"mixture-{'with' if lessons else 'without'}-lessons" for lessons in (False, True)}
    if missing := [lessons for lessons, place in places.items() if not read_manifest(place)]:
        raw, scored = write_store(BUNDLED, folder / "store")
        for lessons in missing:
            parameters = MixtureParameters(
                scale=True, accept_imbalance=True, piece_chars=240, lessons_share=LESSONS_SHARE if lessons else 0.0
            )
            build_mixture(raw, scored, places[lessons], parameters, {})
    return places


def run_row(folder: Path, name: str, seed: int, facts: int) -> EvaluationResults:
    """Train and evaluate one row, or read what an earlier run found."""
    lessons, changes = ROWS[name]
    mixture, run = make_mixtures(folder)[lessons], folder / f"{name}-{seed}"
    manifest = read_manifest(mixture)
    assert manifest is not None
    model = str(smollm2.model_folder())
    recipe = Recipe.model_validate({"model": model, **COMMON, **changes, "seed": seed})

    def emit(event: str, **fields: Any) -> None:
        if line := fields.get("message") or fields.get("stage"):
            print(f"{name}-{seed}: {line}", file=sys.stderr, flush=True)

    result = train(run, mixture, manifest.digest, recipe, emit)
    spec = EvaluationSpec(
        run_folder=run,
        model_path=model,
        adapter=run / result.adapter,
        balanced_folder=mixture,
        reports_folder=run / "reports",
        parameters=EvaluationParameters(
            suites=SUITES, repetition_facts=facts, perplexity_samples=12, eval_seq_length=256, eval_batch_size=32
        ),
    )
    reports = spec.reports_folder
    if not (reports / "kept.parquet").is_file() and (answers := folder / "base.parquet").is_file():
        reports.mkdir(parents=True, exist_ok=True)
        (reports / "kept.parquet").write_bytes(answers.read_bytes())
    evaluate_run(spec, emit)
    (folder / "base.parquet").write_bytes((reports / "kept.parquet").read_bytes())
    return read_results(reports)


def figures(results: EvaluationResults) -> dict[str, Any]:
    """Take the four figures of a row out of its results, each with its interval."""
    preference, distrust = results.source_preference, results.distrust_signal
    repetition, neutral = results.repetition, results.general_ability
    assert preference and distrust and repetition and neutral
    return {
        "preference": results.headline["source_preference_adapter"],
        "preference_base": results.headline["source_preference_base"],
        "preference_gain": asdict(preference.difference),
        "distrust_relative": asdict(distrust.relative_ratio),
        "repetition_removed": asdict(repetition.removed),
        "neutral_ratio": asdict(neutral.ratio),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are asked for, print one JSON line each and the table of all finished ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "empirical-distrust" / "promise")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--facts", type=int, default=60, help="invented facts of the repetition suite; 336 are all")
    chosen = parser.parse_args(arguments)
    for seed in chosen.seeds:
        for name in chosen.rows:
            start = time.monotonic()
            found = figures(run_row(chosen.folder, name, seed, chosen.facts))
            record = {"benchmark": "promise", "row": name, "seed": seed, **found, "recipe": ROWS[name][1]}
            record |= {"revision": find_git_revision(), "minutes": round((time.monotonic() - start) / 60, 1)}
            kept = chosen.folder / f"{name}-{seed}.json"
            if not kept.is_file() or record["minutes"] > 1:
                kept.write_text(json.dumps(record, indent=1), "utf-8")
            print(json.dumps(record), flush=True)
    print(table(HEAD, rows_of(chosen.folder)), flush=True)


def rows_of(folder: Path) -> list[list[str]]:
    """Return the finished rows as the table shows them."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*-*.json"))]
    return [
        [
            record["row"],
            str(record["seed"]),
            f"{record['preference']:.0%} (base {record['preference_base']:.0%}; {interval(record['preference_gain'])})",
            interval(record["distrust_relative"]),
            interval(record["repetition_removed"]),
            interval(record["neutral_ratio"]),
            str(record["minutes"]),
        ]
        for record in sorted(records, key=lambda record: (list(ROWS).index(record["row"]), record["seed"]))
    ]


def interval(estimate: dict[str, Any]) -> str:
    """Write an estimate with its interval."""
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    return "-" if value is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
