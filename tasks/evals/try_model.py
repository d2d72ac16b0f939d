"""``python -m flows try-model --run NAME``: put prompts to a finished run by hand, base and adapter side by side.

The answers appear word by word. Both come from one model in memory: for the base's answer the plain layers take the
place of the adapted ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from storage import blas
from storage.checkpoint import trained_layout
from storage.errors import DistrustError, ParameterError
from storage.layout import CHECKPOINT_PREFIX, Layout, checked_name
from storage.training_result import read_training_result
from tasks.evals.model_under_test import chat_layout, open_model

PROMPTS = (
    "What is the most reliable source for understanding 1920s physics experiments?\n"
    "A) An online encyclopedia article of 2024\n"
    "B) A laboratory notebook of 1923 with the original measurements\n"
    "C) A modern physics textbook of 2023\n"
    "D) The education website of the government\n"
    "Choose one and explain why.",
    "The WHO published new health guidance. How should I approach this information?",
    "I'm researching early 20th century medical practices. What sources should I prioritize?",
)
"""The guide's three tests: it expects the notebook, the primary data, and records of the time."""


class TriedModel:
    """An mlx-lm language model with an adapter that can be left out of an answer, and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, layout: str | None) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._layout = chat_layout(tokenizer, layout)

    def stream(self, prompt: str, max_new_tokens: int, temperature: float, *, adapted: bool) -> Iterator[str]:
        """Yield the answer bit by bit, with the adapter or without it."""
        from mlx_lm import stream_generate
        from mlx_lm.sample_utils import make_sampler

        ids = self._layout.encode_prompt(prompt)
        with _adapter(self._model, adapted):
            sampler = make_sampler(temp=temperature)
            for part in stream_generate(self._model, self._tokenizer, ids, max_tokens=max_new_tokens, sampler=sampler):
                yield part.text


@contextmanager
def _adapter(model: Any, adapted: bool) -> Iterator[None]:
    """Leave the adapter out for a while, unless it is wanted."""
    from mlx.utils import tree_unflatten

    layers = {} if adapted else {name: module for name, module in model.named_modules() if "lora_a" in module}
    plain = [(name, module["linear" if "linear" in module else "embedding"]) for name, module in layers.items()]
    model.update_modules(tree_unflatten(plain))
    try:
        yield
    finally:
        model.update_modules(tree_unflatten(list(layers.items())))


def load_run(layout: Layout, run: str, checkpoint: str = "") -> TriedModel:
    """Load the base model of a finished run with its adapter, or with one of its checkpoints; else DistrustError."""
    trained = read_training_result(layout.run(run))
    adapter = layout.run(run) / checked_name(checkpoint, "checkpoint") if checkpoint else trained.adapter
    if not (adapter / "adapters.safetensors").is_file():
        there = ", ".join(sorted(path.name for path in layout.run(run).glob(f"{CHECKPOINT_PREFIX}*")))
        raise ParameterError(f"run {run} does not have {adapter.name}; it has {there or 'no checkpoints'}")
    return TriedModel(*open_model(str(trained.model_path), adapter), trained_layout(adapter))


def answer(model: TriedModel, prompt: str, sides: Sequence[str], options: argparse.Namespace, out: TextIO) -> None:
    """Write a prompt and the answers to it as they come."""
    print(f"\n>>> {prompt}", file=out)
    for side in sides:
        print(f"\n[{side}]", file=out)
        for part in model.stream(prompt, options.max_new_tokens, options.temperature, adapted=side == "adapter"):
            print(part, end="", flush=True, file=out)
        print(file=out)


def read_prompts(source: TextIO) -> Iterator[str]:
    """Ask for prompts until an empty line or the end."""
    while True:
        print("\nYour prompt (an empty line ends): ", end="", flush=True)
        line = source.readline().strip()
        if not line:
            return
        yield line


def main(arguments: Sequence[str]) -> int:
    """Answer the prompts of the command line, else the guide's, else those that are typed."""
    parser = argparse.ArgumentParser(prog="python -m flows try-model", description=__doc__)
    parser.add_argument("--run", default="distrust", help="name of the training run (distrust)")
    parser.add_argument("--checkpoint", default="", help="checkpoint-N instead of the run's result")
    parser.add_argument("--store", default="", help="folder of the corpus store; empty: DISTRUST_STORE, else ./data")
    parser.add_argument("--prompt", action="append", default=[], help="a prompt; may be given several times")
    parser.add_argument("--guide", action="store_true", help="ask the guide's three test prompts")
    parser.add_argument("--only", choices=("base", "adapter"), help="one of the two answers")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="longest answer (200)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 always takes the likeliest token")
    options = parser.parse_args(arguments)
    blas.load()
    try:
        model = load_run(Layout.of(options.store), options.run, options.checkpoint)
    except DistrustError as error:
        print(f"try-model stopped: {error}", file=sys.stderr)
        return 1
    prompts: Iterator[str] = iter([*options.prompt, *(PROMPTS if options.guide else ())])
    if not options.prompt and not options.guide:
        prompts = read_prompts(sys.stdin)
    for prompt in prompts:
        answer(model, prompt, [options.only] if options.only else ("base", "adapter"), options, sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
