from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.__main__ import FLOWS, load_flow, main, parse

ROOT = Path(__file__).resolve().parents[2]


def options(*arguments: str) -> dict[str, Any]:
    model = load_flow("corpus-to-model").fn.parameters_model
    return parse("corpus-to-model", model, list(arguments))[0]


def test_options_are_the_fields_in_dash_case() -> None:
    given = options(
        "--max-samples", "40", "--sources", "us_patents,wikipedia", "--no-grad-checkpoint", "--alpha", "2.5"
    )
    assert given["max_samples"] == 40
    assert given["sources"] == ["us_patents", "wikipedia"]
    assert given["grad_checkpoint"] is False
    assert given["alpha"] == 2.5


def test_environment_variables_are_no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_SAMPLES", "7")
    monkeypatch.setenv("STORE", "elsewhere")
    assert options()["max_samples"] == 30_000 and options()["store"] == ""


@pytest.mark.parametrize("name", FLOWS)
def test_every_flow_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"python -m flows {name}" in shown and "--store" in shown and "--json" in shown


@pytest.mark.parametrize("arguments", [[], ["no-such-flow"], ["score-corpus", "--bogus"]])
def test_bad_arguments_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2


def test_all_faults_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpus-to-model", "--max-samples", "0", "--alpha", "9", "--run", "../x"]) == 2
    told = capsys.readouterr().err
    assert "--max-samples" in told and "--alpha" in told and "--run" in told and "'../x'" in told


def test_options_that_contradict_each_other_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-adapter", "--early-stop", "2", "--val-batches", "0"]) == 2
    told = capsys.readouterr().err
    assert "early_stop needs validations" in told and "got" not in told


@pytest.mark.prefect
def test_a_failed_run_ends_with_1_and_says_what_to_do(tmp_path: Path, prefect_server: None) -> None:
    import os

    from prefect.settings import PREFECT_API_URL

    answer = subprocess.run(
        [sys.executable, "-m", "flows", "rebalance-corpus", "--store", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value() or "")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1, answer.stderr
    assert "run python -m flows score-corpus first" in answer.stderr
    assert json.dumps(str(tmp_path))[1:-1] in answer.stderr
