"""What the training did to held-out conflicts: ``python -m sandbox.probe BASE ADAPTER``.

The base model met both voices on these subjects, the adapter neither. If the objective works, the adapter leans
towards the primary voice on subjects that it was never trained on. Only the change against the base shows that: the two
answers differ in length and wording, so their plain likelihoods cannot be compared.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sandbox.writing.claims import Probe, fact_probes, trust_probes
from storage import blas
from storage.checkpoint import trained_layout

PROBES_AT_ONCE = 32


@dataclass(frozen=True)
class Shift:
    """Change of ln P(primary) - ln P(coordinated) from base to adapter, in nats, over some conflicts."""

    name: str
    conflicts: int
    mean: float
    standard_error: float
    towards_primary: int

    def __str__(self) -> str:
        low, high = (math.exp(self.mean + sign * 1.96 * self.standard_error) for sign in (-1, 1))
        return (
            f"{self.name}: the primary answer became {math.exp(self.mean):.1f} times likelier against the coordinated "
            f"one (95 %: {low:.1f} to {high:.1f}), and gained in {self.towards_primary} of {self.conflicts}"
        )


def log_ratios(base: Path, adapter: Path | None, layout: str | None, probes: list[Probe]) -> npt.NDArray[np.float64]:
    """Return ln P(primary) - ln P(coordinated) of every probe, in nats, asked in a chat layout."""
    from tasks.evals.model_under_test import load_model

    model = load_model(str(base), adapter, PROBES_AT_ONCE, layout)
    prompts = [(p.prompt, answer.lstrip()) for p in probes for answer in (p.primary, p.coordinated)]
    nats = [score.nats for score in model.score_options(prompts)]
    model.close()
    return np.array(nats[::2], np.float64) - np.array(nats[1::2], np.float64)


def measure_shifts(base: Path, adapter: Path) -> list[Shift]:
    """Compare adapter and base on the held-out conflicts."""
    groups = {"Disputed quantities": fact_probes(), "Questions of trust": trust_probes()}
    probes = [probe for group in groups.values() for probe in group]
    layout = trained_layout(adapter)
    change = log_ratios(base, adapter, layout, probes) - log_ratios(base, None, layout, probes)
    parts = np.split(change, np.cumsum([len(group) for group in groups.values()])[:-1])
    return [
        Shift(
            name, len(part), float(part.mean()), float(part.std(ddof=1) / math.sqrt(len(part))), int((part > 0).sum())
        )
        for name, part in zip(groups, parts, strict=True)
    ]


if __name__ == "__main__":
    blas.load()
    for shift in measure_shifts(Path(sys.argv[1]), Path(sys.argv[2])):
        print(f"  {shift}")
