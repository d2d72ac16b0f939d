"""The chain of stages: each emits an event when its dataset is complete, so that the next may begin.

An event may be lost and may come twice. Nothing depends on it: every flow finds in the manifests what is left to do.
"""

from __future__ import annotations

from typing import Any, Literal

from prefect.events import emit_event

from tasks.policies import current_run

Stage = Literal["raw", "scored", "balanced", "trained", "evaluated", "exported"]


def announce_sealed(stage: Stage, name: str, store: str, **details: Any) -> None:
    """Emit ``distrust.<stage>.ready`` for a flow that runs on its own.

    A flow that is part of another emits nothing: its parent starts the next stage, and must not be overtaken.
    The next flow gets the same store as this flow's parameters name, and the details as its further parameters.
    """
    run = current_run()
    if run is not None and run.parent_task_run_id is None:
        emit_event(
            f"distrust.{stage}.ready",
            {"prefect.resource.id": f"distrust.{stage}.{name}", "prefect.resource.name": name},
            payload={"name": name, "store": store, **details},
        )
