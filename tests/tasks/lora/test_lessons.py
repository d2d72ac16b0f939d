"""Lessons of a mixture: what each term takes of them, and which step takes which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.chat_layout import ChatLayout
from storage.errors import MixtureError
from storage.schemas import SAMPLE_SCHEMA
from tasks.lora.data import load_training_data
from tasks.lora.lessons import Lessons, LessonStream, TermBatch, read_lessons
from tasks.lora.recipe import Recipe
from tests.tasks.lora.test_samples import Letters
from tests.tasks.lora.tiny_model import tiny_lessons

BOTH = {"preference_weight": 1.0, "consistency_weight": 1.0}


LAYOUT = ChatLayout(Letters())


def recipe_of(**changes: Any) -> Recipe:
    return Recipe.model_validate({"max_seq_length": 64, "preference_rows": 4, "consistency_rows": 3} | changes)


def read(mixture: Path, **changes: Any) -> Lessons:
    return read_lessons(mixture, "train", LAYOUT, recipe_of(**BOTH | changes), required=True)


def spelt(tokens: Any) -> str:
    return "".join(chr(token) for token in tokens)


def test_a_lesson_is_a_pair_of_answers_and_a_choice_where_they_part(taught_mixture: Path) -> None:
    lessons = read(taught_mixture)
    assert (len(lessons.pairs), len(lessons.repetitions), lessons.left_out) == (10, 5, 0)
    pair = lessons.pairs[5]
    assert spelt(pair.chosen.tokens) == "User: Hot. Hot. Hot. Note 1905?\n\nAssistant: The note\x01"
    assert spelt(pair.rejected.tokens[pair.rejected.start :]) == " Copies\x01"
    assert (pair.chosen.size_bytes, pair.rejected.size_bytes) == (8, 6)
    one = lessons.repetitions[2]
    assert spelt(one.repeated.tokens) == "User: Hot. Hot. Hot. Note 1905?\n\nAssistant: "
    assert spelt(one.single.tokens) == "User: Hot. Note 1905?\n\nAssistant: "
    assert one.repeated.candidates == one.single.candidates == (ord("T"), ord("C"))
    assert (
        read(taught_mixture, preference_weight=0).pairs == read(taught_mixture, consistency_weight=0).repetitions == ()
    )


def test_json_lines_hold_lessons_as_well(taught_mixture: Path, tmp_path: Path) -> None:
    lessons = tiny_lessons("train", 10)
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lessons)), "utf-8")
    assert [spelt(pair.chosen.tokens) for pair in read(tmp_path).pairs] == [
        spelt(pair.chosen.tokens) for pair in read(taught_mixture).pairs
    ]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"preference_weight": 0.5}, r"preference_weight is 0\.5, but the train samples .* rejected.*rebalance-corpus"),
        ({"consistency_weight": 2}, r"consistency_weight is 2, .*repeated claim.* or set consistency_weight to 0"),
    ],
)
def test_a_term_without_lessons_says_what_to_do(mixture: Path, changes: dict[str, float], named: str) -> None:
    with pytest.raises(MixtureError, match=named):
        load_training_data(mixture, LAYOUT, recipe_of(**changes))


def test_lessons_that_are_too_long_are_counted_and_named(taught_mixture: Path) -> None:
    assert read(taught_mixture, max_seq_length=45).left_out == 3
    with pytest.raises(MixtureError, match=r"that fit into 16 tokens \(10 are longer\); raise max_seq_length"):
        read(taught_mixture, max_seq_length=16)


def test_a_mixture_of_lessons_alone_has_nothing_to_anchor(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, tiny_lessons("train", 4))), "utf-8")
    with pytest.raises(MixtureError, match=r"anchor_weight is 1, but all train samples of .* are lessons"):
        load_training_data(tmp_path, LAYOUT, recipe_of(anchor_weight=1, val_batches=0))


def test_terms_that_are_off_read_mixtures_of_earlier_versions(mixture: Path) -> None:
    assert {"rejected", "single", "lesson"} <= set(SAMPLE_SCHEMA.names)
    data = load_training_data(mixture, LAYOUT, recipe_of())
    assert data.train_lessons == data.valid_lessons == Lessons() and data.describe_terms(recipe_of()) == []


def chosen(batch: TermBatch) -> list[bytes]:
    """The rows of a batch; of pairs, the chosen answers."""
    return [row.tobytes() for row in batch.tokens[: batch.count]]


def test_each_lesson_comes_once_an_epoch_wherever_a_run_begins(taught_mixture: Path) -> None:
    recipe = recipe_of(**BOTH, preference_rows=5)
    stream = LessonStream(read(taught_mixture), recipe)
    steps = [list(stream.batches(step)) for step in range(4)]
    for term, per_step in (("preference", 5), ("consistency", 3)):
        counts = [sum(batch.count for batch in batches if batch.term == term) for batches in steps]
        assert counts == [per_step] * 4
    epochs = [[one for batches in steps[at : at + 2] for one in batches if one.term == "preference"] for at in (0, 2)]
    seen = [[row for batch in epoch for row in chosen(batch)] for epoch in epochs]
    assert len(set(seen[0])) == 10 and set(seen[0]) == set(seen[1]) and seen[0] != seen[1]
    again = list(LessonStream(read(taught_mixture), recipe).batches(3))
    assert [one.tokens.tolist() for one in again] == [one.tokens.tolist() for one in steps[3]]
    keys = [batch.dropout_key for batches in steps for batch in batches]
    assert len(set(keys)) == len(keys)


def test_a_batch_of_lessons_is_no_larger_than_a_micro_batch(taught_mixture: Path) -> None:
    recipe = recipe_of(**BOTH, preference_rows=10, consistency_rows=5, batch_tokens=256)
    sizes = [batch.tokens.size for batch in LessonStream(read(taught_mixture), recipe).batches(0)]
    assert max(sizes) <= 256 and len(sizes) < 15
    assert np.all(np.array(sizes) > 0)
