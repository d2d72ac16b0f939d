"""What a user may set of an evaluation; no model library is loaded here."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.evals.invented_facts import FACTS

Suite = Literal["censorship", "authority", "source_preference", "perplexity", "distrust_signal", "repetition"]
DECIDING: tuple[Suite, ...] = ("censorship", "authority", "source_preference", "perplexity", "distrust_signal")
"""Suites that the guide sets a threshold for."""
SUITES: tuple[Suite, ...] = (*DECIDING, "repetition")
Norm = Literal["none", "byte"]
"""How the likelihoods of options of different lengths are compared."""
PUBLIC_TASKS = ("truthfulqa_mc2", "boolq")
"""What ``--lm-eval-tasks default`` runs: TruthfulQA, and questions about passages that are read."""
RESERVED = frozenset({"base", "adapter", "total"})
"""Names that the results give to something else than a further adapter."""
MAX_QUESTIONS_AT_ONCE = 64
"""Questions put to a model before what it said is written: no larger batch ever comes together."""
BATCH_SIZE = 64


class EvaluationParameters(BaseModel):
    """How base and adapter are compared; the same model makes the form, the command line and the spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suites: tuple[Suite, ...] = Field(
        default=SUITES,
        min_length=1,
        title="Suites",
        description="Which measurements to take; the verdict needs all but repetition, a part gives a part of the "
        "report.",
    )
    eval_limit: int | None = Field(
        default=None,
        ge=4,
        title="Prompts per suite",
        description="At most this many prompts of each suite, the guide's tests first; empty: all. For quick looks "
        "only, since the intervals widen.",
    )
    repetition_facts: int = Field(
        default=FACTS,
        ge=4,
        le=10_000,
        title="Facts about repetition",
        description="Invented facts put to each model with 1, 2, 4 and 8 copies of a wrong account; fewer are quicker "
        "and widen the intervals.",
    )
    max_new_tokens: int = Field(
        default=192,
        ge=8,
        le=4096,
        title="Longest answer",
        description="Tokens generated for each behaviour prompt, always greedily; reasoning models need 1024 or more.",
    )
    perplexity_samples: int = Field(
        default=200,
        ge=4,
        le=100_000,
        title="Validation samples per band",
        description="At most this many held-out samples of each authority band, the same ones for base and adapter.",
    )
    eval_seq_length: int = Field(
        default=1024,
        ge=16,
        le=131_072,
        title="Longest sequence",
        description="Held-out samples are cut to this many tokens, the same for base and adapter.",
    )
    eval_batch_size: int = Field(
        default=BATCH_SIZE,
        ge=1,
        le=MAX_QUESTIONS_AT_ONCE,
        title="Batch size",
        description="Sequences in one forward pass at most, fewer where they are long; lower it if memory runs out, "
        "which changes no result. A single long sequence goes alone, whole: --eval-seq-length bounds it.",
    )
    lm_eval_tasks: tuple[str, ...] = Field(
        default=(),
        title="lm-eval tasks",
        description="Tasks of EleutherAI's lm-eval to run on base and adapter besides, such as arc_easy; default: "
        f"TruthfulQA and reading comprehension ({', '.join(PUBLIC_TASKS)}). Needs the extra lm-eval.",
    )
    lm_eval_limit: int = Field(
        default=100, ge=1, title="lm-eval samples", description="At most this many samples of each lm-eval task."
    )
    questions: tuple[str, ...] = Field(
        default=(),
        title="Your questions",
        description='Question sets of your own, files or folders of JSON lines such as {"question": "…", "options": '
        '["…", "…"], "answer": 0}; the answer is the index of the right option, from 0, or its text.',
    )
    question_norm: Norm = Field(
        default="none",
        title="Normalisation",
        description="How the options of your questions are compared: none, by their likelihood as a whole; byte, by "
        "that divided by their length in UTF-8 bytes, so that short options have no advantage.",
    )
    others: tuple[str, ...] = Field(
        default=(),
        max_length=8,
        title="Compare also",
        description="Further adapters to measure on the same questions: checkpoints of this run (checkpoint-500) or "
        "names of other runs on the same base model.",
    )
    gate: bool = Field(
        default=False,
        title="Fail below the thresholds",
        description="Fail the run if a deciding verdict misses its threshold, so that no weak adapter is exported.",
    )
    seed: int = Field(
        default=42,
        ge=0,
        le=2**31 - 1,
        title="Seed",
        description="Fixes which held-out samples are taken and how the intervals are resampled.",
    )

    @property
    def facts(self) -> int:
        """How many invented facts are asked."""
        return min(self.repetition_facts, self.eval_limit or self.repetition_facts)

    @field_validator("lm_eval_tasks")
    @classmethod
    def _spell_default(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        spelled = (each for name in names for each in (PUBLIC_TASKS if name == "default" else (name,)))
        return type(names)(dict.fromkeys(spelled))  # the command line has a list

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.gate and (missing := [name for name in DECIDING if name not in self.suites]):
            raise ValueError(f"gate needs every suite but repetition, {', '.join(missing)} is left out; leave out gate")
        if taken := sorted(RESERVED & set(self.others)):
            raise ValueError(f"others holds {taken[0]!r}, which names something else in the results; rename that run")
        return self
