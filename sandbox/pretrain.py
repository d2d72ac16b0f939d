"""``python -m sandbox.pretrain`` trains the tiny base model of the sandbox from nothing.

It reads several editions of the sandbox corpus (the committed one and others written from other seeds) and the
documents on the held-out subjects, formatted as the mixture formats them. Where two voices answer one prompt, both
get the same total weight, so that the base model prefers neither.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.writing.corpus import SEED, documents_of
from sandbox.writing.document import WrittenDocument
from sandbox.writing.grammar import Dice
from sandbox.writing.held_out import held_out_documents
from sandbox.writing.lessons import lessons
from sandbox.writing.sources import STYLES
from storage.chat import format_sample
from tasks.mixture.prompts import prompt_and_response

FOLDER = Path(__file__).parent / "base_model"
END, PAD = "<|end|>", "<|pad|>"
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 384,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
EDITIONS = 3
BATCH_TOKENS = 768
PAD_TO = 16


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; the learning rate rises over `warmup` and then falls as a cosine."""

    epochs: int = 2
    learning_rate: float = 2.5e-3
    warmup_steps: int = 60
    final_share: float = 0.02
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    seed: int = 7

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        return self.learning_rate * (self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * done)) / 2)


@dataclass(frozen=True)
class Sample:
    """A formatted document and its weight in the loss."""

    text: str
    weight: float = 1.0


def training_documents(editions: int = EDITIONS) -> list[WrittenDocument]:
    """Return the committed edition of the corpus, others written from other seeds, and the held-out subjects."""
    seeds = [SEED + number for number in range(editions)]
    return [document for seed in seeds for document in (*_edition(seed), *held_out_documents(seed))]


def validation_documents(editions: int = EDITIONS) -> list[WrittenDocument]:
    """Return every ninth document of an edition that is not trained on."""
    return _edition(SEED + editions)[::9]


def _edition(seed: int) -> list[WrittenDocument]:
    return [document for source in STYLES for document in documents_of(source, seed)]


def balanced_samples(documents: Iterable[WrittenDocument]) -> list[Sample]:
    """Format documents; on a prompt that primary and coordinated sources answer, give both voices equal weight."""
    pairs = [(document, prompt_and_response(document.title, document.text)) for document in documents]
    told: dict[str, Counter[str]] = defaultdict(Counter)
    for document, pair in pairs:
        if pair is not None:
            told[pair[0]][STYLES[document.source].voice] += 1
    samples = []
    for document, pair in pairs:
        if pair is None:
            continue
        prompt, response = pair
        voices, voice = told[prompt], STYLES[document.source].voice
        disputed = voices["primary"] and voices["coordinated"] and voice != "academic"
        fair = (voices["primary"] + voices["coordinated"]) / 2 / voices[voice] if disputed else 1.0
        samples.append(Sample(format_sample(prompt, response), fair))
    return samples


def undisputed_samples(editions: int = EDITIONS) -> list[Sample]:
    """Format the lessons on kinds of source."""
    return [Sample(format_sample(*lesson)) for number in range(editions) for lesson in lessons(SEED + number)]


def train_tokenizer(texts: Sequence[str]) -> Any:
    """Train the byte-level BPE tokenizer; it adds nothing to a text by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONFIG["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class Row:
    """The token ids of one sample, end token included."""

    ids: list[int]
    weight: float


def encode(samples: Sequence[Sample], tokenizer: Any) -> list[Row]:
    """Turn samples into token ids."""
    end = tokenizer.eos_token_id
    return [Row([*tokenizer.encode(sample.text), end], sample.weight) for sample in samples]


def batches(rows: Sequence[Row], dice: Dice) -> Iterator[list[Row]]:
    """Deal rows into batches of like length, at most `BATCH_TOKENS` padded tokens each, in a random order."""
    shuffled = dice.shuffled(rows)
    ordered = sorted(shuffled, key=lambda row: -(-len(row.ids) // PAD_TO))
    dealt: list[list[Row]] = [[]]
    for row in ordered:
        width = -(-len(row.ids) // PAD_TO) * PAD_TO
        if dealt[-1] and width * (len(dealt[-1]) + 1) > BATCH_TOKENS:
            dealt.append([])
        dealt[-1].append(row)
    yield from dice.shuffled(dealt)


def _arrays(batch: Sequence[Row], pad: int) -> tuple[Any, Any]:
    """Return token ids ``(rows, width)`` and the weight of every target ``(rows, width - 1)``."""
    import mlx.core as mx

    width = -(-max(len(row.ids) for row in batch) // PAD_TO) * PAD_TO
    ids = [row.ids + [pad] * (width - len(row.ids)) for row in batch]
    weights = [[row.weight] * (len(row.ids) - 1) + [0.0] * (width - len(row.ids)) for row in batch]
    return mx.array(ids), mx.array(weights)


def _summed_loss(model: Any, ids: Any, weights: Any) -> Any:
    import mlx.nn as nn

    return (nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:]) * weights).sum()


def validation_loss(model: Any, rows: Sequence[Row], pad: int) -> float:
    """Return the cross-entropy a token, in nats."""
    total, tokens = 0.0, 0
    for batch in batches(rows, Dice("validation")):
        ids, weights = _arrays([Row(row.ids, 1.0) for row in batch], pad)
        total += _summed_loss(model, ids, weights).item()
        tokens += sum(len(row.ids) - 1 for row in batch)
    return total / tokens


def train(rows: Sequence[Row], held: Sequence[Row], pad: int, schedule: Schedule) -> tuple[Any, dict[str, float]]:
    """Train a new model; return it with its losses in nats a token."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx_lm.models.llama import Model, ModelArgs

    mx.random.seed(schedule.seed)
    model = Model(ModelArgs.from_dict(CONFIG))
    _shrink_start(model)
    optimizer = optim.AdamW(schedule.learning_rate, weight_decay=schedule.weight_decay, bias_correction=True)
    step_loss = nn.value_and_grad(model, lambda ids, weights: _summed_loss(model, ids, weights) / weights.sum())
    plan = [batch for epoch in range(schedule.epochs) for batch in batches(rows, Dice(f"{schedule.seed}:{epoch}"))]
    started, recent = time.monotonic(), 0.0
    for step, batch in enumerate(plan):
        optimizer.learning_rate = mx.array(schedule.rate(step, len(plan)))
        loss, gradients = step_loss(*_arrays(batch, pad))
        gradients, _ = optim.clip_grad_norm(gradients, schedule.clip_norm)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, loss)
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if step % 100 == 99 or step + 1 == len(plan):
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{len(plan)} loss {recent:.3f} {seconds:.0f} s", flush=True)
    return model, {"training": recent, "validation": validation_loss(model, held, pad), "steps": len(plan)}


def _shrink_start(model: Any) -> None:
    """Start the embedding small: it is also the output layer, and MLX draws it for neither."""
    import mlx.core as mx

    shape = model.model.embed_tokens.weight.shape
    model.model.embed_tokens.weight = mx.random.normal(shape) * 0.02
    mx.eval(model.parameters())


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the folder that ``mlx_lm.load`` opens; float32."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    folder.mkdir(parents=True, exist_ok=True)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    (folder / "config.json").write_text(json.dumps(CONFIG | ends, indent=2) + "\n", encoding="utf-8")
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    tokenizer.save_pretrained(folder)


def main() -> int:
    """Train, print the losses and write the model."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.pretrain", description="Train the tiny base model.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=FOLDER, help="target folder (default: the committed one)"
    )
    parser.add_argument("--epochs", type=int, default=Schedule().epochs)
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    samples = [*balanced_samples(training_documents()), *undisputed_samples()]
    tokenizer = train_tokenizer([sample.text for sample in samples])
    rows = encode(samples, tokenizer)
    held = encode(balanced_samples(validation_documents()), tokenizer)
    print(f"{len(rows)} samples, {sum(len(row.ids) for row in rows):,} tokens an epoch")
    model, losses = train(rows, held, tokenizer.pad_token_id, Schedule(epochs=arguments.epochs))
    save(model, tokenizer, arguments.folder)
    print(json.dumps(losses))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
