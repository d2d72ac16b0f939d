"""Locks of the operating system: it frees a lock when the process that holds it dies, however it dies."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, TypeVar

from storage.errors import DatasetBusy, StoreError
from storage.safe_paths import open_no_link

POLL_SECONDS = 0.2
LONGEST_NAME = 200

Result = TypeVar("Result")

HOLDER = ["another process"]
"""What this process calls itself in the locks that it holds; a command or a run puts its own name here."""


def introduce(name: str) -> None:
    """Say what this process is, so that a process that waits for one of its locks can name it."""
    HOLDER[0] = name


@contextmanager
def only_writer(
    folder: Path, patience_seconds: float = 30.0, on_wait: Callable[[str], object] | None = None
) -> Iterator[None]:
    """Hold the lock of a dataset's folder; see `only_holder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, not in it: a dataset may be replaced as a whole.
    with only_holder(folder.parent / f".{folder.name}.lock", f"{folder} is in use by", patience_seconds, on_wait):
        yield


@contextmanager
def only_holder(
    path: Path,
    used_by: str,
    patience_seconds: float = 0.0,
    on_wait: Callable[[str], object] | None = None,
    *,
    remove: bool = False,
) -> Iterator[None]:
    """Hold a lock file, and `remove` it with the lock; a process that waits says so once, to `on_wait`.

    `used_by` begins a message about the lock, which the holder ends: "data/raw/books is in use by".

    Raises:
        DatasetBusy: Another process still holds the lock after `patience_seconds`; the message names that process.
        StoreError: The path is a link.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        with open(path, "a+", encoding="utf-8", errors="replace", opener=open_no_link) as file:
            if _lock(file, path):
                file.truncate(0)
                file.write(f"{HOLDER[0]} (process {os.getpid()}, since {datetime.now().astimezone():%H:%M:%S})")
                file.flush()
                try:
                    yield
                finally:
                    if remove:
                        path.unlink(missing_ok=True)
                return
            busy = DatasetBusy(f"{used_by} {_holder(file)}; wait for it to finish, or stop it (lock: {path})")
        if time.monotonic() >= deadline:
            raise busy
        if on_wait is not None:
            on_wait(busy.waiting)
            on_wait = None
        time.sleep(POLL_SECONDS)


def _lock(file: IO[str], path: Path) -> bool:
    """Lock an open file; fails while another process holds it, or if one has just removed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


def _holder(file: IO[str]) -> str:
    """Read what the holder of a lock calls itself; any process can write to the file, so it is cut and cleaned."""
    file.seek(0)
    return "".join(filter(str.isprintable, file.read(LONGEST_NAME))) or "another process"


@contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """Tell whether a lock file exists and has no holder; if so, no process can take it during the block."""
    with ExitStack() as stack:
        try:
            free = _lock(stack.enter_context(open(path)), path)
        except FileNotFoundError:
            free = False
        yield free


@contextmanager
def shared_holder(path: Path) -> Iterator[None]:
    """Hold a lock file together with others who share it; waits for a process that holds it alone."""
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def lock_of_machine(name: str) -> Path:
    """Return the lock file of something that all processes of this user share, whatever their store.

    Raises:
        StoreError: The folder of these locks belongs to another user.
    """
    try:  # not where systems remove what is some days old
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "empirical-distrust" / "locks"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        folder = Path(tempfile.gettempdir()) / f"empirical-distrust-{os.getuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
        raise StoreError(f"{folder} does not belong to you; set XDG_CACHE_HOME to a folder that you can write to")
    return folder / f"{re.sub('[^A-Za-z0-9.-]', '-', name)}.lock"


async def in_turn(
    work: Callable[[], Awaitable[Result]], on_wait: Callable[[str], object], patience_seconds: float = math.inf
) -> Result:
    """Do something that needs a lock, as soon as the lock is free; waiting takes no thread and can be cancelled.

    The work raises `DatasetBusy` at once while another process holds the lock.

    Raises:
        DatasetBusy: Another process still holds the lock after `patience_seconds`.
    """
    deadline, waiting = time.monotonic() + patience_seconds, False
    while True:
        try:
            return await work()
        except DatasetBusy as busy:
            if time.monotonic() >= deadline:
                raise
            if not waiting:
                on_wait(busy.waiting)
            waiting = True
            await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def held_in_turn(
    lock: Callable[[], AbstractContextManager[None]],
    on_wait: Callable[[str], object],
    patience_seconds: float = math.inf,
) -> AsyncIterator[None]:
    """Hold a lock that raises `DatasetBusy` while another process has it; waits like `in_turn`."""
    async with AsyncExitStack() as stack:

        async def enter() -> None:
            stack.enter_context(lock())

        await in_turn(enter, on_wait, patience_seconds)
        yield
