"""An empty Prefect database, made once: its migrations take seconds at every start of a server on a new one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from storage.lock import only_holder

CACHE = Path(__file__).resolve().parent.parent / ".pytest_cache"
MIGRATE = "import asyncio, prefect.server.database as d; asyncio.run(d.provide_database_interface().create_db())"


def template() -> Path:
    """The empty database of the installed Prefect; the first process that asks makes it, the others wait."""
    CACHE.mkdir(exist_ok=True)
    file = CACHE / f"prefect-{version('prefect')}.db"
    with only_holder(CACHE / "prefect.lock", "the empty database is being made by", 300):
        if not file.exists():
            home = CACHE / "prefect-home"
            shutil.rmtree(home, ignore_errors=True)
            environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
            command = [sys.executable, "-c", MIGRATE]
            subprocess.run(command, env=environment | {"PREFECT_HOME": str(home)}, check=True)
            (home / "prefect.db").replace(file)
    return file


def give_database(home: Path) -> Path:
    """Put the empty database where a server with this PREFECT_HOME looks for its own; return the folder."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(template(), home / "prefect.db")
    return home
