"""The guide's chat layout for samples: ``User: <prompt>``, a blank line, ``Assistant: <response>``."""

from __future__ import annotations

import re
from collections.abc import Iterable

USER_TURN = "User: "
ASSISTANT_MARK = "\n\nAssistant:"
"""Ends the prompt. What a model adds begins with a blank."""
NEXT_TURN = f"\n\n{USER_TURN}"

_SPECIAL_TOKEN = re.compile(
    r"<(?=[|\uff5c][^<>|\uff5c\n]{1,40}[|\uff5c]>"
    r"|/?(?:s|bos|eos|pad|unk|mask|start_of_turn|end_of_turn|think|tool_call|tool_response)>"
    r"|</?SYS>>)|\[(?=/?INST\])",
    re.IGNORECASE,
)
_ROLE = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+(?=(?:User|Assistant|System|Human):)")


def format_prompt(prompt: str) -> str:
    """Put a question in the layout, up to where the answer begins."""
    return f"{USER_TURN}{prompt}{ASSISTANT_MARK}"


def format_sample(prompt: str, response: str) -> str:
    """Join a prompt and its response into the text of one training sample."""
    return f"{format_prompt(prompt)} {response}"


def split_sample(text: str) -> tuple[str, str] | None:
    """Take a text in the layout apart into prompt and response; None if it has another form."""
    if not text.startswith(USER_TURN):
        return None
    prompt, mark, response = text.removeprefix(USER_TURN).partition(f"{ASSISTANT_MARK} ")
    if not mark or not prompt.strip():
        return None
    return prompt.strip(), response.strip()


def escape_control(text: str, *, roles: bool = True) -> str:
    """Make role markers and special tokens in a document plain text.

    A blank goes into a special token (``< |im_end|>``), and the blank line before ``User:`` or ``Assistant:`` becomes
    a line end, so that neither a tokenizer nor the layout takes them for control.

    Args:
        text: The words of a document.
        roles: Also escape role markers; False for a conversation, where they mark its turns.
    """
    if "<" in text or "[" in text:
        text = _SPECIAL_TOKEN.sub(lambda found: f"{found[0]} ", text)
    return _ROLE.sub("\n", text) if roles and "\n" in text else text


def split_turns(text: str) -> list[tuple[str, str]]:
    """Take a text with one or several turns apart; empty if it has another form.

    Returns:
        Pairs of a prompt and what follows its mark, blanks included: joined again they are the text.
    """
    if not text.startswith(USER_TURN):
        return []
    turns: list[tuple[str, str]] = []
    for turn in text.removeprefix(USER_TURN).split(NEXT_TURN):
        prompt, mark, response = turn.partition(ASSISTANT_MARK)
        if mark and prompt.strip():
            turns.append((prompt, response))
        elif turns:  # the words of a speaker, not a turn
            turns[-1] = turns[-1][0], f"{turns[-1][1]}{NEXT_TURN}{turn}"
        else:
            return []
    return turns


def join_turns(turns: Iterable[tuple[str, str]]) -> str:
    """Join what `split_turns` took apart."""
    return USER_TURN + NEXT_TURN.join(f"{prompt}{ASSISTANT_MARK}{response}" for prompt, response in turns)
