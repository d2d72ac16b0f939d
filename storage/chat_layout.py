"""How a model is spoken to: its own chat template, or ``User:/Assistant:`` where it has none.

Training, evaluation and export encode every prompt and answer here, so that the token ids that were trained are those
that a served model meets. Nothing in this module loads a model; a tokenizer is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import groupby
from typing import Any, Protocol

from storage.chat import ASSISTANT_MARK, join_turns
from storage.errors import ParameterError, PrerequisiteError

GUIDE = "guide"
"""Name of the layout ``User:/Assistant:``."""
UNRECORDED = "guide, unrecorded"
"""That layout as it was trained before runs recorded one: one turn a row, special tokens in a text are control tokens,
and only the first piece of a long row begins with the token that begins a text."""
THINKING = "<think>"
EDGE = "\u2003"
"""A blank that no template writes itself: where it is missing, the template trims contents."""
FIXED_DAY = datetime(2024, 7, 26, tzinfo=UTC)
"""The day that templates with a date get: tokens must not depend on the day of the training."""

Turn = tuple[str, str]
"""A prompt and its answer."""
Conversation = Sequence[Turn]


class Tokenizer(Protocol):
    """What is asked of a tokenizer: the interface of ``transformers``."""

    chat_template: Any
    added_tokens_decoder: Any
    bos_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None

    def __call__(self, text: list[str], **options: Any) -> Any:
        """Return the token ids of texts, as ``input_ids``."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """Render a conversation."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and its answer; the answer is ``ids[start:]``."""

    ids: list[int]
    start: int


@dataclass(frozen=True)
class Piece:
    """A part of a text: what the layout adds, or content, in which special tokens are text."""

    text: str
    content: bool = False


class ChatLayout:
    """Encodes prompts, answers and plain texts for one model.

    Args:
        tokenizer: The model's tokenizer.
        trained: Name of the layout that an adapter was trained in; none: the model's own.

    Raises:
        ParameterError: The adapter was trained in another template than the tokenizer has.
        PrerequisiteError: The template cannot show a conversation.
    """

    def __init__(self, tokenizer: Tokenizer, trained: str | None = None) -> None:
        self._tokenizer = tokenizer
        template = getattr(tokenizer, "chat_template", None)
        self.templated = bool(template) and trained not in (GUIDE, UNRECORDED)
        """Whether the model's own chat template is spoken."""
        digest = sha256(str(template).encode()).hexdigest()[:16]
        self.name = f"template sha256:{digest}" if self.templated else UNRECORDED if trained == UNRECORDED else GUIDE
        """For a run's record: `GUIDE`, or the digest of the model's own template."""
        if trained not in (None, self.name):
            raise ParameterError(
                f"the adapter was trained in the chat layout {trained!r}, but the base model's is {self.name!r}; "
                "put the base model's chat template back, or train a new run"
            )
        recorded = self.name != UNRECORDED
        begins = recorded and tokenizer([""])["input_ids"][0][:1] == [tokenizer.bos_token_id]
        self.begin: list[int] = [int(tokenizer.bos_token_id or 0)] if begins else []
        """The token with which the model expects every text to begin, if there is one."""
        added = tokenizer.added_tokens_decoder.values() if recorded else ()
        special = sorted((token.content for token in added if token.special), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")
        self._frames: dict[tuple[str, ...], list[str]] = {}
        self._trims = False
        self._lead, self._end = self._frame_of_answer() if self.templated else (" ", "")

    @property
    def end(self) -> list[int]:
        """The token that ends an answer, if there is one."""
        if self._end:
            return self._encode([[Piece(self._end)]], begins=False)[0][-1:]
        return [] if self._tokenizer.eos_token_id is None else [self._tokenizer.eos_token_id]

    @property
    def opening(self) -> str:
        """What a prompt already says of the answer: the mark at which a model begins to reason, else nothing."""
        return THINKING if self.templated and self.frame(["user"])[-1].rstrip().endswith(THINKING) else ""

    @property
    def begin_text(self) -> str:
        """The text of `begin`."""
        return self._tokenizer.bos_token or "" if self.begin else ""

    @property
    def end_text(self) -> str:
        """What the template puts behind an answer, up to the token that ends it."""
        return self._end

    def scored(self, answer: str) -> str:
        """Return what the likelihood of an answer is measured on: in ``User:/Assistant:`` the blank before it too."""
        return answer if self.templated else f" {answer}"

    def encode_text(self, text: str) -> list[int]:
        """Encode a plain text as the model expects one to begin."""
        return self._encode([[Piece(text, content=True)]], begins=True)[0]

    def encode_prompt(self, prompt: str) -> list[int]:
        """Encode a question up to where the answer begins; an empty one gives what stands before any answer."""
        return self._encode([self._head([(prompt, "")])], begins=not self.templated)[0]

    def encode_option(self, prompt: str, answer: str) -> Encoded:
        """Encode a question and the beginning of an answer, which nothing ends."""
        return self.encode_options([(prompt, answer)])[0]

    def encode_options(self, turns: Sequence[Turn]) -> list[Encoded]:
        """Encode several questions, each with the beginning of an answer, as `encode_option` does."""
        lead = [Piece(self._lead)] if self.templated else []
        heads = [[*self._head([(prompt, "")]), *lead] for prompt, _ in turns]
        wholes = [[*head, Piece(self.scored(turn[1]), content=True)] for head, turn in zip(heads, turns, strict=True)]
        return self._encode_pairs(heads, wholes, begins=not self.templated)

    def encode_answers(self, conversations: Sequence[Conversation]) -> list[Encoded]:
        """Encode conversations, each up to its last answer with the token that ends it.

        Args:
            conversations: Prompts and answers; in ``User:/Assistant:`` an answer begins with its blank.
        """
        heads = [self._head(each) for each in conversations]
        pairs = zip(heads, conversations, strict=True)
        wholes = [[*head, *self._answer(conversation[-1][1])] for head, conversation in pairs]
        return self._ended(self._encode_pairs(heads, wholes, begins=not self.templated))

    def encode_texts(self, texts: Sequence[str], heads: Sequence[str]) -> list[Encoded]:
        """Encode plain texts with the token that ends a text; what follows the head of a text is its answer."""
        rows, before = ([[Piece(text, content=True)] for text in some] for some in (texts, heads))
        return self._ended(self._encode_pairs(before, rows, begins=True))

    def frame(self, roles: Sequence[str], *, answer: bool = True) -> list[str]:
        """Return what the template puts before, between and after the contents of a conversation.

        Args:
            roles: Who speaks, in order: ``system``, ``user``, ``assistant``.
            answer: Whether the conversation waits for an answer.

        Raises:
            PrerequisiteError: The template leaves a content out.
        """
        key = (*roles, str(answer))
        if key not in self._frames:
            contents = [f"{EDGE}⟦{place}{role}⟧{EDGE}" for place, role in enumerate(roles)]
            messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
            options = {"add_generation_prompt": answer, "strftime_now": FIXED_DAY.strftime}
            try:
                rendered = str(self._tokenizer.apply_chat_template(messages, tokenize=False, **options))
            except Exception as error:  # templates raise what they like
                raise PrerequisiteError(
                    f"the base model's chat template cannot show {', '.join(roles)} ({error}); correct it"
                ) from error
            parts = re.split("|".join(f"{EDGE}?{re.escape(each.strip())}{EDGE}?" for each in contents), rendered)
            if len(parts) != len(roles) + 1:
                raise PrerequisiteError(
                    f"the base model's chat template does not show {', '.join(roles)} one after the other; correct it, "
                    "or remove it to speak User:/Assistant:"
                )
            if roles[0] == "user":
                self._trims = contents[0] not in rendered
            self._frames[key] = parts
        return self._frames[key]

    def _frame_of_answer(self) -> tuple[str, str]:
        """Return what the template puts between its prompt and an answer, and what ends the answer."""
        prompt = self.frame(["user"])[-1]
        _, before, after = self.frame(["user", "assistant"], answer=False)
        found = self._special.search(after)
        lead = before.removeprefix(prompt) if before.startswith(prompt) else ""
        if self.opening:  # the answer says that there is nothing to reason about
            lead = "</think>\n\n" if prompt.endswith("\n") else "\n</think>\n\n"
        return lead, after[: found.end()] if found else ""

    def _head(self, conversation: Conversation) -> list[Piece]:
        """Return everything up to where the last answer begins."""
        if not self.templated:
            last, _ = conversation[-1]
            text = join_turns([*conversation[:-1], (last, "")]) if last else ASSISTANT_MARK.lstrip()
            return [Piece(text, content=True)]
        contents = [part for turn in conversation for part in turn][:-1]
        frame = self.frame([("user", "assistant")[place % 2] for place in range(len(contents))])
        pieces = [Piece(frame[0])]
        for place, (content, after) in enumerate(zip(contents, frame[1:], strict=True)):
            trimmed = content.strip() if self._trims or place % 2 else content
            pieces += [Piece(trimmed, content=True), Piece(after)]
        return pieces

    def _answer(self, answer: str) -> list[Piece]:
        if not self.templated:
            return [Piece(answer, content=True)]
        return [Piece(self._lead), Piece(answer.strip(), content=True), Piece(self._end)]

    def _ended(self, rows: list[Encoded]) -> list[Encoded]:
        """Add the token that ends a text where nothing ends a row yet."""
        stop = self._tokenizer.eos_token_id
        if stop is None:
            return rows
        ends = ([stop], self.end)
        return [row if row.ids[-1:] in ends else Encoded([*row.ids, stop], row.start) for row in rows]

    def _encode_pairs(self, heads: list[list[Piece]], wholes: list[list[Piece]], *, begins: bool) -> list[Encoded]:
        # A tokenizer may merge across the border; the common prefix is what the head alone determines.
        encoded = zip(self._encode(wholes, begins=begins), self._encode(heads, begins=begins), strict=True)
        return [Encoded(whole, common_prefix(whole, head)) for whole, head in encoded]

    def _encode(self, rows: Sequence[list[Piece]], *, begins: bool) -> list[list[int]]:
        """Encode rows, each as a whole unless a content of it has a special token, which must stay text."""
        apart = [any(piece.content and self._special.search(piece.text) for piece in row) for row in rows]
        texts = ["".join(piece.text for piece in row) for row, split in zip(rows, apart, strict=True) if not split]
        whole = iter(self._tokenizer(texts, add_special_tokens=begins)["input_ids"] if texts else [])
        return [
            self._encode_apart(row, begins=begins) if split else list(next(whole))
            for row, split in zip(rows, apart, strict=True)
        ]

    def _encode_apart(self, row: list[Piece], *, begins: bool) -> list[int]:
        ids = list(self.begin) if begins else []
        for content, pieces in groupby(row, key=lambda piece: piece.content):
            text = "".join(piece.text for piece in pieces)
            options = {"add_special_tokens": False, "split_special_tokens": content}
            ids += self._tokenizer([text], **options)["input_ids"][0] if text else []
        return ids


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))
