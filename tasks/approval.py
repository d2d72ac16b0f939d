"""Ask a person before something leaves this machine: the run waits in the UI until it is resumed or cancelled."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State
from prefect.flow_runs import apause_flow_run, asuspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from tasks.policies import current_run

PATIENCE_SECONDS = 7 * 24 * 3600
"""How long a run waits for an answer before it fails."""
POLL_SECONDS = 5
KEY_PREFIX = "upload-"


class UploadApproval(RunInput):
    """What a person answers when the run is resumed."""

    upload: bool = Field(True, title="Upload", description="Send these files; off: the run ends without sending any.")


async def ask_to_upload(summary: str, digest: str) -> bool:
    """Wait until a person resumes this flow run; tell whether the upload was approved.

    A run of a deployment is suspended: its process ends, its pool's slot is free for other work, and a worker starts it
    again afterwards, whereupon this returns the answer at once. Prefect cannot suspend a run that no worker would
    start again (part of another flow, or started by hand), which waits in its process instead.

    The summary, in Markdown, is shown above the form of the answer, which holds for the content of this digest alone.
    """
    if (run := current_run()) is None:
        return False  # nobody can be asked
    form = UploadApproval.with_initial_data(description=summary)
    key = f"{KEY_PREFIX}{digest[:16]}"
    if run.deployment_id is not None and run.parent_task_run_id is None:
        answer = await asuspend_flow_run(wait_for_input=form, timeout=PATIENCE_SECONDS, key=key)
    else:
        answer = await apause_flow_run(
            wait_for_input=form, timeout=PATIENCE_SECONDS, poll_interval=POLL_SECONDS, key=key
        )
    return answer.upload


def is_waiting_for_approval(state: State[Any]) -> bool:
    """Tell whether a run is paused because it asked a person, and not because a person paused it."""
    return state.is_paused() and (state.state_details.pause_key or "").startswith(KEY_PREFIX)
