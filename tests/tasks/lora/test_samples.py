from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import MixtureError, StoreError
from tasks.lora.samples import Samples, TokenSequences, build_sequences, cut, read_samples

END = 1


def letters(texts: list[str]) -> list[list[int]]:
    return [[ord(letter) for letter in text] for text in texts]


def build(*texts: str, longest: int = 100, mask_prompt: bool = True, end: int | None = END) -> TokenSequences:
    scores = np.linspace(0, 0.9, len(texts), dtype=np.float32)
    return build_sequences(Samples(list(texts), scores, scores), letters, end, longest, mask_prompt)


def test_parquet_and_json_lines_give_the_same(mixture: Path, tmp_path: Path) -> None:
    shards = read_samples(mixture, "train")
    rows = zip(shards.texts, shards.auth_weights.tolist(), shards.prov_entropies.tolist(), strict=True)
    lines = [json.dumps({"text": text, "auth_weight": a, "prov_entropy": h, "other": 1}) for text, a, h in rows]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n\n", "utf-8")
    read = read_samples(tmp_path, "train")
    assert read.texts == shards.texts and len(read) == 24
    assert read.auth_weights.tolist() == shards.auth_weights.tolist()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (None, "no train samples; run rebalance-corpus"),
        ('{"text": "a"}', "line 1: not a sample"),
        ('{"text": 3, "auth_weight": 0.1, "prov_entropy": 1}', "wrong type"),
    ],
)
def test_a_missing_split_and_a_bad_line_say_what_to_do(tmp_path: Path, line: str | None, named: str) -> None:
    if line:
        (tmp_path / "train.jsonl").write_text(f"{line}\n", "utf-8")
    with pytest.raises(StoreError, match=named):
        read_samples(tmp_path, "train")


@given(st.integers(2, 200), st.integers(1, 50), st.data())
def test_every_response_token_is_a_target_exactly_once(length: int, longest: int, data: st.DataObject) -> None:
    tokens = list(range(length))
    first = data.draw(st.integers(0, length - 1))
    targets = []
    for chunk, first_target in cut(tokens, first, longest):
        assert len(chunk) <= longest + 1
        assert 1 <= first_target < len(chunk)
        targets += list(chunk[first_target:])
    assert targets == tokens[max(1, first) :]


def test_only_the_response_and_the_true_end_are_supervised_unless_prompts_count() -> None:
    text = "User: Why?\n\nAssistant: Because."
    built = build(text)
    assert "".join(map(chr, built.sequence(0)[built.first_targets[0] :])) == " Because." + chr(END)
    assert built.supervised.tolist() == [len(" Because.") + 1]
    assert build(text, mask_prompt=False).supervised.tolist() == [len(text)]


def test_a_long_sample_becomes_sequences_that_inherit_its_scores() -> None:
    built = build("User: a\n\nAssistant: b", "User: a\n\nAssistant: " + "b" * 50, longest=30)
    assert (len(built), built.samples) == (4, 2)
    assert built.lengths.max() <= 31
    assert built.auth_weights.tolist() == pytest.approx([0.0, 0.9, 0.9, 0.9])
    ends = [int(built.sequence(index)[-1]) == END for index in range(len(built))]
    assert ends == [True, False, False, True], "only the true end of a sample is marked as such"
    assert built.supervised.sum() == len(" b") + 1 + len(" " + "b" * 50) + 1


def test_a_merge_across_the_border_falls_back_to_the_common_prefix() -> None:
    def merging(texts: list[str]) -> list[list[int]]:
        return letters([text.replace(": B", "§") for text in texts])

    one = np.zeros(1, np.float32)
    built = build_sequences(Samples(["User: a\n\nAssistant: B"], one, one), merging, None, 100, True)
    assert chr(built.sequence(0)[built.first_targets[0]]) == "§"


def test_chunks_that_hold_only_prompt_are_left_out_and_none_at_all_is_an_error() -> None:
    assert build("User: " + "a" * 40 + "\n\nAssistant: b", longest=10).supervised.sum() == 3
    with pytest.raises(MixtureError, match="none of 1 samples"):
        build("User: a\n\nAssistant:", longest=10, end=None)
