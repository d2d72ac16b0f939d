from __future__ import annotations

import dataclasses
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import cohere

from tasks.lora.cross_entropy import CHUNK_ELEMENTS, Head, split_head, token_losses, weighted_cross_entropy
from tests.tasks.lora.tiny_model import random_model

TARGETS = mx.array([5, 6, 250, 3, 9, 11, 0])


def states_of(head: Head) -> mx.array:
    states = head.hidden(mx.array([[1, 5, 6, 250, 3, 9, 11]]))
    return states.reshape(-1, states.shape[-1])


def quantised(model: nn.Module) -> nn.Module:
    nn.quantize(model, group_size=32, bits=4)
    return model


class Small(Head):
    """A head whose vocabulary passes for so large that two positions fill a chunk."""

    @property
    def chunk(self) -> int:
        return 2


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("four_bits", [True, False])
def test_chunks_give_the_textbooks_loss_and_gradient(tied: bool, four_bits: bool) -> None:
    model = random_model(tie_word_embeddings=tied)
    head = split_head(quantised(model) if four_bits else model)
    assert head.hidden is model.model
    states = states_of(head)
    weights = mx.array([1.0, 0.5, 27.0, 0.0, 3.0, 1.0, 2.0])

    def textbook(states: mx.array) -> mx.array:
        return (weights * nn.losses.cross_entropy(head.project(states), TARGETS)).sum()

    expected, gradient = mx.value_and_grad(textbook)(states)
    small = Small(**{field.name: getattr(head, field.name) for field in dataclasses.fields(Head)})
    for cut in (head, small):

        def ours(states: mx.array, cut: Head = cut) -> mx.array:
            return 3.0 * weighted_cross_entropy(states, TARGETS, weights, cut)[0]

        value, found = mx.value_and_grad(ours)(states)
        assert float(value) == pytest.approx(3 * float(expected), rel=1e-5)
        assert float(mx.abs(found / 3 - gradient).max()) < 2e-5 * float(mx.abs(gradient).max())
        each = weighted_cross_entropy(states, TARGETS, weights, cut)[1]
        plain = nn.losses.cross_entropy(head.project(states), TARGETS)
        assert bool(mx.allclose(each, plain, rtol=1e-5))
        assert bool(mx.allclose(token_losses(states, TARGETS, cut), plain, rtol=1e-5))


def test_a_chunk_holds_few_logits() -> None:
    assert Head(abs, abs, abs, 32_000).chunk * 32_000 <= CHUNK_ELEMENTS
    assert Head(abs, abs, abs, 10**9).chunk == 32


def test_a_model_that_scales_its_logits_is_cut_after_them() -> None:
    arguments: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
    arguments |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 258, "logit_scale": 0.25}
    mx.random.seed(3)
    model = cohere.Model(cohere.ModelArgs(model_type="cohere", **arguments))
    head = split_head(model)
    assert head.hidden is model
    assert head.vocabulary == 258
    losses = token_losses(states_of(head), TARGETS, head)
    logits = model(mx.array([[1, 5, 6, 250, 3, 9, 11]]))[0]
    assert bool(mx.allclose(losses, nn.losses.cross_entropy(logits, TARGETS), rtol=1e-5))
    plain = cohere.Model(cohere.ModelArgs(model_type="cohere", **(arguments | {"logit_scale": 1.0})))
    assert split_head(plain).hidden is plain.model
