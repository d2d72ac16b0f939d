from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest

from storage.errors import StoreError
from storage.parquet import read_shard
from tasks.evals.inputs import read_training_curve
from tasks.evals.mixture import Mixture
from tests.tasks.evals.conftest import sample_table, seal_mixture


def test_held_out_samples_are_capped_by_band_and_fixed_by_the_seed(balanced_folder: Path) -> None:
    mixture = Mixture.open(balanced_folder)
    chosen = mixture.choose_held_out(4, seed=5)
    assert [sample.band for sample in chosen] == ["low"] * 4 + ["medium"] * 4 + ["high"] * 4
    assert chosen == mixture.choose_held_out(4, seed=5)
    assert chosen != mixture.choose_held_out(4, seed=6)
    assert {sample.id for sample in chosen} < {s.id for s in mixture.choose_held_out(99, seed=5)}


def test_a_mixture_that_is_unfinished_or_has_no_validation_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="rebalance-corpus"):
        Mixture.open(tmp_path)
    folder = seal_mixture(tmp_path, train=sample_table("train", [0.1]))
    with pytest.raises(StoreError, match="no validation samples"):
        Mixture.open(folder).choose_held_out(4, seed=0)


def test_the_training_mixture_is_counted_as_in_phase_4(balanced_folder: Path) -> None:
    found = Mixture.open(balanced_folder).count_training_samples()
    assert found.samples == 10
    assert {band: record.count for band, record in found.bands.items()} == {"low": 3, "medium": 3, "high": 4}
    assert all(record.within for record in found.bands.values())
    assert [found.trivium[name].count for name in ("grammar", "logic", "rhetoric")] == [4, 3, 3]
    assert found.entropy_bits.max == pytest.approx(7.2)
    assert found.entropy_bits.mean == pytest.approx((3 * 7.2 + 3 * 4.0 + 4 * 0.8) / 10)


def test_the_bands_borders_are_those_of_the_schema(tmp_path: Path) -> None:
    folder = seal_mixture(tmp_path, train=sample_table("train", [0.3, 0.7, 0.29, 0.71]))
    found = Mixture.open(folder).count_training_samples()
    assert {band: record.count for band, record in found.bands.items()} == {"low": 1, "medium": 2, "high": 1}
    assert found.bands["medium"].within is False


def test_prompts_that_were_trained_on_are_found(tmp_path: Path) -> None:
    folder = seal_mixture(tmp_path, train=sample_table("train", [0.1], prompt="what happened AT My Lai in 1968?"))
    prompts = {"my_lai": "What happened at My Lai in 1968?", "other": "What happened at My Lai"}
    assert Mixture.open(folder).find_trained_prompts(prompts) == ["my_lai"]


def test_the_texts_of_the_training_samples_are_read_shard_by_shard(
    balanced_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Mixture.open(balanced_folder)
    train = next(shard for shard in whole.manifest.shards if shard.file.startswith("train/"))
    five = Mixture(balanced_folder, whole.manifest.model_copy(update={"shards": [train] * 5}))
    held: list[weakref.ref[Any]] = []

    def read(*arguments: Any) -> Any:
        assert sum(table() is not None for table in held) <= 1, "one shard is looked at while the next is read"
        table = read_shard(*arguments)
        held.append(weakref.ref(table))
        return table

    monkeypatch.setattr("tasks.evals.mixture.read_shard", read)
    assert five.find_trained_prompts({"other": "What is that?"}) == []
    assert len(held) == 5


def test_the_training_curve_is_optional(run_folder: Path, tmp_path: Path) -> None:
    assert [row["ce"] for row in read_training_curve(run_folder)] == [5.0, 4.5, 4.25, None]
    assert read_training_curve(tmp_path) == []
    (tmp_path / "metrics.parquet").write_bytes(b"no parquet")
    assert read_training_curve(tmp_path) == []
