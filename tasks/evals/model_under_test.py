"""A base model, with or without an adapter, as the evaluation sees it: answers, likelihoods, nothing else.

This module and `tasks.evals.try_model` are the only ones of this folder that load MLX, and only inside functions.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from storage.chat_layout import ChatLayout, Encoded
from storage.checkpoint import trained_layout
from storage.errors import ParameterError, PrerequisiteError
from storage.model_folder import CONFIG, check_model_folder, loading, read_adapter
from tasks.evals.prefixes import Node, Scored, batches_of, common_prefix, grow_tree

BATCH_TOKENS = 4096
"""Most tokens, padding included, in one forward pass: bounds the logits, which are the largest array here.

A single longer sequence goes alone, whole; the evaluation's `eval_seq_length` bounds those.
"""
REMEMBERED_TOKENS = 4 * BATCH_TOKENS
"""Most tokens whose keys and values are kept for the rows of one forward pass."""


@dataclass(frozen=True)
class OptionScore:
    """Log-likelihood of a continuation: `nats`, summed over its `tokens` (negative), and its UTF-8 `bytes`."""

    nats: float
    tokens: int
    bytes: int

    @property
    def nats_per_byte(self) -> float:
        """Length-normalised, and independent of the tokenizer."""
        return self.nats / self.bytes


class Sample(Protocol):
    """A sample of a mixture; one of another form than question and answer has no response."""

    @property
    def text(self) -> str:
        """Prompt and response together."""

    @property
    def prompt(self) -> str:
        """The question."""

    @property
    def response(self) -> str:
        """The answer."""


@dataclass(frozen=True)
class TextLikelihood:
    """Negative log-likelihood of a whole text: `nats`, summed over its predicted `tokens`."""

    nats: float
    tokens: int


@dataclass(frozen=True)
class _Parents:
    """The caches of a batch that was read, one for each layer, and the row of each of its children's parents."""

    caches: list[Any]
    lines: list[int]

    @property
    def length(self) -> int:
        """Tokens of each row, padding included."""
        return int(self.caches[0].size())

    def at(self, children: Sequence[int]) -> list[Any]:
        """Caches that hold a row for each of some children; these stay as they are."""
        import mlx.core as mx

        rows = mx.array([self.lines[child] for child in children])
        chosen = [copy(cache) for cache in self.caches]
        for cache in chosen:
            cache.filter(rows)
        return chosen


class _Work:
    """Sequences to be scored by a model of so many layers, and the log-likelihoods found so far."""

    def __init__(self, sequences: Sequence[Scored], layers: int) -> None:
        self.layers = layers
        self.results: list[list[float]] = [[] for _ in sequences]
        self._sequences = sequences

    def score(self, leaves: Sequence[Node], logits: Any) -> None:
        """Set the results of the rows that end with these leaves; logits are (leaves, length, vocabulary)."""
        import mlx.core as mx
        import mlx.nn as nn
        import numpy as np

        found = [(line, row, self._sequences[row]) for line, leaf in enumerate(leaves) for row in leaf.rows]
        lines = [line for line, _, sequence in found for _ in sequence.tail]
        positions = [position for *_, sequence in found for position in range(len(sequence.tail))]
        targets = [target for *_, sequence in found for target in sequence.ids[sequence.start :]]
        chosen = logits[mx.array(lines), mx.array(positions)].astype(mx.float32)
        scores = iter(np.array(-nn.losses.cross_entropy(chosen, mx.array(targets))).tolist())
        for _, row, sequence in found:
            self.results[row] = [next(scores) for _ in sequence.tail]


class ModelUnderTest:
    """A language model of mlx-lm and its tokenizer; `batch_size` is the most sequences in one forward pass.

    The model takes token ids (batch, length) and returns logits (batch, length, vocabulary). Prompts are plain
    questions, which are put in the chat layout here.

    Args:
        model: The model.
        tokenizer: Its tokenizer, as mlx-lm wraps it.
        batch_size: The most sequences in one forward pass.
        layout: Name of the chat layout that the adapter was trained in; none: the base model's own.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 16, layout: str | None = None) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._layout = chat_layout(tokenizer, layout)

    def close(self) -> None:
        """Free the model's memory before another is loaded."""
        import mlx.core as mx

        self._model = self._tokenizer = None
        gc.collect()
        mx.clear_cache()

    def generate(self, prompts: Sequence[str], max_new_tokens: int, *, plain: bool = False) -> list[str]:
        """Answer questions greedily, in batches; the texts lack the stop token."""
        from mlx_lm import batch_generate

        if not prompts:
            return []
        response = batch_generate(
            self._model,
            self._tokenizer,
            [self._encode(prompt) if plain else self._layout.encode_prompt(prompt) for prompt in prompts],
            max_tokens=max_new_tokens,
            completion_batch_size=self._batch_size,
            prefill_batch_size=self._batch_size,
        )
        opening = "" if plain else self._layout.opening
        return [f"{opening}{text}" for text in response.texts]

    def score_options(self, pairs: Sequence[tuple[str, str]], *, plain: bool = False) -> list[OptionScore]:
        """Score answers to questions; without a question (an empty one), what is before any answer is put.

        Prompt and option are encoded together, since a token may span their border; scoring begins where the joint
        encoding leaves that of the prompt alone.

        Args:
            pairs: Prompts and options.
            plain: Take the prompts as they are, in no chat layout; then an option begins with its own blank.

        What several begin with, such as the prompt of four options, is read once.

        Raises:
            ParameterError: An option is empty.
        """
        sequences: list[Scored] = []
        for prompt, option in pairs:
            if not option:
                raise ParameterError(f"an option of the prompt {prompt!r} is empty; write one that can be scored")
            if plain:
                joint = self._encode(prompt + option)
                start = common_prefix(self._encode(prompt), joint)
            else:
                encoded = self._layout.encode_option(prompt, option)
                joint, start = encoded.ids, encoded.start
            # At least the last token is scored, even if the tokenizer folded the option into the prompt.
            start = max(1, min(start, len(joint) - 1))
            sequences.append(Scored(tuple(joint), start))
        return [
            OptionScore(sum(values), len(values), self._bytes(option, plain))
            for values, (_, option) in zip(self._tail_likelihoods(sequences), pairs, strict=True)
        ]

    def _bytes(self, option: str, plain: bool) -> int:
        return len((option if plain else self._layout.scored(option)).encode())

    def score_samples(self, samples: Sequence[Sample], max_seq_length: int) -> list[TextLikelihood]:
        """Score samples of a mixture, each cut to `max_seq_length` tokens: in a chat template the response alone.

        In ``User:/Assistant:`` the whole text is scored, prompt included.
        """
        if not self._layout.templated:
            found = self._token_likelihoods([self._layout.encode_text(each.text)[:max_seq_length] for each in samples])
            return [TextLikelihood(-sum(values), len(values)) for values in found]
        encoded = [
            self._layout.encode_option(sample.prompt, sample.response)
            if sample.response
            else Encoded(self._layout.encode_text(sample.text), 0)
            for sample in samples
        ]
        found = self._token_likelihoods([each.ids[:max_seq_length] for each in encoded])
        scored = [values[max(0, each.start - 1) :] for values, each in zip(found, encoded, strict=True)]
        return [TextLikelihood(-sum(values), len(values)) for values in scored]

    def negative_log_likelihoods(self, texts: Sequence[str], max_seq_length: int) -> list[TextLikelihood]:
        """Score whole plain texts, each cut to `max_seq_length` tokens; one of a single token has none."""
        sequences = [self._encode(text)[:max_seq_length] for text in texts]
        return [TextLikelihood(-sum(values), len(values)) for values in self._token_likelihoods(sequences)]

    def _encode(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text)]

    def _tail_likelihoods(self, sequences: Sequence[Scored]) -> list[list[float]]:
        """Log-likelihoods of the tokens from each sequence's `start` on, every shared beginning read once."""
        from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

        longest = max((len(sequence.ids) for sequence in sequences), default=0)
        caches = make_prompt_cache(self._model)
        shared = all(
            type(cache) is KVCache or (type(cache) is RotatingKVCache and longest <= cache.max_size) for cache in caches
        )
        if not shared:  # a layer keeps something else than the keys and values of all tokens
            whole = self._token_likelihoods([sequence.ids for sequence in sequences])
            return [values[each.start - 1 :] for values, each in zip(whole, sequences, strict=True)]
        work = _Work(sequences, len(caches))
        self._read(grow_tree(sequences), None, work)
        return work.results

    def _read(self, nodes: Sequence[Node], parents: _Parents | None, work: _Work) -> None:
        """Read nodes in batches, and after each batch what follows it; `parents` is what was read before them.

        Padding to the right is harmless under a causal mask; the caches move it to the left, where it is masked,
        before anything follows. Only leaves need logits, so the others go in batches of their own.
        """
        import mlx.core as mx
        from mlx_lm.models.cache import BatchKVCache

        rows = min(self._batch_size, max(1, REMEMBERED_TOKENS // (1 + (parents.length if parents else 0))))
        for inner in (False, True):
            places = [place for place, node in enumerate(nodes) if bool(node.children) is inner]
            lengths = [len(nodes[place].tokens) for place in places]
            for batch in batches_of(lengths, rows, BATCH_TOKENS):
                chosen = [places[place] for place in batch]
                some = [nodes[place] for place in chosen]
                width = max(len(node.tokens) for node in some)
                caches = parents.at(chosen) if parents else [BatchKVCache([0] * len(some)) for _ in range(work.layers)]
                for cache in caches:
                    cache.prepare(right_padding=[width - len(node.tokens) for node in some])
                padded = mx.array([[*node.tokens, *[0] * (width - len(node.tokens))] for node in some])
                logits = self._model(padded, cache=caches)
                if not inner:
                    work.score(some, logits)
                    continue
                for cache in caches:
                    cache.finalize()
                mx.eval([(cache.keys, cache.values) for cache in caches])
                lines = [line for line, node in enumerate(some) for _ in node.children]
                self._read([child for node in some for child in node.children], _Parents(caches, lines), work)

    def _token_likelihoods(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-likelihoods of the tokens after the first of every sequence, batched by length, right-padded.

        Padding to the right is harmless under a causal mask: no real position sees it. Sequences that differ in
        their last token alone (" Yes" and " No") share one forward pass.
        """
        import mlx.core as mx
        import mlx.nn as nn
        import numpy as np

        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, ids in enumerate(sequences):
            if len(ids) > 1:
                rows_of.setdefault(tuple(ids[:-1]), []).append(row)
        results: list[list[float]] = [[] for _ in sequences]
        for inputs in self._batches({ids: len(rows) for ids, rows in rows_of.items()}):
            rows = [(line, row) for line, ids in enumerate(inputs) for row in rows_of[ids]]
            width = max(len(ids) for ids in inputs)
            targets = np.zeros((len(rows), width), dtype=np.int32)
            for place, (_, row) in enumerate(rows):
                targets[place, : len(sequences[row]) - 1] = sequences[row][1:]
            padded = mx.array([[*ids, *[0] * (width - len(ids))] for ids in inputs])
            logits = self._model(padded).astype(mx.float32)
            if len(rows) > len(inputs):
                logits = logits[mx.array([line for line, _ in rows])]
            scored = np.array(-nn.losses.cross_entropy(logits, mx.array(targets)))
            for place, (_, row) in enumerate(rows):
                results[row] = [float(value) for value in scored[place, : len(sequences[row]) - 1]]
        return results

    def _batches(self, inputs: Mapping[tuple[int, ...], int]) -> Iterator[list[tuple[int, ...]]]:
        """Group sequences of like length; each needs logits for as many rows as share it."""
        batch: list[tuple[int, ...]] = []
        rows = 0
        for ids in sorted(inputs, key=len):
            if batch and (len(batch) >= self._batch_size or (rows + inputs[ids]) * len(ids) > BATCH_TOKENS):
                yield batch
                batch, rows = [], 0
            batch.append(ids)
            rows += inputs[ids]
        if batch:
            yield batch


def load_model(
    model_path: str, adapter: Path | None = None, batch_size: int = 16, layout: str | None = None
) -> ModelUnderTest:
    """Load a base model, and an adapter on it if one is given, to be measured; raises what `open_model` does.

    Without a `layout` the model is spoken to as its adapter was trained, else as the base model expects.
    """
    if layout is None and adapter is not None:
        layout = trained_layout(adapter)
    return ModelUnderTest(*open_model(model_path, adapter), batch_size, layout)


def chat_layout(tokenizer: Any, trained: str | None) -> ChatLayout:
    """Return the chat layout of a model, which then stops where an answer ends; `tokenizer` is wrapped by mlx-lm."""
    layout = ChatLayout(tokenizer._tokenizer, trained)
    for token in layout.end:
        tokenizer.add_eos_token(str(token))
    return layout


def open_model(model_path: str, adapter: Path | None = None) -> tuple[Any, Any]:
    """Load an mlx-lm language model, and an adapter on it if one is given, without dropout, and its tokenizer.

    Raises:
        PrerequisiteError: The model or the adapter is missing.
        ParameterError: The adapter does not fit the model.
    """
    from mlx_lm import load

    if Path(model_path).is_absolute() and not Path(model_path).is_dir():
        # mlx-lm would take the path for a name of the Hub and complain of its slashes.
        raise PrerequisiteError(f"no model at {model_path}; download it again or name another")
    if os.path.lexists(Path(model_path) / CONFIG):
        check_model_folder(Path(model_path))
    if adapter is not None:
        if not (adapter / "adapters.safetensors").is_file():
            raise PrerequisiteError(
                f"{adapter} does not have adapters.safetensors; train the run first or name a checkpoint"
            )
        read_adapter(adapter)
    with loading(Path(model_path)):
        try:
            model, tokenizer = load(model_path, adapter_path=str(adapter) if adapter else None)
        except FileNotFoundError as error:
            raise PrerequisiteError(f"no model at {model_path} ({error}); download it or name another") from error
        except ValueError as error:
            raise ParameterError(f"{model_path} with adapter {adapter} cannot be loaded: {error}") from error
    model.eval()
    return model, tokenizer
