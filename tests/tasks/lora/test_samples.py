from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.chat_layout import UNRECORDED, ChatLayout
from storage.errors import MixtureError, StoreError
from tasks.lora.samples import Samples, TokenSequences, build_sequences, cut, read_samples

END = 1


class Letters:
    """A tokenizer whose ids are characters; `merged` is a pair of strings that become one."""

    chat_template = None
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}
    bos_token: str | None = "^"
    bos_token_id: int | None = None

    def __init__(self, end: int | None = END, merged: tuple[str, str] = ("", "")) -> None:
        self.eos_token_id, self._merged = end, merged

    def __call__(self, text: list[str], **options: Any) -> dict[str, list[list[int]]]:
        texts = [each.replace(*self._merged) for each in text] if self._merged[0] else text
        begin = [self.bos_token_id] if self.bos_token_id and options.get("add_special_tokens", True) else []
        return {"input_ids": [begin + [ord(letter) for letter in each] for each in texts]}

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> str:
        raise NotImplementedError


def build(
    *texts: str,
    longest: int = 100,
    mask_prompt: bool = True,
    tokenizer: Letters | None = None,
    own: bool = False,
    trained: str | None = None,
) -> TokenSequences:
    scores = np.linspace(0, 0.9, len(texts), dtype=np.float32)
    samples = Samples(list(texts), scores, scores, [None] * len(texts), own)
    return build_sequences(samples, ChatLayout(tokenizer or Letters(), trained), longest, mask_prompt)


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
    built = build("User: a\n\nAssistant: B", tokenizer=Letters(None, (": B", "§")))
    assert chr(built.sequence(0)[built.first_targets[0]]) == "§"


def test_chunks_that_hold_only_prompt_are_left_out_and_none_at_all_is_an_error() -> None:
    assert build("User: " + "a" * 40 + "\n\nAssistant: b", longest=10).supervised.sum() == 3
    with pytest.raises(MixtureError, match="none of 1 samples"):
        build("User: a\n\nAssistant:", longest=10, tokenizer=Letters(None))


CONVERSATION = "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant: dd"


def shown(built: TokenSequences) -> list[tuple[str, str]]:
    """What is read before and what is learned, sequence by sequence."""
    rows = [("".join(map(chr, built.sequence(at))), built.first_targets[at]) for at in range(len(built))]
    return [(text[:first], text[first:]) for text, first in rows]


def test_each_answer_of_a_conversation_is_learned_as_it_will_be_asked_for() -> None:
    first = ("User: a\n\nAssistant:", " b" + chr(END))
    second = ("User: a\n\nAssistant: b\n\nUser: c\n\nAssistant:", " dd" + chr(END))
    assert shown(build(CONVERSATION, own=True)) == [first, second]
    assert build(CONVERSATION, own=True, mask_prompt=False).lengths.tolist() == [len(CONVERSATION) + 1]
    document = (first[0], " b\n\nUser: c\n\nAssistant: dd" + chr(END))
    assert shown(build(CONVERSATION)) == [document], "a document that quotes a conversation is one answer"
    assert shown(build(CONVERSATION, own=True, trained=UNRECORDED)) == [document], "as it was trained before"


def test_every_piece_of_a_long_sample_begins_as_the_model_expects() -> None:
    tokenizer = Letters()
    tokenizer.bos_token_id = ord("^")
    text = "User: a\n\nAssistant: " + "bcdefghij" * 5
    built = shown(build(text, longest=30, tokenizer=tokenizer))
    assert len(built) == 3 and all(before[0] == "^" for before, _ in built)
    assert "".join(learned for _, learned in built) == text[text.index(" b") :] + chr(END)
    assert max(len(before + learned) for before, learned in built) == 31
    before = shown(build(text, longest=30, tokenizer=tokenizer, trained=UNRECORDED))
    assert [head[0] for head, _ in before] == ["^", text[29], text[59]], "a run of before goes on as it was"


def test_prompt_and_response_of_a_row_go_before_its_text(tmp_path: Path) -> None:
    row = {"text": CONVERSATION, "auth_weight": 0.1, "prov_entropy": 5.0, "prompt": "a", "response": "b\n\nUser: c"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row), "utf-8")
    built = build_sequences(read_samples(tmp_path, "train"), ChatLayout(Letters()), 100, True)
    assert shown(built) == [("User: a\n\nAssistant:", " b\n\nUser: c" + chr(END))]
    table = pa.Table.from_pylist([row])
    (tmp_path / "train").mkdir()
    pq.write_table(table, tmp_path / "train" / "shard-00000.parquet")
    again = build_sequences(read_samples(tmp_path, "train"), ChatLayout(Letters()), 100, True)
    assert shown(again) == shown(built)
