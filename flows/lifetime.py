"""The life of a flow run: what ends or pauses the run ends its work, and a run whose process is dead is marked so.

Prefect informs a worker's child of a cancel and of nothing else: a run that is suspended, deleted or set to another
state goes on working, and a run whose process was killed stays Running. Here every run watches its own state on the
server. It also holds a lock file while its process lives; the operating system drops it however the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import Abort, CancelledRun, ObjectNotFound, Pause, TerminationSignal
from prefect.states import Cancelled, Crashed

from flows.liveness import GO_ON, SILENT, known_to_live
from storage.lock import introduce
from tasks.approval import is_waiting_for_approval
from tasks.policies import current_run, run_logger

POLL_SECONDS = 2.0
ANSWER_SECONDS = 5.0
INTERRUPTED = 130
RUNNER_GRACE_SECONDS = 6.0
"""How long a worker has to end a run that is being cancelled before the run ends itself."""


@dataclass
class Ending:
    """Why a run has to end before its work is done."""

    message: str
    state: State[Any] | None = None
    """The state that the server gave it, if that is why."""
    crash: bool = False

    async def conclude(self, run: FlowRun) -> State[Any]:
        """Return the state in which the run ends, or raise what keeps the state that it has.

        Raises:
            Pause: The run was paused or suspended.
            Abort: The run was ended, or deleted.
        """
        state = self.state
        if state is None:
            return (Crashed if self.crash else Cancelled)(message=self.message)
        if state.is_paused() and run.deployment_id is not None:
            raise Pause(self.message, state=state)
        if state.is_paused():
            self.message = f"Cancelled instead of suspended: only a run of a deployment can be resumed. {GO_ON}"
            state = Cancelled(message=self.message)
            async with get_client() as client:
                await client.set_flow_run_state(run.id, state, force=True)
        run.state = state
        raise Abort(self.message)


@dataclass
class Life:
    """A run at work, the run that it is a part of, and why it has to end, once it has."""

    run: FlowRun
    parent: Life | None
    ending: Ending | None = None
    work: asyncio.Task[Any] | None = None
    interrupts: int = 0

    def end(self, ending: Ending) -> None:
        """Stop the work; the first reason counts."""
        if self.ending is None and self.work is not None and not self.work.done():
            self.ending = ending
            run_logger().info("%s", ending.message)
            self.work.cancel()

    def interrupt(self) -> None:
        """Stop at Ctrl-C; a second one ends the process at once, and the next command marks the run."""
        self.interrupts += 1
        if self.interrupts > 1:
            os.write(2, f"\nEnded at once. {GO_ON}\n".encode())
            os._exit(INTERRUPTED)
        os.write(2, b"\nStopping; a training saves a checkpoint first. Ctrl-C again ends it at once.\n")
        self.end(Ending(f"Stopped by Ctrl-C. {GO_ON}"))


_LIFE: ContextVar[Life | None] = ContextVar("life", default=None)


async def live(work: Coroutine[Any, Any, Any]) -> Any:
    """Return what the work of the current flow run returns, or the state in which something else ends the run.

    Raises:
        Pause: The run was paused or suspended; its work has stopped.
        Abort: The run was ended or deleted on the server; its work has stopped.
    """
    if (run := current_run()) is None:
        return await work
    life = Life(run, _LIFE.get())
    introduce(f"run {life.run.name!r}")
    token = _LIFE.set(life)
    try:
        async with known_to_live(life.run.id):
            life.work = asyncio.create_task(work)
            async with _watched(life):
                return await _outcome(life)
    finally:
        _LIFE.reset(token)  # the next part of a pipeline is not a part of this one


async def _outcome(life: Life) -> Any:
    assert life.work is not None
    try:
        return await life.work
    except BaseException as error:
        if life.ending is not None:
            return await life.ending.conclude(life.run)
        above = _ending_above(life)
        if above is not None:
            return Cancelled(message=above.message)
        if isinstance(error, CancelledRun):
            return Cancelled(message=f"Stopped because a part of it was cancelled. {GO_ON}")
        if isinstance(error, Pause | Abort) and life.parent is None and not _is_own(error, life):
            return Cancelled(message=f"Stopped because a part of it was suspended or ended. {GO_ON}")
        raise


def _ending_above(life: Life) -> Ending | None:
    above = life.parent
    while above is not None and above.ending is None:
        above = above.parent
    return above.ending if above is not None else None


def _is_own(error: BaseException, life: Life) -> bool:
    """Whether a pause is this run's own, as while it waits for an approval; `life.ending` holds an end of its own."""
    if isinstance(error, Abort):
        return False
    state = getattr(error, "state", None)
    return state is None or state.state_details.flow_run_id in (None, life.run.id)


@asynccontextmanager
async def _watched(life: Life) -> AsyncIterator[None]:
    """End a run's work when its state says so, or, for a run that a person started here, when a signal does."""
    watcher = asyncio.create_task(_watch(life))
    before = _take_signals(life) if not _has_runner() else {}
    try:
        yield
    finally:
        for sign, handler in before.items():
            asyncio.get_running_loop().remove_signal_handler(sign)
            signal.signal(sign, handler)
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


def _take_signals(life: Life) -> dict[signal.Signals, Any]:
    """Let signals end the whole run; return the handlers to restore when it is over, none for a part of it.

    A part takes SIGTERM once more: Prefect replaces our handler by its own when a part begins, and restores ours when
    the part ends.
    """
    root = life
    while root.parent is not None:
        root = root.parent
    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: partial(root.end, Ending(f"Stopped by SIGTERM. {GO_ON}", crash=True)),
        signal.SIGINT: root.interrupt,
        signal.SIGHUP: partial(root.end, Ending(f"Stopped because its terminal was closed. {GO_ON}", crash=True)),
    }
    before: dict[signal.Signals, Any] = {}
    for sign, handler in handlers.items():
        if signal.getsignal(sign) is signal.SIG_IGN or (root is not life and sign is not signal.SIGTERM):
            continue  # ignored: nohup, or a script that started this in the background
        with contextlib.suppress(ValueError, RuntimeError):  # only the main thread may
            before[sign] = signal.getsignal(sign)
            asyncio.get_running_loop().add_signal_handler(sign, handler)
    return before if root is life else {}


def _has_runner() -> bool:
    """Whether a worker started this process; it then handles the signals."""
    return bool(os.environ.get("PREFECT__FLOW_RUN_ID"))


async def _watch(life: Life) -> None:
    """Look at the run's state again and again; a server that is away changes nothing."""
    cancelling_since: float | None = None
    while True:
        await asyncio.sleep(POLL_SECONDS)
        try:
            # Asked again each time: the client's own tries would still pause for minutes when a server is back.
            async with asyncio.timeout(ANSWER_SECONDS), get_client() as client:
                state = (await client.read_flow_run(life.run.id)).state
                if state is not None and state.is_crashed() and (state.message or "").startswith(SILENT):
                    await _take_back(client, life.run.id)
                    continue
        except ObjectNotFound:
            life.end(Ending("Stopped because the run was deleted.", Cancelled()))
            return
        except TerminationSignal:  # it may arrive anywhere, and must end the work and not the watch
            assert life.work is not None
            life.work.cancel()
            raise
        except Exception as error:  # the watch may fail, the work may not
            run_logger().debug("state not read: %s", error)
            continue
        if state is None or state.is_running():
            cancelling_since = None
        elif state.is_cancelling():
            cancelling_since = cancelling_since or time.monotonic()
            if not _has_runner() or time.monotonic() - cancelling_since > RUNNER_GRACE_SECONDS:
                life.end(Ending(f"Cancelled. {GO_ON}"))
        elif state.is_pending() or state.is_scheduled():
            life.end(Ending("This process stops: the run was started again in another process.", state))
        elif not is_waiting_for_approval(state):
            life.end(Ending(f"Stopped because the run's state was changed to {state.name}. {GO_ON}", state))


async def _take_back(client: PrefectClient, run: UUID) -> None:
    """Mark a run Running again that was taken for dead because the server was away."""
    state: State[Any] = State(type=StateType.RUNNING, message="Marked Crashed by mistake: the run is still working.")
    await client.set_flow_run_state(run, state, force=True)
