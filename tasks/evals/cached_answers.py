"""A model whose answers are kept on disk: an evaluation goes on where it stopped, and judging again is free.

Every question is a row under a key of its own: the hash of the model, the kind of question and its text. The model is
loaded for the first question without an answer, and not at all if there is none: other scorers, thresholds or report
templates need no new generation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import pyarrow as pa

from storage.errors import StoreError
from storage.manifest import digest_of
from storage.parquet import read_shard, write_shard
from tasks.evals.mixture import HeldOut
from tasks.evals.model_under_test import ModelUnderTest, OptionScore, TextLikelihood
from tasks.evals.parameters import MAX_QUESTIONS_AT_ONCE

KEPT = "kept.parquet"
KEPT_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("response", pa.string()),
        pa.field("nats", pa.float64()),
        pa.field("tokens", pa.int64()),
        pa.field("bytes", pa.int64()),
    ]
)
"""One answered question a row: the text of a generated answer, or a likelihood in nats with tokens and bytes."""

OPTIONS_AT_ONCE = 512
"""Options scored before their likelihoods are written: enough that those of like length fill a batch."""

Question = TypeVar("Question")


class Kept(NamedTuple):
    """One answer, generated or scored."""

    response: str = ""
    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0


class CachedModel:
    """A model that is asked only what it was not asked before.

    `identity` is what the answers depend on besides the question: weights, adapter, chat layout, versions. One file of
    the folder keeps the answers of all models.
    """

    def __init__(self, load: Callable[[], ModelUnderTest], identity: Any, folder: Path) -> None:
        self._load = load
        self._identity = digest_of(identity)
        self._path = folder / KEPT
        self._model: ModelUnderTest | None = None
        self._kept: dict[str, Kept] = {}
        if self._path.is_file():
            try:
                columns = read_shard(self._path, KEPT_SCHEMA).to_pydict().values()
                self._kept = {key: Kept(*answer) for key, *answer in zip(*columns, strict=True)}
            except StoreError:
                self._path.unlink()  # nothing but time is lost with it

    def close(self) -> None:
        """Free the model's memory before another is loaded."""
        if self._model is not None:
            self._model.close()
            self._model = None

    def generate(self, prompts: Sequence[str], max_new_tokens: int, *, plain: bool = False) -> list[str]:
        """Answer questions greedily, in batches; see `ModelUnderTest.generate`."""
        keys = [["generate", plain, max_new_tokens, prompt] for prompt in prompts]
        answers = self._answers(keys, prompts, lambda model, some: model.generate(some, max_new_tokens, plain=plain))
        return [kept.response for kept in answers]

    def score_options(self, pairs: Sequence[tuple[str, str]], *, plain: bool = False) -> list[OptionScore]:
        """Score answers to questions; see `ModelUnderTest.score_options`."""
        keys = [["score", plain, *pair] for pair in pairs]
        answers = self._answers(
            keys, pairs, lambda model, some: model.score_options(some, plain=plain), OPTIONS_AT_ONCE
        )
        return [OptionScore(kept.nats, kept.tokens, kept.bytes) for kept in answers]

    def score_samples(self, samples: Sequence[HeldOut], max_seq_length: int) -> list[TextLikelihood]:
        """Score samples of a mixture; see `ModelUnderTest.score_samples`."""
        keys = [["sample", max_seq_length, sample.prompt, sample.response, sample.text] for sample in samples]
        answers = self._answers(keys, samples, lambda model, some: model.score_samples(some, max_seq_length))
        return [TextLikelihood(kept.nats, kept.tokens) for kept in answers]

    def negative_log_likelihoods(self, texts: Sequence[str], max_seq_length: int) -> list[TextLikelihood]:
        """Score whole texts, each cut to `max_seq_length` tokens."""
        keys = [["text", max_seq_length, text] for text in texts]
        answers = self._answers(keys, texts, lambda model, some: model.negative_log_likelihoods(some, max_seq_length))
        return [TextLikelihood(kept.nats, kept.tokens) for kept in answers]

    def _answers(
        self,
        named: Sequence[Sequence[object]],
        questions: Sequence[Question],
        ask: Callable[[ModelUnderTest, list[Question]], Sequence[str | OptionScore | TextLikelihood]],
        at_once: int | None = None,
    ) -> list[Kept]:
        """Return the answer to every question; the open ones are asked and written, some at a time."""
        keys = [digest_of([self._identity, name]) for name in named]
        open_questions = {key: question for key, question in zip(keys, questions, strict=True) if key not in self._kept}
        waiting, size = list(open_questions), at_once or MAX_QUESTIONS_AT_ONCE
        for start in range(0, len(waiting), size):
            some = waiting[start : start + size]
            self._model = self._model or self._load()
            answers = ask(self._model, [open_questions[key] for key in some])
            kept = [Kept(answer) if isinstance(answer, str) else Kept("", *answer) for answer in answers]
            self._kept |= zip(some, kept, strict=True)
            rows = [{"key": key, **kept._asdict()} for key, kept in self._kept.items()]
            write_shard(self._path, pa.Table.from_pylist(rows, KEPT_SCHEMA), KEPT_SCHEMA)
        return [self._kept[key] for key in keys]


Model: TypeAlias = ModelUnderTest | CachedModel
"""What the suites ask."""
