from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from storage.errors import ParameterError, PrerequisiteError
from tasks.evals.model_under_test import ModelUnderTest, load_model

TEXTS = [
    "User: Why?\n\nAssistant: Because.",
    "Which source is most reliable for radium?" * 6,
    "a",
    "The logbook of 1851.",
]


@pytest.fixture(scope="module")
def loaded(base_model: Path) -> Iterator[ModelUnderTest]:
    model = load_model(str(base_model), batch_size=3)
    yield model
    model.close()


def direct_log_probabilities(base_model: Path, ids: list[int]) -> list[float]:
    """The plain way: one sequence, a softmax over all of its logits, no batching."""
    import mlx.core as mx
    from mlx_lm import load

    model, _ = load(str(base_model))
    logits = np.array(model(mx.array([ids[:-1]])).astype(mx.float32))[0].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return [float(logs[row, token]) for row, token in enumerate(ids[1:])]


def encode(base_model: Path, text: str) -> list[int]:
    from mlx_lm.utils import load_tokenizer

    return [int(token) for token in load_tokenizer(base_model).encode(text)]


def test_options_score_alike_in_a_batch_and_one_by_one(loaded: ModelUnderTest) -> None:
    pairs = [
        ("User: Why?\n\nAssistant:", " Yes"),
        ("A much longer prompt about the sea ice:", " The logbook of a ship"),
        ("Q", " No"),
    ]
    together = loaded.score_options(pairs * 3)
    alone = [loaded.score_options([pair])[0] for pair in pairs]
    for score, single in zip(together, alone * 3, strict=True):
        assert score.nats == pytest.approx(single.nats, abs=1e-4)
        assert (score.tokens, score.bytes) == (single.tokens, single.bytes)


def test_options_that_share_a_forward_pass_keep_their_own_scores(loaded: ModelUnderTest, base_model: Path) -> None:
    prompt = "Should one rely on a patent of 1876?"
    pairs = [(prompt, option) for option in (" a", " b", " a", " a longer one")]
    scores = loaded.score_options(pairs)
    for (_, option), score in zip(pairs, scores, strict=True):
        ids, start = encode(base_model, prompt + option), len(encode(base_model, prompt))
        assert score.nats == pytest.approx(sum(direct_log_probabilities(base_model, ids)[start - 1 :]), abs=1e-3)
    assert scores[0] == scores[2] != scores[1]


def test_an_options_score_is_the_chain_rule(loaded: ModelUnderTest, base_model: Path) -> None:
    prompt, option = "User: Which source?\n\nAssistant:", " The original laboratory notebook"
    ids, start = encode(base_model, prompt + option), len(encode(base_model, prompt))
    assert encode(base_model, prompt) == ids[:start]
    score = loaded.score_options([(prompt, option)])[0]
    assert score.nats == pytest.approx(sum(direct_log_probabilities(base_model, ids)[start - 1 :]), abs=1e-3)
    assert score.tokens == len(ids) - start
    assert score.nats_per_byte == score.nats / len(option)


def test_a_token_that_spans_the_border_is_scored(loaded: ModelUnderTest, base_model: Path) -> None:
    # The prompt's last blank joins the option's first word, so the prompt's own ids are no prefix of the whole.
    prompt, option = "The answer is: ", "source"
    alone, joint = encode(base_model, prompt), encode(base_model, prompt + option)
    common = next(i for i, (a, b) in enumerate(zip(alone, joint, strict=False)) if a != b)
    assert common < len(alone)
    score = loaded.score_options([(prompt, option)])[0]
    assert score.tokens == len(joint) - common > 0
    assert score.nats == pytest.approx(sum(direct_log_probabilities(base_model, joint)[common - 1 :]), abs=1e-3)


def test_an_empty_option_is_refused(loaded: ModelUnderTest) -> None:
    with pytest.raises(ParameterError, match="is empty"):
        loaded.score_options([("Q", "")])


def test_whole_texts_are_scored_alike_whatever_the_batch(loaded: ModelUnderTest, base_model: Path) -> None:
    together = loaded.negative_log_likelihoods(TEXTS, max_seq_length=512)
    for text, found in zip(TEXTS, together, strict=True):
        ids = encode(base_model, text)
        assert found.tokens == len(ids) - 1
        expected = -sum(direct_log_probabilities(base_model, ids)) if len(ids) > 1 else 0.0
        assert found.nats == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_texts_are_cut_to_the_longest_sequence(loaded: ModelUnderTest, base_model: Path) -> None:
    found = loaded.negative_log_likelihoods([TEXTS[1]], max_seq_length=10)[0]
    ids = encode(base_model, TEXTS[1])[:10]
    assert found.tokens == 9
    assert found.nats == pytest.approx(-sum(direct_log_probabilities(base_model, ids)), abs=1e-3)


def test_answers_are_greedy_and_alike_in_a_batch(loaded: ModelUnderTest, base_model: Path) -> None:
    import mlx.core as mx
    from mlx_lm import load

    prompts = ["User: Why?\n\nAssistant:", "Which source is most reliable for the sea ice?", "A", "Tell me"]
    answers = loaded.generate(prompts, max_new_tokens=8)
    assert answers == [loaded.generate([prompt], max_new_tokens=8)[0] for prompt in prompts]
    model, tokenizer = load(str(base_model))
    ids, written = encode(base_model, prompts[0]), []
    for _ in range(8):
        token = int(mx.argmax(model(mx.array([ids + written]))[0, -1]).item())
        if token in tokenizer.eos_token_ids:
            break
        written.append(token)
    assert answers[0] == tokenizer.decode(written)
    assert loaded.generate([], max_new_tokens=8) == []


def test_an_adapter_changes_the_likelihoods(loaded: ModelUnderTest, base_model: Path, run_folder: Path) -> None:
    adapted = load_model(str(base_model), run_folder / "checkpoint-3")
    before = loaded.negative_log_likelihoods(TEXTS[:1], 512)[0]
    after = adapted.negative_log_likelihoods(TEXTS[:1], 512)[0]
    assert after.tokens == before.tokens
    assert abs(after.nats - before.nats) > 0.1


def test_what_is_missing_is_named(base_model: Path, run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="no model at"):
        (tmp_path / "empty").mkdir()
        load_model(str(tmp_path / "empty"))
    with pytest.raises(PrerequisiteError, match="no model at"):
        load_model(str(tmp_path / "gone"))
    with pytest.raises(PrerequisiteError, match=r"adapters\.safetensors"):
        load_model(str(base_model), tmp_path)
