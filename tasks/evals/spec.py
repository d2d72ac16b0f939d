"""What is evaluated, and by what: the specification, the hashes of its inputs, versions and arguments."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from storage.errors import PrerequisiteError
from storage.manifest import Manifest
from storage.untrusted import file_sha256, read_object
from tasks.evals.parameters import EvaluationParameters
from tasks.evals.suites import QuestionSet

EVALUATION_VERSION = "4"
"""Raised whenever the same inputs would give other results."""

PACKAGES = ("mlx", "mlx-lm", "numpy", "pyarrow", "transformers")


class EvaluationSpec(BaseModel):
    """What is evaluated: folders, the model, and the parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_folder: Path
    model_path: str
    adapter: Path
    balanced_folder: Path
    reports_folder: Path
    parameters: EvaluationParameters = EvaluationParameters()
    others: dict[str, Path] = {}
    """Further adapters by name, in the order of `parameters.others`; relative ones lie in the run's folder."""
    inputs: dict[str, Any] = {}

    @property
    def adapter_folder(self) -> Path:
        """The adapter's folder; a relative one lies in the run's."""
        return self.run_folder / self.adapter  # an absolute path stays itself

    @property
    def adapters(self) -> dict[str, Path]:
        """Every adapter by its name in the results; the first is the one that is judged."""
        return {"adapter": self.adapter_folder, **{name: self.run_folder / path for name, path in self.others.items()}}


def describe(spec: EvaluationSpec, questions: QuestionSet) -> dict[str, Any]:
    """What a reader needs to repeat an evaluation, besides its inputs."""
    return {
        "evaluation_version": EVALUATION_VERSION,
        "question_versions": {
            "behaviours": questions.behaviours.version,
            "scenarios": questions.scenarios.version,
            "neutral": questions.neutral_texts.version,
        },
        "arguments": spec.parameters.model_dump(mode="json"),
        "decoding": "greedy",
        "perplexity_of": "the whole sample text, prompt included, cut to eval_seq_length tokens",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "git_revision": find_git_revision(),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def hash_inputs(spec: EvaluationSpec, questions: QuestionSet, manifest: Manifest) -> dict[str, Any]:
    """Digest whatever the results depend on; a base model's weights by name and size, since they may be 40 GB.

    Raises:
        PrerequisiteError: An adapter is not there.
    """
    files = ("adapters.safetensors", "adapter_config.json")
    for adapter in spec.adapters.values():
        if missing := [name for name in files if not (adapter / name).is_file()]:
            raise PrerequisiteError(
                f"{adapter} lacks {' and '.join(missing)}; train the run first or name a checkpoint"
            )
    return {
        "evaluation_version": EVALUATION_VERSION,
        "versions": {name: version(name) for name in PACKAGES},
        "questions": questions.hashes,
        "mixture": manifest.digest,
        "adapters": {
            name: {file: file_sha256(folder / file) for file in files} for name, folder in spec.adapters.items()
        },
        "model": _model_identity(spec.model_path),
        "given": spec.inputs,
    }


def _model_identity(model_path: str) -> dict[str, Any]:
    folder = Path(model_path)
    if not folder.is_dir():
        return {"name": model_path}
    small = [folder / name for name in ("config.json", "tokenizer.json") if (folder / name).is_file()]
    return {path.name: file_sha256(path) for path in small} | {
        path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))
    }


def model_name(spec: EvaluationSpec) -> str:
    """The base model as the run calls it, else as the specification does."""
    try:
        named = read_object(spec.run_folder / "run.json").get("model")
    except (OSError, ValueError):
        named = None
    return str(named or spec.model_path)


def find_git_revision() -> str | None:
    """Return the commit that this project is at, with a mark if files were changed; none outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=20).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + (" with changes" if changes.strip() else "")
