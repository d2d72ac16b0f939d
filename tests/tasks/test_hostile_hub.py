"""Whatever a Hub answers about its repositories, what reads it raises a declared error and writes below its cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.bounded import BOUNDED
from tests.tasks.answering_hub import COMMIT, AnsweringHub
from tests.tasks.sources.test_hostile_answers import NASTY, SCALARS

FEW = settings(BOUNDED, max_examples=25)
MOST_REQUESTS = 60
KEYS = ["rfilename", "path", "type", "size", "oid", "blobId", "lfs", "sha256", "pointerSize", "lastCommit", "id", "sha"]
VALUES = st.recursive(
    st.one_of(SCALARS, st.sampled_from(["model.safetensors", "config.json", "../../evil.json", "/evil.json", COMMIT])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)),
    max_leaves=15,
)
FILE_NAMES = st.one_of(
    st.sampled_from(["model.safetensors", "config.json", "train.jsonl", "data/train.parquet", "../../evil.json"]), NASTY
)
SIZES = st.one_of(st.integers(-1, 100), st.just(10**30), SCALARS)
SIBLINGS = st.lists(
    st.fixed_dictionaries({"rfilename": FILE_NAMES}, optional={"size": SIZES, "lfs": VALUES, "blobId": VALUES}),
    max_size=4,
)
INFOS = st.fixed_dictionaries(
    {"id": st.one_of(st.just("org/name"), VALUES)},
    optional={
        "sha": st.one_of(st.just(COMMIT), VALUES),
        "siblings": st.one_of(SIBLINGS, VALUES),
        "tags": VALUES,
        "cardData": VALUES,
        "config": VALUES,
        "gated": VALUES,
        "safetensors": VALUES,
        "lastModified": VALUES,
    },
)
ENTRIES = st.fixed_dictionaries(
    {"path": FILE_NAMES, "type": st.sampled_from(["file", "directory"])},
    optional={"size": SIZES, "oid": VALUES, "lfs": VALUES, "lastCommit": VALUES},
)
TREES = st.one_of(st.lists(ENTRIES, max_size=4), VALUES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hub") / "below" / "home"
    place.mkdir(parents=True)
    return place


@pytest.fixture(scope="module")
def hub(place: Path) -> Iterator[AnsweringHub]:
    hub = AnsweringHub(place)
    with hub.listening():
        yield hub


def check(hub: AnsweringHub, answer: dict[str, Any], place: Path) -> None:
    assert "defect" not in answer, answer
    assert hub.asked <= MOST_REQUESTS, "the walk is bounded"
    assert [path.name for path in place.parent.iterdir()] == [place.name], "nothing is written beside the cache"
    assert [path.name for path in place.parent.parent.iterdir()] == ["below"]


def model(sha: Any = COMMIT, **file: Any) -> dict[str, Any]:
    return {"id": "org/name", "sha": sha, "siblings": [{"rfilename": "model.safetensors", "size": 2, **file}]}


@FEW
@given(st.one_of(INFOS, VALUES), TREES)
@example([], [])
@example(model(size="many"), [])
@example(model(size=float("inf")), [])
@example(model(lfs={"size": 2}), [])
@example(model(sha="../../evil"), [])
@example(model(sha="c" * 40), [])
@example({**model(), "siblings": [{}]}, [])
@example({**model(), "cardData": 7}, [])
def test_what_is_said_of_a_model(hub: AnsweringHub, place: Path, info: Any, tree: Any) -> None:
    hub.info, hub.tree = info, tree
    answer = hub.ask("model")
    check(hub, answer, place)
    if "folder" in answer:
        assert Path(answer["folder"]).is_relative_to(place)


@FEW
@given(st.one_of(INFOS, VALUES), TREES)
@example({"id": "org/name", "sha": "main"}, [])
@example({"id": "org/name", "sha": "../../evil"}, [])
@example({"id": "org/name", "sha": COMMIT}, [{"type": "file", "path": "train.jsonl"}])
@example({"id": "org/name", "sha": COMMIT}, [{"type": "file", "path": "../../train.jsonl", "size": 2, "oid": "x"}])
def test_what_is_said_of_a_dataset(hub: AnsweringHub, place: Path, info: Any, tree: Any) -> None:
    hub.info, hub.tree = info, tree
    answer = hub.ask("dataset")
    check(hub, answer, place)
    if "revision" in answer:
        assert answer["revision"] == COMMIT


def test_a_sound_model_is_fetched(hub: AnsweringHub, place: Path) -> None:
    hub.info = model()
    hub.tree = [{"type": "file", "path": "model.safetensors", "size": 2, "oid": "0" * 40}]
    assert Path(hub.ask("model")["folder"]).is_relative_to(place)
