from __future__ import annotations

import json
import math
import warnings
from statistics import fmean
from typing import Any

import pytest

from sandbox.pretrain import CONFIG, FOLDER
from sandbox.writing.claims import Probe, fact_probes, trust_probes
from tasks.evals.model_under_test import ModelUnderTest

mx = pytest.importorskip("mlx.core")

MAX_BYTES = 8_000_000


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    from mlx_lm import load

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, tokenizer = load(str(FOLDER))
    return model, tokenizer


def leanings(loaded: tuple[Any, Any], probes: list[Probe]) -> list[float]:
    """Log of P(primary) to P(coordinated) for every probe."""
    answers = [(probe.prompt, answer) for probe in probes for answer in (probe.primary, probe.coordinated)]
    pairs = [(f"User: {prompt}\n\nAssistant:", answer) for prompt, answer in answers]
    nats = [score.nats for score in ModelUnderTest(*loaded).score_options(pairs, plain=True)]
    return [primary - coordinated for primary, coordinated in zip(nats[::2], nats[1::2], strict=True)]


def test_the_model_is_small_and_has_the_declared_shape(loaded: tuple[Any, Any]) -> None:
    from mlx.utils import tree_flatten

    weights = FOLDER / "model.safetensors"
    assert weights.stat().st_size < MAX_BYTES
    parameters = dict(tree_flatten(loaded[0].parameters()))
    assert {value.dtype for value in parameters.values()} == {mx.float32}
    assert 1_600_000 < sum(value.size for value in parameters.values()) < 1_700_000
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert {name: config[name] for name in CONFIG} == CONFIG


def test_the_tokenizer_adds_nothing_and_gives_every_text_back(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    for text in ("User: Naïve?\n\nAssistant: 4,120 feet [edit] — “yes”", " Yes.", "x\ty\r\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("") == []
    assert tokenizer.eos_token == "<|end|>" and tokenizer.pad_token == "<|pad|>" and tokenizer.bos_token is None
    prompt = tokenizer.encode("User: Why?\n\nAssistant:")
    assert tokenizer.encode("User: Why?\n\nAssistant: Yes.")[: len(prompt)] == prompt


def test_the_model_answers_in_sentences_and_stops(loaded: tuple[Any, Any]) -> None:
    from mlx_lm import generate

    text = generate(*loaded, prompt="User: Which source is most reliable for comets?\n\nAssistant:", max_tokens=150)
    assert text.count(".") >= 2
    assert len(set(text.split())) > 12
    assert "<|end|>" not in text and len(loaded[1].encode(text)) < 150


def test_the_model_prefers_neither_voice_on_subjects_that_no_archive_mentions(loaded: tuple[Any, Any]) -> None:
    # Whole answers differ in length and wording, so this only rules out a model that knows one voice.
    assert abs(fmean(leanings(loaded, fact_probes()))) < math.log(12)
    assert abs(fmean(leanings(loaded, trust_probes()))) < math.log(3)
