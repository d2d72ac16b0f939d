"""Whether a saved block may name a store, found out without loading Prefect."""

from __future__ import annotations

import os
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

ROOT = Path(__file__).resolve().parent.parent
SLUG = "corpus-store"
QUERY = (
    "SELECT 1 FROM block_document JOIN block_type ON block_type.id = block_document.block_type_id "
    "WHERE block_type.slug = ? AND block_document.name = ?"
)
ANSWER_SECONDS = 1.0


def may_name_a_store() -> bool:
    """Tell whether a block may be saved, on the server or in a database that a server here would open.

    Its store wins over the environment's, which can only be checked if there is no block. In doubt, there may be one.
    """
    name = os.environ.get("DISTRUST_BLOCKS") or "default"
    if os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL") or os.environ.get("PREFECT_PROFILE"):
        return True
    homes = {Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser(), ROOT / ".prefect"}
    if any((home / "profiles.toml").exists() for home in homes):
        return True
    if address := os.environ.get("PREFECT_API_URL"):
        return within(ANSWER_SECONDS, lambda: _server_may_have(address, name), True)
    return any(_database_may_have(home / "prefect.db", name) for home in homes)


def within(seconds: float, ask: Callable[[], Result], otherwise: Result) -> Result:
    """Return an answer, or something else once the time is over.

    It asks in a thread: a server that sends a byte now and then never runs into the timeout of a socket.
    """
    found = [otherwise]
    asking = threading.Thread(target=lambda: found.__setitem__(0, ask()), daemon=True)
    asking.start()
    asking.join(seconds)
    return found[0]


def _server_may_have(address: str, name: str) -> bool:
    try:
        urllib.request.urlopen(  # noqa: S310 - the address that the whole run would use
            f"{address.rstrip('/')}/block_types/slug/{SLUG}/block_documents/name/{name}", timeout=ANSWER_SECONDS
        ).close()
    except urllib.error.HTTPError as error:
        return error.code != 404
    except (OSError, ValueError):
        return True
    return True


def _database_may_have(file: Path, name: str) -> bool:
    if not file.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=ANSWER_SECONDS)) as database:
            return database.execute(QUERY, (SLUG, name)).fetchone() is not None
    except sqlite3.Error as error:
        return "no such table" not in str(error)
