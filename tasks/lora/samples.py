"""The samples of a mixture as sequences of tokens that fit the model; what is cut off becomes a sequence of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.chat import ASSISTANT_MARK, format_prompt, split_turns
from storage.chat_layout import UNRECORDED, ChatLayout, Encoded, Turn
from storage.errors import MixtureError, StoreError
from storage.parquet import read_shard
from storage.schemas import SAMPLE_SCHEMA

COLUMNS = ["text", "auth_weight", "prov_entropy", "prompt", "response", "lesson"]
ENCODE_ROWS = 256

Split = Literal["train", "valid"]
Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Samples:
    """Texts with their scores, and prompt and response of those that have them; all of one length."""

    texts: list[str]
    auth_weights: npt.NDArray[np.float32]
    prov_entropies: npt.NDArray[np.float32]
    pairs: list[tuple[str, str] | None]
    own: bool = False
    """Lines of one's own, whose text may have several turns. A document that quotes a conversation has only one."""
    lessons: npt.NDArray[np.bool_] | None = None
    """Whether each is a lesson about sources; none: no sample is."""

    def __len__(self) -> int:
        return len(self.texts)


def read_samples(balanced: Path, split: Split) -> Samples:
    """Read a split of a mixture: ``<split>/*.parquet``, else ``<split>/*.jsonl`` and ``<split>.jsonl``."""
    table = read_columns(balanced, split, COLUMNS)
    pairs = zip(table.column("prompt").to_pylist(), table.column("response").to_pylist(), strict=True)
    return Samples(
        texts=table.column("text").to_pylist(),
        auth_weights=table.column("auth_weight").to_numpy(),
        prov_entropies=table.column("prov_entropy").to_numpy(),
        pairs=[(prompt, response) if prompt and response else None for prompt, response in pairs],
        own=not any((balanced / split).glob("*.parquet")),
        lessons=table.column("lesson").fill_null(False).to_numpy(zero_copy_only=False),
    )


def read_columns(balanced: Path, split: Split, columns: list[str]) -> pa.Table:
    """Read columns of a split, null where an earlier version or a person did not write them; StoreError without one."""
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


def cut(
    tokens: Sequence[int], first_target: int, max_seq_length: int, begin: Sequence[int] = ()
) -> list[tuple[Sequence[int], int]]:
    """Cut a sample into sequences of at most ``max_seq_length + 1`` tokens.

    Neighbours share one token, so that every token but the very first is a target exactly once. `begin`, with which
    the model expects a text to begin, is put before every sequence but the first.

    Returns:
        Pairs of tokens and the index of their first supervised token; sequences without any are left out.
    """
    chunks: list[tuple[Sequence[int], int]] = []
    start, before = 0, list[int]()
    while start < len(tokens) - 1:
        end = start + max_seq_length + 1 - len(before)
        chunk = [*before, *tokens[start:end]]
        first = max(1, first_target - start) + len(before)
        if first < len(chunk):
            chunks.append((chunk, first))
        start, before = end - 1, list(begin)
    return chunks


def _turns(samples: Samples, row: int, layout: ChatLayout) -> list[Turn]:
    """Return prompts and responses of a sample, a response with its blank; none for a text of another form."""
    text, pair = samples.texts[row], samples.pairs[row]
    if pair is not None and layout.name != UNRECORDED:
        return [(pair[0], f" {pair[1]}")]
    turns = split_turns(text)
    if samples.own and layout.name != UNRECORDED:
        return turns
    return [(turns[0][0], text.removeprefix(format_prompt(turns[0][0])))] if turns else []


def _encode_rows(samples: Samples, rows: range, layout: ChatLayout, mask_prompt: bool) -> list[tuple[int, Encoded]]:
    """Encode some samples: a conversation of several turns gives a row for each, up to its answer."""
    plain, asked = list[int](), list[tuple[int, list[Turn]]]()
    for row in rows:
        turns = _turns(samples, row, layout)
        if not turns:
            plain.append(row)
        elif mask_prompt:
            asked += [(row, turns[: count + 1]) for count in range(len(turns))]
        else:
            asked.append((row, turns))
    texts = [samples.texts[row] for row in plain]
    encoded = [
        *zip((row for row, _ in asked), layout.encode_answers([turns for _, turns in asked]), strict=True),
        *zip(plain, layout.encode_texts(texts, [_before_answer(text) for text in texts]), strict=True),
    ]
    return sorted(encoded, key=lambda each: each[0])


def _before_answer(text: str) -> str:
    """Return what of a text is not learned: what comes before an answer, if it has that mark."""
    return "".join(text.partition(ASSISTANT_MARK)[:2]) if ASSISTANT_MARK in text else ""


def build_sequences(samples: Samples, layout: ChatLayout, max_seq_length: int, mask_prompt: bool) -> TokenSequences:
    """Turn samples into sequences that inherit their scores; MixtureError if none has a supervised token."""
    chunks: list[Tokens] = []
    first_targets: list[int] = []
    owners: list[int] = []
    for start in range(0, len(samples), ENCODE_ROWS):
        some = range(start, min(start + ENCODE_ROWS, len(samples)))
        for row, encoded in _encode_rows(samples, some, layout, mask_prompt):
            first = encoded.start if mask_prompt else 1
            for chunk, first_target in cut(encoded.ids, first, max_seq_length, layout.begin):
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
