from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from storage.errors import ParameterError
from storage.parquet import read_shard, write_shard
from storage.schemas import RAW_SCHEMA, SCORED_SCHEMA
from tasks.signals import shards
from tasks.signals.custom import CustomSignal, load_signal
from tasks.signals.overlay import Mode
from tasks.signals.shards import score_shard
from tests.tasks.signals.raw_documents import raw_table

SIGNAL = """
def score(documents):
    years = documents.column("year").to_pylist()
    return {"auth_weight": [0.9 if year > 1970 else None for year in years], "prov_entropy": [2.0] * len(years)}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my_signals.py"
    path.write_text(SIGNAL)
    yield path
    sys.modules.pop("my_signals", None)


def scores(tmp_path: Path, signal: CustomSignal | None, texts: list[str], **fields: object) -> list[dict[str, object]]:
    raw, scored = tmp_path / "raw" / "shard-0.parquet", tmp_path / "scored" / "shard-0.parquet"
    write_shard(raw, raw_table(texts, **fields), RAW_SCHEMA)
    score_shard(raw, scored, None, signal=signal)
    return read_shard(scored, SCORED_SCHEMA).to_pylist()


def test_a_signal_replaces_scores_and_a_null_leaves_them(module: Path, tmp_path: Path) -> None:
    old = scores(tmp_path, load_signal("my_signals:score"), ["I measured it."])[0]
    built_in = scores(tmp_path, None, ["I measured it."])[0]
    assert (old["auth_weight"], old["prov_entropy"]) == (built_in["auth_weight"], 2.0)
    new = scores(tmp_path, load_signal("my_signals:score"), ["I measured it."], year=1999)[0]
    assert new["auth_weight"] == pytest.approx(0.9) and new["band"] == "high"
    assert new["components"]["overrides"] == "signal my_signals:score: auth_weight, prov_entropy"  # type: ignore[index]


def test_a_signal_joins_the_built_in_scores(module: Path, tmp_path: Path) -> None:
    built_in = scores(tmp_path, None, ["I measured it."])[0]
    joined = scores(tmp_path, load_signal("my_signals:score", "join"), ["I measured it."])[0]
    assert joined["prov_entropy"] == pytest.approx((built_in["prov_entropy"] + 2.0) / 2)  # type: ignore[operator]
    assert joined["components"]["overrides"].startswith("joined with signal")  # type: ignore[index]


def test_every_batch_reaches_the_signal_in_order(module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module.write_text(
        "def score(documents):\n"
        "    return {'auth_weight': [int(i.split(':')[1]) / 100 for i in documents.column('id').to_pylist()]}\n"
    )
    seen: list[int] = []
    signal = load_signal("my_signals:score")

    def count(documents: pa.Table) -> object:
        seen.append(documents.num_rows)
        return signal.function(documents)

    monkeypatch.setattr(shards, "BATCH_BYTES", 200)
    monkeypatch.setattr(shards, "BATCH_ROWS", 7)
    texts = ["word " * (n % 9) for n in range(90)]
    texts[40] = "word " * 2000  # longer than fifty batches
    found = scores(tmp_path, dataclasses.replace(signal, function=count), texts)
    assert [row["id"] for row in found] == [f"books:{n}" for n in range(90)]
    assert [row["auth_weight"] for row in found] == pytest.approx([n / 100 for n in range(90)])
    assert len(seen) > 12 and sum(seen) == 90 and max(seen) > 1


def test_a_shard_in_many_batches_scores_as_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"I measured it in {1900 + n}. Experts agree." * (n % 5) for n in range(90)]
    texts[40] = "According to the World Health Organization. " * 500
    whole = scores(tmp_path, None, texts)
    monkeypatch.setattr(shards, "BATCH_BYTES", 200)
    assert scores(tmp_path, None, texts) == whole


def test_the_signal_sees_the_text_that_is_trained_on(module: Path, tmp_path: Path) -> None:
    module.write_text(
        "def score(documents):\n    return {'prov_entropy': [len(t) / 10 for t in documents['text'].to_pylist()]}\n"
    )
    assert scores(tmp_path, load_signal("my_signals:score"), ["a\r\nb-\nc"])[0]["prov_entropy"] == pytest.approx(0.4)


def test_another_source_is_another_identity_and_takes_effect(module: Path) -> None:
    before = load_signal("my_signals:score")
    assert load_signal("my_signals:score").identity == before.identity
    assert load_signal("my_signals:score", "join").identity != before.identity
    module.write_text(SIGNAL.replace("2.0", "3.25"))
    after = load_signal("my_signals:score")
    assert after.identity != before.identity
    assert after.function(raw_table([""]))["prov_entropy"] == [3.25]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_signals", "not spelt module:function"),
        (":score", "not spelt module:function"),
        ("my_signals:", "not spelt module:function"),
        ("no_such_module_here:score", "cannot be imported.*ModuleNotFoundError"),
        ("my_signals:grade", "holds no function 'grade'"),
        ("sys:exit", "no source file"),
    ],
)
def test_what_is_no_signal_is_told(module: Path, name: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        load_signal(name)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [0.5]", "must return a pyarrow table or a mapping"),
        ("return {'authority': [0.5]}", r"it returned \['authority'\]"),
        ("return None", "mapping with any of .*; it returned NoneType"),
        ("return {'auth_weight': 0.5}", "returned a single float of auth_weight for 1 documents"),
        ("return {'auth_weight': None}", "returned a single NoneType of auth_weight for 1 documents"),
        ("return {'trivium_category': 'l'}", "returned a single str of trivium_category for 1 documents"),
        ("return {'auth_weight': []}", "returned 0 values of auth_weight for 1 documents"),
        ("return {'auth_weight': [1.2]}", "gave 'books:0' the auth_weight 1.2; it must lie from 0 to 0.99"),
        ("return {'prov_entropy': ['many']}", "prov_entropy 'many'; it must be a number"),
        ("raise RuntimeError('no luck')", "failed on the documents 'books:0' to 'books:0' .RuntimeError: no luck"),
    ],
)
def test_a_broken_contract_is_told_and_nothing_is_written(
    module: Path, tmp_path: Path, body: str, message: str
) -> None:
    module.write_text(f"def score(documents):\n    {body}\n")
    with pytest.raises(ParameterError, match=message):
        scores(tmp_path, load_signal("my_signals:score"), ["I measured it."])
    assert not list((tmp_path / "scored").glob("*.parquet"))


@pytest.mark.parametrize("mode", ["replace", "join"])
def test_numpy_and_arrow_answers_count_too(module: Path, tmp_path: Path, mode: Mode) -> None:
    module.write_text(
        "import numpy as np, pyarrow as pa\n"
        "def numbers(documents):\n    return {'auth_weight': np.full(documents.num_rows, 0.5)}\n"
        "def table(documents):\n    return pa.table({'auth_weight': [0.5] * documents.num_rows})\n"
    )
    first, second = (scores(tmp_path, load_signal(f"my_signals:{name}", mode), [""]) for name in ("numbers", "table"))
    assert first[0]["auth_weight"] == second[0]["auth_weight"]
