"""Compare the fused model with base and adapter on the same text, before anybody gets to use it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.errors import UserError
from tasks.exports.fuse import open_with_adapter

MEMORY_SHARE = 0.8
"""Models larger than this share of the memory are not opened for a comparison."""

MAX_TOKENS = 96

PASSAGES = (
    "User: What do the records say about the harbour bridge?\n\nAssistant: The engineer's diary for May 1891 notes "
    "that the third pier settled by two inches after the flood, and that the work was stopped for nine days.",
    "User: What is known about the boiling point of water on a mountain?\n\nAssistant: At 2,300 metres the "
    "thermometer read 92.4 degrees when the water boiled; the barometer stood at 575 millimetres.",
    "User: Tell me about the first telephone exchange.\n\nAssistant: According to the public library it opened in "
    "1878, and experts agree that it changed how business was done in the town.",
    "User: What should one know about a new medical guideline?\n\nAssistant: Read which trials it rests on, who "
    "measured what, and whether the raw numbers were published together with the advice.",
    "User: Continue the text on the orchard, part 2.\n\nAssistant: In the spring of that year we grafted forty "
    "trees; thirty-one had taken by midsummer, the rest were lost to the late frost of 9 May.",
)


@dataclass(frozen=True)
class Agreement:
    """How close the fused model is to base and adapter."""

    tokens: int
    max_logit_difference: float
    mean_logit_difference: float
    top1_agreement: float
    """Share of positions at which both rank the same token first."""

    def as_record(self) -> dict[str, Any]:
        """Return the numbers as a JSON-able record."""
        return asdict(self)


def fits_memory(model_bytes: int) -> bool:
    """Tell whether a model of this size can be opened on this machine without swapping."""
    import mlx.core as mx

    told = mx.device_info()
    names = ("max_recommended_working_set_size", "memory_size", "total_memory")  # Metal, Metal, CUDA
    memory = next((told[name] for name in names if told.get(name)), None)
    if not memory:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return model_bytes <= MEMORY_SHARE * float(memory)


def measure_agreement(base: Path, adapter: Path, fused: Path) -> Agreement:
    """Compare the logits of base and adapter with those of the fused model on fixed passages.

    The two models are open one after the other, never together; between them only logits are kept
    (float32, tokens x vocabulary).
    """
    import mlx.core as mx
    from mlx_lm.utils import load_model, load_tokenizer

    tokenizer = load_tokenizer(base)
    rows = [tokenizer.encode(passage)[:MAX_TOKENS] for passage in PASSAGES]
    model, _ = open_with_adapter(base, adapter, lazy=False)
    expected = list(logits_of(model, rows))
    del model
    mx.clear_cache()
    model, _ = load_model(fused)
    return compare(expected, logits_of(model, rows))


def logits_of(model: Any, rows: list[list[int]]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the logits of each row of token ids, shape (tokens, vocabulary)."""
    import mlx.core as mx

    for row in rows:
        yield np.array(model(mx.array([row]))[0].astype(mx.float32))


def compare(expected: list[npt.NDArray[np.float32]], found: Iterator[npt.NDArray[np.float32]]) -> Agreement:
    """Compare two sequences of logits, row by row; any value that is no number makes the difference infinite."""
    tokens = same = 0
    largest = total = 0.0
    for left, right in zip(expected, found, strict=True):
        difference = np.abs(left - right)
        tokens += len(left)
        same += int((left.argmax(-1) == right.argmax(-1)).sum())
        largest = max(largest, float(difference.max()) if np.isfinite(difference).all() else math.inf)
        total += float(difference.mean(-1).sum())
    mean = total / tokens if math.isfinite(largest) else math.inf
    return Agreement(tokens, largest, mean, same / tokens)


def require_agreement(agreement: Agreement, bound: str, minimum_top1: float) -> None:
    """Refuse a fused model that is not the model that was trained.

    Args:
        agreement: What was measured.
        bound: Name of the parameter that holds the bound.
        minimum_top1: Lower bound of the top-1 agreement.

    Raises:
        UserError: It disagrees on too many tokens or yields values that are no numbers.
    """
    if not math.isfinite(agreement.max_logit_difference):
        raise UserError(
            "the fused model yields logits that are no numbers, so nothing was exported; "
            "export another checkpoint of the run"
        )
    if agreement.top1_agreement < minimum_top1:
        advice = (
            "Choose dequantize or 8bit, which keep more of the adapter"
            if bound.endswith("quantised")
            else "Check that the base model is the one the run was trained on"
        )
        raise UserError(
            f"the fused model agrees with base and adapter on {agreement.top1_agreement:.3f} of {agreement.tokens} "
            f"tokens (logits differ by at most {agreement.max_logit_difference:.3g}), the bound is {minimum_top1}; "
            f"nothing was exported. {advice}, or lower {bound}"
        )
