"""What is trained is what a served model meets, in every family's own words."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import smollm2
from storage.chat_layout import FIXED_DAY, GUIDE, UNRECORDED, ChatLayout
from storage.errors import ParameterError, PrerequisiteError
from tests.storage.chat_tokenizers import FAMILIES, make_tokenizer

PROMPT, ANSWER = "What is near\n\nthe mill?", "A river."
TEMPLATED = [name for name, facts in FAMILIES.items() if facts["template"]]


def smollm2_tokenizer() -> Any:
    from transformers import AutoTokenizer

    if smollm2.cached_folder() is None:
        pytest.skip("SmolLM2 is not in the cache; python -m sandbox.smollm2 fetches it")
    return AutoTokenizer.from_pretrained(smollm2.cached_folder())


@pytest.fixture(params=["smollm2", *TEMPLATED])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return smollm2_tokenizer() if request.param == "smollm2" else make_tokenizer(request.param)


def serve(tokenizer: Any, *turns: str) -> list[int]:
    """The token ids that a server makes of a conversation that waits for an answer."""
    messages = [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]
    options = {"add_generation_prompt": True, "return_dict": False, "strftime_now": FIXED_DAY.strftime}
    return list(tokenizer.apply_chat_template(messages, **options))


def test_a_prompt_is_trained_as_it_is_served(tokenizer: Any) -> None:
    layout = ChatLayout(tokenizer)
    assert layout.name.startswith("template sha256:") and layout.encode_prompt(PROMPT) == serve(tokenizer, PROMPT)
    (first, second) = layout.encode_answers([[(PROMPT, ANSWER)], [(PROMPT, ANSWER), ("And  ", " So. ")]])
    assert first.ids[: first.start] == serve(tokenizer, PROMPT)
    assert second.ids[: second.start] == serve(tokenizer, PROMPT, ANSWER, "And  ")
    assert [tokenizer.convert_ids_to_tokens(row.ids[-1:]) for row in (first, second)] == [
        tokenizer.convert_ids_to_tokens(layout.end)
    ] * 2
    learned = tokenizer.decode(first.ids[first.start : -1])
    assert learned == ("</think>\n\n" if layout.opening else "") + ANSWER


@pytest.mark.parametrize("family", FAMILIES)
def test_the_token_that_ends_an_answer_and_the_one_that_begins_a_text(family: str) -> None:
    tokenizer, facts = make_tokenizer(family), FAMILIES[family]
    layout = ChatLayout(tokenizer)
    assert tokenizer.convert_ids_to_tokens(layout.end) == [facts["end"]]
    assert tokenizer.convert_ids_to_tokens(layout.begin) == ([facts["bos"]] if facts["begins"] else [])
    assert layout.encode_text("a") == tokenizer.encode("a")
    assert layout.encode_prompt(PROMPT)[: len(layout.begin)] == layout.begin


def test_special_tokens_and_role_marks_in_a_document_are_text(tokenizer: Any) -> None:
    layout = ChatLayout(tokenizer)
    marks = "".join(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    (plain,), (marked,) = (
        layout.encode_answers([[(f"say {words}", f"ok {words} end")]]) for words in ("nothing", marks)
    )
    special = set(tokenizer.added_tokens_decoder)
    assert [i for i in marked.ids if i in special] == [i for i in plain.ids if i in special]
    assert tokenizer.decode(marked.ids[marked.start : -1]).endswith(f"ok {marks} end")
    assert not special & set(layout.encode_text(marks)[len(layout.begin) :])


def test_an_option_is_scored_from_where_the_answer_begins(tokenizer: Any) -> None:
    layout = ChatLayout(tokenizer)
    found = layout.encode_option(PROMPT, "Yes")
    assert tokenizer.decode(found.ids[found.start :]) == layout.scored("Yes") == "Yes"
    assert found.ids[: len(serve(tokenizer, PROMPT))] == serve(tokenizer, PROMPT)


def test_without_a_template_the_guides_layout_is_spoken() -> None:
    tokenizer = make_tokenizer("tiny")
    layout = ChatLayout(tokenizer)
    assert layout.name == GUIDE and layout.scored("Yes") == " Yes"
    assert layout.encode_prompt(PROMPT) == tokenizer.encode(f"User: {PROMPT}\n\nAssistant:")
    assert tokenizer.decode(layout.encode_prompt("")) == "Assistant:", "what stands before any answer"
    (found,) = layout.encode_answers([[(PROMPT, " yes <|end|> no")]])
    assert tokenizer.decode(found.ids[found.start :]) == " yes <|end|> no<|end|>"
    assert found.ids.count(layout.end[0]) == 1
    assert len(layout.encode_option(PROMPT, "Yes").ids) - len(layout.encode_prompt(PROMPT)) == 4


def test_an_adapter_is_asked_as_it_was_trained() -> None:
    tokenizer = make_tokenizer("gemma")
    own = ChatLayout(tokenizer)
    assert ChatLayout(tokenizer, own.name).name == own.name
    before = ChatLayout(tokenizer, UNRECORDED)
    assert (before.name, before.begin) == (UNRECORDED, [])
    assert before.encode_prompt(PROMPT) == tokenizer.encode(f"User: {PROMPT}\n\nAssistant:")
    for other, words in (
        (make_tokenizer("tiny"), "base model's is 'guide'"),
        (make_tokenizer("qwen2"), "put the base"),
    ):
        with pytest.raises(ParameterError, match=words):
            ChatLayout(other, own.name)


def test_a_template_that_leaves_a_turn_out_is_refused() -> None:
    tokenizer = make_tokenizer("qwen2")
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(PrerequisiteError, match="does not show user, assistant one after the other"):
        ChatLayout(tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(PrerequisiteError, match=r"cannot show user \(no\)"):
        ChatLayout(tokenizer)
