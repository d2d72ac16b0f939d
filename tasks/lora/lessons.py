"""Lessons for the further terms: pairs of answers, and questions that repeat a claim; drawn by the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage.chat_layout import ChatLayout, Encoded
from storage.errors import MixtureError
from tasks.lora.batches import BatchPlan, Floats, Indices, padded_width
from tasks.lora.recipe import Recipe
from tasks.lora.samples import Split, Tokens, read_columns

COLUMNS = ["prompt", "response", "rejected", "single"]
FIRST_DROPOUT_KEY = 1 << 31
"""Dropout keys of the terms begin here; those of the micro-batches count from 0."""


@dataclass(frozen=True)
class Answer:
    """A prompt with one answer; the answer's tokens begin at `start`, and its text has `size_bytes` in UTF-8."""

    tokens: Tokens
    start: int
    size_bytes: int


@dataclass(frozen=True)
class Pair:
    """The answer that a lesson teaches, and the one that should lose."""

    chosen: Answer
    rejected: Answer

    @property
    def longest(self) -> int:
        """Tokens of the longer one."""
        return max(len(self.chosen.tokens), len(self.rejected.tokens))


@dataclass(frozen=True)
class Choice:
    """A question up to the token in which two answers differ, and these two tokens."""

    tokens: Tokens
    candidates: tuple[int, int]


@dataclass(frozen=True)
class Repetition:
    """A question that repeats a claim, and the same question with one copy of it."""

    repeated: Choice
    single: Choice
    base_margin: float = 0.0
    """Log-odds of the two answers that the base model sees in the single question."""


@dataclass(frozen=True)
class Lessons:
    """The lessons of one side of a mixture, as far as a recipe asks for them."""

    pairs: tuple[Pair, ...] = ()
    repetitions: tuple[Repetition, ...] = ()
    left_out: int = 0
    """Lessons that are longer than the model reads."""

    def by_term(self, recipe: Recipe) -> tuple[tuple[str, int, Sequence[Pair | Repetition]], ...]:
        """Return each term's name, its rows in a step, and its lessons."""
        return (
            ("preference", recipe.preference_rows, self.pairs),
            ("consistency", recipe.consistency_rows, self.repetitions),
        )


@dataclass(frozen=True)
class TermBatch:
    """Rows of one term that go through the model together.

    ``tokens`` has shape (rows, width). For pairs, all chosen answers come before all rejected ones; `arrays` are place
    in the flattened rows and target of each position, shape (n,), and what each position's loss adds to the
    difference in log-likelihood per byte of each pair, shape (pairs, n). For repetitions they are the place of each
    choice, shape (rows,), its two candidates, shape (rows, 2), and the base model's log-odds, shape (rows,).
    """

    term: str
    tokens: Tokens
    arrays: tuple[npt.NDArray[np.int32] | Floats, ...]
    count: int
    """Pairs or repetitions."""
    dropout_key: int = FIRST_DROPOUT_KEY


def read_lessons(balanced: Path, split: Split, layout: ChatLayout, recipe: Recipe, *, required: bool) -> Lessons:
    """Read the lessons that a recipe's terms need; MixtureError if they are `required` and there are none."""
    wanted = recipe.term_weights.keys() & {"preference", "consistency"}
    if not wanted:
        return Lessons()
    rows = [row for row in read_columns(balanced, split, COLUMNS).to_pylist() if row["prompt"] and row["response"]]
    rows = [row for row in rows if row["rejected"] and row["rejected"] != row["response"]]
    pairs: list[Pair] = []
    repetitions: list[Repetition] = []
    left_out = 0
    for row in rows:
        answers = row["response"], row["rejected"]
        encoded = _encode(layout, row["prompt"], answers)
        if max(len(one.ids) for one in encoded) > recipe.max_seq_length + 1:
            left_out += 1
            continue
        if "preference" in wanted and (pair := _pair(encoded, answers)):
            pairs.append(pair)
        if "consistency" in wanted and row["single"]:
            repeated = _choice(encoded)
            single = _choice(_encode(layout, row["single"], answers))
            if repeated and single and len(single.tokens) <= recipe.max_seq_length:
                repetitions.append(Repetition(repeated, single))
    found = {"preference": len(pairs), "consistency": len(repetitions)}
    for term in sorted(wanted) if required else ():
        if not found[term]:
            raise MixtureError(_nothing_for(term, balanced, split, left_out, recipe))
    return Lessons(tuple(pairs), tuple(repetitions), left_out)


def _nothing_for(term: str, balanced: Path, split: Split, left_out: int, recipe: Recipe) -> str:
    needs = {
        "preference": "lessons with a rejected answer (column 'rejected')",
        "consistency": "lessons with a repeated claim (columns 'rejected' and 'single')",
    }[term]
    longer = f" that fit into {recipe.max_seq_length} tokens ({left_out} are longer)" if left_out else ""
    cure = "raise max_seq_length" if left_out else "build the mixture with lessons (rebalance-corpus)"
    return (
        f"{term}_weight is {getattr(recipe, f'{term}_weight'):g}, but the {split} samples of {balanced} hold no "
        f"{needs}{longer}; {cure}, or set {term}_weight to 0"
    )


def _encode(layout: ChatLayout, prompt: str, answers: Sequence[str]) -> list[Encoded]:
    return layout.encode_answers([[(prompt, f" {answer}")] for answer in answers])


def _pair(encoded: Sequence[Encoded], answers: Sequence[str]) -> Pair | None:
    made = [
        Answer(np.asarray(one.ids, np.int32), max(1, one.start), len(answer.encode()))
        for one, answer in zip(encoded, answers, strict=True)
    ]
    return Pair(*made) if all(answer.start < len(answer.tokens) for answer in made) else None


def _choice(encoded: Sequence[Encoded]) -> Choice | None:
    """Find where two answers differ first; none if one is the beginning of the other."""
    first, second = (one.ids for one in encoded)
    at = next((at for at, (left, right) in enumerate(zip(first, second, strict=False)) if left != right), 0)
    return Choice(np.asarray(first[:at], np.int32), (first[at], second[at])) if at else None


def drawn(seed: int, stream: int, count: int, first: int, number: int) -> list[int]:
    """Return which of `count` lessons stand at `number` places from place `first` on; each comes once an epoch."""
    chosen = []
    orders: dict[int, Indices] = {}
    for place in range(first, first + number):
        epoch, position = divmod(place, count)
        if epoch not in orders:
            orders[epoch] = np.random.Generator(np.random.PCG64([seed, epoch, stream])).permutation(count)
        chosen.append(int(orders[epoch][position]))
    return chosen


@dataclass(frozen=True)
class LessonStream:
    """The lessons of each step: a pure function of seed and step, so that a resumed run needs no state for them."""

    lessons: Lessons
    recipe: Recipe
    rank: int = 0
    ranks: int = 1

    def batches(self, step: int) -> Iterator[TermBatch]:
        """Yield the rows of a step, counted from 0, that this process computes."""
        recipe, terms = self.recipe, self.recipe.term_weights
        for stream, (term, rows, held) in enumerate(self.lessons.by_term(recipe)):
            if term not in terms or not held:
                continue
            # The streams of the micro-batches are [seed, epoch] and [seed, epoch, 1].
            indices = drawn(recipe.seed, 2 + stream, len(held), step * rows, rows)
            mine = [held[index] for index in indices[self.rank :: self.ranks]]
            for number, batch in enumerate(term_batches(mine, recipe)):
                # Several batches of a step and processes that train together drop out differently.
                key = 2 * ((step * self.ranks + self.rank) * rows + number) + stream
                yield replace(batch, dropout_key=FIRST_DROPOUT_KEY + key)


def term_batches(lessons: Sequence[Pair | Repetition], recipe: Recipe) -> Iterator[TermBatch]:
    """Lay lessons of one kind into batches that need no more memory than a micro-batch."""
    paired = bool(lessons) and isinstance(lessons[0], Pair)
    lengths = np.array([one.longest if isinstance(one, Pair) else len(one.repeated.tokens) + 1 for one in lessons])
    tokens = max(1, recipe.micro_batch_tokens // (2 if paired else 1))
    plan = BatchPlan(0, recipe.max_seq_length, recipe.seed, tokens)
    for indices in plan.cut(np.argsort(lengths, kind="stable"), lengths) if len(lessons) else ():
        chosen = [lessons[int(index)] for index in indices]
        pairs = [one for one in chosen if isinstance(one, Pair)]
        repetitions = [one for one in chosen if isinstance(one, Repetition)]
        if pairs:
            yield _pair_batch(pairs, recipe.max_seq_length)
        else:
            margins = [one.base_margin for one in repetitions]
            yield choice_batch([one.repeated for one in repetitions], margins, recipe.max_seq_length)


def _rows(rows: Sequence[Tokens], max_seq_length: int) -> Tokens:
    width = padded_width(max(map(len, rows)), max_seq_length)
    tokens = np.zeros((len(rows), width), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    return tokens


def _pair_batch(pairs: Sequence[Pair], max_seq_length: int) -> TermBatch:
    answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    tokens = _rows([answer.tokens[:-1] for answer in answers], max_seq_length)
    places, targets, owners, shares = [], [], [], []
    for row, answer in enumerate(answers):
        positions = np.arange(answer.start - 1, len(answer.tokens) - 1)
        places.append(row * tokens.shape[1] + positions)
        targets.append(answer.tokens[answer.start :])
        owners.append(np.full(len(positions), row % len(pairs)))
        # A loss is a negative log-likelihood.
        sign = -1.0 if row < len(pairs) else 1.0
        shares.append(np.full(len(positions), sign / answer.size_bytes))
    per_byte = np.zeros((len(pairs), sum(map(len, places))), np.float32)
    per_byte[np.concatenate(owners), np.arange(per_byte.shape[1])] = np.concatenate(shares)
    flat = np.concatenate(places).astype(np.int32), np.concatenate(targets).astype(np.int32)
    return TermBatch("preference", tokens, (*flat, per_byte), len(pairs))


def choice_batch(choices: Sequence[Choice], base_margins: Sequence[float], max_seq_length: int) -> TermBatch:
    """Lay choices side by side, each with the log-odds that the base model sees."""
    tokens = _rows([choice.tokens for choice in choices], max_seq_length)
    last = np.array([row * tokens.shape[1] + len(choice.tokens) - 1 for row, choice in enumerate(choices)], np.int32)
    candidates = np.array([choice.candidates for choice in choices], np.int32)
    return TermBatch("consistency", tokens, (last, candidates, np.array(base_margins, np.float32)), len(choices))
