"""Samples become sequences of tokens that fit the model; what is cut off becomes a sequence of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from storage.errors import MixtureError
from tasks.lora.samples import Samples

RESPONSE_MARK = "\n\nAssistant:"
ENCODE_ROWS = 256

Encode = Callable[[list[str]], list[list[int]]]
Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TokenSequences:
    """Sequences in one flat array, with what their loss needs.

    A sequence of n tokens has n - 1 targets (tokens 1 to n - 1); those from ``first_targets`` on are supervised.
    """

    tokens: Tokens
    starts: npt.NDArray[np.int64]
    first_targets: npt.NDArray[np.int32]
    auth_weights: npt.NDArray[np.float32]
    prov_entropies: npt.NDArray[np.float32]
    samples: int
    """Samples that gave at least one sequence."""

    def __len__(self) -> int:
        return len(self.first_targets)

    def sequence(self, index: int) -> Tokens:
        """Return the tokens of a sequence."""
        return self.tokens[self.starts[index] : self.starts[index + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each sequence."""
        return np.diff(self.starts)

    @property
    def supervised(self) -> npt.NDArray[np.int64]:
        """Supervised targets of each sequence."""
        return self.lengths - self.first_targets


def response_start(text: str) -> int:
    """Return where the response begins, or 0 if the text has no response mark."""
    at = text.find(RESPONSE_MARK)
    return 0 if at < 0 else at + len(RESPONSE_MARK)


def cut(tokens: Sequence[int], first_target: int, max_seq_length: int) -> list[tuple[Sequence[int], int]]:
    """Cut a sample into sequences of at most ``max_seq_length + 1`` tokens.

    Neighbours share one token, so that every token but the very first is a target exactly once.

    Args:
        tokens: All tokens of the sample.
        first_target: Index of the first supervised token.
        max_seq_length: Most tokens that the model reads at once.

    Returns:
        Pairs of tokens and the index of their first supervised token; sequences without any are left out.
    """
    pieces = []
    for start in range(0, len(tokens) - 1, max_seq_length):
        piece = tokens[start : start + max_seq_length + 1]
        first = max(1, first_target - start)
        if first < len(piece):
            pieces.append((piece, first))
    return pieces


def _encode_all(texts: list[str], encode: Encode, mask_prompt: bool) -> list[tuple[list[int], int]]:
    """Encode texts whole, and find the first token that is not the prompt's."""
    whole = encode(texts)
    if not mask_prompt:
        return [(tokens, 1) for tokens in whole]
    prompts = encode([text[: response_start(text)] for text in texts])
    # A tokenizer may merge across the border; the common prefix is what the prompt alone determines.
    return [(tokens, _shared_prefix(tokens, prompt)) for tokens, prompt in zip(whole, prompts, strict=True)]


def _shared_prefix(tokens: list[int], prompt: list[int]) -> int:
    pairs = enumerate(zip(tokens, prompt, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(tokens), len(prompt)))


def build_sequences(
    samples: Samples, encode: Encode, end_token: int | None, max_seq_length: int, mask_prompt: bool
) -> TokenSequences:
    """Turn samples into sequences; each inherits its sample's scores.

    Args:
        samples: The texts.
        encode: Tokenises a list of texts, with the model's usual leading special tokens.
        end_token: Put after each sample's last token and supervised; none if the tokenizer has no such token.
        max_seq_length: Most tokens that the model reads at once.
        mask_prompt: Supervise the response only.

    Raises:
        MixtureError: No sample holds a supervised token.
    """
    pieces: list[Tokens] = []
    first_targets: list[int] = []
    owners: list[int] = []
    numbers = iter(range(len(samples)))
    while rows := list(islice(numbers, ENCODE_ROWS)):
        encoded = _encode_all([samples.texts[row] for row in rows], encode, mask_prompt)
        for row, (tokens, first) in zip(rows, encoded, strict=True):
            if end_token is not None and tokens[-1:] != [end_token]:
                tokens = [*tokens, end_token]
            for piece, first_target in cut(tokens, first, max_seq_length):
                pieces.append(np.asarray(piece, np.int32))
                first_targets.append(first_target)
                owners.append(row)
    if not pieces:
        raise MixtureError(
            f"none of {len(samples)} samples has a response to train on; samples read 'User: …{RESPONSE_MARK!r} …'"
        )
    return TokenSequences(
        tokens=np.concatenate(pieces),
        starts=np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64),
        first_targets=np.asarray(first_targets, np.int32),
        auth_weights=samples.auth_weights[owners],
        prov_entropies=samples.prov_entropies[owners],
        samples=len(set(owners)),
    )
