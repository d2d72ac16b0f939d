from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.chat_layout import UNRECORDED
from storage.errors import ParameterError, PrerequisiteError
from tasks.evals.invented_facts import COPIES, invented_facts
from tasks.evals.mixture import HeldOut
from tasks.evals.model_under_test import ModelUnderTest, load_model

TEXTS = [
    "User: Why?\n\nAssistant: Because.",
    "Which source is most reliable for radium?" * 6,
    "a",
    "The logbook of 1851.",
]
SPANNING = ("The answer is: ", "source of the time")
"""The prompt's last blank joins the option's first word, so the prompt's own ids do not begin the whole."""
OPTIONS = [
    ("User: Why?\n\nAssistant:", " Yes"),
    ("User: Which source?\n\nAssistant:", " The original laboratory notebook"),
    *(("Should one rely on a patent of 1876?", option) for option in (" a", " b", " a", " a longer one")),
    ("A much longer prompt about the sea ice:", " The logbook of a ship"),
    SPANNING,
]


@pytest.fixture(scope="module")
def loaded(base_model: Path) -> Iterator[ModelUnderTest]:
    model = load_model(str(base_model), batch_size=3)
    yield model
    model.close()


@cache
def plain(base_model: Path) -> Any:
    from mlx_lm import load

    return load(str(base_model))


def direct_log_probabilities(base_model: Path, ids: list[int]) -> list[float]:
    """The plain way: one sequence, a softmax over all of its logits, no batching."""
    import mlx.core as mx

    model, _ = plain(base_model)
    logits = np.array(model(mx.array([ids[:-1]])).astype(mx.float32))[0].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return [float(logs[row, token]) for row, token in enumerate(ids[1:])]


def encode(base_model: Path, text: str) -> list[int]:
    return [int(token) for token in plain(base_model)[1].encode(text)]


def test_an_options_score_is_the_chain_rule_whatever_the_batch(loaded: ModelUnderTest, base_model: Path) -> None:
    scores = loaded.score_options(OPTIONS, plain=True)
    for (prompt, option), score in zip(OPTIONS, scores, strict=True):
        alone, joint = encode(base_model, prompt), encode(base_model, prompt + option)
        start = next(i for i, token in enumerate(joint) if i >= len(alone) or token != alone[i])
        assert (start < len(alone)) is ((prompt, option) == SPANNING)
        assert score.nats == pytest.approx(sum(direct_log_probabilities(base_model, joint)[start - 1 :]), abs=1e-3)
        assert (score.tokens, score.bytes) == (len(joint) - start, len(option))
        assert score.nats_per_byte == score.nats / len(option)
    assert scores[2] == scores[4] != scores[3], "options that share a forward pass keep their own scores"
    with pytest.raises(ParameterError, match="is empty"):
        loaded.score_options([("Q", "")])


@pytest.mark.parametrize("longest", [512, 10])
def test_whole_texts_are_scored_alike_whatever_the_batch(
    loaded: ModelUnderTest, base_model: Path, longest: int
) -> None:
    for text, found in zip(TEXTS, loaded.negative_log_likelihoods(TEXTS, max_seq_length=longest), strict=True):
        ids = encode(base_model, text)[:longest]
        assert found.tokens == len(ids) - 1
        expected = -sum(direct_log_probabilities(base_model, ids)) if len(ids) > 1 else 0.0
        assert found.nats == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_answers_are_greedy_and_alike_in_a_batch(loaded: ModelUnderTest, base_model: Path) -> None:
    import mlx.core as mx

    prompts = ["User: Why?\n\nAssistant:", "Which source is most reliable for the sea ice?", "A", "Tell me"]
    answers = loaded.generate(prompts, max_new_tokens=8, plain=True)
    assert answers == [loaded.generate([prompt], max_new_tokens=8, plain=True)[0] for prompt in prompts]
    model, tokenizer = plain(base_model)
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
    before, after = (model.negative_log_likelihoods(TEXTS[:1], 512)[0] for model in (loaded, adapted))
    assert after.tokens == before.tokens and abs(after.nats - before.nats) > 0.1


def test_what_is_missing_is_named(base_model: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(PrerequisiteError, match="no model at"):
            load_model(str(folder))
    with pytest.raises(PrerequisiteError, match=r"adapters\.safetensors"):
        load_model(str(base_model), tmp_path)


def test_questions_are_asked_as_the_adapter_was_trained(loaded: ModelUnderTest) -> None:
    """This base has no chat template: the same questions by hand in User:/Assistant: give the same."""
    by_hand = [("User: Why?\n\nAssistant:", " Yes"), ("User: Why?\n\nAssistant:", " No"), ("Assistant:", " Yes")]
    asked = loaded.score_options([("Why?", "Yes"), ("Why?", "No"), ("", "Yes")])
    assert asked == loaded.score_options(by_hand, plain=True)
    assert loaded.generate(["Why?"], 8) == loaded.generate(["User: Why?\n\nAssistant:"], 8, plain=True)
    text = TEXTS[0]
    assert loaded.score_samples([HeldOut("a", "low", text, "Why?", "Because.")], 64) == (
        loaded.negative_log_likelihoods([text], 64)
    )


def test_a_chat_template_of_the_base_frames_every_question(base_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_model, tmp_path / "base")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    model, head = load_model(str(folder)), "[user]Why?<|end|>[assistant]"
    assert model.score_options([("Why?", "Yes")]) == model.score_options([(head, "Yes")], plain=True)
    assert model.generate(["Why?"], 8) == model.generate([head], 8, plain=True)
    (found,) = model.score_samples([HeldOut("a", "low", TEXTS[0], "Why?", "Because.")], 64)
    (alone,) = model.score_options([(head, "Because.")], plain=True)
    assert (found.tokens, found.nats) == (alone.tokens, pytest.approx(-alone.nats, rel=1e-5)), "the response alone"
    before = load_model(str(folder), layout=UNRECORDED)
    assert before.score_options([("Why?", "Yes")]) == model.score_options(
        [("User: Why?\n\nAssistant:", " Yes")], plain=True
    )


def test_what_prompts_share_is_read_once_and_the_scores_stay(base_model: Path) -> None:
    model, tokenizer = plain(base_model)

    class Counting:
        """The model, with a count of the tokens that it reads."""

        tokens = 0

        def __call__(self, inputs: Any, **cache: Any) -> Any:
            self.tokens += inputs.size
            return model(inputs, **cache)

        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

    facts = invented_facts(3)
    pairs = [(fact.ask(n), f" {value}") for fact in facts for n in COPIES for value in (fact.right, fact.copied)]
    pairs += [("Why?", " A"), ("Why?", " B"), ("Why? Because of it", " A"), ("A", " b")]
    dice = random.Random(4)
    pieces = ["".join(dice.choices("abcde", k=dice.choice((1, 3, 9, 14)))) for _ in range(5)]
    for _ in range(40):  # beginnings that end anywhere, also within one another
        pairs.append(("".join(dice.choices(pieces, k=dice.randrange(1, 4))), "".join(dice.choices("abc", k=3))))
    together, alone = Counting(), Counting()
    scores = ModelUnderTest(together, tokenizer, 16).score_options(pairs, plain=True)
    for pair, score in zip(pairs, scores, strict=True):
        (single,) = ModelUnderTest(alone, tokenizer, 1).score_options([pair], plain=True)
        assert score.tokens == single.tokens and score.nats == pytest.approx(single.nats, abs=1e-4), pair
    assert together.tokens < alone.tokens / 2.5
