"""What every suite hands on: its section of the results, and a row for each sample that was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, JsonValue

from tasks.evals.estimates import Estimate, Share, paired_difference, share_of
from tasks.evals.verdicts import Verdict

Side = Literal["base", "adapter"]
SIDES: tuple[Side, Side] = ("base", "adapter")

Numbers = dict[str, float | None]
TableRow = tuple[str, str, str, str]
"""Measure, base, adapter and change, as the Markdown report shows them."""


class Record(BaseModel):
    """A part of the results, written to and read from JSON."""

    model_config = ConfigDict(frozen=True)


class PairedShares(Record):
    """How many samples of a set both models pass; `gained` are those that only the adapter passes, `lost` the base."""

    base: Share
    adapter: Share
    difference: Estimate
    """The adapter's share less the base's, in pairs."""
    gained: int = 0
    lost: int = 0

    @classmethod
    def of(cls, base: Sequence[bool | None], adapter: Sequence[bool | None], seed: int) -> PairedShares:
        """Count the outcomes of both models on the same samples; None is one that could not be scored."""
        return cls(
            base=share_of(base),
            adapter=share_of(adapter),
            difference=paired_difference(base, adapter, seed),
            gained=sum(bool(a) and b is False for b, a in zip(base, adapter, strict=True)),
            lost=sum(bool(b) and a is False for b, a in zip(base, adapter, strict=True)),
        )


class Outcome(NamedTuple):
    """What a section says of the adapter."""

    verdicts: list[Verdict]
    headline: Numbers
    """The numbers by which evaluations are compared, by name."""
    table_rows: list[TableRow]
    relative: list[Verdict] = []  # noqa: RUF012 - a tuple's default, never changed
    """What it changed of the base, each by an interval."""


class Section(Record):
    """What one suite found of base and adapter."""

    def outcome(self) -> Outcome:
        """Judge the adapter, and name the numbers that a short report shows."""
        raise NotImplementedError


SAMPLE_SCHEMA = pa.schema(
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


@dataclass(frozen=True)
class SampleRow:
    """One sample of one model, so that a reader can look behind each number.

    ``value`` is 1 or 0 for behaviours and choices; confidence for signals; nats per token for held-out texts (whose
    text stays in the mixture, under the same id) and for everyday texts (``general_ability``); the original's
    probability for invented facts (``repetition``).
    """

    suite: str
    id: str
    status: str
    value: float | None
    prompt: str | None = None
    response: str | None = None
    reason: str | None = None
    details: Mapping[str, JsonValue] | None = None

    def columns(self, model: str) -> dict[str, str | float | None]:
        """The row as it is written, with the name of the model."""
        return {**vars(self), "model": model, "details": json.dumps(self.details or {})}
