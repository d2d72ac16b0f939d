from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storage.chat_layout import ChatLayout
from storage.errors import MixtureError, ParameterError
from storage.parquet import read_shard, write_shard
from storage.schemas import SAMPLE_SCHEMA
from tasks.lora.data import TrainingData, load_training_data
from tasks.lora.recipe import Recipe
from tests.tasks.lora.test_samples import Letters


def load(mixture: Path, **changes: Any) -> TrainingData:
    return load_training_data(mixture, ChatLayout(Letters()), Recipe(**changes))


def test_weights_have_a_token_mean_of_one_and_the_published_ratio(mixture: Path) -> None:
    data = load(mixture, max_seq_length=64)
    weights, tokens = data.train.weights.astype(float), data.train.sequences.supervised
    assert (weights * tokens).sum() / tokens.sum() == pytest.approx(1.0, rel=1e-6)
    assert weights.max() / weights.min() == pytest.approx(27.02, abs=0.01)
    assert data.valid is not None
    assert set(data.valid.weights) <= set(data.train.weights), "validation is weighed with the training set's Z"
    assert data.facts.tokens == tokens.sum() and data.facts.most_repeats == 1.0
    assert 0.25 < data.facts.effective_sample_share < 1
    (line,) = data.warnings()
    assert "Effective sample size: " in line


@pytest.mark.parametrize("changes", [{"lambda_weight": 0.0}, {"objective": "additive"}])
def test_lambda_zero_and_the_additive_objective_weigh_all_alike(mixture: Path, changes: dict[str, Any]) -> None:
    data = load(mixture, **changes)
    assert data.facts.Z == 1.0 and data.facts.effective_sample_share == pytest.approx(1.0)
    assert (data.train.weights == 1.0).all()
    assert data.train.penalties.max() == pytest.approx(149.8, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "least", "most"),
    [
        ({}, 5.58, 150.80),
        ({"tau": 0.5}, 1 + 2.7 * 1.302585, 1 + 2.7 * 7.448707),
        ({"weight_cap": 20.0}, 5.58, 20.0),
        ({"tau": 0.0}, 3.7, 3.7),
    ],
)
def test_tau_and_cap_soften_the_weights(mixture: Path, changes: dict[str, Any], least: float, most: float) -> None:
    data = load(mixture, max_seq_length=64, **changes)
    weights = data.train.weights.astype(float) * data.facts.Z
    # ce + lambda * distrust is Z times what is minimised, softened or not
    assert 1 + data.train.penalties.astype(float) == pytest.approx(weights, rel=1e-5)
    assert (weights.min(), weights.max()) == pytest.approx((least, most), abs=0.01)


def test_importance_sampling_moves_the_weight_into_the_draw(mixture: Path) -> None:
    data = load(mixture, sampling="importance")
    shares = data.train.draw_probabilities
    assert (data.train.weights == 1.0).all() and shares is not None
    assert shares.sum() == pytest.approx(1.0)
    assert shares.max() / shares.min() == pytest.approx(27.02, abs=0.01)


def rewritten(mixture: Path, folder: Path, authority: list[float]) -> Path:
    for split in ("train", "valid"):
        table = read_shard(mixture / split / "shard-00000.parquet", SAMPLE_SCHEMA).slice(0, len(authority))
        entropy = [7.5 if value < 0.5 else 1.0 for value in authority]
        for name, values in (("auth_weight", authority), ("prov_entropy", entropy)):
            column = pa.array(np.array(values, np.float32))
            table = table.set_column(table.schema.get_field_index(name), SAMPLE_SCHEMA.field(name), column)
        write_shard(folder / split / "shard-00000.parquet", table, SAMPLE_SCHEMA)
    return folder


def test_a_few_heavy_samples_raise_a_warning(mixture: Path, tmp_path: Path) -> None:
    folder = rewritten(mixture, tmp_path, [0.05] + [0.90] * 7)
    data, drawn = load(folder), load(folder, sampling="importance")
    assert data.facts.effective_sample_share < 0.25
    assert "sampling = importance" in data.warnings()[1]
    assert drawn.facts.most_repeats > 4 and "drawn up to" in drawn.warnings()[1]


def test_scores_outside_their_range_and_a_missing_split_are_refused(mixture: Path, tmp_path: Path) -> None:
    folder = rewritten(mixture, tmp_path, [1.5] + [0.90] * 7)
    with pytest.raises(ParameterError, match=r"authority weight 1\.5"):
        load(folder)
    (tmp_path / "valid" / "shard-00000.parquet").unlink()
    with pytest.raises(MixtureError, match="val_batches = 0"):
        load(folder)
