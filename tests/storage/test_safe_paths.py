"""Names that files carry never lead out of the folder that they are in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from storage.errors import ParameterError, StoreError
from storage.layout import Layout, checked_name
from storage.manifest import MANIFEST, ShardRecord, read_manifest
from storage.safe_paths import checked_file
from storage.training_result import RESULT, RUN, read_training_result

HOSTILE = ["../shard.parquet", "/etc/passwd", "train/../../x", "a//b", "./a", "a/.", "", "..", "..\\..\\x", "C:evil"]
HOSTILE += ["a\0b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_manifest_names_no_file_outside_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        ShardRecord(file=name, rows=1, bytes=1, sha256="")
    shard = {"file": name, "rows": 1, "bytes": 1, "sha256": ""}
    (tmp_path / MANIFEST).write_text(json.dumps({"kind": "raw", "name": "x", "shards": [shard]}))
    with pytest.raises(StoreError, match="is not a manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", [*HOSTILE, 7, None, ["a"]])
def test_a_result_names_no_adapter_outside_its_run(name: object, tmp_path: Path) -> None:
    result = {"adapter": name, "model_path": "/m", "steps": 9, "recipe_digest": "r", "data_digest": "d"}
    (tmp_path / RESULT).write_text(json.dumps(result))
    (tmp_path / RUN).write_text(json.dumps({"balanced": "/b"}))
    with pytest.raises(StoreError, match=r"damaged result .*is not the path of a file below its own folder"):
        read_training_result(tmp_path)


@given(st.text(alphabet=st.sampled_from("ab./\\:\0é "), max_size=20))
def test_what_is_accepted_stays_inside(name: str) -> None:
    try:
        accepted = checked_file(name)
    except ValueError:
        return
    place = os.path.normpath(os.path.join("/folder", accepted))
    assert place.startswith("/folder/")


@pytest.mark.parametrize("name", [*HOSTILE, "a/b", ".hidden", "-x/y", "x" * 101, "a\n", "ünï"])
@pytest.mark.parametrize("place", ["raw", "unfinished", "scored", "balanced", "run", "reports", "comparison", "export"])
def test_no_name_of_a_user_or_an_archive_leaves_the_store(place: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError):
        getattr(Layout(tmp_path), place)(name)


@given(st.text(max_size=30))
def test_a_plain_name_is_one_step(name: str) -> None:
    try:
        accepted = checked_name(name, "name")
    except ParameterError:
        return
    assert Path(accepted).name == accepted and accepted not in (".", "..")
