"""``python -m tasks.evals SPEC.json``: evaluate a run in a process of its own, which holds the accelerator."""

from __future__ import annotations

from storage.events import serve_specification
from tasks.evals.evaluate import evaluate_run
from tasks.evals.inputs import EvaluationSpec

if __name__ == "__main__":
    raise SystemExit(serve_specification(evaluate_run, EvaluationSpec))
