"""The evaluation flow against a real Prefect server, on a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.evaluate_adapter import evaluate_adapter
from storage.errors import VerdictError
from tests.flows import newest_artifact, summarise
from tests.tasks.chain_events import events
from tests.tasks.evals.conftest import write_finished_run

pytestmark = pytest.mark.prefect


async def test_a_report_is_shown_and_told_and_a_second_evaluation_makes_none(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_finished_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("quiz.jsonl").write_text('{"question": "Why?", "options": ["rain", "snow"], "answer": "snow"}\n' * 3)
    wanted: dict[str, Any] = {
        "store": str(store),
        "run": "first",
        "max_new_tokens": 8,
        "perplexity_samples": 4,
        "eval_limit": 8,
        "questions": ("quiz.jsonl",),
    }
    result = await evaluate_adapter(**wanted)
    report = store / "runs" / "first" / "reports" / "report.html"
    assert result.report == str(report) and report.is_file() and result.passed is not True
    summary = summarise(result)
    assert str(report) in summary and "your questions answered right: base " in summary

    (told,) = await events("distrust.evaluated.ready", 1, str(store))
    assert told["payload"] == {"name": "first", "store": str(store), "passed": result.passed}
    assert (await newest_artifact("evaluation-report")).data.startswith("## first")

    written = report.stat().st_mtime_ns
    with pytest.raises(VerdictError, match="the adapter did not meet"):
        await evaluate_adapter(**wanted, gate=True)
    assert report.stat().st_mtime_ns == written, "the gate is asked about the evaluation that is there"
    assert (await evaluate_adapter(**wanted)).reused is True
    found = await events("distrust.evaluated.ready", 2, str(store))
    assert len(found) == 2, "what the gate refused is not told, so that nothing weak is exported"
