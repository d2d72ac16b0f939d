"""The stages that work on files of this machine, for drills that do the same to each: how to slow it and look at it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from storage.checkpoint import list_checkpoints
from storage.manifest import find_damage, read_manifest
from tests.flows import test_export_model
from tests.tasks.evals.conftest import write_finished_run
from tests.tasks.lora import tiny_model
from tests.tasks.mixture.corpora import balanced_sources, make_corpus

SLOW_SIGNAL = "tests.slow_signal:score"


@dataclass(frozen=True)
class Stage:
    """One flow on a small store of its own.

    Attributes:
        flow: The flow's name.
        prepare: Writes what the flow reads below a folder and returns the store.
        parameters: A run that takes its time on a store.
        watch: Called before a run; what it returns tells whether that run is in the midst of its work.
        made: What a finished run made, file by file, equal for equal work.
        child: Specification, below the store, of the process that does the work; empty if the flow's own does.
        quick: Parameters that let a run hurry without making anything else.
        long: Parameters that let a run take more than a minute without making anything else.
    """

    flow: str
    prepare: Callable[[Path], Path]
    parameters: Callable[[Path], dict[str, Any]]
    watch: Callable[[Path], Callable[[], bool]]
    made: Callable[[Path], dict[str, str]]
    child: str = ""
    quick: dict[str, Any] = field(default_factory=dict)
    long: dict[str, Any] = field(default_factory=dict)


def _digests(folder: Path, *patterns: str) -> dict[str, str]:
    files = sorted(file for pattern in patterns for file in folder.rglob(pattern))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _newest(folder: Path, pattern: str) -> Callable[[], int]:
    return lambda: max((file.stat().st_mtime_ns for file in folder.glob(pattern)), default=0)


def _rewritten(pattern: str) -> Callable[[Path], Callable[[], bool]]:
    """A run is under way once a file is newer than before."""

    def watch(store: Path) -> Callable[[], bool]:
        newest = _newest(store, pattern)
        before = newest()
        return lambda: newest() > before

    return watch


def _stepped(store: Path) -> Callable[[], bool]:
    """A training is under way once it has reported a step: before, there is nothing that it could save."""
    log = store / "runs" / "drill" / "training.log"

    def steps() -> int:
        return log.read_text("utf-8").count("Training: ") if log.is_file() else 0

    before = steps()
    return lambda: steps() > before


def _locked(store: Path) -> Callable[[], bool]:
    """A mixture is under way once its lock is made; one that a cancelled run still finished is not built again."""
    lock, mixture = store / "balanced" / ".default.lock", store / "balanced" / "default"
    lock.unlink(missing_ok=True)
    if mixture.exists():
        shutil.rmtree(mixture)
    return lock.exists


def _answered(store: Path) -> Callable[[], bool]:
    """An evaluation is under way once it keeps answers; it begins afresh, or a stopped one might be at its end."""
    reports = store / "runs" / "first" / "reports"
    if reports.exists():
        shutil.rmtree(reports)
    return (reports / "kept.parquet").exists


def _corpus(root: Path) -> Path:
    make_corpus(root / "store", balanced_sources(), 20)
    return root / "store"


def _large_corpus(root: Path) -> Path:
    make_corpus(root / "store", balanced_sources(low=2400, medium=1800, high=2600), 400)
    return root / "store"


def _mixture(root: Path) -> Path:
    tiny_model.write_base(root / "base")
    tiny_model.seal_mixture(tiny_model.write_mixture(root / "store" / "balanced" / "tiny"))
    return root / "store"


def _recipe(store: Path) -> dict[str, Any]:
    recipe = tiny_model.tiny_recipe(
        store.parent / "base", max_steps=40, save_every=1000, eval_every=1000, report_every=1, thermal_throttle=0.3
    )
    return recipe.model_dump(mode="json") | {"mixture": "tiny", "run": "drill"}


def _sealed(stage: str) -> Callable[[Path], dict[str, str]]:
    """Shards of every dataset of a stage, which all must be whole."""

    def made(store: Path) -> dict[str, str]:
        for folder in (path for path in (store / stage).iterdir() if path.is_dir()):
            manifest = read_manifest(folder)
            assert manifest is not None and find_damage(folder, manifest, hashes=True) == []
        return _digests(store / stage, "*.parquet")

    return made


def _weights(store: Path) -> dict[str, str]:
    """Every tensor of the last checkpoint; in which order a file holds them says nothing."""
    ((_, last), *_) = reversed(list_checkpoints(store / "runs" / "drill"))
    assert last.name == "checkpoint-40"
    tensors = [(file.name, *named) for file in last.glob("*.safetensors") for named in mx.load(str(file)).items()]
    return {f"{file}/{name}": hashlib.sha256(np.array(tensor).tobytes()).hexdigest() for file, name, tensor in tensors}


def _report(store: Path) -> dict[str, str]:
    """The samples, and the results without what tells when they were found and in which state of the project."""
    reports = store / "runs" / "first" / "reports"
    results = json.loads((reports / "evaluation_results.json").read_text("utf-8"))
    assert results["digest"] in (reports / "report.html").read_text("utf-8")
    del results["seconds"], results["spec"]["finished_at"], results["spec"]["git_revision"]
    return _digests(reports, "samples.parquet") | {"results": json.dumps(results)}


def _export(store: Path) -> dict[str, str]:
    return _digests(store / "exports" / "tiny", "*.safetensors", "tokenizer.json", "config.json")


STAGES = {
    stage.flow: stage
    for stage in (
        Stage(
            "score-corpus",
            _corpus,
            lambda store: {"signal": SLOW_SIGNAL},
            _rewritten("scored/*/shard-*"),
            _sealed("scored"),
        ),
        Stage(
            "rebalance-corpus",
            _large_corpus,
            lambda store: {},
            _locked,
            _sealed("balanced"),
        ),
        Stage(
            "train-adapter",
            _mixture,
            _recipe,
            _stepped,
            _weights,
            "runs/drill/train.json",
            {"thermal_throttle": 0.0},
            {"thermal_throttle": 1.0},
        ),
        Stage(
            "evaluate-adapter",
            write_finished_run,
            lambda store: {
                "run": "first",
                "max_new_tokens": 16,
                "eval_batch_size": 1,
                "eval_limit": 24,
                "perplexity_samples": 4,
            },
            _answered,
            _report,
            "runs/first/evaluate.json",
        ),
        Stage(
            "export-model",
            test_export_model.write_run,
            lambda store: {"run": "tiny", "gguf": "q8_0"},
            _rewritten("runs/tiny/export.json"),
            _export,
            "runs/tiny/export.json",
        ),
    )
}
