"""The guide's chat layout for samples: ``User: <prompt>``, a blank line, ``Assistant: <response>``."""

from __future__ import annotations

from collections.abc import Iterable

USER_TURN = "User: "
ASSISTANT_MARK = "\n\nAssistant:"
"""Ends the prompt. What a model adds begins with a blank."""
NEXT_TURN = f"\n\n{USER_TURN}"


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
