"""The chain of stages: each tells by an event that what it made is sealed, so that the next may begin.

An event may be lost and may come twice. Nothing depends on it: every flow finds in the manifests what is left to do.
"""

from __future__ import annotations

from typing import Any, Literal

from prefect.context import FlowRunContext
from prefect.events import emit_event

Stage = Literal["raw", "scored", "balanced", "trained", "evaluated", "exported"]


def announce_sealed(stage: Stage, name: str, store: str, **details: Any) -> None:
    """Emit ``distrust.<stage>.ready`` for a flow that runs on its own.

    A flow that is part of another emits nothing: its parent starts the next stage, and must not be overtaken.

    Args:
        stage: What is sealed now.
        name: Name of the dataset, mixture, run or export.
        store: Store as the flow's parameters name it, which is what the next flow gets.
        details: More that the next flow's parameters may be filled with.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.parent_task_run_id is not None:
        return
    emit_event(**sealed_event(stage, name, store, **details))


def sealed_event(stage: Stage, name: str, store: str, **details: Any) -> dict[str, Any]:
    """Return the event that the chain's automations listen to; its payload fills the next flow's parameters."""
    return {
        "event": f"distrust.{stage}.ready",
        "resource": {"prefect.resource.id": f"distrust.{stage}.{name}", "prefect.resource.name": name},
        "payload": {"name": name, "store": store, **details},
    }
