"""`make up`, `make run` and `make down` on real servers and workers: what a person at the terminal sees happen."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments import processes, server
from deployments.access import AUTH, DATABASE, Access, recall, remember
from storage.errors import PrerequisiteError
from storage.lock import only_writer

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "deployments"]


def call(*words: str, command: list[str] = COMMAND) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)


def until(found: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s"
        time.sleep(0.3)
    return value


@contextlib.contextmanager
def a_home(folder: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_HOME", str(folder))
        environment.setenv("DISTRUST_STORE", str(folder / "store"))
        for name in (AUTH, DATABASE, "PREFECT_API_URL"):
            environment.delenv(name, raising=False)
        try:
            yield folder
        finally:
            call("down")
            for name in processes.started_processes():
                processes.stop(name)


class Site:
    """What `make up` started, asked as a person's tools do."""

    def __init__(self) -> None:
        access = server.running_access()
        assert access is not None
        self.url = access.api_url

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Prefect-Csrf-Client": "test"}
        with httpx.Client(headers=headers, timeout=30) as client:
            if os.environ.get("PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED") != "false":
                token = client.get(f"{self.url}/csrf-token", params={"client": "test"}).json()["token"]
                client.headers["Prefect-Csrf-Token"] = token
            answer = client.request(method, f"{self.url}/{path}", json=body).raise_for_status()
            return answer.json() if answer.content else None

    def states(self, deployment: str) -> list[str]:
        search = {"deployments": {"name": {"any_": [deployment]}}, "sort": "START_TIME_DESC"}
        return [run["state_type"] for run in self.ask("POST", "flow_runs/filter", search)]

    def deployment(self, name: str) -> str:
        return str(self.ask("GET", f"deployments/name/{name}/{name}")["id"])

    def start(self, name: str, **parameters: Any) -> str:
        made = self.ask("POST", f"deployments/{self.deployment(name)}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def log(self, run: str) -> list[str]:
        search = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        return [line["message"] for line in self.ask("POST", "logs/filter", search)]

    def state(self, run: str) -> tuple[str, str]:
        state = self.ask("GET", f"flow_runs/{run}")["state"]
        return state["type"], state["message"] or ""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with a_home(tmp_path_factory.mktemp("prefect")) as home:
        answer = call("up", "--port", str(server.free_port(0)))
        assert answer.returncode == 0, answer.stdout + answer.stderr
        yield Site()
        log = (home / "server.log").read_text("utf-8", errors="replace")
        assert not re.findall(r"ERROR.*|.*Traceback.*|.*is locked.*", log), log[-4000:]


def test_up_again_leaves_alone_what_is_at_work(site: Site) -> None:
    before = {path.name: path.read_text() for path in processes.home().glob("*.pid")}
    assert set(before) == {"server.pid", "worker-data.pid", "worker-mac.pid"}
    answer = call("up")
    assert answer.returncode == 0 and answer.stdout.count("as it was") == 2, answer.stdout + answer.stderr
    assert {path.name: path.read_text() for path in processes.home().glob("*.pid")} == before


def test_a_schedule_starts_runs_that_a_worker_finishes(site: Site) -> None:
    deployment = site.deployment("prune-store")
    every = {"schedule": {"interval": 10.0}, "active": True, "parameters": {"dry_run": True}}
    (schedule,) = site.ask("POST", f"deployments/{deployment}/schedules", [every])
    assert "schedule" in call("switch", "weekly-newspapers").stdout
    until(lambda: site.states("prune-store").count("COMPLETED") >= 2, 150)
    until(lambda: "SCHEDULED" in site.states("download-corpus"), 90)
    call("switch", "weekly-newspapers", "--off")
    site.ask("DELETE", f"deployments/{deployment}/schedules/{schedule['id']}")


def test_a_command_finds_the_server_of_make_up(site: Site) -> None:
    count = len(site.ask("POST", "flow_runs/filter", {"flows": {"name": {"any_": ["prune-store"]}}}))
    answer = call("prune-store", command=[sys.executable, "-m", "flows"])
    assert answer.returncode == 0, answer.stderr
    assert len(site.ask("POST", "flow_runs/filter", {"flows": {"name": {"any_": ["prune-store"]}}})) > count


NAMES = iter(("letters", "diaries", "ledgers"))
"""A source for each test: one that is downloaded is not waited for."""


@contextlib.contextmanager
def run_at_work(site: Site) -> Iterator[tuple[str, list[int]]]:
    """A run of a worker that waits for a lock which this test holds; yields it with the processes of the worker."""
    store, name = Path(os.environ["DISTRUST_STORE"]), next(NAMES)
    documents = store.parent / "documents"
    documents.mkdir(exist_ok=True)
    (documents / "letters.jsonl").write_text(json.dumps({"id": "1", "text": "A letter. " * 40}) + "\n", "utf-8")
    catalogue = store.parent / "catalogue.toml"
    catalogue.write_text(
        f"[{name}]\narchive = 'local_files'\npath = '{documents}'\nsource_type = 'historical_book'\n"
        "trivium = 'rhetoric'\nprior_authority = 0.1\n",
        "utf-8",
    )
    worker = processes.living_process("worker-data")
    assert worker is not None
    with only_writer(store / "raw" / name):
        run = site.start("download-corpus", catalogue=str(catalogue), sources=[name], store=str(store))
        until(lambda: any("waiting" in line for line in site.log(run)), 90)
        yield run, processes.descendants(worker)


def test_what_is_waited_for_is_named_in_the_ui(site: Site) -> None:
    with run_at_work(site) as (run, _):
        (said,) = (line for line in site.log(run) if "waiting" in line)
        assert "/raw/" in said and f"process {os.getpid()}," in said, said
    until(lambda: site.state(run)[0] == "COMPLETED")


def test_runs_whose_worker_was_killed_are_marked_by_make_up(site: Site) -> None:
    with run_at_work(site) as (run, family):
        worker = processes.living_process("worker-data")
        assert worker is not None
        for process in (worker, *family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        assert site.state(run)[0] == "RUNNING", "nobody was left to say so"
        answer = call("up")
    assert answer.returncode == 0 and "is marked Crashed" in answer.stdout, answer.stdout + answer.stderr
    assert site.state(run)[0] == "CRASHED"


def test_down_ends_the_runs_and_says_so_before_the_server_goes(site: Site) -> None:
    with run_at_work(site) as (run, family):
        begun = time.monotonic()
        answer = call("down")
        assert answer.returncode == 0 and answer.stdout.count(": stopped") == 3, answer.stdout + answer.stderr
        assert time.monotonic() - begun < 45
        assert not any(map(processes.is_alive, family))
    with contextlib.closing(sqlite3.connect(processes.home() / "prefect.db")) as database:
        (state,) = database.execute("SELECT state_type FROM flow_run WHERE id = ?", [run]).fetchone()
    assert state in ("CANCELLED", "CRASHED")
    assert call("down").stdout == "Nothing was running.\n"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with a_home(tmp_path) as folder:
        yield folder


FLOW = [sys.executable, "-m", "flows", "prune-store"]


def test_commands_that_begin_together_share_a_server_which_ends_with_the_last(home: Path) -> None:
    both = [subprocess.Popen(FLOW, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    said = [process.communicate(timeout=200)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
        states = database.execute("SELECT state_type FROM flow_run WHERE name = 'prune-store'").fetchall()
    assert states == [("COMPLETED",)] * 2
    until(lambda: server.running_port() is None, 30)
    until(lambda: not processes.is_running("server"), 30)


def used() -> bool:
    with server.unused() as free:
        return not free


@pytest.mark.drill
def test_a_killed_command_leaves_no_server_and_up_takes_one_over(home: Path) -> None:
    with server.in_use():
        port = server.join_or_start(Access(port=server.free_port(0)))
        answer = call("down")
        assert "stops when that command ends" in answer.stdout and server.running_port() == port
        server.keep()  # as `make up` does
    time.sleep(6)
    assert server.running_port() == port, "it stays, though no command uses it"
    holder = "from deployments import server; import time; use = server.in_use(); use.__enter__(); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", holder], cwd=ROOT)
    until(used)
    server.let_go()
    time.sleep(4)
    assert server.running_port() == port
    process.kill()
    process.wait()
    until(lambda: server.running_port() is None, 30)


class Stranger(BaseHTTPRequestHandler):
    """Another program on the port, which answers everything as a Prefect server would say that it is well."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"proof": "true"}' if "identity" in self.path else b"true")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_stranger_on_the_port_gets_no_run_of_ours(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        taken = stranger.server_address[1]
        found = iter([taken])  # free when looked at, taken when bound
        really = server.free_port
        monkeypatch.setattr(server, "free_port", lambda wanted: next(found, None) or really(wanted))
        with server.local_server(taken) as port:
            assert port != taken and server.running_port() == port
        stranger.shutdown()


def test_a_number_that_belongs_to_another_program_by_now_is_not_ours(home: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)  # prefect server"]
    process = subprocess.Popen(sleeper)
    try:
        (home / "server.pid").write_text(f"{process.pid} Mon Jan  1 00:00:00 2024", "utf-8")
        assert not processes.is_running("server")
        assert not processes.stop("server") and process.poll() is None
        (home / "worker-data.pid").write_text(str(process.pid), "utf-8")  # as earlier versions wrote it
        assert not processes.stop("worker-data") and process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_server_for_one_run_leaves_the_record_of_the_other_as_it_was(home: Path) -> None:
    known = Access(url="https://office.example:4200/api", auth="me:secret")
    remember(home, known)
    with pytest.raises(KeyboardInterrupt), server.local_server(server.free_port(0)) as port:
        assert server.api_url(port) == f"http://127.0.0.1:{port}/api"
        raise KeyboardInterrupt
    assert recall(home) == known


def test_a_server_that_cannot_start_is_told_with_its_log(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////nowhere/at/all.db")
    with (
        pytest.raises(PrerequisiteError, match=r"did not start.*server\.log"),
        server.local_server(server.free_port(0)),
    ):
        pass
