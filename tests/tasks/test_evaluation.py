from __future__ import annotations

from typing import Any

import pytest

from storage.errors import VerdictError
from tasks.evaluation import mind_the_gate


def verdict(title: str, passed: bool | None, *, decides: bool = True) -> dict[str, Any]:
    return {"title": title, "found": "0.90", "target": "at least 1.15", "passed": passed, "decides": decides}


def test_a_closed_gate_tells_value_and_bound_and_what_was_only_undecided() -> None:
    verdicts = [
        verdict("Distrust signal", False),
        verdict("Authority bias", None),
        verdict("General ability", True),
        verdict("Perplexity pattern", False, decides=False),
    ]
    with pytest.raises(VerdictError) as closed:
        mind_the_gate({"gate_failed": True, "verdicts": verdicts, "report": "report.html"})
    told = str(closed.value)
    assert told.startswith(
        "the adapter did not meet Distrust signal (found 0.90, target at least 1.15); "
        "Authority bias (found 0.90, target at least 1.15, undecided); read report.html"
    )
    assert "General ability" not in told and "Perplexity pattern" not in told


def test_an_open_gate_lets_a_weak_adapter_pass() -> None:
    mind_the_gate({"gate_failed": False, "verdicts": [verdict("Distrust signal", False)], "report": "report.html"})
