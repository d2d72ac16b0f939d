"""The commands of the operations page, run as they stand there in a copy of the project: on SQLite and PostgreSQL."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from deployments import server
from storage.checkpoint import write_checkpoint
from tests.deployments.postgres import PASSWORD, Postgres, missing, postgres, program
from tests.station import ROOT

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]

PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
ADDRESS = "user:password@host/name"
"""How the page spells a database."""


def commands(section: str) -> list[str]:
    """The command lines of a section, fenced or indented, without their comments."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    fenced = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).splitlines()
    indented = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    return [re.sub(r"\s{2,}#.*| # .*", "", line).strip() for line in (*fenced, *indented)]


@dataclass
class Project:
    """A copy of the project, in which commands are given as by a user; its environment is this one's."""

    folder: Path
    environment: dict[str, str]
    database: Postgres | None

    def run(self, command: str) -> str:
        """Give one command of the page; return what it prints."""
        if self.database is not None:
            address = f"prefect:{PASSWORD}@127.0.0.1:{self.database.port}/postgres"
            command = command.replace(ADDRESS, address)
        answer = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, f"{command}\n{answer.stdout}"
        return answer.stdout

    def up(self) -> None:
        """Give `make up`, with the database if there is one; later commands know the server's address."""
        with_database = f"make up DATABASE=postgresql+asyncpg://{ADDRESS}"
        assert "make up DATABASE=postgresql+asyncpg://" in PAGE
        printed = self.run("make up" if self.database is None else with_database)
        (address,) = re.findall(r"export PREFECT_API_URL=(\S+)", printed)
        self.environment["PREFECT_API_URL"] = address

    def run_page(self, *sections: str, without: tuple[str, ...] = ()) -> None:
        """Give the commands of sections, in order; those of the other kind of database are left out."""
        other = [".prefect/prefect.db"] if self.database else ["pg_dump", "pg_restore"]
        if shutil.which("sqlite3") is None:
            other.append("sqlite3 .prefect")
        for section in sections:
            for command in commands(section):
                if command == "make up":
                    self.up()
                elif not any(word in command for word in (*other, *without)):
                    self.run(command)

    @property
    def weekly_is_on(self) -> bool:
        """Whether the schedule that the test switches is active, as the server tells it."""
        address = f"{self.environment['PREFECT_API_URL']}/deployments/name/download-corpus/download-corpus"
        schedules = httpx.get(address, timeout=60).raise_for_status().json()["schedules"]
        (active,) = [schedule["active"] for schedule in schedules if schedule["slug"] == "weekly-newspapers"]
        return bool(active)

    def check_records(self) -> None:
        """Look through the records of a server that is down; PostgreSQL does that by itself."""
        if self.database is None:
            with closing(sqlite3.connect(self.folder / ".prefect" / "prefect.db")) as records:
                assert records.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.fixture(params=["sqlite", "postgresql"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    folder = tmp_path / "project"
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for name in (".venv", ".uv"):
        (folder / name).symlink_to(ROOT / name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DISTRUST_"))}
    # The environment is the one that this test runs in: `make` need not bring it up to date.
    environment |= {"PORT": str(server.free_port(0)), "MAKEFLAGS": "--old-file=.venv/.installed", "COLUMNS": "200"}
    with ExitStack() as stack:
        database = None
        if request.param == "postgresql":
            if reason := missing() or ("" if program("pg_dump") else "pg_dump is not installed"):
                pytest.skip(reason)
            database = stack.enter_context(postgres())
        made = Project(folder, environment, database)
        stack.callback(subprocess.run, ["make", "down"], cwd=folder, env=environment, check=False, capture_output=True)
        yield made


def test_what_the_page_says_can_be_done(project: Project) -> None:
    project.up()

    dry = project.run(".venv/bin/python -m deployments apply --dry-run")
    assert {line.split()[0] for line in dry.splitlines()} <= {"=", "-"}, "applying twice changes nothing"
    (switch,) = re.findall(r"`(python -m deployments switch weekly-newspapers)`", PAGE)
    project.run(f".venv/bin/{switch}")
    assert project.weekly_is_on
    project.run_page("The event chain")
    kept = project.run(".venv/bin/python -m deployments apply")
    assert "~" not in {line.split()[0] for line in kept.splitlines()} and project.weekly_is_on

    project.run_page("Doctor")
    run = project.folder / "data" / "runs" / "old"
    for step in range(4):
        write_checkpoint(run, step, lambda folder: None, {})
    told, pruned = (project.run(command) for command in commands("Retention"))
    assert "runs/old/checkpoint-0" in told and "runs/old/checkpoint-0" in pruned
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["checkpoint-2", "checkpoint-3"]

    project.run_page("Backup")
    project.run(f".venv/bin/{switch} --off")
    assert not project.weekly_is_on
    project.run_page("Restore")
    assert project.weekly_is_on, "the server's records are those of the backup"
    assert "check-setup" in project.run(".venv/bin/prefect flow-run ls"), "and so is the history"

    project.run_page("Upgrade", without=("git pull", "make up"))
    assert (project.folder / ".prefect.before").is_dir()
    project.check_records()
    project.run_page("Uninstall", without=("uninstall-worker", "uninstall-server"))
    left = {path.name for path in project.folder.iterdir()}
    assert "data" in left and not left & {".prefect", ".venv", ".uv"}
    assert (ROOT / ".venv").is_dir()
