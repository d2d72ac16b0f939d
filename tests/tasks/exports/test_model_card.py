from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.manifest import Manifest, record_shard, write_manifest
from tasks.exports.export_manifest import Agreement, ExportManifest
from tasks.exports.model_card import base_name, licence_of_base, metric_rows, write_card
from tasks.exports.parameters import ExportRequest
from tests.tasks.exports.conftest import write_mixture

MEASURED = Agreement(tokens=250, max_logit_difference=0.000012345, mean_logit_difference=1e-6, top1_agreement=0.996)
RATE = {"samples": 96, "passed": 48, "share": 0.5, "standard_error": 0.0123456, "low": 0.4, "high": 0.6}
RUN = {"model": "someone/tiny-llama", "recipe": {"alpha": 2.7, "objective": "weighted"}, "Z": 3.25}
MANIFEST = ExportManifest(
    name="tiny", inputs={}, parameters={}, quantized=False, verification=MEASURED, files=[], versions={}
)
EVALUATION = {"adapter": "checkpoint-20", "suites": {"authority": {"base": RATE}}}


@pytest.fixture
def request_of(specification: dict[str, Any]) -> ExportRequest:
    """An export of a run that was trained on a mixture and evaluated."""
    request = ExportRequest.model_validate(specification)
    (request.run_folder / "run.json").write_text(json.dumps(RUN))
    request.reports_folder.mkdir()
    (request.reports_folder / "evaluation_results.json").write_text(json.dumps(EVALUATION))
    return request


def test_front_matter_is_what_hubs_read(request_of: ExportRequest) -> None:
    _, front, body = write_card(request_of, MANIFEST).split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "someone/tiny-llama",
        "base_model_relation": "finetune",
        "library_name": "mlx",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["mlx", "lora", "empirical-distrust"],
    }
    assert body.strip().startswith("# tiny\n")


def test_body_has_data_recipe_metrics_and_fidelity(request_of: ExportRequest) -> None:
    card = write_card(request_of, MANIFEST)
    for line in (
        "| low | 50.0 % |",
        "| medium | 25.0 % |",
        "| high | 25.0 % |",
        "| logic | 50.0 % |",
        "| us_patents | 2 | 0.08 | public domain; public \\| domain |",
        "| wikipedia | 2 | 0.70 | CC BY-SA 4.0; not stated |",
        "| optimiser steps of the run | 20 |",
        "| alpha | 2.7 |",
        "| Z | 3.25 |",
        "| adapter rank | 4 |",
        "| suites / authority / base | 0.5 | 0.01235 | 0.4 to 0.6 | 96 |",
    ):
        assert line in card
    assert "in 99.6 % of the positions; the logits differ by at most 1.234e-05" in card
    assert "## Limits" in card
    assert write_card(request_of, MANIFEST) == card, "the same content gives the same card"


def test_what_is_missing_is_said(request_of: ExportRequest, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    folders = dict.fromkeys(("run_folder", "reports_folder", "balanced_folder", "model_path"), gone)
    manifest = MANIFEST.model_copy(update={"verification": None, "quantized": True})
    card = write_card(request_of.model_copy(update=folders), manifest)
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["license"], front["base_model"]) == ("unknown", "unknown")
    assert "quantized" in front["tags"]
    for sentence in ("states no licence", "no longer on disk", "No evaluation was recorded", "was not compared"):
        assert sentence in card


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ({"objective": "weighted", "lambda_weight": 1.0, "tau": 0.5}, "to give more weight to text"),
        ({"objective": "additive", "lambda_weight": 1.0}, "with plain cross-entropy"),
        ({"objective": "weighted", "lambda_weight": 0.0}, "with plain cross-entropy"),
        ({"objective": "weighted", "tau": 0.0}, "with plain cross-entropy"),
        ({"objective": "weighted", "weight_cap": 1.0}, "with plain cross-entropy"),
        (None, "What the adapter was trained for was not recorded."),
    ],
)
def test_the_card_claims_what_the_recipe_does(
    request_of: ExportRequest, recipe: dict[str, Any] | None, sentence: str
) -> None:
    (request_of.run_folder / "run.json").write_text(json.dumps({"model": "someone/tiny-llama", "recipe": recipe}))
    introduction = write_card(request_of, MANIFEST).split("# tiny\n")[1].split("## Use")[0]
    assert sentence in introduction
    assert ("primary sources" in introduction) == ("more weight" in sentence)


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ({"model": "org/model-7b"}, "org/model-7b"),
        ({"model": "/home/somebody/models/secret"}, "secret"),
        ({"model": "./models"}, "models"),
        ({"model_path": "/a/b/base"}, "base"),
        ({}, "unknown"),
    ],
)
def test_a_local_folder_is_named_without_its_path(run: dict[str, str], name: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert base_name(tmp_path) == name


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: llama3.1\n---\n", "llama3.1"),
        ("---\ntags: [a]\nlicense: 'mit'\n---\nlicense: wrong\n", "mit"),
        ("---\ntags: [a]\n---\nlicense: not-front-matter\n", None),
        ("# no front matter", None),
    ],
)
def test_licence_of_the_base(tmp_path: Path, text: str, licence: str | None) -> None:
    (tmp_path / "README.md").write_text(text)
    assert licence_of_base(tmp_path) == licence


def test_metrics_are_found_wherever_they_are() -> None:
    results = {
        "bands": [
            {"name": "low", "ratio": {"value": 2.0, "standard_error": 0.25, "low": 1.5, "high": 2.5, "samples": 10}},
            {"ratio": {"value": 3, "standard_error": None, "low": None, "high": None, "samples": 1}},
        ],
        "unmeasured": {"value": None, "standard_error": None, "samples": 0},
        "setting": {"value": 7},
        "note": "text",
    }
    assert list(metric_rows(results)) == [
        ["bands / low / ratio", "2", "0.25", "1.5 to 2.5", "10"],
        ["bands / 1 / ratio", "3", "", "", "1"],
    ]


def test_numbers_of_another_checkpoint_are_not_shown(request_of: ExportRequest) -> None:
    (request_of.run_folder / "checkpoint-20").rename(request_of.run_folder / "checkpoint-30")
    other = request_of.model_copy(update={"adapter": request_of.run_folder / "checkpoint-30"})
    card = write_card(other, MANIFEST)
    assert "evaluation is of checkpoint-20, not of this adapter" in card
    assert "0.01235" not in card


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ('{"licence": " CC0 "}', "CC0"),
        ('{"licence": null}', "not stated"),
        ('{"licence": " "}', "not stated"),
        ("[1]", "not stated"),
        ("{", "not stated"),
    ],
)
def test_licence_of_a_sample(request_of: ExportRequest, metadata: str, licence: str) -> None:
    write_mixture(request_of.balanced_folder, [("notebooks", 0.1, "logic", metadata)])
    assert f"| notebooks | 1 | 0.10 | {licence} |" in write_card(request_of, MANIFEST)


def test_a_mixture_that_was_made_anew_is_not_what_was_trained_on(request_of: ExportRequest) -> None:
    folder = request_of.balanced_folder
    shard = record_shard(folder, folder / "train" / "shard-00000.parquet")
    manifest = Manifest(kind="balanced", name="guide", shards=[shard])
    write_manifest(folder, manifest)
    for digest, shown in ((manifest.digest, True), ("a" * 64, False)):
        (request_of.run_folder / "run.json").write_text(json.dumps(RUN | {"mixture_digest": digest}))
        assert ("4 samples" in write_card(request_of, MANIFEST)) is shown


def test_the_card_shows_how_copies_sway_both_models(request_of: ExportRequest) -> None:
    half = {"samples": 96, "value": 0.5, "standard_error": 0.01, "low": 0.4, "high": 0.6}
    side = {"curve": {"1": {"probability": half, "log_odds": half}}, "shift": half | {"value": 1.25}}
    curves = {"facts": 96, "base": side, "adapter": side, "difference": {"1": half}, "removed": half | {"value": None}}
    evaluation = EVALUATION | {"repetition": curves | {"publishers": {"person": curves | {"facts": 48}}}}
    (request_of.reports_folder / "evaluation_results.json").write_text(json.dumps(evaluation))
    card = write_card(request_of, MANIFEST)
    interval = "0.50 (0.40 to 0.60)"
    assert f"| all | 1 | {interval} | {interval} | {interval} | {interval} |" in card
    assert "| person | 48 | 1.25 (0.40 to 0.60) | 1.25 (0.40 to 0.60) | not measured |" in card
    assert "curve" not in card, "the table of all metrics does not hold the curve again"
