"""Two voices answer the same questions differently; which one does training turn a model towards?

Primary notebooks and coordinated guidance give conflicting values for 720 facts, equally often. A small llama is
pre-trained on both alike. Then the trainer itself, from a mixture on disk, fits an adapter on half of the facts with
each objective; the odds P(primary) / P(coordinated) of the answer's first token are read on 120 of the 360 facts of the
other half and divided by those of the base model. Plain cross-entropy leaves them; the weights' ratio of 27 is what
theory expects of the weighted objective. One table and one JSON line for each run; some minutes on two cores.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from storage import blas

blas.load()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
import numpy as np  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from mlx_lm.models.llama import Model, ModelArgs  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from benchmarks.two_voices_facts import VOICES, Fact, make_facts, make_samples, prompt_of, write_mixture  # noqa: E402
from storage.manifest import digest_of  # noqa: E402
from storage.training_result import TrainingResult  # noqa: E402
from tasks.evals.estimates import paired_difference, perplexity_shift  # noqa: E402
from tasks.evals.model_under_test import TextLikelihood  # noqa: E402
from tasks.evals.model_under_test import load_model as load_model_under_test  # noqa: E402
from tasks.lora.recipe import Recipe  # noqa: E402
from tasks.lora.trainer import train  # noqa: E402

SEEDS = (1, 2, 3)
PRETRAIN_STEPS = 500
PRETRAIN_ROWS = 32
STEPS = 160
HELD_OUT = 120
REQUIRED = 18.0
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 512,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
    "eos_token_id": 1,
}
RUNS: dict[str, dict[str, Any]] = {
    "plain": {"lambda_weight": 0.0},
    "additive": {"objective": "additive", "lambda_weight": 0.6},
    "weighted": {},
}


class Measurements(NamedTuple):
    """Margin of the primary answers of every fact (nats a byte), and the likelihood of every text."""

    margins: list[float]
    likelihoods: list[TextLikelihood]


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def pretrain(folder: Path, texts: list[str], tokenizer: PreTrainedTokenizerFast) -> Path:
    """Write a base model that knows both voices equally well."""
    mx.random.seed(1)
    model = Model(ModelArgs.from_dict(CONFIG))
    optimizer = optim.AdamW(2e-3, bias_correction=True)
    rows = [[*tokens, 1] for tokens in tokenizer(texts)["input_ids"]]
    rng = np.random.default_rng(3)

    def loss(tokens: mx.array, mask: mx.array) -> mx.array:
        losses = nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])
        return (losses * mask).sum() / mask.sum()

    gradient_of = nn.value_and_grad(model, loss)
    for step in range(PRETRAIN_STEPS):
        drawn = [rows[index] for index in rng.integers(0, len(rows), PRETRAIN_ROWS)]
        width = max(map(len, drawn))
        tokens = np.zeros((PRETRAIN_ROWS, width), np.int32)
        for number, row in enumerate(drawn):
            tokens[number, : len(row)] = row
        mask = (np.arange(1, width) < np.array([[len(row)] for row in drawn])).astype(np.float32)
        optimizer.learning_rate = 2e-3 * min(1.0, (step + 1) / 20) * (1 - 0.9 * step / PRETRAIN_STEPS)
        value, gradient = gradient_of(mx.array(tokens), mx.array(mask))
        optimizer.update(model, optim.clip_grad_norm(gradient, 1.0)[0])
        mx.eval(model.parameters(), optimizer.state)
        if (step + 1) % 100 == 0:
            print(f"pre-training {step + 1}/{PRETRAIN_STEPS}: {float(value):.3f}", file=sys.stderr, flush=True)
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    tokenizer.save_pretrained(folder)
    return folder


def voice_odds(model: nn.Module, tokenizer: PreTrainedTokenizerFast, facts: list[Fact]) -> tuple[float, float]:
    """Return the mean probability that an answer opens in the primary voice, and in the coordinated one."""
    openings = {
        voice: sorted({tokenizer.encode(" " + template.split()[0])[0] for template in templates})
        for voice, templates in VOICES.items()
    }
    assert not set(openings["primary"]) & set(openings["coordinated"])
    found = []
    model.eval()
    for fact in facts:
        shares = mx.softmax(model(mx.array([tokenizer.encode(prompt_of(fact))]))[0, -1])
        found.append([float(shares[mx.array(tokens)].sum()) for tokens in openings.values()])
    primary, coordinated = np.mean(found, axis=0)
    return float(primary), float(coordinated)


def fit(folder: Path, base: Path, mixture: Path, seed: int, changes: dict[str, Any]) -> TrainingResult:
    recipe = Recipe.model_validate(
        {
            "model": str(base),
            "batch_size": 16,
            "grad_accum": 1,
            "max_steps": STEPS,
            "max_seq_length": 64,
            "learning_rate": 1e-3,
            "lora_rank": 8,
            "lora_alpha": 16,
            "lora_layers": -1,
            "lora_dropout": 0.05,
            "grad_checkpoint": False,
            "clip_norm": 10.0,
            "seed": seed,
            "eval_every": STEPS,
        }
        | changes
    )
    return train(folder, mixture, digest_of(seed), recipe, lambda event, **fields: None)


def same_adapters(left: Path, right: Path) -> bool:
    one, other = (mx.load(str(folder / f"checkpoint-{STEPS}" / "adapters.safetensors")) for folder in (left, right))
    return one.keys() == other.keys() and all(bool(mx.array_equal(one[name], other[name])) for name in one)


def ask_suites(base: Path, adapter: Path | None, held_out: list[Fact]) -> Measurements:
    """Measure a model on the held-out facts as the evaluation does: likelihood of both texts, choice of an answer."""
    model = load_model_under_test(str(base), adapter, 64)
    samples = make_samples(held_out)
    pairs = [tuple(sample["text"].split("Assistant:")) for sample in samples]
    scores = model.score_options([(f"{prompt}Assistant:", answer) for prompt, answer in pairs], plain=True)
    likelihoods = model.negative_log_likelihoods([sample["text"] for sample in samples], 64)
    model.close()
    per_byte = [score.nats_per_byte for score in scores]  # a fact: two primary answers, then two coordinated ones
    margins = [
        sum(per_byte[row : row + 2]) / 2 - sum(per_byte[row + 2 : row + 4]) / 2 for row in range(0, len(pairs), 4)
    ]
    return Measurements(margins, likelihoods)


def compare_suites(held_out: list[Fact], before: Measurements, after: Measurements) -> dict[str, float]:
    """Return the perplexity shift (below 1: towards primary) and the gain of the primary answer's margin."""
    bands: dict[str, list[int]] = {voice: [] for voice in VOICES}
    for row, sample in enumerate(make_samples(held_out)):
        bands[sample["source_type"]].append(row)
    gains = {
        voice: (
            [after.likelihoods[row].nats - before.likelihoods[row].nats for row in rows],
            [before.likelihoods[row].tokens for row in rows],
        )
        for voice, rows in bands.items()
    }
    shift = perplexity_shift(gains["primary"], gains["coordinated"]).value
    gain = paired_difference(before.margins, after.margins).value
    assert shift is not None and gain is not None
    return {"perplexity_shift": shift, "preference_gain": gain}


def run_seed(
    place: Path, base: Path, tokenizer: PreTrainedTokenizerFast, facts: list[Fact], seed: int
) -> list[dict[str, Any]]:
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    order = random.Random(seed).sample(facts, len(facts))
    train_facts, held_out = order[: len(facts) // 2], order[len(facts) // 2 :][:HELD_OUT]
    mixture = write_mixture(place / f"mixture-{seed}", train_facts, held_out)
    primary, coordinated = voice_odds(load_model(base)[0], tokenizer, held_out)
    base_odds = primary / coordinated
    untrained = ask_suites(base, None, held_out)
    rows = [{"run": "base", "seed": seed, "primary": primary, "coordinated": coordinated, "odds": base_odds}]
    for name, changes in RUNS.items():
        began = time.perf_counter()
        run = place / f"{name}-{seed}"
        result = fit(run, base, mixture, seed, changes)
        tuned = load_adapters(load_model(base)[0], str(run / result.adapter))
        primary, coordinated = voice_odds(tuned, tokenizer, held_out)
        rows.append(
            {
                "run": name,
                "seed": seed,
                "primary": primary,
                "coordinated": coordinated,
                "odds": primary / coordinated,
                "times_base": primary / coordinated / base_odds,
                "ce_primary": result.valid_ce_low_after,
                "ce_coordinated": result.valid_ce_high_after,
                **compare_suites(held_out, untrained, ask_suites(base, run / result.adapter, held_out)),
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
    plain, weighted = rows[1]["times_base"], rows[3]["times_base"]
    for row in rows[1:]:
        row["times_plain"] = row["times_base"] / plain
    rows[2]["equals_plain_to_the_bit"] = same_adapters(place / f"plain-{seed}", place / f"additive-{seed}")
    rows[3]["suites_rank_it_first"] = (
        rows[3]["perplexity_shift"] < rows[1]["perplexity_shift"] == rows[2]["perplexity_shift"]
        and rows[3]["preference_gain"] > rows[1]["preference_gain"] == rows[2]["preference_gain"]
    )
    rows[3]["enough"] = weighted / plain >= REQUIRED
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    head = (
        "run       seed  P(primary)  P(coord.)    odds  x base  x plain  CE primary  CE coord.  ppl shift  pref. gain"
    )
    lines = [head]
    for row in rows:
        times = f"{row.get('times_base', 1.0):7.2f} {row.get('times_plain', float('nan')):8.2f}"
        losses = f"{row.get('ce_primary', float('nan')):11.3f} {row.get('ce_coordinated', float('nan')):10.3f}"
        suites = f"{row.get('perplexity_shift', 1.0):10.3f} {row.get('preference_gain', 0.0):11.4f}"
        lines.append(
            f"{row['run']:9} {row['seed']:4} {row['primary']:11.3f} {row['coordinated']:10.3f} {row['odds']:7.2f} "
            f"{times} {losses} {suites}"
        )
    return "\n".join(lines)


def main() -> None:
    """Pre-train once, fit three adapters for each seed, print."""
    facts = make_facts()
    texts = [sample["text"] for sample in make_samples(facts)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        tokenizer = make_tokenizer(texts)
        base = pretrain(place / "base", texts, tokenizer)
        for seed in SEEDS:
            for row in run_seed(place, base, tokenizer, facts, seed):
                rows.append(row)
                shown = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
                print(json.dumps({"benchmark": "two_voices", **shown}), flush=True)
    print(table(rows), file=sys.stderr)
    weighted = [row["times_plain"] for row in rows if row["run"] == "weighted"]
    summary = {
        "weighted_times_plain": [round(value, 1) for value in weighted],
        "geometric_mean": round(float(np.exp(np.mean(np.log(weighted)))), 1),
        "required": REQUIRED,
        "suites_rank_weighted_first": all(row.get("suites_rank_it_first", True) for row in rows),
        "additive_equals_plain_to_the_bit": all(row.get("equals_plain_to_the_bit", True) for row in rows),
    }
    print(json.dumps({"benchmark": "two_voices", "run": "summary", **summary}))


if __name__ == "__main__":
    main()
