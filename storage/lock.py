"""One writer per dataset: a second process waits for the first, or says that it is busy."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import re
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO, TypeVar

from storage.errors import DatasetBusy, StoreError
from storage.inside import open_no_link

POLL_SECONDS = 0.2
LONGEST_NAME = 200

Result = TypeVar("Result")


HOLDER = ["another process"]
"""What this process calls itself in the locks that it holds; a command or a run puts its own name here."""


def introduce(name: str) -> None:
    """Say what this process is, so that whoever waits for one of its locks can name it."""
    HOLDER[0] = name


@contextmanager
def only_writer(folder: Path, patience_seconds: float = 30.0) -> Iterator[None]:
    """Hold the lock of a dataset's folder; the system lets go of it when the process dies, however it dies.

    Raises:
        DatasetBusy: Another process still holds it after `patience_seconds`.
        StoreError: A link lies in the place of the lock.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, not in it: a dataset may be replaced as a whole.
    with only_holder(folder.parent / f".{folder.name}.lock", f"is writing {folder}", patience_seconds):
        yield


@contextmanager
def only_holder(path: Path, doing: str, patience_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock file; the system lets go of it when the process dies, however it dies.

    Args:
        path: The lock file; it stays when the lock is free again.
        doing: What its holder is doing, for the one who waits: "is writing data/raw/books".
        patience_seconds: How long to wait.

    Raises:
        DatasetBusy: Another process still holds it after `patience_seconds`; the message names that process.
        StoreError: A link lies in the place of the lock.
    """
    deadline = time.monotonic() + patience_seconds
    with open(path, "a+", encoding="utf-8", errors="replace", opener=open_no_link) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise DatasetBusy(
                        f"{_holder(file)} {doing}; wait for it to finish, or stop it (lock: {path})"
                    ) from error
                time.sleep(POLL_SECONDS)
        file.truncate(0)
        file.write(f"{HOLDER[0]} (process {os.getpid()}, since {datetime.now().astimezone():%H:%M:%S})")
        file.flush()
        yield


def _holder(file: TextIO) -> str:
    """Read what the holder of a lock calls itself; the file may be anybody's, so little of it is believed."""
    file.seek(0)
    name = "".join(filter(str.isprintable, file.read(LONGEST_NAME)))
    return name or "another process"


def lock_of_machine(name: str) -> Path:
    """Return the lock file of something that all processes of this user on this machine share, whatever their store.

    Raises:
        StoreError: The folder of these locks belongs to somebody else.
    """
    try:  # not where systems remove what is some days old
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "empirical-distrust" / "locks"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        folder = Path(tempfile.gettempdir()) / f"empirical-distrust-{os.getuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
        raise StoreError(f"{folder} is not a folder of yours; set XDG_CACHE_HOME to one that you can write to")
    return folder / f"{re.sub('[^A-Za-z0-9.-]', '-', name)}.lock"


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
