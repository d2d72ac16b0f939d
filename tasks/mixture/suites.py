"""The wording of the evaluation suites, which no lesson may share: who has learned it cannot be judged by it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

SUITES = Path(__file__).parents[1] / "evals"


@cache
def suite_runs(folder: Path = SUITES) -> frozenset[tuple[str, ...]]:
    """Return every run of words in the evaluation suites that a lesson must not contain."""
    runs: set[tuple[str, ...]] = set()
    for path in sorted(folder.rglob("*.toml")):
        for words in _strings(tomllib.loads(path.read_text("utf-8"))):
            runs |= runs_of(words)
    return frozenset(runs)


def shares_run(text: str, runs: frozenset[tuple[str, ...]]) -> bool:
    """Tell whether a text holds one of these runs of words."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    beginnings = _beginnings(runs)
    places = [i for i, pair in enumerate(pairwise(words)) if pair in beginnings]
    return any((*words[i : i + size],) in runs for i in places for size in (3, 5))


@lru_cache(2)
def _beginnings(runs: frozenset[tuple[str, ...]]) -> frozenset[tuple[str, ...]]:
    return frozenset(run[:2] for run in runs)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)


def runs_of(text: str) -> set[tuple[str, ...]]:
    """Return the runs of five words, and those of three that hold two words of some length."""
    words = re.findall(r"[a-z0-9']+", re.sub(r"\{\w+\}", "|", text.lower()).replace("|", " | "))
    threes = {(*words[i : i + 3],) for i in range(len(words) - 2)}
    return {(*words[i : i + 5],) for i in range(len(words) - 4)} | {
        run for run in threes if sum(len(word) > 4 for word in run) > 1
    }
