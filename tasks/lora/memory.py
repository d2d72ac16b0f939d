"""How much memory a recipe needs at its peak, predicted before anything is loaded, and what would make it fit.

The constants were fitted to peaks of MLX's CPU backend. On a GPU the peak was below the plan without checkpointing and
5 to 14 GB above the plan with checkpointing (``docs/decisions/0040-memory-is-planned.md``).
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from storage.errors import ParameterError
from tasks.lora.architecture import Architecture
from tasks.lora.batches import ANCHOR_POSITIONS, WIDTH_STEP
from tasks.lora.recipe import Recipe

USABLE_SHARE = 0.75
"""The rest of a machine's memory is left to the system."""
ADAPTER_BYTES = 17
"""A parameter of the adapter: value, gradient and two moments in float32, and a little while they are updated."""
ACCUMULATED_BYTES = 5
"""Its gradient summed over micro-batches."""
SAVED_HIDDEN_BYTES = 66
SAVED_INTERMEDIATE_BYTES = {2: 9, 4: 18}
"""What an adapted layer keeps for the backward pass, for each token and unit of width, by the bytes of an activation.

The first hardly depends on them, since norms and adapters compute in float32 whatever the model does.
"""
LIVE_HIDDEN_BYTES, LIVE_INTERMEDIATE_BYTES = 24, 48
"""What the layer whose backward pass is under way needs besides."""
SCORE_ELEMENTS = {2: 2, 4: 3.5}
"""Copies of the attention scores of one layer, heads x tokens x tokens."""
LOGIT_BYTES = 25
"""Logits, their exponentials and their gradient, for each token of a chunk and word of the vocabulary."""
CHUNKS_UNDER_WAY = 2.6
"""The next chunks are begun while one is computed."""
CHUNK_ELEMENTS = 4 << 20
"""Most logits that the loss holds at a time; in float32 they take 16 MiB, and their gradients as much again."""
MIN_CHUNK = 32
"""Rows of the smallest chunk: below that, the projection reads its weights more often than it is worth."""

MOST_ACCUMULATED = 1024
"""Bound of the recipe's grad_accum."""
SHORTENED_FROM = 512
"""Sequences and budgets below this many tokens are not advised to be cut further."""


def machine_memory_gb() -> float:
    """Return the memory in GB (10^9 bytes) that ``DISTRUST_MEMORY_GB`` names, else this machine's."""
    if named := os.environ.get("DISTRUST_MEMORY_GB"):
        with contextlib.suppress(ValueError):
            if 0 < float(named) < math.inf:
                return float(named)
        raise ParameterError(f"DISTRUST_MEMORY_GB is {named!r}; give the machine's memory in GB, or leave it out")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def usable_bytes(memory_gb: float | None = None) -> float:
    """Return what training may take of a machine's memory; of this machine's if it is left out."""
    return USABLE_SHARE * 1e9 * (machine_memory_gb() if memory_gb is None else memory_gb)


@dataclass(frozen=True)
class MemoryPlan:
    """Predicted peak of a training process, in bytes."""

    weights: int
    adapter: int
    activations: int
    logits: int
    """What the loss needs on top of the saved activations; counted if it is more than a layer's backward pass."""
    adapted_parameters: int
    parameters: int

    @property
    def total(self) -> int:
        """The predicted peak."""
        return self.weights + self.adapter + self.activations + self.logits

    def fits(self, limit_bytes: float) -> bool:
        """Return whether the peak stays below a limit."""
        return self.total <= limit_bytes


def plan_memory(model: Architecture, recipe: Recipe) -> MemoryPlan:
    """Predict the peak of training `model` as `recipe` says; sequences are taken to be as long as it allows."""
    layers = model.layers if recipe.lora_layers < 0 else min(recipe.lora_layers, model.layers)
    shapes = [model.widths(target) for target in recipe.target_modules]
    adapted = layers * recipe.lora_rank * sum(inputs + outputs for inputs, outputs in shapes)
    if recipe.batch_tokens is None:
        tokens = recipe.batch_size * recipe.max_seq_length
    else:
        tokens = max(recipe.batch_tokens, recipe.max_seq_length)  # a sequence longer than the budget goes alone
    if recipe.preference_weight:
        tokens = max(tokens, 2 * recipe.max_seq_length)  # a pair is never cut in two
    size = 2 if model.float_bytes <= 2 else 4
    kept_width = SAVED_HIDDEN_BYTES * model.hidden + SAVED_INTERMEDIATE_BYTES[size] * model.intermediate
    saved_layer = tokens * kept_width
    if recipe.lora_dropout > 0:
        saved_layer += 4 * tokens * sum(inputs for inputs, _ in shapes)
    live = tokens * (LIVE_HIDDEN_BYTES * model.hidden + LIVE_INTERMEDIATE_BYTES * model.intermediate)
    live += round(SCORE_ELEMENTS[size] * size * tokens * recipe.max_seq_length * model.heads)
    if recipe.lora_type == "dora":
        live += 8 * sum(inputs * outputs for inputs, outputs in shapes)  # its weights, dequantised and with the update
    if recipe.grad_checkpoint:
        saved = model.layers * tokens * model.hidden * size
        live += saved_layer
    else:
        saved = layers * saved_layer
    chunk = min(tokens, max(MIN_CHUNK, CHUNK_ELEMENTS // model.vocabulary))
    under_way = min(CHUNKS_UNDER_WAY, tokens / chunk)
    logits = round(LOGIT_BYTES * under_way * chunk * model.vocabulary) + 2 * tokens * model.hidden * size
    if recipe.anchor_weight:  # beside the loss: the model's logits and the base's at a few positions of each row
        anchors = (
            tokens // WIDTH_STEP * ANCHOR_POSITIONS if recipe.batch_tokens else recipe.batch_size * ANCHOR_POSITIONS
        )
        logits += LOGIT_BYTES * min(chunk, anchors) * model.vocabulary
    lessons = recipe.term_weights.keys() - {"anchor"}
    per_parameter = ADAPTER_BYTES + (ACCUMULATED_BYTES if recipe.grad_accum > 1 or lessons else 0)
    per_parameter += ACCUMULATED_BYTES if lessons else 0  # kept apart until the step's tokens are counted
    return MemoryPlan(
        weights=model.weight_bytes,
        adapter=adapted * per_parameter,
        activations=saved + live,
        logits=max(0, logits - live),
        adapted_parameters=adapted,
        parameters=model.parameters,
    )


@dataclass(frozen=True)
class Saving:
    """A change of the recipe with the peak that it leads to."""

    change: str
    total: int
    fits: bool


Change = dict[str, Any]
"""New values by field of the recipe."""


def single_sequences(recipe: Recipe) -> Change:
    """Return the change to micro-batches of one sequence, as many sequences to a step as before."""
    return {"batch_size": 1, "grad_accum": min(MOST_ACCUMULATED, recipe.grad_accum * recipe.batch_size)}


def _shorter(recipe: Recipe) -> Iterator[Change]:
    """Yield halvings of what bounds a micro-batch: of the length alone, or of length and token budget."""
    length, budget = recipe.max_seq_length, recipe.batch_tokens or 0
    most = max(length, budget)
    while most >= SHORTENED_FROM:
        most //= 2
        change: Change = {"max_seq_length": most} if length > most else {}
        if budget > most:  # with as much to a step as before
            accum = min(MOST_ACCUMULATED, recipe.grad_accum * -(-budget // most))
            change |= {"batch_tokens": most, "grad_accum": accum}
        yield change


def _gentler(recipe: Recipe) -> Iterator[Change]:
    """Yield the changes that lower the peak, those that cost least first."""
    if not recipe.grad_checkpoint:
        yield {"grad_checkpoint": True}
    if recipe.batch_tokens is None and recipe.batch_size > 1:  # under a token budget it bounds nothing
        yield single_sequences(recipe)
    yield from _shorter(recipe)
    if recipe.lora_layers < 0 or recipe.lora_layers > 8:
        yield {"lora_layers": 8}
    if recipe.lora_rank > 8:
        yield {"lora_rank": 8, "lora_alpha": 8 * recipe.update_scale}


def savings(model: Architecture, recipe: Recipe, limit_bytes: float) -> list[Saving]:
    """Return each single change that makes the recipe fit; if none does, the first changes that do so combined."""

    def saving(change: Change, between: str) -> Saving:
        planned = model.in_four_bits() if "quantize_base" in change else model
        plan = plan_memory(planned, recipe.model_copy(update=change))
        shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in change.items()}
        words = [name if value is True else f"{name}={value}" for name, value in shown.items()]
        return Saving(between.join(words), plan.total, plan.fits(limit_bytes))

    combined: Change = {} if model.quantised else {"quantize_base": True}
    changes = [*([combined] if combined else []), *_gentler(recipe)]
    single = [saving(change, " with ") for change in changes]
    found = [one for one in single if one.fits]
    for change in [] if found else _gentler(recipe):
        combined = combined | change
        found = [saving(combined, ", ")]
        if found[0].fits:
            break
    return found


def describe_plan(model: Architecture, recipe: Recipe, limit_bytes: float) -> list[str]:
    """Write the plan for a person: the parts, the sum, whether it fits, and what would make it fit."""
    plan = plan_memory(model, recipe)
    trained = plan.adapted_parameters / plan.parameters
    lines = [
        f"Trainable parameters: {plan.adapted_parameters:,} / {plan.parameters:,} ({trained:.2%})",
        f"weights      {plan.weights / 1e9:8.2f} GB" + (" (quantised)" if model.quantised else ""),
        f"adapter      {plan.adapter / 1e9:8.2f} GB",
        f"activations  {plan.activations / 1e9:8.2f} GB",
        f"loss         {plan.logits / 1e9:8.2f} GB",
        f"peak         {plan.total / 1e9:8.2f} GB of {limit_bytes / 1e9:.2f} GB that training may use: "
        + ("fits" if plan.fits(limit_bytes) else "does not fit"),
    ]
    for saving in [] if plan.fits(limit_bytes) else savings(model, recipe, limit_bytes):
        verdict = "fits" if saving.fits else "still does not fit: choose a smaller model"
        lines.append(f"  with {saving.change}: {saving.total / 1e9:.2f} GB, {verdict}")
    return lines


def require_memory(model: Architecture, recipe: Recipe, limit_bytes: float) -> None:
    """Raise ParameterError for a recipe that does not fit; it names the changes that would make it fit."""
    plan = plan_memory(model, recipe)
    if plan.fits(limit_bytes):
        return
    ways = "; ".join(
        f"{saving.change} ({saving.total / 1e9:.2f} GB{'' if saving.fits else ', still too much'})"
        for saving in savings(model, recipe, limit_bytes)
    )
    raise ParameterError(
        f"training {recipe.model} would need {plan.total / 1e9:.2f} GB at its peak and may use "
        f"{limit_bytes / 1e9:.2f} GB here; set {ways or 'another model'}, choose a smaller model, "
        "or set plan_memory to warn to try it anyway"
    )
