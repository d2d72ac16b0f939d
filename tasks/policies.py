"""How every task behaves: what Prefect keeps, how a child process is watched, how progress is shown.

Nothing here decides correctness: the files in the store do. Prefect only sees what happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.exceptions import MissingContextError
from prefect.settings import PREFECT_API_URL
from pydantic import BaseModel

from storage.atomic import remove_temporaries, write_json
from storage.events import ErrorEvent, Event, LogEvent, ResultEvent
from storage.lock import held_in_turn, lock_of_machine, only_holder, only_writer

Outcome = TypeVar("Outcome", bound=BaseModel)

ROOT = Path(__file__).resolve().parent.parent
PUBLISH_EVERY_SECONDS = 3.0
LAST_WORD_SECONDS = 5.0
STOP_GRACE_SECONDS = 20.0
LONGEST_EVENT_BYTES = 16 << 20
SERVER_WAIT_SECONDS = 10.0
HEALTH_POLL_SECONDS = 2.0


# The store decides what is left to do, so no task result is ever cached by Prefect, and no task is tried again by it:
# an archive's client asks with patience, and the rounds of a download run again what failed.
LOCAL_WORK: Mapping[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}


def run_logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    """Return the logger of the current run, or a plain one outside of Prefect."""
    with contextlib.suppress(MissingContextError):
        return get_run_logger()
    return logging.getLogger("distrust")


def current_run() -> FlowRun | None:
    """Return the flow run that this code is a part of, if it is part of one."""
    context = FlowRunContext.get()
    return context.flow_run if context is not None else None


class Progress:
    """How much of the work is done, published beside it: a server that is away never stops a run."""

    watcher: ClassVar[Callable[[float, str], None] | None] = None
    """Told of every update besides: the percentage and the description, for a person at the terminal."""

    def __init__(self, key: str, description: str) -> None:
        self.key = key
        self.description = description
        self.percent = 0.0
        self._artifact: UUID | None = None
        self._sent: tuple[float, str] | None = None

    def update(self, done: float, total: float, description: str = "") -> None:
        """Note how much is done, and how to describe it; a later publication shows it."""
        self.percent = 100.0 * min(1.0, done / total) if total > 0 else 100.0
        self.description = description or self.description
        if watcher := Progress.watcher:
            watcher(self.percent, self.description)

    async def send(self) -> None:
        """Bring the artifact up to date, if the server can be reached."""
        now = (self.percent, self.description)
        try:
            if self._artifact is None:
                self._artifact = await acreate_progress_artifact(progress=now[0], key=self.key, description=now[1])
            elif now != self._sent:
                await aupdate_progress_artifact(self._artifact, progress=now[0], description=now[1])
            self._sent = now
        except Exception as error:  # the display may fail, the work may not
            run_logger().debug("progress not published: %s", error)

    async def keep_sending(self) -> None:
        """Keep the artifact current until cancelled."""
        while True:
            await self.send()
            await asyncio.sleep(PUBLISH_EVERY_SECONDS)


@asynccontextmanager
async def shown_progress(key: str, description: str) -> AsyncIterator[Progress]:
    """Show a progress artifact in the UI while the block runs; it reads 100 % when the block succeeds."""
    progress = Progress(key, description)
    publisher = asyncio.create_task(progress.keep_sending())
    try:
        yield progress
        progress.percent = 100.0
    finally:
        publisher.cancel()
        await asyncio.gather(publisher, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(progress.send(), LAST_WORD_SECONDS)


def archive_turn(host: str) -> AbstractAsyncContextManager[None]:
    """Ask an archive's host alone, of all processes of this machine, so that its pace holds; no host: no turn."""
    if not host:
        return contextlib.nullcontext()
    return held_in_turn(partial(only_holder, lock_of_machine(host), f"{host} is being asked by"), run_logger().warning)


async def wait_for_server(patience_seconds: float) -> None:
    """Wait until the Prefect server answers, so that work done while it was away still reaches the UI."""
    deadline, is_away = time.monotonic() + patience_seconds, False
    while PREFECT_API_URL.value() and time.monotonic() < deadline:
        # Asked with the certificates and password of every other call; Prefect's own tries, whose pauses grow to
        # minutes, are cut short. A server whose client cannot even be opened is away; one that refuses is not.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(SERVER_WAIT_SECONDS), get_client() as client:
                problem = await client.api_healthcheck()
            if problem is None or getattr(getattr(problem, "response", None), "status_code", 0) in (401, 403):
                return
        if not is_away:
            run_logger().warning("the Prefect server is away; the result is on disk and is reported when it is back")
        is_away = True
        await asyncio.sleep(HEALTH_POLL_SECONDS)


def exclusive(folder: Path, patience_seconds: float = math.inf) -> AbstractAsyncContextManager[None]:
    """Hold the lock of a dataset; waiting for it takes no thread, which its holder may need.

    A run that waits finds the work done afterwards and has little left to do, so by default it waits until the other
    process ends, or until it is cancelled itself.

    Raises:
        DatasetBusy: Another process still holds the lock after `patience_seconds`.
    """
    return held_in_turn(partial(only_writer, folder, 0.0), run_logger().warning, patience_seconds)


@asynccontextmanager
async def sole_writer(folder: Path, *below: Path) -> AsyncIterator[None]:
    """Hold the lock of a dataset, and in the end clear away what a killed process left half-written in its folders."""
    async with exclusive(folder):
        yield
        for place in (folder, *below):
            await asyncio.to_thread(remove_temporaries, place)


@dataclass(frozen=True)
class Check:
    """What was found when a component was tried out."""

    component: str
    ok: bool
    detail: str


async def try_component(component: str, work: Callable[[], Awaitable[str]]) -> Check:
    """Try a component; a failure is a finding, not an error."""
    try:
        return Check(component, True, await work())
    except Exception as error:
        return Check(component, False, f"{type(error).__name__}: {error}")


class ChildDied(RuntimeError):
    """A child process ended without a result or an error: it was killed, or it has a defect."""


def child_environment() -> dict[str, str]:
    """Environment of a process that owns the accelerator."""
    # Without it macOS 26 ends long work on the GPU while a display is on (mlx issue 3267).
    patience = {"AGX_RELAX_CDM_CTXSTORE_TIMEOUT": "1"} if sys.platform == "darwin" else {}
    return {**patience, **os.environ, "PYTHONPATH": str(ROOT)}


async def run_child(
    module: str,
    specification: BaseModel,
    specification_path: Path,
    on_event: Callable[[Event], None],
    result: type[Outcome],
) -> Outcome:
    """Run a room that owns the accelerator as a child process and return its result.

    The child's memory goes back to the machine when it ends, a crash stays contained, and it can be run by
    hand without Prefect: ``python -m MODULE SPECIFICATION``.

    Args:
        module: The room's module, for example ``tasks.lora``.
        specification: What to do; the child reads it at `specification_path`.
        specification_path: Where it is written.
        on_event: Receives every event but the last; must not block.
        result: The model of the result.

    Raises:
        DistrustError: The error that the child reported, of the same class.
        ChildDied: The child ended without a result; the message carries its last lines.
    """
    write_json(specification_path, specification.model_dump(mode="json"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", module, str(specification_path)),
        cwd=ROOT,
        env=child_environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=LONGEST_EVENT_BYTES,
        # Ctrl-C reaches the whole group of a terminal; the child is ended by `_stop` alone, for to a trainer a second
        # Ctrl-C means that its checkpoint is not waited for.
        start_new_session=True,
    )
    try:
        last, lines = await _hear(process, on_event)
        status = await process.wait()
    finally:
        await _stop(process)
    if isinstance(last, ErrorEvent):
        raise last.to_error()
    if status != 0 or last is None:
        raise ChildDied(f"{module} ended with status {status}; its last lines were:\n" + "\n".join(lines))
    return result.model_validate(last.model_extra)


async def _hear(
    process: asyncio.subprocess.Process, on_event: Callable[[Event], None]
) -> tuple[ResultEvent | ErrorEvent | None, list[str]]:
    """Hand on what a child prints until it closes its output; return its last word, and its last lines."""
    last: ResultEvent | ErrorEvent | None = None
    lines: list[str] = []
    assert process.stdout is not None
    async for raw in process.stdout:
        event = Event.read(line := raw.decode("utf-8", errors="replace"))
        if isinstance(event, ResultEvent | ErrorEvent):
            last = event
        else:
            lines = [*lines[-20:], event.message if isinstance(event, LogEvent) else line.rstrip()]
            on_event(event)
    return last, lines


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End a child that still runs; it has 20 seconds to write a checkpoint, less than Prefect's grace of 30 for us."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_GRACE_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
