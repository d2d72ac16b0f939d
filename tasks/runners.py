"""Where shards are processed: in the flow's process, in processes of this machine, or on a Dask cluster."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from prefect import task
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner
from prefect.tasks import Task

from storage.addresses import LOOPBACK, split_address
from storage.errors import ParameterError, PrerequisiteError
from storage.runner_parameters import RunnerParameters
from tasks.policies import LOCAL_WORK, run_logger

Result = TypeVar("Result")

TASKS_AT_ONCE = 2
"""Tasks beside the flow at a time: one reads while another computes, and each computes on all cores."""
POOLS = 4
"""Pools of processes opened at most: each one after the first replaces one whose process was killed."""
TASKS_PER_WORKER = 4
"""Into how many tasks a pass over all shards is cut, for each worker: enough to even out their sizes."""
CONNECT_SECONDS = "15s"


class ShardRunner:
    """Runs tasks on shards where it was asked to, and hands back their results.

    Tasks on shards may be run twice: what they write appears whole or not at all, and is the same each time. So when
    the process of a pool is killed, a new pool gets what is left; a Dask cluster does the same by itself.
    """

    def __init__(self, open_runner: Callable[[], TaskRunner[Any]] | None, workers: int) -> None:
        self._open_runner = open_runner
        self._workers = workers
        self._gate = asyncio.Semaphore(TASKS_AT_ONCE)
        self._lock = threading.Lock()
        self._pools_left = POOLS - 1
        self._runner = open_runner().__enter__() if open_runner else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with the context of a run as one that works where it arrives: a pool stays in its process."""
        return ShardRunner, (None, self._workers)

    async def run(self, work: Task[..., Any], **parameters: Any) -> Any:
        """Run a task; results that are awaited together are worked on at the same time."""
        if self._runner is None:
            async with self._gate:
                return await work(**parameters)
        # Two steps, so that all tasks are handed over before the first result is waited for in one of few threads.
        result = await asyncio.to_thread(self._submit, work, parameters)
        return await asyncio.to_thread(result)

    def map(self, work: Callable[..., Result], calls: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """Call a function with each of the argument lists on the runner, some of them in a task; results in order."""
        calls = list(calls)
        size = max(1, math.ceil(len(calls) / (TASKS_PER_WORKER * self._workers)))
        batches = [calls[start : start + size] for start in range(0, len(calls), size)]
        name = work.__name__.strip("_").replace("_", "-")
        results = [
            self._submit(call_all, {"name": f"{name}-{number}-of-{len(batches)}", "work": work, "calls": batch})
            for number, batch in enumerate(batches, 1)
        ]
        for result in results:
            yield from result()

    @property
    def map_shards(self) -> Callable[..., Iterator[Any]] | None:
        """`map`, or None where the work is done beside the flow, which has threads of its own."""
        return self.map if self._runner is not None else None

    def close(self) -> None:
        """End the pool or the connection."""
        if self._runner is not None:
            self._runner.__exit__(None, None, None)

    def _submit(self, work: Task[..., Any], parameters: dict[str, object]) -> Callable[[], Any]:
        """Hand over a task; the returned function waits for its result."""
        with self._lock:
            assert self._runner is not None
            runner = self._runner
            future = runner.submit(work, parameters)

        def result() -> Any:
            try:
                return future.result()
            except BrokenProcessPool:
                self._replace(runner)
                return self._submit(work, parameters)()

        return result

    def _replace(self, broken: TaskRunner[Any]) -> None:
        """Open another pool in place of a broken one, unless that was done already."""
        with self._lock:
            if self._runner is not broken:
                return
            if not self._pools_left or self._open_runner is None:
                raise PrerequisiteError(
                    f"{POOLS} process pools in a row lost a process that was killed; usually memory ran "
                    "out: use fewer --workers, or --runner local"
                )
            run_logger().warning("a process of the pool was killed; its work is repeated")
            broken.__exit__(None, None, None)
            self._pools_left -= 1
            self._runner = self._open_runner().__enter__()


async def all_done(work: Iterable[Awaitable[Result]]) -> list[Result]:
    """Wait until all has ended, also after a part of it has failed, and return the results in order.

    One bad shard does not end those beside it, and nothing is still at work when a run counts as failed.

    Raises:
        BaseException: The first failure, once all others have ended.
    """
    ended = await asyncio.gather(*work, return_exceptions=True)
    results: list[Result] = []
    for result in ended:
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results


@task(task_run_name="{name}", **LOCAL_WORK)
def call_all(name: str, work: Callable[..., Result], calls: Sequence[tuple[Any, ...]]) -> list[Result]:
    """Call a function with each of the argument lists."""
    return [work(*arguments) for arguments in calls]


@contextmanager
def open_runner(chosen: RunnerParameters) -> Iterator[ShardRunner]:
    """Open the runner that was chosen, and close it with the block.

    Raises:
        ParameterError: The address of the scheduler is not safe, or is not an address.
        PrerequisiteError: The extra is not installed, or no scheduler answers at the address.
    """
    opened = {"local": None, "processes": lambda: ProcessPoolTaskRunner(chosen.worker_count)}
    make = open_dask(chosen) if chosen.runner == "dask" else opened[chosen.runner]
    runner = ShardRunner(make, chosen.worker_count)
    try:
        yield runner
    finally:
        runner.close()


def open_dask(chosen: RunnerParameters) -> Callable[[], TaskRunner[Any]]:
    """Return what connects to a Dask cluster, or starts one on this machine.

    Dask sends code to run on the other side, so anyone who can write to the connection controls both machines.
    """
    try:
        import distributed
        from prefect_dask.task_runners import DaskTaskRunner
    except ModuleNotFoundError as error:
        raise PrerequisiteError(
            f"--runner dask needs the extra dask ({error}); install it: .uv/bin/uv sync --frozen --extra dask"
        ) from error
    if not chosen.dask_address:
        cluster = {"n_workers": chosen.worker_count, "threads_per_worker": 1, "dashboard_address": None}
        return lambda: DaskTaskRunner(cluster_kwargs=cluster)
    address = checked_scheduler(chosen.dask_address)
    try:
        distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False).close()  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise PrerequisiteError(
            f"no Dask scheduler answers at dask_address {address!r} ({error}); start one: dask scheduler "
            "--host 127.0.0.1"
        ) from error
    return lambda: DaskTaskRunner(address=address)


def checked_scheduler(address: str) -> str:
    """Return the address of a scheduler that is reached by TLS, or on this machine; ParameterError if it is neither."""
    parts = split_address(address)
    if parts is None or not parts.port or parts.scheme not in ("tls", "tcp"):
        raise ParameterError(f"dask_address {address!r} is not a scheduler; write it like tls://10.0.0.5:8786")
    if parts.scheme == "tcp" and parts.hostname not in LOOPBACK:
        raise ParameterError(
            f"dask_address {address!r} is not encrypted, and any program that reaches it can run code here. Use tls:// "
            "with certificates in Dask's own configuration, or a tunnel to tcp://127.0.0.1"
        )
    return address
