"""Answers of a run's base model and adapter, as they come."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict, Field

from storage import blas
from storage.errors import DistrustError
from storage.layout import NAME_PATTERN, Layout
from storage.training_result import read_training_result
from tasks.evals.try_model import TriedModel, load_run


class Question(BaseModel):
    """What is put to a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field(pattern=NAME_PATTERN)
    prompt: str = Field(min_length=1, max_length=8000)
    max_new_tokens: int = Field(200, ge=1, le=2048)
    temperature: float = Field(0.0, ge=0, le=2)


class Speaker:
    """Holds one model and lets it answer one question after the other.

    All of it happens in one thread: MLX's streams belong to the thread that made them, and the base answers while the
    adapter is taken out of the model.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._thread = ThreadPoolExecutor(1, "speaker")
        self._loaded = ""
        self._model: TriedModel | None = None

    async def answers(self, question: Question) -> AsyncIterator[bytes]:
        """Yield lines of JSON: a `side` with the next bit of its `text`, or a `problem`; stop if the client leaves."""
        loop, parts, left = asyncio.get_running_loop(), asyncio.Queue[bytes | None](), threading.Event()

        def say(**content: str) -> None:
            loop.call_soon_threadsafe(parts.put_nowait, json.dumps(content).encode() + b"\n")

        def work() -> None:
            try:
                self._answer(question, say, left)
            except DistrustError as error:
                say(problem=str(error))
            except Exception as error:  # a model of somebody else's: whatever goes wrong, the page has to hear of it
                say(problem=f"the model failed: {error!r:.500}")
            finally:
                loop.call_soon_threadsafe(parts.put_nowait, None)

        self._thread.submit(work)
        try:
            while (part := await parts.get()) is not None:
                yield part
        finally:
            left.set()

    def _answer(self, question: Question, say: Callable[..., None], left: threading.Event) -> None:
        model = self._load(question.run)
        for side in ("base", "adapter"):
            adapted = side == "adapter"
            for part in model.stream(question.prompt, question.max_new_tokens, question.temperature, adapted=adapted):
                if left.is_set():
                    return
                say(side=side, text=part)

    def _load(self, run: str) -> TriedModel:
        """Return the model of a run; the one before it leaves the memory first."""
        state = f"{run} {read_training_result(self._layout.run(run)).digest_parts}"
        if self._model is None or self._loaded != state:
            blas.load()
            self._model = None
            self._model, self._loaded = load_run(self._layout, run), state
        return self._model
