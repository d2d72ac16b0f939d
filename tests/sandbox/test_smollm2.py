from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sandbox import smollm2
from storage.errors import PrerequisiteError
from tests.clients.llama_cpp import running

TEXTS = [
    "In 1873 the bridge cost $12,500.50.",
    "  two blanks\n\n\tand a tab",
    "don't — naïve Ünïcode 🙂",
    "<|im_start|>user",
]


def test_rows_in_llama_cpps_order_go_back_to_halves() -> None:
    rows = np.arange(2 * 8 * 3, dtype=np.float32).reshape(16, 3)  # two heads of eight rows
    permuted = rows.reshape(2, 2, 4, 3).swapaxes(1, 2).reshape(16, 3)  # as llama.cpp's converter writes them
    assert not np.array_equal(permuted, rows)
    assert np.array_equal(smollm2.unpermute(permuted, 2), rows)


@pytest.mark.drill
def test_another_file_than_the_known_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", "0" * 64)
    with pytest.raises(PrerequisiteError, match=r"could not be fetched|has the digest"):
        smollm2.model_folder()
    assert list((tmp_path / "empirical-distrust" / "models").iterdir()) == []


def test_without_uv_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "UV", tmp_path / "uv")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrerequisiteError, match="run `make env` first"):
        smollm2.fetch_gguf(tmp_path)


@pytest.mark.drill
def test_it_says_what_llama_cpp_says_of_the_same_file(tmp_path: Path) -> None:
    from mlx_lm import load, stream_generate

    gguf = smollm2.fetch_gguf(tmp_path)
    smollm2.convert(gguf, tmp_path)
    model, tokenizer = load(str(tmp_path))
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Name the capital of France and its river."}], add_generation_prompt=True
    )
    with running() as llama:
        said = llama.open_gguf(gguf, prompt, 8, TEXTS)
    assert [tokenizer.encode(text) for text in TEXTS] == said["texts"]
    assert said["chat_template"].strip() == tokenizer.chat_template.strip()
    ours = [answer.token for answer in stream_generate(model, tokenizer, prompt, max_tokens=8)]
    assert [token for token in ours if token != tokenizer.eos_token_id] == said["greedy"]
