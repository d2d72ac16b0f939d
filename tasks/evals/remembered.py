"""Answers and likelihoods kept on disk, so that an evaluation goes on where it stopped and scoring again is free.

Every question to a model is a row under a key of its own: the hash of the model, the kind of question and its text.
The model is loaded when the first question is open, and not at all when none is: other scorers, thresholds or report
templates need no new generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from storage.errors import StoreError
from storage.manifest import digest_of
from storage.parquet import read_shard, write_shard
from tasks.evals.model_under_test import ModelUnderTest, OptionScore, TextLikelihood
from tasks.evals.parameters import MAX_QUESTIONS_AT_ONCE

KEPT = "kept.parquet"
CHUNK = MAX_QUESTIONS_AT_ONCE
"""Open questions put to a model before what it said is written; a kill loses at most so many."""

KEPT_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("response", pa.string()),
        pa.field("nats", pa.float64()),
        pa.field("tokens", pa.int64()),
    ]
)
"""One answered question a row: the text of a generated answer, or a likelihood in nats over so many tokens."""

Row = dict[str, Any]


class Model(Protocol):
    """What the measurements ask of a model; see `tasks.evals.model_under_test.ModelUnderTest`."""

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Answer prompts greedily."""

    def score_options(self, pairs: Sequence[tuple[str, str]]) -> list[OptionScore]:
        """Score continuations of prompts."""

    def negative_log_likelihoods(self, texts: Sequence[str], max_seq_length: int) -> list[TextLikelihood]:
        """Score whole texts."""


class KeptAnswers:
    """The rows of one reports folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / KEPT
        self._rows: dict[str, Row] = {}
        if self._path.is_file():
            try:
                self._rows = {row["key"]: row for row in read_shard(self._path, KEPT_SCHEMA).to_pylist()}
            except StoreError:
                self._path.unlink()  # nothing but time is lost with it

    def find(self, key: str) -> Row | None:
        """Return the row of a question that was answered."""
        return self._rows.get(key)

    def add(self, rows: Sequence[Row]) -> None:
        """Keep the answers to some questions, on disk at once."""
        self._rows |= {row["key"]: row for row in rows}
        write_shard(self._path, pa.Table.from_pylist(list(self._rows.values()), KEPT_SCHEMA), KEPT_SCHEMA)


class RememberedModel:
    """A model that is asked only what it was not asked before.

    Args:
        load: Loads the model; called for the first open question.
        identity: What the answers depend on besides the question: weights, adapter, library versions.
        kept: The answers of this and earlier evaluations.
    """

    def __init__(self, load: Callable[[], ModelUnderTest], identity: Any, kept: KeptAnswers) -> None:
        self._load = load
        self._identity = digest_of(identity)
        self._kept = kept
        self._model: ModelUnderTest | None = None

    def close(self) -> None:
        """Free the model's memory before another is loaded."""
        if self._model is not None:
            self._model.close()
            self._model = None

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Answer prompts greedily, in batches."""
        rows = self._rows(
            [["generate", max_new_tokens, prompt] for prompt in prompts],
            lambda places: [
                {"response": text}
                for text in self._opened().generate([prompts[place] for place in places], max_new_tokens)
            ],
        )
        return [str(row["response"]) for row in rows]

    def score_options(self, pairs: Sequence[tuple[str, str]]) -> list[OptionScore]:
        """Score continuations of prompts; see `ModelUnderTest.score_options`."""
        rows = self._rows(
            [["score", *pair] for pair in pairs],
            lambda places: [
                {"nats": score.nats, "tokens": score.tokens}
                for score in self._opened().score_options([pairs[place] for place in places])
            ],
        )
        return [
            OptionScore(row["nats"], row["tokens"], len(option.encode()))
            for row, (_, option) in zip(rows, pairs, strict=True)
        ]

    def negative_log_likelihoods(self, texts: Sequence[str], max_seq_length: int) -> list[TextLikelihood]:
        """Score whole texts, each cut to `max_seq_length` tokens."""
        rows = self._rows(
            [["text", max_seq_length, text] for text in texts],
            lambda places: [
                {"nats": found.nats, "tokens": found.tokens}
                for found in self._opened().negative_log_likelihoods([texts[place] for place in places], max_seq_length)
            ],
        )
        return [TextLikelihood(row["nats"], row["tokens"]) for row in rows]

    def _opened(self) -> ModelUnderTest:
        if self._model is None:
            self._model = self._load()
        return self._model

    def _rows(self, questions: Sequence[Any], ask: Callable[[list[int]], list[Row]]) -> list[Row]:
        """Return the answer to every question, asking for the open ones by their places in `questions`."""
        keys = [digest_of([self._identity, question]) for question in questions]
        first_places = {key: place for place, key in reversed(list(enumerate(keys)))}
        still_open = [place for key, place in first_places.items() if self._kept.find(key) is None]
        for places in _chunks(sorted(still_open), CHUNK):
            answers = ask(places)
            self._kept.add([{"key": keys[place], **row} for place, row in zip(places, answers, strict=True)])
        found = [self._kept.find(key) for key in keys]
        return [row for row in found if row is not None]


def _chunks(places: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]
