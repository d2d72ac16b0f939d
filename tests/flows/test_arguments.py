"""The command line: what it reads, what it refuses before anything heavy is loaded, and how it ends."""

from __future__ import annotations

import http.server
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from blocks.saved import may_name_a_store
from flows import __main__ as command_line
from flows import faults, terminal
from flows.arguments import FLOWS, FORMS, parse
from flows.forms import CorpusToModelParameters
from storage.errors import ParameterError
from storage.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    *("prefect", "mlx", "mlx_lm", "datasets", "transformers", "torch", "polars", "aiohttp", "huggingface_hub", "scipy"),
}
SECONDS = 2.0
"""Processor time that an answer may take; on a machine that has nothing else to do it takes no longer than that."""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_SERVER_DATABASE_CONNECTION_URL", "DISTRUST_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setattr("blocks.saved.ROOT", tmp_path)


def answered(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    status = command_line.main(list(arguments))
    return status, capsys.readouterr().err.splitlines()


def processor_seconds() -> float:
    """Processor time of the child processes that have ended; a clock would also count what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def finished_runs(store: Path, *names: str) -> str:
    for name in names:
        (store / "runs" / name).mkdir(parents=True)
        (store / "runs" / name / "result.json").write_text("{}")
    return str(store)


def sealed(store: Path, *names: str) -> str:
    for name in names:
        (store / name).mkdir(parents=True)
        (store / name / "manifest.json").write_text("{}")
    return str(store)


def test_an_answer_loads_nothing_heavy() -> None:
    words = [["download-corpus", "--sources", "wikpedia"], ["evaluate-adapter", "--run", "x", "--max-new-tokenz", "8"]]
    code = (
        "import sys\nfrom flows.__main__ import FLOWS, main\n"
        f"for words in (*{words}, *([name, '--help'] for name in FLOWS)):\n"
        "    try: main(words)\n    except SystemExit: pass\n"
        f"print([name for name in sys.modules if name.split('.')[0] in {HEAVY} or name == 'pyarrow.dataset'])"
    )
    began = processor_seconds()
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"
    assert all(f"usage: python -m flows {name}" in answer.stdout for name in FLOWS)
    assert "--store" in answer.stdout and "--json" in answer.stdout
    assert processor_seconds() - began < SECONDS + len(FLOWS) / 5


def test_options_are_the_fields_in_dash_case_and_environment_variables_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_SAMPLES", "7")
    monkeypatch.setenv("STORE", "elsewhere")
    words = ["--sources", "us_patents,wikipedia", "--no-grad-checkpoint", "--alpha", "2.5", "--json"]
    given, as_json = parse("corpus-to-model", FORMS["corpus-to-model"], words)
    assert as_json
    assert given == CorpusToModelParameters(sources=["us_patents", "wikipedia"], grad_checkpoint=False, alpha=2.5)
    assert (given.max_samples, given.store) == (30_000, "")


@pytest.mark.parametrize(("arguments", "status"), [([], 0), (["no-such-flow"], 2)])
def test_an_unknown_command_lists_those_that_exist(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(arguments) == status
    shown = capsys.readouterr()
    assert all(name in shown.out + shown.err for name in (*FLOWS, "try-model"))


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("sandbox", ["--documents", "/no/such/folder"], "/no/such/folder"),
        ("sandbox", ["--documnts", "x"], "--documnts"),
        ("deployments", ["upp"], "upp"),
        ("tasks.exports.serve", ["x", "--prot", "1"], "--prot"),
        ("tasks.evals.try_model", ["--promt", "x"], "--promt"),
    ],
)
def test_other_commands_answer_as_quickly(module: str, arguments: list[str], said: str) -> None:
    began = processor_seconds()
    answer = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 2 and said in answer.stderr and "Traceback" not in answer.stderr
    assert processor_seconds() - began < SECONDS


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["download-corpus", "--sources", "wikpedia"], ["--sources: 'wikpedia' is not", "'wikipedia'?"]),
        (["corpus-to-model", "--sources", "us_patent"], ["'us_patents'?"]),
        (["download-corpus", "--sorces", "wikipedia"], ["--sorces: unknown option; did you mean --sources?"]),
        (["download-corpus", "--max-sample", "3"], ["did you mean --max-samples?"]),
        (["train-adapter", "--model", "r1-distil-70b", "--plan"], ["'r1-distill-70b'?"]),
        (["compare-recipes", "--model", "./nothing"], ["--model: './nothing' does not exist"]),
        (["evaluate-adapter", "--suites", "censorshp"], ["--suites: ", "'censorship'?"]),
        (["evaluate-adapter", "--questions", "/no/such.jsonl"], ["--questions: /no/such.jsonl does not exist; name"]),
        (["score-corpus", "--runner", "dsk"], ["--runner: ", "'dask'?"]),
        (["download-corpus", "wikipedia"], ["wikipedia: not an option"]),
        (["download-corpus", "--sources"], ["--sources: expected one argument"]),
        (["download-corpus", "--store", "ftp://host/x"], ["--store: ", "neither a folder nor the URI"]),
        (["download-corpus", "--store", "~nobody-at-all/x"], ["--store: ", "cannot be a folder"]),
        (["download-corpus", "--catalogue", "/no/such.toml"], ["--catalogue: ", "/no/such.toml"]),
        (["download-corpus", "--subjects", "/no/list"], ["--subjects: /no/list cannot be read", "or 'bundled'"]),
        (["download-corpus", "--subjects", "bundled", "--bulk"], ["--bulk: ", "cannot be asked by subject"]),
        (["download-corpus", "--store", "/dev/null"], ["--store: ", "/dev/null is not a folder"]),
        (["score-corpus", "--store", "/proc/none"], ["--store: /proc/none cannot be written"]),
        (["compare-recipes", "--early-stop", "2", "--val-batches", "0"], ["early_stop needs validations"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_bad_argument_is_one_line_with_the_way_out(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: list[str]
) -> None:
    status, lines = answered(capsys, *arguments, *(() if "--store" in arguments else ("--store", "/tmp")))
    assert status == 2
    lines = [line for line in lines if not line.startswith(("--mixture:", "--run:"))]
    assert len(lines) == 1 and all(part in lines[0] for part in told), lines


def test_every_fault_is_told_once_and_all_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bad = ["--max-samples", "0", "--sources", "wikpedia,wikpedia", "--alhpa", "9", "--model", "./none", "--run", "../x"]
    status, lines = answered(capsys, "corpus-to-model", "--store", str(tmp_path), *bad)
    assert status == 2
    assert sorted(line.partition(":")[0] for line in lines) == [
        *("--alhpa", "--alpha", "--max-samples", "--model", "--run", "--sources"),
    ]


def test_names_in_the_store_are_held_against_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = finished_runs(sealed_store := tmp_path / "store", "distrust", "other")
    sealed(sealed_store, "raw/wikipedia", "scored/wikipedia", "balanced/default")
    for arguments, said in {
        ("evaluate-adapter", "--run", "distrsut"): "did you mean 'distrust'?",
        ("evaluate-adapter", "--others", "othr"): "--others: 'othr' is not",
        ("export-model", "--run", "X"): "choose from: distrust, other",
        ("train-adapter", "--mixture", "defualt"): "did you mean 'default'?",
        ("train-adapter", "--resume-from", "checkpoint-9"): "--resume-from: 'checkpoint-9'",
        ("score-corpus", "--sources", "wikipdia"): "did you mean 'wikipedia'?",
        ("rebalance-corpus", "--sources", "wikipdia"): "did you mean 'wikipedia'?",
    }.items():
        status, lines = answered(capsys, *arguments, "--store", store)
        assert status == 2 and len(lines) == 1 and said in lines[0], (arguments, lines)


def test_what_is_missing_without_being_named_is_no_bad_argument(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, lines = answered(capsys, "evaluate-adapter", "--store", str(tmp_path))
    assert status == 1 and "train-adapter --run distrust" in lines[0]


async def test_a_run_from_the_ui_is_judged_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def no_block(block: Any) -> None:
        return None

    monkeypatch.setattr("blocks.defaults.load_default", no_block)
    store = finished_runs(tmp_path, "distrust")
    with pytest.raises(ParameterError, match=r"run: 'distrsut' .* did you mean 'distrust'\?"):
        await FORMS["evaluate-adapter"](run="distrsut", store=store).open_store()
    with pytest.raises(ParameterError, match="wikipedia"):
        await FORMS["corpus-to-model"](sources=["wikpedia"], store=store).open_store()
    assert (await FORMS["evaluate-adapter"](store=store).open_store()).root == tmp_path.resolve()


def test_a_look_may_be_taken_of_a_store_that_cannot_be_written() -> None:
    for name, looking in {"download-corpus": "dry_run", "train-adapter": "plan", "score-corpus": "explain"}.items():
        form = FORMS[name]
        value = "a:b" if looking == "explain" else True
        assert list(form(**{looking: value}).faults(Layout(Path("/dev/null")))) == []


@pytest.mark.prefect
async def test_a_saved_block_keeps_the_command_line_from_judging(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from blocks.corpus_store import CorpusStore

    monkeypatch.setattr("blocks.saved.ANSWER_SECONDS", 30.0)  # a busy machine must not decide this test
    monkeypatch.setenv("DISTRUST_BLOCKS", "of-this-test")
    assert may_name_a_store() is False
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    assert may_name_a_store() is False
    await CorpusStore(root=str(tmp_path)).save("of-this-test")
    assert may_name_a_store() is True


class Stranger(http.server.BaseHTTPRequestHandler):
    status, body = 200, b"<html>"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def listening(handler: type[Stranger]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()


class Drip(Stranger):
    def do_GET(self) -> None:
        with suppress(OSError):
            while True:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX: a" if self.body else b"a")
                self.body = b""
                time.sleep(0.05)


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (Stranger, "does not answer like one"),
        (type("Lost", (Stranger,), {"status": 404}), "status 404"),
        (type("Ill", (Stranger,), {"status": 503}), "status 503"),
        (Drip, "did not answer within"),
    ],
)
def test_a_server_that_is_none_is_named_in_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], handler: Any, said: str
) -> None:
    monkeypatch.setattr(terminal, "SERVER_SECONDS", 2.0)
    with listening(handler) as address:
        monkeypatch.setenv("PREFECT_API_URL", address)
        status, (line,) = answered(capsys, "score-corpus")
    assert status == 1 and said in line and address in line and "unset PREFECT_API_URL" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("PREFECT_API_URL", url) for url in ("http://127.0.0.1:9/api", "nonsense", "ftp://127.0.0.1:9/x")),
        ("PREFECT_API_URL", "http://me:word@[::1/"),
        ("PREFECT_HOME", "/proc/none"),
    ],
)
def test_a_setting_that_leads_nowhere_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    status, (line,) = answered(capsys, "score-corpus")
    assert status == 1 and name in line and value.rpartition("@")[2] in line and "word" not in line


def test_a_server_that_wants_a_password_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for status, body in ((401, b"{}"), (200, b"true")):
        with listening(type("Door", (Stranger,), {"status": status, "body": body})) as address:
            monkeypatch.setenv("PREFECT_API_URL", address)
            assert terminal.why_no_run() is None


def test_a_defect_is_one_sentence_and_its_traceback_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(name: str, parameters: Any, stream: Any) -> None:
        raise KeyError("a key\nthat nobody foresaw")

    monkeypatch.setattr(command_line, "run", broken)
    monkeypatch.setattr(command_line, "local_server", nullcontext)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    status, lines = answered(capsys, "prune-store")
    assert status == 1 and len([line for line in lines if line]) == 1
    assert "prune-store stopped: KeyError: 'a key" in lines[-1]
    (log,) = tmp_path.glob("distrust-prune-store-*.log")
    assert str(log) in lines[-1] and "in broken" in log.read_text()
    monkeypatch.setenv(terminal.TRACEBACKS, "1")
    assert "in broken" in "\n".join(answered(capsys, "prune-store")[1])


@pytest.mark.prefect
def test_a_failed_run_ends_with_1_and_says_once_what_to_do(prefect_server: None, tmp_path: Path) -> None:
    (tmp_path / "raw" / "letters").mkdir(parents=True)
    (tmp_path / "raw" / "letters" / "manifest.json").write_text('{"kind": 3}')
    command = [sys.executable, "-m", "flows", "score-corpus", "--store", str(tmp_path)]
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    told = answer.stdout + answer.stderr
    assert answer.returncode == 1 and told.count("is not a manifest") == 1 and "Traceback" not in told, told
    assert str(tmp_path) in answer.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_store_on_a_full_disk_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults.why_not_writable(tmp_path / "new" / "store") is None
    full = partial(Path("/dev/full").open, "wb", buffering=0)
    monkeypatch.setattr("flows.faults.tempfile.TemporaryFile", lambda dir: full())
    assert faults.why_not_writable(tmp_path / "new" / "store") == "No space left on device"
