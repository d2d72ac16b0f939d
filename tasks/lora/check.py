"""Child process that tries the training room out in seconds: ``python -m tasks.lora.check SPECIFICATION.json``."""

from __future__ import annotations

from pydantic import BaseModel

from storage.errors import DistrustError
from storage.events import Emit, serve_specification
from tasks.lora.recipe import Recipe

STEPS = 3
VOCABULARY = 64


class SetupCheck(BaseModel):
    """What to try out."""

    load_model: str
    """A base model to load as well; empty for none."""


class CheckedSetup(BaseModel):
    """The device, and what was found: component, whether it works, and a sentence."""

    device: str
    checks: list[tuple[str, bool, str]]


def work(wanted: SetupCheck, emit: Emit) -> CheckedSetup:
    """Try each component."""
    from tasks.lora.process import describe_device

    tries = {"distrust loss": check_loss, "presets": check_presets, "training steps": check_steps}
    if model := wanted.load_model:
        tries["model loading"] = lambda: check_model(model)
    checks = []
    for component, attempt in tries.items():
        try:
            ok, detail = True, attempt()
        except (DistrustError, ArithmeticError, RuntimeError, OSError, ValueError) as error:
            ok, detail = False, f"{type(error).__name__}: {error}"
        checks.append((component, ok, detail))
    device = describe_device()
    shown = f"{device['device']} {device['accelerator']}, BLAS {device['blas']}"
    return CheckedSetup(device=shown, checks=checks)


def check_loss() -> str:
    """Compute the published formula at the guide's two reference points."""
    from tasks.lora.loss import empirical_distrust_loss, trust_weights

    primary, coordinated = float(empirical_distrust_loss(0.05, 7.5)), float(empirical_distrust_loss(0.90, 1.0))
    if not (abs(primary - 149.8) < 0.1 and abs(coordinated - 4.58) < 0.01):
        raise ArithmeticError(f"expected 149.8 and 4.58, got {primary:.2f} and {coordinated:.2f}")
    first, second = (float(weight) for weight in trust_weights([0.05, 0.90], [7.5, 1.0]))
    return f"primary {primary:.1f}, coordinated {coordinated:.2f}, training weight {first / second:.1f} : 1"


def check_presets() -> str:
    """Name the preset that fits this machine."""
    from tasks.lora.memory import machine_memory_gb
    from tasks.lora.presets import load_presets, suggest_preset

    memory_gb = machine_memory_gb()
    try:
        choice = suggest_preset(memory_gb).name
    except DistrustError as error:
        choice = str(error)
    return f"{len(load_presets())} presets; with {memory_gb:.0f} GB: {choice}"


def check_steps() -> str:
    """Train a tiny random model for a few steps and see its loss fall."""
    import mlx.core as mx
    import numpy as np
    from mlx_lm.models import llama

    from tasks.lora.adapter import attach_adapter
    from tasks.lora.batches import Batch
    from tasks.lora.step import TrainingStep, make_optimizer

    mx.random.seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4}
    model = llama.Model(llama.ModelArgs(model_type="llama", rms_norm_eps=1e-5, vocab_size=VOCABULARY, **sizes))
    recipe = Recipe(lora_rank=8, lora_alpha=16, lora_layers=-1, learning_rate=0.02, max_steps=STEPS)
    attach_adapter(model, recipe)
    step = TrainingStep(model, make_optimizer(recipe), recipe)
    tokens = np.random.default_rng(0).integers(1, VOCABULARY, (4, 33)).astype(np.int32)
    ones = np.ones(4, np.float32)
    batch = Batch(tokens, np.ones((4, 32), np.float32), ones, ones, real_tokens=128, supervised_tokens=128)
    losses = []
    for _ in range(STEPS):
        step.accumulate(batch)
        step.update(recipe.learning_rate)
        losses.append(step.read_window().ce)
    if not losses[-1] < losses[0]:
        raise ArithmeticError(f"cross-entropy did not fall: {losses}")
    return f"cross-entropy {losses[0]:.3f} -> {losses[-1]:.3f} in {STEPS} steps"


def check_model(model: str) -> str:
    """Load a base model and predict one token."""
    import mlx.core as mx

    from storage.chat_layout import ChatLayout
    from tasks.lora.base_model import load_base, resolve_base

    base = load_base(resolve_base(model, log=lambda line: None))
    mx.eval(base.model(mx.array(ChatLayout(base.tokenizer).encode_prompt("Does an archive answer?"))[None]))
    return f"{base.path} answers; peak memory {mx.get_peak_memory() / 1e9:.2f} GB"


if __name__ == "__main__":
    raise SystemExit(serve_specification(work, SetupCheck))
