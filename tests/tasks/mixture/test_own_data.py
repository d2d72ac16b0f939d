from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from storage.errors import MixtureError, ParameterError, StoreError
from storage.parquet import read_shard
from storage.schemas import SAMPLE_SCHEMA
from tasks.mixture.own_data import SHOWN_ERRORS, build_own_mixture, read_samples

GOOD: dict[str, Any] = {
    "text": "User: Why?\n\nAssistant: Because.",
    "auth_weight": 0.15,
    "prov_entropy": 6.5,
    "trivium_category": "logic",
}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", "utf-8")
    return path


def test_the_guides_row_is_enough(tmp_path: Path) -> None:
    table = read_samples(write(tmp_path / "mine.jsonl", [GOOD, "", {**GOOD, "text": GOOD["text"] + " So."}]))
    assert table.schema == SAMPLE_SCHEMA
    first = table.to_pylist()[0]
    assert first["id"].startswith("mine:1:") and first["group_id"] == first["doc_id"] == first["id"]
    assert (first["source"], first["source_type"], first["metadata"]) == ("own_data", "unknown", "{}")


def test_optional_columns_are_kept(tmp_path: Path) -> None:
    row = {**GOOD, "id": "a#0", "doc_id": "a", "group_id": "g", "source": "diary", "metadata": {"year": 1901}}
    read = read_samples(write(tmp_path / "mine.jsonl", [row])).to_pylist()[0]
    assert (read["id"], read["doc_id"], read["group_id"], read["source"]) == ("a#0", "a", "g", "diary")
    assert json.loads(read["metadata"]) == {"year": 1901}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auth_weight": 1.2}, r":1: auth_weight is 1\.2, must be a number from 0 to 0\.99"),
        ({"auth_weight": True}, r"auth_weight is True, must be"),
        ({"auth_weight": "0.5"}, r"auth_weight is '0\.5', must be"),
        ({"auth_weight": float("nan")}, r"auth_weight is nan, must be"),
        ({"prov_entropy": -1}, r"prov_entropy is -1, must be a number from 0 to 10 bits"),
        ({"prov_entropy": None}, r"prov_entropy is missing, must be"),
        ({"trivium_category": "Logic"}, r"trivium_category is 'Logic', must be one of grammar, logic, rhetoric"),
        ({"text": "Because."}, r"text is 'Because\.', must read 'User: <prompt>'"),
        ({"text": "User: Why?\n\nAssistant:  "}, r"text is .* must read"),
        ({"text": 3}, r"text is 3, must be a string"),
        ({"id": ""}, r"id is '', must be a non-empty string"),
        ({"source_type": "blog"}, r"source_type is 'blog', must be one of patent_pre1970"),
        ({"metadata": [1]}, r"metadata is \[1\], must be an object"),
    ],
)
def test_a_bad_value_is_named_with_file_line_and_bound(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        read_samples(write(tmp_path / "mine.jsonl", [{**GOOD, **change}]))


def test_all_errors_come_at_once_but_not_too_many(tmp_path: Path) -> None:
    rows = ["{broken", "[1]", *[{**GOOD, "auth_weight": 2}] * SHOWN_ERRORS]
    with pytest.raises(ParameterError) as error:
        read_samples(write(tmp_path / "mine.jsonl", rows))
    lines = str(error.value).splitlines()
    assert "mine.jsonl:1: not JSON" in lines[0] and "mine.jsonl:2: holds a list" in lines[1]
    assert lines[-1] == "… and 2 more"


def test_repeated_ids_name_both_lines(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r":2: id 'x' is already that of line 1"):
        read_samples(write(tmp_path / "mine.jsonl", [{**GOOD, "id": "x"}] * 2))


def test_files_that_hold_nothing_or_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no samples"):
        read_samples(write(tmp_path / "empty.jsonl", []))
    with pytest.raises(StoreError, match="cannot be read"):
        read_samples(tmp_path / "missing.jsonl")


def test_a_mixture_of_own_files(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [{**GOOD, "text": f"{GOOD['text']} {i}"} for i in range(5)])
    (tmp_path / "other").mkdir()
    valid = write(tmp_path / "other" / "train.jsonl", [{**GOOD, "text": f"{GOOD['text']} no {i}"} for i in range(2)])
    manifest = build_own_mixture(train, valid, tmp_path / "own", {"train": "x"})
    assert manifest.counts == {"train": 5, "valid": 2}
    texts = read_shard(tmp_path / "own" / "train" / "shard-00000.parquet", SAMPLE_SCHEMA).column("text").to_pylist()
    assert [text[-1] for text in texts] == list("01234")
    assert json.loads((tmp_path / "own" / "metadata.json").read_text())["distribution"]["valid"]["total"] == 2


def test_a_text_on_both_sides_is_refused(tmp_path: Path) -> None:
    train, valid = write(tmp_path / "train.jsonl", [GOOD]), write(tmp_path / "val.jsonl", [GOOD])
    with pytest.raises(MixtureError, match="1 values of text are in training and in validation"):
        build_own_mixture(train, valid, tmp_path / "own", {})
    assert not (tmp_path / "own").exists()
