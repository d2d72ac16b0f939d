from __future__ import annotations

import json
from pathlib import Path

import pytest

from storage.errors import StoreError
from tasks.lora.samples import read_samples


def test_parquet_and_json_lines_give_the_same(mixture: Path, tmp_path: Path) -> None:
    from_shards = read_samples(mixture, "train")
    lines = [
        json.dumps({"text": text, "auth_weight": float(auth), "prov_entropy": float(bits), "other": 1})
        for text, auth, bits in zip(
            from_shards.texts, from_shards.auth_weights, from_shards.prov_entropies, strict=True
        )
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n\n", "utf-8")
    from_lines = read_samples(tmp_path, "train")
    assert from_lines.texts == from_shards.texts
    assert from_lines.auth_weights.tolist() == from_shards.auth_weights.tolist()
    assert len(from_lines) == 24


def test_a_missing_split_and_a_bad_line_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no train samples; run rebalance-corpus"):
        read_samples(tmp_path, "train")
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n', "utf-8")
    with pytest.raises(StoreError, match="line 1: not a sample"):
        read_samples(tmp_path, "train")
    (tmp_path / "train.jsonl").write_text('{"text": 3, "auth_weight": 0.1, "prov_entropy": 1}\n', "utf-8")
    with pytest.raises(StoreError, match="wrong type"):
        read_samples(tmp_path, "train")
