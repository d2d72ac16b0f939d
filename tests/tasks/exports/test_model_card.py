from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.manifest import Manifest, record_shard, write_manifest
from tasks.exports.manifest import ExportManifest
from tasks.exports.model_card import CardContent, base_name, cell, licence_of_base, metric_rows, write_card
from tasks.exports.training_data import TrainingData, count_training_data, licence_of
from tests.tasks.exports.conftest import write_mixture

MEASURED = {"tokens": 250, "max_logit_difference": 0.000012345, "mean_logit_difference": 1e-6, "top1_agreement": 0.996}

SHARE = {"samples": 96, "passed": 48, "share": 0.5, "standard_error": 0.0123456, "low": 0.4, "high": 0.6}


def content(tmp_path: Path, **changes: Any) -> CardContent:
    write_mixture(tmp_path / "mixture")
    manifest = ExportManifest(
        name="tiny", inputs={}, parameters={}, quantized=False, verification=MEASURED, files=[], versions={}
    )
    fields: dict[str, Any] = {
        "run": {"model": "someone/tiny-llama", "recipe": {"alpha": 2.7, "objective": "weighted"}, "Z": 3.25},
        "result": {"steps": 20, "adapter": "checkpoint-20"},
        "checkpoint": "checkpoint-20",
        "adapter": {"lora_parameters": {"rank": 4, "scale": 2.0}},
        "evaluation": {"adapter": "checkpoint-20", "suites": {"authority": {"base": SHARE}}},
        "data": count_training_data(tmp_path / "mixture", None),
        "base_licence": "apache-2.0",
        "manifest": manifest,
    }
    return CardContent(**(fields | changes))


def test_front_matter_is_what_hubs_read(tmp_path: Path) -> None:
    _, front, body = write_card(content(tmp_path)).split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "someone/tiny-llama",
        "base_model_relation": "finetune",
        "library_name": "mlx",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["mlx", "lora", "empirical-distrust"],
    }
    assert body.strip().startswith("# tiny\n")


def test_body_tells_data_recipe_metrics_and_fidelity(tmp_path: Path) -> None:
    card = write_card(content(tmp_path))
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


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    base = content(tmp_path)
    manifest = base.manifest.model_copy(update={"verification": None, "quantized": True})
    card = write_card(
        content(tmp_path, run={}, result={}, evaluation={}, data=TrainingData(), base_licence=None, manifest=manifest)
    )
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "unknown"
    assert front["base_model"] == "unknown"
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
def test_the_card_claims_what_the_recipe_does(tmp_path: Path, recipe: dict[str, Any] | None, sentence: str) -> None:
    card = write_card(content(tmp_path, run={"model": "someone/tiny-llama", "recipe": recipe}))
    introduction = card.split("# tiny\n")[1].split("## Use")[0]
    assert sentence in introduction
    assert ("primary sources" in introduction) == ("more weight" in sentence)


def test_the_same_content_gives_the_same_card(tmp_path: Path) -> None:
    assert write_card(content(tmp_path)) == write_card(content(tmp_path))


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
def test_a_local_folder_is_named_without_its_path(run: dict[str, str], name: str) -> None:
    assert base_name(run) == name


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


def test_licence_of_a_base_without_card(tmp_path: Path) -> None:
    assert licence_of_base(tmp_path) is None


def test_metrics_are_found_wherever_they_lie() -> None:
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


def test_numbers_of_another_checkpoint_are_not_shown(tmp_path: Path) -> None:
    card = write_card(content(tmp_path, checkpoint="checkpoint-30"))
    assert "evaluation is of checkpoint-20, not of this adapter" in card
    assert "0.01235" not in card


def test_a_cell_cannot_break_out_of_its_table() -> None:
    assert cell("a|b\n<script>\\") == "a\\|b &lt;script>\\\\"


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ('{"licence": " CC0 "}', "CC0"),
        ('{"licence": null}', "not stated"),
        ("{}", "not stated"),
        ("[1]", "not stated"),
        ("{", "not stated"),
    ],
)
def test_licence_of_a_sample(metadata: str, licence: str) -> None:
    assert licence_of(metadata) == licence


def test_a_mixture_that_is_gone_counts_nothing(tmp_path: Path) -> None:
    data = count_training_data(tmp_path, None)
    assert (data.samples, data.bands) == (0, Counter())


def test_a_mixture_that_was_made_anew_is_not_what_was_trained_on(tmp_path: Path) -> None:
    write_mixture(tmp_path)
    shard = tmp_path / "train" / "shard-00000.parquet"
    manifest = Manifest(kind="balanced", name="guide", shards=[record_shard(tmp_path, shard)])
    write_manifest(tmp_path, manifest)
    assert count_training_data(tmp_path, manifest.digest).samples == 4
    assert count_training_data(tmp_path, "a" * 64).samples == 0
