"""The histograms of a mixture's sources, from its metadata to the HTML report."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tasks.evals.evaluate import evaluate_run
from tasks.evals.spec import EvaluationSpec
from tests.tasks.evals.conftest import write_mixture
from tests.tasks.evals.test_evaluate import make_spec


def bins(**counts: int) -> list[int]:
    return [counts.get(f"b{place}", 0) for place in range(20)]


def test_every_source_of_the_mixture_has_its_histograms(run_folder: Path, base_model: Path, tmp_path: Path) -> None:
    mixture = write_mixture(tmp_path / "mixture")
    histograms = {
        "press": {"auth_weight": bins(b15=40, b16=20), "prov_entropy": bins(b3=60)},
        "patents": {"auth_weight": bins(b1=1234), "prov_entropy": bins(b14=1000, b15=234)},
        "not_drawn": {"auth_weight": bins(), "prov_entropy": bins()},
    }
    (mixture / "metadata.json").write_text(json.dumps({"histograms": histograms}))
    spec = make_spec(run_folder, base_model, mixture, tmp_path / "reports", suites=["distrust_signal"])
    evaluate_run(EvaluationSpec.model_validate(spec), lambda event, **fields: None)
    html = (tmp_path / "reports" / "report.html").read_text("utf-8")
    named = re.findall(r'class="histogram (\w+)" role="img" aria-label="(\w+) of (\w+)"', html)
    assert named == [
        *(("low", column, "patents") for column in ("authority", "entropy")),
        *(("high", column, "press") for column in ("authority", "entropy")),
    ]
    assert "1,234" in html and "not_drawn" not in html
    authority_of_press = html.partition('aria-label="authority of press"')[2].partition("</div>")[0]
    assert re.findall(r"left:([\d.]+)%;width:([\d.]+)%;height:([\d.]+)%", authority_of_press) == [
        ("75.0", "5.0", "100.0"),
        ("80.0", "5.0", "50.0"),
    ]
