"""The words and phrases of scoring v2, numbered: what each is a member of, found by the hashes of words."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.signals.tokens import Hashes, hash_word

FEATURES_FILE = Path(__file__).with_name("features.toml")
WORDS = 4096
"""More than the vocabulary has."""
_TABLE_BITS = 18


def _key(numbers: Sequence[int]) -> int:
    """Number a phrase by the numbers of its words."""
    return functools.reduce(lambda key, number: key * WORDS + number, numbers, 0)


def _in_order(features: dict[int, list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    keys = sorted(features)
    return np.array(keys, np.int64), np.array([(features[key] + [-1, -1])[:2] for key in keys], np.int64).T


class Vocabulary:
    """The words of ``features.toml`` and what each belongs to."""

    def __init__(self, path: Path = FEATURES_FILE) -> None:
        given: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        self.signs: dict[str, int] = {name: entry["sign"] for name, entry in given["features"].items()}
        self.features = {name: place for place, name in enumerate(self.signs)}
        phrases = {
            (tuple(phrase.split("_")), name)
            for name, entry in given["features"].items()
            for phrase in entry.get("words", "").split()
        }
        self.classes: dict[str, set[str]] = {name: set(words.split()) for name, words in given["classes"].items()}
        longer = {phrase for phrase, _ in phrases if len(phrase) > 1}
        self.classes["feature"] = {phrase[0] for phrase, _ in phrases if len(phrase) == 1}
        self.classes["lead"], self.classes["second"] = ({phrase[place] for phrase in longer} for place in (0, 1))
        words = sorted(set().union(*self.classes.values(), *longer))
        self.number = {word: place + 1 for place, word in enumerate(words)}
        self.hashes = np.array([0, *(hash_word(word.encode()) for word in words)], np.uint64)
        self.slots = np.zeros(1 << _TABLE_BITS, np.int16)
        self.factor = self._spread()
        self.bit = {name: np.uint32(1 << place) for place, name in enumerate(self.classes)}
        masks = [sum(int(self.bit[name]) for name, group in self.classes.items() if word in group) for word in words]
        self.bits = np.array([0, *masks], np.uint32)
        begun: list[dict[int, list[int]]] = [{} for _ in range(4)]
        for phrase, name in sorted(phrases):
            keys = [_key([self.number[word] for word in phrase[:length]]) for length in range(1, len(phrase) + 1)]
            for found, key in zip(begun, keys, strict=False):
                found.setdefault(key, [])
            begun[len(phrase) - 1][keys[-1]].append(self.features[name])
        self.phrases = [_in_order(found) for found in begun]
        """Of one to four words, whole ones and beginnings: their keys in order, and of each two features; -1: none."""
        self.features_of = np.full((2, len(words) + 1), -1, np.int64)
        """The features of a single word, by its number."""
        keys_of_words, features = self.phrases[0]
        self.features_of[:, keys_of_words] = features

    def _spread(self) -> np.uint64:
        """Find an odd factor that gives every word a slot of its own."""
        factor = 0x9E3779B97F4A7C15
        while True:
            slots = (self.hashes[1:] * np.uint64(factor)) >> np.uint64(64 - _TABLE_BITS)
            if len(np.unique(slots)) == len(slots):
                self.slots[slots] = np.arange(1, len(self.hashes))
                return np.uint64(factor)
            factor = (factor * 6364136223846793005 + 1442695040888963407) % 2**64 | 1

    def look_up(self, hashes: Hashes) -> NDArray[np.int16]:
        """Return the number of every word; 0 for a word that is not in the vocabulary."""
        places = ((hashes * self.factor) >> np.uint64(64 - _TABLE_BITS)).view(np.int64)
        found = self.slots.take(places)
        found *= self.hashes.take(found) == hashes
        return found


VOCABULARY = Vocabulary()
FEATURES: tuple[str, ...] = tuple(VOCABULARY.signs)
SIGNS: NDArray[np.float64] = np.array(list(VOCABULARY.signs.values()), np.float64)
