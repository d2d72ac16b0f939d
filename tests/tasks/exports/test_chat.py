"""What an export serves is what was trained, in MLX, llama.cpp and Ollama."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sandbox import smollm2
from storage.chat_layout import ChatLayout
from storage.errors import ParameterError, UserError
from tasks.exports import chat
from tasks.exports.chat import layout_of, modelfile, require_served_as_trained, write_layout
from tests.clients.llama_cpp import LlamaCpp
from tests.storage.chat_tokenizers import FAMILIES, make_tokenizer
from tests.tasks.exports.conftest import CONFIG, export, specify, write_adapter, write_base

QUESTION = "Which source is most reliable?"
GO = {
    "$first := true": "{% set ns = namespace(first=true) %}",
    "$first = false": "{% set ns.first = false %}",
    "range .Messages": "{% for message in messages %}",
    'if eq .Role "user"': "{% if message.role == 'user' %}",
    'else if eq .Role "assistant"': "{% elif message.role == 'assistant' %}",
    "if $first": "{% if ns.first %}",
    "if $.System": "{% if system %}",
    "$.System": "{{ system }}",
    ".Content": "{{ message.content }}",
    "else": "{% else %}",
}


def as_ollama(text: str, system: str, *turns: str) -> str:
    """Render the template of a Modelfile as Ollama does, which cannot be installed here: word for word in Jinja."""
    from jinja2 import Environment

    opened: list[str] = []

    def translate(found: re.Match[str]) -> str:
        word = found.group(1)
        if word == "end":
            return "{% endfor %}" if opened.pop() == "range" else "{% endif %}"
        if word.split()[0] in ("if", "range"):
            opened.append(word.split()[0])
        return GO[word]

    template = re.sub(r"\{\{ (.*?) \}\}", translate, text.split('"""')[1])
    messages = [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]
    environment = Environment(keep_trailing_newline=True, autoescape=False)
    return environment.from_string(template).render(system=system, messages=messages)


@pytest.mark.parametrize("family", [name for name, facts in FAMILIES.items() if facts["template"]])
def test_ollama_renders_what_was_trained(family: str) -> None:
    tokenizer = make_tokenizer(family)
    layout = ChatLayout(tokenizer)
    text = modelfile("m.gguf", layout)
    assert text.startswith("FROM ./m.gguf\n") and text.endswith(f'PARAMETER stop "{layout.end_text}"\n')
    # Ollama puts the token that begins a text in front.
    assert tokenizer.encode(as_ollama(text, "", QUESTION)) == layout.encode_prompt(QUESTION)
    (second,) = layout.encode_answers([[(QUESTION, "The log."), ("Why?", "So.")]])
    assert tokenizer.encode(as_ollama(text, "", QUESTION, "The log.", "Why?")) == second.ids[: second.start]
    turns = [{"role": "user", "content": QUESTION}]
    if family != "gemma":  # has no place for instructions
        turns.insert(0, {"role": "system", "content": "Be brief."})
    else:
        turns = [{"role": "user", "content": f"Be brief.\n\n{QUESTION}"}]
    if family != "reasons":
        served = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert tokenizer.encode(as_ollama(text, "Be brief.", QUESTION)) == served


def state_layout(adapter: Path, **state: str) -> None:
    (adapter / "state.json").write_text(json.dumps(state))


def test_a_run_from_before_is_served_in_the_layout_that_it_was_trained_in(tmp_path: Path) -> None:
    from mlx_lm.utils import load_tokenizer

    base = write_base(tmp_path / "base", CONFIG)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "{{ messages[0].content }}"}))
    adapter = write_adapter(base, tmp_path / "a")
    state_layout(adapter)
    folder = Path(export(specify(base, adapter, tmp_path)).folder)
    served = load_tokenizer(folder).apply_chat_template([{"role": "user", "content": "Why?"}], tokenize=False)
    assert served == "User: Why?\n\n" and "chat_template" not in (folder / "tokenizer_config.json").read_text()
    assert json.loads((folder / "export.json").read_text())["layout"] == "guide, unrecorded"
    assert "User: What do the records" in (folder / "README.md").read_text()


def test_other_tokens_than_were_trained_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_base(tmp_path / "base", CONFIG)
    adapter = write_adapter(base, tmp_path / "a")
    (base / "chat_template.jinja").unlink()
    blank = tmp_path / "blank.jinja"
    blank.write_text(chat.TRAINED_LAYOUT.read_text().replace('"Assistant:"', '"Assistant: "'))
    monkeypatch.setattr(chat, "TRAINED_LAYOUT", blank)
    with pytest.raises(UserError, match=r"serves other tokens than were trained.*nothing was exported"):
        export(specify(base, adapter, tmp_path))
    assert list((tmp_path / "exports").iterdir()) == []


def test_a_base_whose_template_was_changed_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", CONFIG)
    adapter = write_adapter(base, tmp_path / "a")
    state_layout(adapter, layout="template sha256:0123456789abcdef")
    with pytest.raises(ParameterError, match="put the base model's chat template back"):
        export(specify(base, adapter, tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_served_as_trained_and_stops(family: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(family)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": tokenizer.eos_token_id}))
    layout = ChatLayout(tokenizer)
    write_layout(tmp_path, layout)
    require_served_as_trained(tmp_path, layout)
    stops = json.loads((tmp_path / "config.json").read_text())["eos_token_id"]
    assert set(layout.end) <= {*(stops if isinstance(stops, list) else [stops])}


def test_the_card_shows_the_template_where_it_was_trained(specification: dict[str, Any]) -> None:
    card = (Path(export(specification).folder) / "README.md").read_text()
    assert "apply_chat_template(messages, add_generation_prompt=True)" in card and "User: " not in card


@pytest.mark.drill
def test_smollm2_says_in_llama_cpp_what_it_says_in_mlx(tmp_path: Path, llama: LlamaCpp) -> None:
    """The one real model at hand: its GGUF file takes the trained tokens and goes on alike."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load

    base = smollm2.cached_folder()
    if base is None:
        pytest.skip("SmolLM2 is not in the cache; python -m sandbox.smollm2 fetches it")
    adapter = write_adapter(base, tmp_path / "a")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["lora_parameters"]["scale"] = 0.02
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    layout = layout_of(base, adapter)
    state_layout(adapter, layout=layout.name)
    folder = Path(export(specify(base, adapter, tmp_path), gguf="f16").folder)
    model, tokenizer = load(str(folder))
    prompt = layout.encode_prompt(QUESTION)
    served = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], add_generation_prompt=True)
    assert served == prompt
    expected = [int(token) for token, _ in generate_step(mx.array(prompt), model, max_tokens=12)]
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=False
    )
    texts = [rendered, "In 1873 the bridge cost $12,500.50.", "  two\n\n\tand don't — naïve 🙂 12345"]
    found = llama.open_gguf(folder / "tiny-f16.gguf", prompt, 12, texts)
    assert found["texts"] == [prompt, *(tokenizer.encode(text) for text in texts[1:])]
    assert found["greedy"] == expected
    assert (found["chat_template"].strip(), found["adds_bos"]) == (tokenizer.chat_template.strip(), False)
    assert [found["eos"]] == layout.end
    shutil.rmtree(folder)
