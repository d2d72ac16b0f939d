"""A base model, with or without an adapter, as the evaluation sees it: answers, likelihoods, nothing else.

Of this folder only this module, `likelihoods` and `try_model` load MLX, and only inside functions.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from storage.chat_layout import ChatLayout, Encoded, common_prefix
from storage.checkpoint import trained_layout
from storage.errors import ParameterError, PrerequisiteError
from storage.model_folder import CONFIG, check_model_folder, loading, read_adapter
from tasks.evals.likelihoods import REMEMBERED_TOKENS, Scored, log_likelihoods
from tasks.evals.mixture import HeldOut
from tasks.evals.parameters import BATCH_SIZE


class OptionScore(NamedTuple):
    """Log-likelihood of a continuation: `nats`, summed over its `tokens` (negative), and its UTF-8 `bytes`."""

    nats: float
    tokens: int
    bytes: int

    @property
    def nats_per_byte(self) -> float:
        """Length-normalised, and independent of the tokenizer."""
        return self.nats / self.bytes


class TextLikelihood(NamedTuple):
    """Negative log-likelihood of a whole text: `nats`, summed over its predicted `tokens`."""

    nats: float
    tokens: int


class ModelUnderTest:
    """A language model of mlx-lm and its tokenizer; `batch_size` is the most sequences in one forward pass.

    The model takes token ids (batch, length) and returns logits (batch, length, vocabulary). Prompts are plain
    questions, which are put in the chat `layout` here that the adapter was trained in; none: the base model's own.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = BATCH_SIZE, layout: str | None = None) -> None:
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
        encoded = self._encode(prompts) if plain else [self._layout.encode_prompt(prompt) for prompt in prompts]
        remembered = max(map(len, encoded)) + max_new_tokens
        rows = max(1, min(self._batch_size, REMEMBERED_TOKENS // remembered))
        response = batch_generate(
            self._model,
            self._tokenizer,
            encoded,
            max_tokens=max_new_tokens,
            completion_batch_size=rows,
            prefill_batch_size=rows,
        )
        opening = "" if plain else self._layout.opening
        return [f"{opening}{text}" for text in response.texts]

    def score_options(self, pairs: Sequence[tuple[str, str]], *, plain: bool = False) -> list[OptionScore]:
        """Score answers to questions; before an answer without a question (an empty one) stands what is before any.

        Prompt and option are encoded together, since a token may span their border; scoring begins where the joint
        encoding leaves that of the prompt alone. `plain` prompts are in no chat layout; an option then begins with its
        own blank. ParameterError for an empty option.
        """
        for prompt, option in pairs:
            if not option:
                raise ParameterError(f"an option of the prompt {prompt!r} is empty; write one that can be scored")
        if plain:
            texts = dict.fromkeys(text for prompt, option in pairs for text in (prompt, prompt + option))
            ids = dict(zip(texts, self._encode(list(texts)), strict=True))
            joint = [(ids[prompt], ids[prompt + option]) for prompt, option in pairs]
            rows = [Encoded(both, common_prefix(alone, both)) for alone, both in joint]
        else:
            rows = self._layout.encode_options(pairs)
        # At least the last token is scored, even if the tokenizer folded the option into the prompt.
        sequences = [Scored(tuple(row.ids), max(1, min(row.start, len(row.ids) - 1))) for row in rows]
        return [
            OptionScore(sum(values), len(values), len((option if plain else self._layout.scored(option)).encode()))
            for values, (_, option) in zip(
                log_likelihoods(self._model, sequences, self._batch_size), pairs, strict=True
            )
        ]

    def score_samples(self, samples: Sequence[HeldOut], max_seq_length: int) -> list[TextLikelihood]:
        """Score samples of a mixture, each cut to `max_seq_length` tokens: in a chat template the response alone.

        In ``User:/Assistant:`` the whole text is scored, prompt included.
        """
        encoded = [
            self._layout.encode_option(sample.prompt, sample.response)
            if self._layout.templated and sample.response
            else Encoded(self._layout.encode_text(sample.text), 0)
            for sample in samples
        ]
        return self._score_texts([(each.ids[:max_seq_length], each.start) for each in encoded])

    def negative_log_likelihoods(self, texts: Sequence[str], max_seq_length: int) -> list[TextLikelihood]:
        """Score whole plain texts, each cut to `max_seq_length` tokens; one of a single token has none."""
        return self._score_texts([(ids[:max_seq_length], 0) for ids in self._encode(texts)])

    def _score_texts(self, rows: Sequence[tuple[list[int], int]]) -> list[TextLikelihood]:
        """Score sequences of tokens, each from some place on."""
        found = log_likelihoods(self._model, [Scored(tuple(ids), 1) for ids, _ in rows], self._batch_size)
        scored = [values[max(0, start - 1) :] for values, (_, start) in zip(found, rows, strict=True)]
        return [TextLikelihood(-sum(values), len(values)) for values in scored]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode plain texts."""
        return [list(ids) for ids in self._tokenizer._tokenizer(list(texts))["input_ids"]] if texts else []


def load_model(
    model_path: str, adapter: Path | None = None, batch_size: int = BATCH_SIZE, layout: str | None = None
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

    PrerequisiteError if one is missing, ParameterError if they do not fit together.
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
