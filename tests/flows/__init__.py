from __future__ import annotations

from typing import Any


def summarise(result: Any) -> str:
    """What a person reads of the result of a flow."""
    return "\n".join(result.summary())
