"""The guide's chat layout for samples: ``User: <prompt>``, a blank line, ``Assistant: <response>``."""

from __future__ import annotations

USER_TURN = "User: "
ASSISTANT_MARK = "\n\nAssistant:"
"""Ends the prompt. What a model adds begins with a blank."""


def format_prompt(prompt: str) -> str:
    """Put a question in the layout, up to where the answer begins."""
    return f"{USER_TURN}{prompt}{ASSISTANT_MARK}"


def format_sample(prompt: str, response: str) -> str:
    """Join a prompt and its response into the text of one training sample."""
    return f"{format_prompt(prompt)} {response}"


def split_sample(text: str) -> tuple[str, str] | None:
    """Take a text in the layout apart into prompt and response; None if it has another form."""
    prompt, mark, response = text.removeprefix(USER_TURN).partition(f"{ASSISTANT_MARK} ")
    if not text.startswith(USER_TURN) or not mark or not prompt.strip():
        return None
    return prompt.strip(), response.strip()
