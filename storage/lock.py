"""One writer per dataset: a second process waits for the first, or says that it is busy."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import DatasetBusy
from storage.inside import open_no_link

POLL_SECONDS = 0.2


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
