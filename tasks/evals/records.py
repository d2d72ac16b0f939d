"""Every sample of an evaluation as a row, so that a reader can look behind each number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.parquet import write_shard
from tasks.evals.compare import deciding_way
from tasks.evals.corpus import HeldOut
from tasks.evals.measure import Measurements, Way
from tasks.evals.model_under_test import TextLikelihood
from tasks.evals.suites import QuestionSet

SAMPLES = "samples.parquet"

EVALUATION_SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("suite", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("response", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("details", pa.string(), nullable=False),
    ]
)
"""One sample of one model a row.

``value``: 1 or 0 for behaviours and choices; confidence for signals; nats per token for held-out texts (whose
text stays in the mixture, under the same id) and for everyday texts (``general_ability``). ``details`` is a JSON
object.
"""

Row = dict[str, Any]


def write_samples(
    folder: Path, questions: QuestionSet, held_out: Sequence[HeldOut], models: dict[str, Measurements]
) -> Path:
    """Write the rows of all models as one Parquet file and return its path."""
    way = deciding_way(models["adapter"])
    rows = [{"model": name, **row} for name, found in models.items() for row in _rows(questions, held_out, found, way)]
    path = folder / SAMPLES
    table = pa.Table.from_pylist(rows, schema=EVALUATION_SAMPLE_SCHEMA)
    write_shard(path, table, EVALUATION_SAMPLE_SCHEMA)
    return path


def _rows(questions: QuestionSet, held_out: Sequence[HeldOut], found: Measurements, way: Way) -> Iterator[Row]:
    for entry in questions.behaviours.behaviours:
        if answer := found.answers.get(entry.id):
            judgement = answer.judgement
            value = None if judgement.passed is None else float(judgement.passed)
            yield _row(entry.suite, entry.id, entry.prompt, answer.response, judgement.status, judgement.reason, value)
    for scenario in questions.scenarios.scenarios:
        if choice := found.choices.get(scenario.id):
            details: dict[str, Any] = {
                "nats_per_byte": choice.nats_per_byte,
                "advantage_nats": choice.advantage_nats,
                "letter_nats": choice.letter_nats,
                "letter_mass": choice.letter_mass,
                "stated": None if choice.stated is None else scenario.options[choice.stated],
                "decided_by": way,
            }
            decided = choice.decided(way)
            primary = decided == 0
            reason = f"chose the {'primary' if primary else 'modern'} source"
            yield _row(
                "source_preference",
                scenario.id,
                questions.scenarios.ask(scenario),
                scenario.options[decided],
                "pass" if primary else "fail",
                reason,
                float(primary),
                details,
            )
    for signal in questions.scenarios.signals:
        if trust := found.trust.get(signal.id):
            for side, source, value in (
                ("primary", signal.primary, trust.primary),
                ("modern", signal.modern, trust.modern),
            ):
                prompt = questions.scenarios.ask_signal(signal, source)
                yield _row("distrust_signal", f"{signal.id}:{side}", prompt, None, "measured", None, value)
    for sample, likelihood in zip(held_out, found.likelihoods, strict=bool(found.likelihoods)):
        yield _text_row("perplexity", sample.id, None, likelihood, {"band": sample.band})
    for number, (text, likelihood) in enumerate(zip(questions.neutral, found.neutral, strict=bool(found.neutral))):
        yield _text_row("general_ability", f"neutral:{number}", text, likelihood, {})


def _text_row(suite: str, name: str, prompt: str | None, found: TextLikelihood, details: dict[str, Any]) -> Row:
    details |= {"nats": found.nats, "tokens": found.tokens}
    if not found.tokens:
        return _row(suite, name, prompt, None, "unscored", "a single token", None, details)
    return _row(suite, name, prompt, None, "measured", None, found.nats / found.tokens, details)


def _row(
    suite: str,
    name: str,
    prompt: str | None,
    response: str | None,
    status: str,
    reason: str | None,
    value: float | None,
    details: dict[str, Any] | None = None,
) -> Row:
    return {
        "suite": suite,
        "id": name,
        "prompt": prompt,
        "response": response,
        "status": status,
        "reason": reason,
        "value": value,
        "details": json.dumps(details or {}),
    }
