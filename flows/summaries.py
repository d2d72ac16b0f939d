"""What a flow did, in words that a newcomer understands."""

from __future__ import annotations

import logging
from typing import Protocol

from tasks.policies import run_logger

STORY = logging.getLogger("distrust.story")
"""What a person at the command line reads while the pipeline runs."""


class Result(Protocol):
    """What a flow returns."""

    def summary(self) -> list[str]:
        """Return the lines that a person reads."""
        ...


def summarise(result: Result) -> str:
    """Write the summary of a finished flow."""
    return "\n".join(result.summary())


STAGES = {
    "download": "Downloaded",
    "score": "Scored",
    "rebalance": "Balanced",
    "train": "Trained",
    "evaluate": "Evaluated",
    "export": "Exported",
}


def announce(stage: str, result: Result) -> None:
    """Say what a stage of the pipeline did, in the run's log and on the command line, as soon as it is done."""
    first, *rest = result.summary()
    number = list(STAGES).index(stage) + 1
    text = "\n".join([f"{number}. {STAGES[stage]}: {first}", *(f"   {line}".rstrip() for line in rest), ""])
    run_logger().info("%s", text)
    STORY.info("%s", text)
