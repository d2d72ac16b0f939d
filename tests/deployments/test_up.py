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

import pytest

from deployments import processes, server
from deployments.access import AUTH, DATABASE, Access, read_access
from storage.errors import PrerequisiteError
from storage.lock import only_writer
from tests.prefect_database import give_database
from tests.station import Api, until

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "deployments"]
FLOW = [sys.executable, "-m", "flows", "prune-store"]


def call(*words: str, command: list[str] = COMMAND) -> str:
    answer = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@contextlib.contextmanager
def a_home(folder: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_HOME", str(folder))
        environment.setenv("DISTRUST_STORE", str(folder / "store"))
        environment.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "3")
        for name in (AUTH, DATABASE, "PREFECT_API_URL"):
            environment.delenv(name, raising=False)
        try:
            yield folder
        finally:
            for name in processes.started_processes():
                processes.stop(name)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with a_home(give_database(tmp_path)) as folder:
        yield folder


class Site(Api):
    """What `make up` started, asked as a person's tools do."""

    def __init__(self) -> None:
        access = server.running_access()
        assert access is not None
        self.url = access.api_url

    def runs(self, deployment: str, state: str) -> list[str]:
        search = {"deployments": {"name": {"any_": [deployment]}}, "flow_runs": {"state": {"type": {"any_": [state]}}}}
        return [run["id"] for run in self.post("flow_runs/filter", search)]

    def deployment(self, name: str) -> str:
        return str(self.ask("GET", f"deployments/name/{name}/{name}")["id"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with a_home(give_database(tmp_path_factory.mktemp("prefect"))) as home:
        call("up", "--port", str(server.free_port(0)))
        yield Site()
        log = (home / "server.log").read_text("utf-8", errors="replace")
        assert not re.findall(r"ERROR.*|.*Traceback.*|.*is locked.*", log), log[-4000:]


def test_a_command_finds_the_server_of_make_up(site: Site) -> None:
    def runs() -> int:
        return len(site.ask("POST", "flow_runs/filter", {"flow_runs": {"deployment_id": {"is_null_": True}}}))

    before = runs()
    call(command=FLOW)
    assert runs() == before + 1


def parameters_of(source: str) -> dict[str, Any]:
    """Parameters of a download that this machine can do alone."""
    store = Path(os.environ["DISTRUST_STORE"])
    documents = store.parent / "documents"
    documents.mkdir(exist_ok=True)
    (documents / "letters.jsonl").write_text(json.dumps({"id": "1", "text": "A letter. " * 40}) + "\n", "utf-8")
    catalogue = store.parent / "catalogue.toml"
    catalogue.write_text(
        f"[{source}]\narchive = 'local_files'\npath = '{documents}'\nsource_type = 'historical_book'\n"
        "trivium = 'rhetoric'\nprior_authority = 0.1\n",
        "utf-8",
    )
    return {"catalogue": str(catalogue), "sources": [source], "store": str(store)}


@contextlib.contextmanager
def at_work(site: Site, begin: Callable[[str, dict[str, Any]], str]) -> Iterator[tuple[str, list[int]]]:
    """A run of a worker that waits for a lock which this test holds; yields it with the worker and its processes."""
    parameters = parameters_of("letters")
    worker = processes.living_process("worker-data")
    assert worker is not None
    with only_writer(Path(parameters["store"]) / "raw" / "letters"):
        run = begin(site.deployment("download-corpus"), parameters)
        (line,) = until(lambda: [line for line in site.log(run) if "waiting" in line], 90)
        assert "/raw/" in line and f"process {os.getpid()}," in line, "the UI names what is waited for"
        yield run, [worker, *processes.descendants(worker)]


def test_a_run_of_a_schedule_whose_worker_is_killed_is_marked_by_up_which_leaves_the_others_alone(site: Site) -> None:
    def wait_for_schedule(deployment: str, parameters: dict[str, Any]) -> str:
        every = {"schedule": {"interval": 5.0}, "active": True, "parameters": parameters}
        (schedule,) = site.ask("POST", f"deployments/{deployment}/schedules", [every])
        started = until(lambda: site.runs("download-corpus", "RUNNING"), 90)
        site.ask("DELETE", f"deployments/{deployment}/schedules/{schedule['id']}")
        return str(started[0])

    before = {path.name: path.read_text() for path in processes.home().glob("*.pid")}
    assert set(before) == {"server.pid", "worker-data.pid", "worker-mac.pid"}
    with at_work(site, wait_for_schedule) as (run, family):
        for process in family:
            os.kill(process, signal.SIGKILL)
        assert site.state(run) == "RUNNING", "nobody was left to say so"
        create = f"deployments/{site.deployment('prune-store')}/create_flow_run"
        taken = site.ask("POST", create, {"parameters": {}})["id"]  # by the worker, which died before it began
        site.ask("POST", f"flow_runs/{taken}/set_state", {"state": {"type": "PENDING"}, "force": True})
        registry = processes.home() / "runs-at-work"
        registry.rename(aside := processes.home() / "aside")
        registry.touch()  # nothing can be marked
        failed = subprocess.run([*COMMAND, "up"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
        assert failed.returncode == 1 and "no worker was started; run it again" in failed.stderr, failed
        registry.unlink()
        aside.rename(registry)
        answer = call("up")
    assert "is marked Crashed" in answer and answer.count("already running") == 1, answer
    assert (site.state(run), site.state(taken)) == ("CRASHED", "CRASHED")
    now = {path.name: path.read_text() for path in processes.home().glob("*.pid")}
    assert {name for name in now if now[name] != before[name]} == {"worker-data.pid"}


def test_a_schedule_of_the_project_is_switched_on(site: Site) -> None:
    assert call("switch", "monthly-prune") == "~ schedule   monthly-prune: on\n"
    until(lambda: site.runs("prune-store", "SCHEDULED"), 90)


def test_down_ends_the_runs_and_says_so_before_the_server_goes(site: Site) -> None:
    def start(deployment: str, parameters: dict[str, Any]) -> str:
        return str(site.ask("POST", f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"])

    with at_work(site, start) as (run, family):
        begun = time.monotonic()
        assert call("down").count(": stopped") == 3
        assert time.monotonic() - begun < 45
        assert not any(map(processes.is_alive, family))
    with contextlib.closing(sqlite3.connect(processes.home() / "prefect.db")) as database:
        (state,) = database.execute("SELECT state_type FROM flow_run WHERE id = ?", [run]).fetchone()
    assert state in ("CANCELLED", "CRASHED")
    assert call("down") == "Nothing was running.\n"


def test_commands_that_begin_together_share_a_new_server_which_ends_with_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_LOGGING_LEVEL", "INFO")
    with a_home(give_database(tmp_path)):
        both = [subprocess.Popen(FLOW, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
        said = [process.communicate(timeout=200)[0].decode() for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        with contextlib.closing(sqlite3.connect(tmp_path / "prefect.db")) as database:
            states = database.execute("SELECT state_type FROM flow_run WHERE name = 'prune-store'").fetchall()
        assert states == [("COMPLETED",)] * 2
        assert (tmp_path / "server.log").read_text("utf-8").count("Started server process") == 1
        until(lambda: server.running_port() is None and not processes.is_running("server"), 30)


class Stranger(BaseHTTPRequestHandler):
    """Another program on the port, which answers everything as a Prefect server would say that it is well."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"proof": "true"}' if "identity" in self.path else b"true")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize("leaves", [False, pytest.param(True, marks=pytest.mark.drill)], ids=["stays", "leaves again"])
def test_a_stranger_on_the_port_gets_no_run_and_the_record_of_make_up_stays(
    leaves: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Access(url="https://office.example:4200/api", auth="me:secret")
    known.save(home)
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, args=(0.02,), daemon=True).start()
        taken = stranger.server_address[1]
        looks = 0
        really = server.free_port

        def free_port(wanted: int) -> int:  # free when looked at first, taken when bound
            nonlocal looks
            looks += 1
            if looks == 2 and leaves:
                stranger.shutdown()
                stranger.server_close()
            return taken if looks == 1 else really(wanted)

        monkeypatch.setattr(server, "free_port", free_port)
        with pytest.raises(KeyboardInterrupt), server.local_server(taken) as port:
            assert (port == taken) is leaves and server.running_port() == port
            assert server.api_url(port) == f"http://127.0.0.1:{port}/api"
            raise KeyboardInterrupt
        stranger.shutdown()
    assert read_access(home) == known


@pytest.mark.drill
def test_a_killed_command_leaves_no_server_and_up_takes_one_over(home: Path) -> None:
    with server.in_use():
        port = server.join_or_start(Access(port=server.free_port(0)))
        assert "stops when that command ends" in call("down") and server.running_port() == port
        server.keep()  # as `make up` does
    time.sleep(6)
    assert server.running_port() == port, "it stays, though no command uses it"
    holder = "from deployments import server; import time; use = server.in_use(); use.__enter__(); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", holder], cwd=ROOT)

    def used() -> bool:
        with server.unused() as free:
            return not free

    until(used)
    server.let_go()
    time.sleep(4)
    assert server.running_port() == port
    process.kill()
    process.wait()
    until(lambda: server.running_port() is None, 30)


def test_an_id_that_another_program_has_by_now_is_not_ours(home: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # prefect server"])
    try:
        for name, record in (("server", f"{process.pid} Mon Jan  1 00:00:00 2024"), ("worker-data", str(process.pid))):
            (home / f"{name}.pid").write_text(record, "utf-8")
            assert not processes.is_running(name)
            assert not processes.stop(name) and process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_the_error_of_a_server_that_cannot_start_names_its_log(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATABASE, "sqlite+aiosqlite:////nowhere/at/all.db")
    with (
        pytest.raises(PrerequisiteError, match=r"did not start.*server\.log"),
        server.local_server(server.free_port(0)),
    ):
        pass
