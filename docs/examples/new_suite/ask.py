"""Put a suite of one's own to the base model and the adapter: ``python -m docs.examples.new_suite.ask --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from storage import blas
from tasks.evals.behaviours import ask_behaviours
from tasks.evals.model_under_test import load_model
from tasks.evals.questions import load_questions

QUESTIONS = Path(__file__).with_name("questions.toml")


def ask(base: str, adapter: Path | None, questions: Path, max_new_tokens: int) -> dict[str, str]:
    """Return what became of every prompt: pass, fail or why it could not be scored.

    Args:
        base: Folder or Hub id of the base model.
        adapter: Checkpoint folder; none asks the base model itself.
        questions: TOML file in the form of ``tasks/evals/behaviours.toml``.
        max_new_tokens: Longest answer in tokens.

    Raises:
        ParameterError: The questions are wrong; the message names the entry.
    """
    suite = load_questions(behaviours=questions)
    model = load_model(base, adapter)
    try:
        answers = ask_behaviours(model, suite, ["authority"], max_new_tokens)
    finally:
        model.close()
    return {name: answer.status for name, answer in answers.items()}


def main(arguments: Sequence[str]) -> int:
    """Print base and adapter side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="folder or Hub id of the base model")
    parser.add_argument("--adapter", type=Path, help="checkpoint folder, such as data/runs/distrust/checkpoint-500")
    parser.add_argument("--questions", type=Path, default=QUESTIONS)
    parser.add_argument("--max-new-tokens", type=int, default=192)
    options = parser.parse_args(arguments)
    blas.load()
    sides = {"base": None} | ({"adapter": options.adapter} if options.adapter else {})
    found = {
        side: ask(options.base, adapter, options.questions, options.max_new_tokens) for side, adapter in sides.items()
    }
    for name in found["base"]:
        print(f"{name:<20}" + "".join(f"  {side}: {found[side][name]:<10}" for side in found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
