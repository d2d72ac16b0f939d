"""The samples of a mixture as sequences of tokens that fit the model; what is cut off becomes a sequence of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.chat import ASSISTANT_MARK
from storage.errors import MixtureError, StoreError
from storage.parquet import read_shard
from storage.schemas import SAMPLE_SCHEMA

COLUMNS = ["text", "auth_weight", "prov_entropy", "lesson"]
ENCODE_ROWS = 256

Split = Literal["train", "valid"]
Encode = Callable[[list[str]], list[list[int]]]
Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Samples:
    """Texts with their scores; all of one length."""

    texts: list[str]
    auth_weights: npt.NDArray[np.float32]
    prov_entropies: npt.NDArray[np.float32]
    lessons: npt.NDArray[np.bool_] | None = None
    """Whether each is a lesson about sources; none: no sample is."""

    def __len__(self) -> int:
        return len(self.texts)


def read_samples(balanced: Path, split: Split) -> Samples:
    """Read a split of a mixture: ``<split>/*.parquet``, else ``<split>/*.jsonl`` and ``<split>.jsonl``.

    Raises:
        StoreError: The split is missing or cannot be read.
    """
    table = read_columns(balanced, split, COLUMNS)
    return Samples(
        texts=table.column("text").to_pylist(),
        auth_weights=table.column("auth_weight").to_numpy(),
        prov_entropies=table.column("prov_entropy").to_numpy(),
        lessons=table.column("lesson").fill_null(False).to_numpy(),
    )


def read_columns(balanced: Path, split: Split, columns: list[str]) -> pa.Table:
    """Read columns of a split; those that mixtures of earlier versions and samples of one's own lack are null.

    Raises:
        StoreError: The split is missing or cannot be read.
    """
    shards = sorted((balanced / split).glob("*.parquet"))
    tables = [read_shard(shard, SAMPLE_SCHEMA, columns) for shard in shards]
    if not tables:
        files = [*sorted((balanced / split).glob("*.jsonl")), *balanced.glob(f"{split}.jsonl")]
        tables = [_read_lines(file, columns) for file in files]
    if not tables:
        raise StoreError(f"{balanced} holds no {split} samples; run rebalance-corpus, or name another mixture")
    return pa.concat_tables([table.select(columns) for table in tables])


def _read_lines(file: Path, columns: list[str]) -> pa.Table:
    required = [name for name in columns if not SAMPLE_SCHEMA.field(name).nullable]
    rows = []
    for number, line in enumerate(file.read_text("utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append({name: row[name] if name in required else row.get(name) for name in columns})
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise StoreError(
                f"{file}, line {number}: not a sample ({error!r}); each line needs {', '.join(required)}"
            ) from error
    try:
        return pa.Table.from_pylist(rows, schema=pa.schema([SAMPLE_SCHEMA.field(name) for name in columns]))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise StoreError(f"{file}: a field has the wrong type ({error}); correct the file") from error


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
    lessons: npt.NDArray[np.bool_] | None = None
    """Whether each belongs to a lesson; none: no sequence does."""

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


def cut(tokens: Sequence[int], first_target: int, max_seq_length: int) -> list[tuple[Sequence[int], int]]:
    """Cut a sample into sequences of at most ``max_seq_length + 1`` tokens.

    Neighbours share one token, so that every token but the very first is a target exactly once.

    Returns:
        Pairs of tokens and the index of their first supervised token; sequences without any are left out.
    """
    chunks = []
    for start in range(0, len(tokens) - 1, max_seq_length):
        chunk = tokens[start : start + max_seq_length + 1]
        first = max(1, first_target - start)
        if first < len(chunk):
            chunks.append((chunk, first))
    return chunks


def encode_texts(texts: list[str], encode: Encode, mask_prompt: bool) -> list[tuple[list[int], int]]:
    """Encode texts whole, and find the first token that does not belong to the prompt."""
    whole = encode(texts)
    if not mask_prompt:
        return [(tokens, 1) for tokens in whole]
    marks = [text.find(ASSISTANT_MARK) for text in texts]
    ends = [at + len(ASSISTANT_MARK) if at >= 0 else 0 for at in marks]
    prompts = encode([text[:end] for text, end in zip(texts, ends, strict=True)])
    # A tokenizer may merge across the border; the common prefix is what the prompt alone determines.
    return [(tokens, _shared_prefix(tokens, prompt)) for tokens, prompt in zip(whole, prompts, strict=True)]


def with_end(tokens: list[int], end_token: int | None) -> list[int]:
    """Put the end token after a sample's last one, unless it is there."""
    return tokens if end_token is None or tokens[-1:] == [end_token] else [*tokens, end_token]


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
    chunks: list[Tokens] = []
    first_targets: list[int] = []
    owners: list[int] = []
    for start in range(0, len(samples), ENCODE_ROWS):
        encoded = encode_texts(samples.texts[start : start + ENCODE_ROWS], encode, mask_prompt)
        for row, (tokens, first) in enumerate(encoded, start):
            for chunk, first_target in cut(with_end(tokens, end_token), first, max_seq_length):
                chunks.append(np.asarray(chunk, np.int32))
                first_targets.append(first_target)
                owners.append(row)
    if not chunks:
        raise MixtureError(
            f"none of {len(samples)} samples has a response to train on; write samples as 'User: …{ASSISTANT_MARK!r} …'"
        )
    return TokenSequences(
        tokens=np.concatenate(chunks),
        starts=np.concatenate([[0], np.cumsum([len(chunk) for chunk in chunks])]).astype(np.int64),
        first_targets=np.asarray(first_targets, np.int32),
        auth_weights=samples.auth_weights[owners],
        prov_entropies=samples.prov_entropies[owners],
        samples=len(set(owners)),
        lessons=None if samples.lessons is None else samples.lessons[owners],
    )
