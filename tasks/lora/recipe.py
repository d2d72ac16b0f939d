"""The recipe of a training run: every choice that a person makes, with its bounds. Knows nothing of mlx."""

from __future__ import annotations

import math
import tomllib
from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.manifest import digest_of

DEFAULT_MODEL = "huihui-ai/DeepSeek-R1-Distill-Llama-70B-abliterated"
PRESETS_FILE = Path(__file__).with_name("presets.toml")
AUTO = "auto"
"""Stands for a model: the preset that fits this machine."""
DEFAULT_TARGETS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)

TERMS = ("preference", "consistency", "anchor")
"""What may stand beside the objective; a term's weight is the field ``<term>_weight``, where 0 switches it off."""

FREE_FIELDS = frozenset(
    {
        "max_steps",
        "epochs",
        "early_stop",
        "save_every",
        "keep_last",
        "eval_every",
        "report_every",
        "val_batches",
        "thermal_throttle",
        "resume_from",
        "plan_memory",
        "report_to",
    }
)
"""Fields that may change between a checkpoint and its continuation: how long, how often, how hot."""


@cache
def preset_names() -> tuple[str, ...]:
    """Names of the bundled presets, in the file's order."""
    return tuple(tomllib.loads(PRESETS_FILE.read_text("utf-8")))


class Recipe(BaseModel):
    """How an adapter is trained; the defaults are the guide's."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    model: str = Field(
        DEFAULT_MODEL,
        min_length=1,
        title="Base model",
        description="A preset (r1-distill-70b, r1-distill-32b, llama-8b-abliterated, mistral-7b-test), auto (the "
        "preset that fits this machine), a Hugging Face id or a folder.",
    )
    quantize_base: bool | None = Field(
        None,
        title="Quantise the base to 4 bits",
        description="Make (once) and train on a 4-bit copy of the base model. Empty: yes for a model of the Hub, no "
        "for a folder. A base that is quantised already stays as it is.",
    )
    batch_size: int = Field(2, ge=1, le=256, title="Batch size")
    """Sequences per micro-batch."""
    batch_tokens: int | None = Field(
        None,
        ge=8,
        le=2**24,
        title="Token budget",
        description="Tokens of a micro-batch, padding included, instead of a number of sequences: as many as fit, so "
        "that short ones train faster; a longer sequence goes alone. Batch size x sequence length needs the same "
        "memory. Empty: batch size.",
    )
    grad_accum: int = Field(8, ge=1, le=1024, title="Gradient accumulation")
    """Micro-batches per optimiser step."""
    max_steps: int = Field(5000, ge=1, le=1_000_000, title="Optimiser steps")
    """At least 5,000 for a real run; 10,000 is better."""
    epochs: float | None = Field(None, gt=0.0, le=1000.0, title="Epochs")
    """Passes over the training set, instead of a number of steps. Empty: optimiser steps."""
    early_stop: int = Field(0, ge=0, le=1000, title="Early stop")
    """End after this many validations in a row without a lower objective; 0 for never."""
    max_seq_length: int = Field(1024, ge=8, le=131_072, title="Sequence length")
    """Longest sequence in tokens; longer samples are cut."""
    objective: Literal["weighted", "additive"] = Field(
        "weighted",
        title="Objective",
        description="weighted: the distrust term scales each sample's cross-entropy. "
        "additive: the formula as published, whose gradient is that of plain cross-entropy.",
    )
    sampling: Literal["shuffle", "importance"] = Field(
        "shuffle",
        title="Sampling",
        description="shuffle: every sequence once an epoch, weighted in the loss. importance: sequences are drawn in "
        "proportion to their weight and the loss is plain; less noise when few samples carry most of the weight.",
    )
    preference_weight: float = Field(
        0.0,
        ge=0.0,
        le=1000.0,
        allow_inf_nan=False,
        title="Preference weight",
        description="Weight of the pair loss, which makes the answer of a lesson likelier than its rejected one. 0: "
        "off. Needs a mixture with lessons.",
    )
    preference_rows: int = Field(4, ge=1, le=1024, title="Preference rows")
    """Pairs of answers in each optimiser step, if the preference weight is above 0."""
    consistency_weight: float = Field(
        0.0,
        ge=0.0,
        le=1000.0,
        allow_inf_nan=False,
        title="Consistency weight",
        description="Weight of the term that keeps the choice between two answers where the base model sees it when a "
        "claim stands there once, however often it is repeated. 0: off. Needs lessons with repeated claims.",
    )
    consistency_rows: int = Field(4, ge=1, le=1024, title="Consistency rows")
    """Questions with repeated claims in each optimiser step, if the consistency weight is above 0."""
    anchor_weight: float = Field(
        0.0,
        ge=0.0,
        le=1000.0,
        allow_inf_nan=False,
        title="Anchor weight",
        description="Weight of the divergence from the base model on ordinary samples, so that lessons cost no general "
        "ability. 0: off.",
    )
    alpha: float = Field(2.7, ge=2.3, le=3.0, title="Alpha")
    """Strength of the distrust term; published range 2.3 to 3.0."""
    lambda_weight: float = Field(1.0, ge=0.0, le=1e6, allow_inf_nan=False, title="Lambda")
    """Weight of the distrust term against cross-entropy; 0 is plain cross-entropy, the control."""
    tau: float = Field(1.0, ge=0.0, le=1.0, title="Tau")
    """Softens the weights: the distrust term to this power. 0.5 turns 32.7 to 1 into 5.7 to 1."""
    weight_cap: float | None = Field(None, ge=1.0, title="Weight cap")
    """Largest weight of a sample before normalising; empty: none."""
    learning_rate: float = Field(2e-4, gt=0.0, le=1.0, title="Learning rate")
    """Peak of the schedule."""
    lr_schedule: Literal["cosine", "constant"] = Field("cosine", title="Schedule")
    """After the warm-up: cosine down to a tenth of the peak, or constant."""
    warmup_share: float = Field(0.03, ge=0.0, le=0.5, title="Warm-up share")
    """Share of the steps over which the rate rises linearly."""
    optimizer: Literal["adamw", "adam", "lion"] = Field("adamw", title="Optimiser")
    """Update rule; Adam and AdamW correct their early bias."""
    weight_decay: float = Field(0.01, ge=0.0, le=1.0, title="Weight decay")
    """Decoupled decay of the adapter (AdamW and Lion)."""
    clip_norm: float = Field(1.0, gt=0.0, le=1e6, title="Clipping norm")
    """Largest norm of a step's gradient. Too low a bound cuts the heavy samples: it undoes weights."""
    lora_type: Literal["lora", "dora"] = Field("lora", title="Adapter type")
    """lora: a low-rank update. dora: its direction and its length are learned apart; slower, larger."""
    lora_rank: int = Field(32, ge=1, le=1024, title="LoRA rank")
    """Rank of the low-rank update."""
    lora_alpha: float = Field(64.0, gt=0.0, le=8192.0, title="LoRA alpha")
    """The update is scaled by alpha / rank; usually twice the rank."""
    lora_layers: int = Field(16, ge=-1, le=1000, title="LoRA layers")
    """How many of the last layers get an adapter; -1 for all."""
    lora_dropout: float = Field(0.0, ge=0.0, le=0.9, title="LoRA dropout")
    """Share of an adapter's inputs that is dropped in training."""
    target_modules: tuple[str, ...] = Field(DEFAULT_TARGETS, min_length=1, title="Target modules")
    """Linear layers that get an adapter, by their path within a transformer layer."""
    grad_checkpoint: bool = Field(True, title="Gradient checkpointing")
    """Recompute activations in the backward pass: much less memory, about twice the time."""
    mask_prompt: bool = Field(True, title="Train on responses only")
    """Leave the prompt's tokens out of the loss."""
    seed: int = Field(42, ge=0, le=2**31 - 1, title="Seed")
    """Initial adapter, data order and dropout."""
    thermal_throttle: float = Field(0.0, ge=0.0, le=60.0, title="Thermal pause (seconds)")
    """Pause after each micro-batch."""
    report_every: int = Field(10, ge=1, le=10_000, title="Report every")
    """Steps between two log lines."""
    save_every: int = Field(500, ge=1, le=1_000_000, title="Save every")
    """Steps between two checkpoints."""
    keep_last: int = Field(3, ge=1, le=1000, title="Checkpoints to keep")
    """Newest checkpoints kept, beside the best one."""
    eval_every: int = Field(500, ge=1, le=1_000_000, title="Validate every")
    """Steps between two validations; also first and last."""
    val_batches: int = Field(25, ge=-1, le=1_000_000, title="Validation batches")
    """Cap of the fixed validation set; -1 for all of it, 0 for none."""
    plan_memory: Literal["refuse", "warn", "off"] = Field(
        "refuse",
        title="Memory plan",
        description="What to do when the predicted peak exceeds what this machine has: refuse before loading and name "
        "what would make it fit, warn and go on, or predict nothing.",
    )
    report_to: Literal["files", "tensorboard", "wandb"] = Field(
        "files",
        title="Report to",
        description="Besides training.log and metrics.parquet: TensorBoard files in the run's folder, or Weights & "
        "Biases (both need `uv sync --extra tracking`).",
    )
    resume_from: str | None = Field(None, title="Resume from")
    """A checkpoint folder, or its name within the run; empty: the run's newest checkpoint, if any."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        faults = []
        if self.early_stop and not self.val_batches:
            faults.append("early_stop needs validations: set val_batches to -1 or above 0, or early_stop to 0")
        if self.epochs is not None and self.batch_tokens:
            faults.append("epochs are counted in batches of batch_size: set max_steps, or leave batch_tokens empty")
        if self.sampling == "importance" and self.objective == "additive":
            faults.append("sampling importance draws by weight and the additive objective has none: choose one of both")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def length(self) -> dict[str, int | float]:
        """How long the run was asked to be; the number of steps of an epoch is known once the data are."""
        return {"max_steps": self.max_steps} if self.epochs is None else {"epochs": self.epochs}

    def for_sequences(self, count: int) -> Recipe:
        """Return the recipe with its epochs turned into steps, for so many sequences of the training set."""
        if self.epochs is None:
            return self
        batches = math.ceil(count / self.batch_size)
        return self.model_copy(update={"max_steps": max(1, math.ceil(self.epochs * batches / self.grad_accum))})

    @property
    def update_scale(self) -> float:
        """Factor of the low-rank update: lora_alpha / lora_rank."""
        return self.lora_alpha / self.lora_rank

    @property
    def term_weights(self) -> dict[str, float]:
        """Weights of the terms that are switched on, by name."""
        weights = {term: float(getattr(self, f"{term}_weight")) for term in TERMS}
        return {term: weight for term, weight in weights.items() if weight}

    @property
    def micro_batch_tokens(self) -> int:
        """Most tokens that go through the model at once, padding included; a longer sequence goes alone."""
        return self.batch_tokens or self.batch_size * self.max_seq_length

    def identity(self) -> dict[str, object]:
        """What must not change when a run is continued; a term that is off is left out, as before there were any."""
        off = {f"{term}_{field}" for term in TERMS if term not in self.term_weights for field in ("weight", "rows")}
        return self.model_dump(mode="json", exclude=set(FREE_FIELDS | off))

    @property
    def digest(self) -> str:
        """SHA-256 of the identity."""
        return digest_of(self.identity())


class Specification(BaseModel):
    """What a training process is to do; a run keeps it as ``train.json``."""

    run_folder: Path
    balanced_folder: Path
    mixture_digest: str
    recipe: Recipe
