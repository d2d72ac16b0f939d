"""What is evaluated, what the results depend on, and what the run tells about itself."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from storage.checkpoint import trained_layout
from storage.errors import PrerequisiteError
from storage.manifest import Manifest
from storage.training_result import RUN
from storage.untrusted import file_sha256, read_object, require_file
from tasks.evals.parameters import EvaluationParameters
from tasks.evals.questions import QuestionSet
from tasks.evals.section import Record

EVALUATION_VERSION = "5"
"""Raised whenever the same inputs would give other results."""

TOY_BYTES = 48 << 20
"""Weights of fewer bytes than this are a toy's: a language model of 100 million parameters has more at 4 bits."""
PACKAGES = ("mlx", "mlx-lm", "numpy", "pyarrow", "transformers")
ADAPTER_FILES = ("adapters.safetensors", "adapter_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
RECIPE_FIELDS = (
    *("objective", "alpha", "lambda_weight", "sampling", "learning_rate", "max_steps", "batch_size", "grad_accum"),
    *("lora_rank", "lora_alpha", "max_seq_length", "seed"),
)
WEIGHT_FIELDS = ("Z", "effective_sample_share", "mean_empirical_distrust")
CURVE_COLUMNS = ("step", "kind", "ce", "valid_ce", "valid_ce_low", "valid_ce_medium", "valid_ce_high")

CurveRow = Mapping[str, int | float | str | None]


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
    """Further adapters by name, in the order of `parameters.others`; relative paths start at the run's folder."""
    inputs: dict[str, JsonValue] = {}

    @property
    def adapter_folder(self) -> Path:
        """The adapter's folder; a relative path starts at the run's folder."""
        return self.run_folder / self.adapter  # an absolute path stays itself

    @property
    def adapters(self) -> dict[str, Path]:
        """Every adapter by its name in the results; the first is the one that is judged."""
        return {"adapter": self.adapter_folder, **{name: self.run_folder / path for name, path in self.others.items()}}

    @property
    def layout(self) -> str | None:
        """Chat layout of all models: the one that the judged adapter was trained in, else the base model's own."""
        return trained_layout(self.adapter_folder)

    @property
    def model_name(self) -> str:
        """The base model as the run calls it, else its path."""
        return str(_read_run(self.run_folder).get("model") or self.model_path)


class Method(Record):
    """How the results were made: what a reader needs to repeat an evaluation that ends now."""

    evaluation_version: str = EVALUATION_VERSION
    question_versions: dict[str, str]
    arguments: dict[str, JsonValue]
    decoding: str = "greedy"
    layout: str | None = None
    """Chat layout in which every model was asked; none: the base model's own."""
    perplexity_of: str = (
        "the sample, cut to eval_seq_length tokens: in a chat template its response, else its text, prompt included"
    )
    versions: dict[str, str] = Field(default_factory=lambda: {"python": platform.python_version()} | package_versions())
    platform: str = Field(default_factory=platform.platform)
    git_revision: str | None = Field(default_factory=lambda: find_git_revision())
    finished_at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    inputs: dict[str, JsonValue]


def package_versions() -> dict[str, str]:
    """Versions of the libraries that the results may depend on."""
    return {name: version(name) for name in PACKAGES}


def hash_inputs(spec: EvaluationSpec, questions: QuestionSet, manifest: Manifest) -> dict[str, JsonValue]:
    """Digest everything the results depend on; a base model's weights by name and size, since they may be 40 GB."""
    for adapter in spec.adapters.values():
        if missing := [name for name in ADAPTER_FILES if not (adapter / name).is_file()]:
            raise PrerequisiteError(
                f"{adapter} lacks {' and '.join(missing)}; train the run first or name a checkpoint"
            )
    adapters: dict[str, JsonValue] = {
        name: {file: file_sha256(folder / file) for file in ADAPTER_FILES} for name, folder in spec.adapters.items()
    }
    return {
        "evaluation_version": EVALUATION_VERSION,
        "versions": dict(package_versions()),
        "questions": dict(questions.hashes),
        "mixture": manifest.digest,
        "adapters": adapters,
        "layout": spec.layout,
        "model": _model_identity(spec.model_path),
        "given": spec.inputs,
    }


def is_toy(model: JsonValue) -> bool:
    """Whether the weights of a model, by its identity, are too small for one that knows language."""
    sizes = [size for name, size in model.items() if name.endswith(".safetensors")] if isinstance(model, dict) else []
    return bool(sizes) and sum(size for size in sizes if isinstance(size, int)) < TOY_BYTES


def _model_identity(model_path: str) -> dict[str, JsonValue]:
    folder = Path(model_path)
    if not folder.is_dir():
        return {"name": model_path}
    small = [folder / name for name in ("config.json", *TOKENIZER_FILES) if (folder / name).is_file()]
    return {path.name: file_sha256(path) for path in small} | {
        path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))
    }


def _read_run(run_folder: Path) -> dict[str, JsonValue]:
    try:
        return read_object(run_folder / RUN)
    except (OSError, ValueError):
        return {}


def read_objective(run_folder: Path) -> dict[str, JsonValue] | None:
    """Read what a run was trained for: the recipe's objective and the weights that it led to; None if unknown."""
    record = _read_run(run_folder)
    recipe = record.get("recipe")
    if not isinstance(recipe, dict):
        return None
    return {name: recipe.get(name) for name in RECIPE_FIELDS} | {name: record.get(name) for name in WEIGHT_FIELDS}


def read_training_curve(run_folder: Path) -> list[CurveRow]:
    """Read the losses of a run, in nats per token, a row for each report of the run; a run without metrics has none."""
    path = run_folder / "metrics.parquet"
    try:
        require_file(path)
        names = set(pq.read_schema(path).names)
        if not {"step", "kind"} <= names:
            return []
        rows: list[CurveRow] = pq.read_table(
            path, columns=[name for name in CURVE_COLUMNS if name in names]
        ).to_pylist()
    except (OSError, ValueError):  # Arrow raises a ValueError on a damaged file
        return []
    return rows


def find_git_revision() -> str | None:
    """Return the commit of this project's checkout, with a mark if files were changed; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=20).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + (" with changes" if changes.strip() else "")
