"""A real server to which the project's state is applied: what it then does, and what a second time changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Failed, Late, Pending

from deployments import processes, server
from deployments.apply import apply, switch
from storage.errors import ParameterError
from storage.layout import Layout
from tasks import checks
from tests.flows.test_export_model import store as finished_run  # noqa: F401
from tests.prefect_database import give_database
from tests.tasks.exports.test_hub import TOKEN, Hub, hub  # noqa: F401
from tests.waiting import until

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

CHAIN = {
    # link: stage that it waits for, deployment that it starts, parameters beside the store
    "chain-score": ("raw", "score-corpus", {}),
    "chain-rebalance": ("scored", "rebalance-corpus", {}),
    "chain-train": ("balanced", "train-adapter", {"mixture": "mine", "replace_run": True}),
    "chain-evaluate": ("trained", "evaluate-adapter", {"run": "mine"}),
    "chain-export": ("evaluated", "export-model", {"run": "mine", "approve": True}),
}

PROCESSES: list[subprocess.Popen[bytes]] = []


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with its own database, to which the project's state was applied once."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_HOME", str(give_database(tmp_path_factory.mktemp("prefect"))))
        environment.setenv("DISTRUST_BLOCKS", "none-saved")
        environment.delenv("DISTRUST_ROOT", raising=False)
        port = server.free_port(0)
        PROCESSES.append(server.start_server(port))
        environment.setenv("PREFECT_API_URL", server.api_url(port))
        with temporary_settings({PREFECT_API_URL: server.api_url(port)}):
            signs = [change.sign for change in asyncio.run(apply())]
        assert set(signs) == {"+", "-"}
        yield server.api_url(port)
        for name in processes.started_processes():
            processes.stop(name)
        while PROCESSES:
            with contextlib.suppress(ChildProcessError):
                PROCESSES.pop().wait()


@pytest.fixture(autouse=True)
def talk_to_it(address: str) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: address}):
        yield


def start_worker(pool: str) -> None:
    port = server.running_port()
    assert port is not None
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    environment = server.client_environment(port) | {
        "DISTRUST_ROOT": str(processes.ROOT),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    PROCESSES.append(processes.spawn(f"worker-{pool}", command, environment))


async def runs_of(client: PrefectClient, deployment: str) -> list[FlowRun]:
    name = DeploymentFilter(name=DeploymentFilterName(any_=[deployment]))
    return await client.read_flow_runs(deployment_filter=name)


async def in_state(client: PrefectClient, run: FlowRun, *names: str) -> FlowRun:
    async def reached() -> FlowRun | None:
        now = await client.read_flow_run(run.id)
        assert now.state is not None
        assert now.state.name in names or not now.state.is_final(), now.state
        return now if now.state.name in names else None

    found: FlowRun = await until(reached)
    return found


async def start(client: PrefectClient, deployment: str, **parameters: Any) -> FlowRun:
    found = await client.read_deployment_by_name(f"{deployment}/{deployment}")
    return await client.create_flow_run_from_deployment(found.id, parameters=parameters)


async def forget(client: PrefectClient, runs: list[FlowRun]) -> None:
    for run in runs:
        await client.delete_flow_run(run.id)


async def test_a_second_time_changes_nothing_and_a_dry_run_writes_nothing() -> None:
    again = await apply()
    assert {change.sign for change in again if change.name not in ("notify-failed-runs", "notify-worker-offline")} == {
        "="
    }
    async with get_client() as client:
        names = [automation.name for automation in await client.read_automations()]
        assert sorted(names) == sorted(set(names)), "no automation twice"
        lease = GlobalConcurrencyLimitUpdate(limit=7, slot_decay_per_second=0.0)
        await client.update_global_concurrency_limit("pace-archive.org", lease)
        told = [str(change) for change in await apply(dry_run=True) if change.sign == "~"]
        assert told == ["~ pace       pace-archive.org: limit 7 -> 20, slot_decay_per_second 0.0 -> 2.0"]
        assert (await client.read_global_concurrency_limit_by_name("pace-archive.org")).limit == 7
        await apply()
        assert (await client.read_global_concurrency_limit_by_name("pace-archive.org")).slot_decay_per_second == 2.0


async def test_what_a_user_chose_survives_the_next_time() -> None:
    async with get_client() as client:
        found = await client.read_deployment_by_name("download-corpus/download-corpus")
        assert [str(change) for change in await switch(["weekly-newspapers"], on=True)] == [
            "~ schedule   weekly-newspapers: on"
        ]
        monthly = next(schedule for schedule in found.schedules if schedule.slug == "monthly-refresh")
        await client.update_deployment_schedule(found.id, monthly.id, active=True)  # as the UI does
        await client.create_deployment_schedules(found.id, [(CronSchedule(cron="7 7 * * *"), True)], slug="mine")
        await client.update_deployment(found.id, DeploymentUpdate(description="Meddled with."))
        change = next(change for change in await apply() if change.name == "download-corpus")
        assert change.detail == "description (differs), schedules (differs)", "the UI's switch empties the parameters"
        now = await client.read_deployment(found.id)
        assert now.description == found.description
        assert {(schedule.slug, schedule.active) for schedule in now.schedules} == {
            ("weekly-newspapers", True),
            ("monthly-refresh", True),
            ("mine", True),
        }
        parameters = {schedule.slug: schedule.parameters for schedule in now.schedules}
        assert parameters["weekly-newspapers"] == {"sources": ["historical_newspapers"], "refresh": True}
        assert parameters["monthly-refresh"] == {"refresh": True}, "and the apply mends them"
        again = next(change for change in await apply() if change.name == "download-corpus")
        assert again.sign == "=", "schedules of a user's own are no difference"


async def test_a_limit_that_the_project_gives_up_is_taken_away() -> None:
    async with get_client() as client:
        found = await client.read_deployment_by_name("download-corpus/download-corpus")
        await client.update_deployment(found.id, DeploymentUpdate(concurrency_limit=1))
        assert "limit 1 -> None" in next(c.detail for c in await apply() if c.name == "download-corpus")
        assert (await client.read_deployment(found.id)).global_concurrency_limit is None


async def test_versions_come_from_git() -> None:
    if not (processes.ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=processes.ROOT, capture_output=True, text=True, check=True)
    async with get_client() as client:
        version = (await client.read_deployment_by_name("score-corpus/score-corpus")).version
    assert version is not None and head.stdout.startswith(version.removesuffix("-dirty").rsplit("-g")[-1])


async def test_links_of_the_chain_start_the_next_deployment_only_when_they_are_on() -> None:
    async def post(link: str) -> None:
        event = {
            "id": str(uuid4()),
            "event": f"distrust.{CHAIN[link][0]}.ready",  # as tasks/chain.py emits it
            "occurred": datetime.now(UTC).isoformat(),
            "resource": {"prefect.resource.id": f"distrust.{CHAIN[link][0]}.mine"},
            "payload": {"name": "mine", "store": "/some/store"},
        }
        answer = await client.request("POST", "/events", json=[event])
        assert answer.status_code == 204

    async with get_client() as client:
        assert {automation.name for automation in await client.read_automations() if not automation.enabled} == set(
            CHAIN
        )
        for link in CHAIN:
            await post(link)
        changes = await switch(list(CHAIN), on=True)
        assert {change.sign for change in changes} == {"~"}
        assert {change.sign for change in await apply() if change.kind == "automation"} == {"=", "-"}, "they stay on"
        await asyncio.sleep(2)  # automations are reloaded by the server
        for link, (_, deployment, given) in CHAIN.items():
            await post(link)

            async def created(deployment: str = deployment) -> list[FlowRun]:
                return await runs_of(client, deployment)

            runs = await until(created, 30)
            assert len(runs) == 1, "the event that came while the link was off started nothing"
            assert runs[0].parameters.items() >= {"store": "/some/store", **given}.items()
            await forget(client, runs)
        await switch(list(CHAIN), on=False)
        with pytest.raises(ParameterError, match="chain-score"):
            await switch(["chain-nothing"], on=True)


class Receiver(ThreadingHTTPServer):
    """Keeps the messages that are posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Post)
        self.messages: list[dict[str, str]] = []


class Post(BaseHTTPRequestHandler):
    server: Receiver

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.server.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    listening = Receiver()
    threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
    yield listening
    listening.shutdown()
    listening.server_close()


async def test_notifications_wait_for_a_target_and_then_arrive(receiver: Receiver) -> None:
    with pytest.raises(ParameterError, match="block custom-webhook/alerts does not exist"):
        await apply(notify="custom-webhook/alerts")
    with pytest.raises(ParameterError, match="is not of the form type/name"):
        await apply(notify="alerts")
    block = CustomWebhookNotificationBlock(
        name="alerts",
        url=f"http://127.0.0.1:{receiver.server_port}/",
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
    )
    await block.asave("alerts")
    signs = {c.name: c.sign for c in await apply(notify="custom-webhook/alerts") if c.name.startswith("notify-")}
    assert signs == {"notify-failed-runs": "+", "notify-worker-offline": "+"}
    signs = {c.name: c.sign for c in await apply() if c.name.startswith("notify-")}
    assert set(signs.values()) == {"="}, "the target is kept without naming it again"
    await asyncio.sleep(2)
    async with get_client() as client:
        run = await start(client, "score-corpus")
        await client.set_flow_run_state(run.id, Failed(message="no such source"), force=True)
        pool = await client.read_work_pool("data")
        event = {
            "id": str(run.id),
            "event": "prefect.work-pool.not-ready",
            "occurred": datetime.now(UTC).isoformat(),
            "resource": {"prefect.resource.id": f"prefect.work-pool.{pool.id}", "prefect.resource.name": "data"},
        }
        await client.request("POST", "/events", json=[event])

        async def both() -> bool:
            return len(receiver.messages) >= 2

        await until(both, 30)
        await forget(client, [run])
    told = {message["subject"]: message["body"] for message in receiver.messages}
    assert "no such source" in told["score-corpus Failed"] and run.name in told["score-corpus Failed"]
    assert "data is online" in told["Pool data has no worker"]


async def test_the_doctor_finds_zombies_and_frees_their_pool(tmp_path: Path) -> None:
    look = partial(checks.check_environment.fn, Layout(tmp_path), 0.001)
    async with get_client() as client:
        zombie, waiting = await start(client, "train-adapter"), await start(client, "train-adapter")
        await client.set_flow_run_state(zombie.id, Pending(), force=True)  # its worker died before it began
        late: State[Any] = Late(scheduled_time=datetime.now(UTC) - timedelta(hours=1))
        await client.set_flow_run_state(waiting.id, late, force=True)
        assert await checks.find_zombies(client, 15) == [], "a run that began just now is not a zombie"
        await asyncio.sleep(0.2)

        told = {check.component: check for check in await look(fix=False)}
        assert {name for name, check in told.items() if not check.ok} - {"workers"} == {"zombie runs", "blocked pools"}
        assert zombie.name in told["zombie runs"].detail and "--fix" in told["zombie runs"].detail
        assert f"mac-train: 1 late runs wait for {zombie.name}" in told["blocked pools"].detail
        assert re.search(r"flow_run \d+", told["database"].detail) and "MB in" in told["database"].detail
        assert (await client.read_flow_run(zombie.id)).state_name == "Pending", "without fix it only tells"

        mended = {check.component: check for check in await look(fix=True)}
        assert mended["zombie runs"].ok and zombie.name in mended["zombie runs"].detail
        assert (await client.read_flow_run(zombie.id)).state_name == "Crashed"
        assert mended["blocked pools"].ok, mended["blocked pools"].detail
        await forget(client, [zombie, waiting])


def test_versions_that_differ_from_the_lock_are_told(tmp_path: Path) -> None:
    lock = tmp_path / "uv.lock"
    lock.write_text(
        '[[package]]\nname = "prefect"\nversion = "3.0.0"\n[[package]]\nname = "fastapi"\nversion = "0.1"\n'
        '[[package]]\nname = "sqlalchemy"\nversion = "0.2"\n'
    )
    with pytest.raises(
        RuntimeError, match=r"fastapi .* is installed, 0\.1 is locked; .*; the server runs Prefect 2\.0"
    ):
        checks.compare_versions("2.0", lock)


@pytest.mark.drill
async def test_an_upload_waits_for_approval_and_leaves_the_pool_free_meanwhile(
    finished_run: Path,  # noqa: F811
    hub: Hub,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    start_worker("mac-train")
    wanted = {"store": str(finished_run), "run": "tiny", "hub_repository": "me/tiny", "hub_dry_run": False}
    async with get_client() as client:
        approved = await start(client, "export-model", **wanted)
        await in_state(client, approved, "Suspended")
        refused = await start(client, "export-model", **wanted)
        await in_state(client, refused, "Suspended")  # in a pool with one slot
        assert (hub.created, hub.files) == ([], {})
        inputs = await client.filter_flow_run_input(approved.id, key_prefix="suspended", limit=10, exclude_keys=set())
        form = "\n".join(entry.value for entry in inputs)
        assert "to `me/tiny`?" in form and "model.safetensors" in form and "Send these files" in form

        await client.set_flow_run_state(refused.id, State(type="CANCELLING"))  # what the UI's button does
        await in_state(client, refused, "Cancelled")
        assert (hub.created, hub.files) == ([], {})

        await client.resume_flow_run(approved.id, run_input={"upload": True})
        await in_state(client, approved, "Completed")
    folder = finished_run / "exports" / "tiny"
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".toml"}
    processes.stop("worker-mac-train")
