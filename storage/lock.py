"""One writer per dataset: a second process waits for the first, or says that it is busy."""

from __future__ import annotations

import asyncio
import fcntl
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from storage.errors import DatasetBusy
from storage.inside import open_no_link

POLL_SECONDS = 0.2

Result = TypeVar("Result")


@contextmanager
def only_writer(folder: Path, patience_seconds: float = 30.0) -> Iterator[None]:
    """Hold the lock of a dataset's folder; the system lets go of it when the process dies, however it dies.

    Raises:
        DatasetBusy: Another process still holds it after `patience_seconds`.
        StoreError: A link lies in the place of the lock.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_seconds
    # Beside the folder, not in it: a dataset may be replaced as a whole.
    with open(folder.parent / f".{folder.name}.lock", "a", opener=open_no_link) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise DatasetBusy(
                        f"another process is writing {folder}; wait for it to finish, or stop it"
                    ) from error
                time.sleep(POLL_SECONDS)
        yield


async def in_turn(
    work: Callable[[], Awaitable[Result]], tell: Callable[[str], object], patience_seconds: float = math.inf
) -> Result:
    """Do something for which a lock must be free, as soon as it is; waiting takes no thread and can be cancelled.

    Args:
        work: What to do; raises `DatasetBusy` at once while another has the lock.
        tell: Called once, if there is something to wait for.
        patience_seconds: How long to wait.

    Raises:
        DatasetBusy: Another still has it after `patience_seconds`.
    """
    deadline = time.monotonic() + patience_seconds
    told = False
    while True:
        try:
            return await work()
        except DatasetBusy as error:
            if time.monotonic() >= deadline:
                raise
            if not told:
                tell(f"{str(error).partition(';')[0]}; waiting until it has ended")
            told = True
            await asyncio.sleep(POLL_SECONDS)
