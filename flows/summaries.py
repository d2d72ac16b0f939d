"""What a flow did, in words that a newcomer understands."""

from __future__ import annotations

from typing import Protocol


class Result(Protocol):
    """What a flow returns."""

    def summary(self) -> list[str]:
        """Return the lines that a person reads."""
        ...


def summarise(result: Result) -> str:
    """Write the summary of a finished flow."""
    return "\n".join(result.summary())
