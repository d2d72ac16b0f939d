"""What the doctor tells from files of this machine; the rest is tested on a real server in tests/deployments."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from tasks.checks import count_rows


def test_a_file_of_another_server_is_not_taken_for_the_servers(tmp_path: Path) -> None:
    file, run = tmp_path / "prefect.db", uuid4()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE flow_run (id CHAR(36))")
        database.execute("INSERT INTO flow_run VALUES (?)", [str(run)])
    assert count_rows(file, run) == count_rows(file, None) == {"flow_run": 1}
    assert count_rows(file, uuid4()) is None
