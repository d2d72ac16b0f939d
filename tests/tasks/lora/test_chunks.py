from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import MixtureError
from tasks.lora.chunks import build_sequences, cut
from tasks.lora.samples import Samples

END = 1


def letters(texts: list[str]) -> list[list[int]]:
    return [[ord(letter) for letter in text] for text in texts]


def samples(*texts: str) -> Samples:
    count = len(texts)
    return Samples(list(texts), np.linspace(0, 0.9, count, dtype=np.float32), np.arange(count, dtype=np.float32))


@given(st.integers(2, 200), st.integers(1, 50), st.data())
def test_every_response_token_is_a_target_exactly_once(length: int, longest: int, data: st.DataObject) -> None:
    tokens = list(range(length))
    first = data.draw(st.integers(0, length - 1))
    targets = []
    for piece, first_target in cut(tokens, first, longest):
        assert len(piece) <= longest + 1
        assert 1 <= first_target < len(piece)
        targets += list(piece[first_target:])
    assert targets == tokens[max(1, first) :]


def test_only_the_response_and_the_true_end_are_supervised() -> None:
    text = "User: Why?\n\nAssistant: Because."
    built = build_sequences(samples(text), letters, END, 100, mask_prompt=True)
    sequence = built.sequence(0)
    assert "".join(map(chr, sequence[built.first_targets[0] :])) == " Because." + chr(END)
    assert built.supervised.tolist() == [len(" Because.") + 1]


def test_without_masking_all_but_the_first_token_are_supervised() -> None:
    text = "User: Why?\n\nAssistant: Because."
    built = build_sequences(samples(text), letters, END, 100, mask_prompt=False)
    assert built.supervised.tolist() == [len(text)]


def test_a_long_sample_becomes_sequences_that_inherit_its_scores() -> None:
    short, long = "User: a\n\nAssistant: b", "User: a\n\nAssistant: " + "b" * 50
    built = build_sequences(samples(short, long), letters, END, 30, mask_prompt=True)
    assert len(built) == 4
    assert built.samples == 2
    assert built.lengths.max() <= 31
    assert built.auth_weights.tolist() == pytest.approx([0.0, 0.9, 0.9, 0.9])
    ends = [int(built.sequence(index)[-1]) == END for index in range(len(built))]
    assert ends == [True, False, False, True], "only the true end of a sample is marked as such"
    assert built.supervised.sum() == len(" b") + 1 + len(" " + "b" * 50) + 1


def test_a_merge_across_the_border_falls_back_to_the_common_prefix() -> None:
    def merging(texts: list[str]) -> list[list[int]]:
        return [[ord(letter) for letter in text.replace(": B", "§")] for text in texts]

    built = build_sequences(samples("User: a\n\nAssistant: B"), merging, None, 100, mask_prompt=True)
    assert chr(built.sequence(0)[built.first_targets[0]]) == "§"


def test_pieces_that_hold_only_prompt_are_left_out_and_none_at_all_is_an_error() -> None:
    built = build_sequences(samples("User: " + "a" * 40 + "\n\nAssistant: b"), letters, END, 10, mask_prompt=True)
    assert built.supervised.sum() == 3
    with pytest.raises(MixtureError, match="none of 1 samples"):
        build_sequences(samples("User: a\n\nAssistant:"), letters, None, 10, mask_prompt=True)
