"""The guide's chat layout for samples: ``User: <prompt>``, a blank line, ``Assistant: <response>``."""

from __future__ import annotations

import re

USER_TURN = "User: "
ASSISTANT_MARK = "\n\nAssistant:"
"""Ends the prompt. What a model adds begins with a blank."""

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
