"""The subjects that archives are asked for, so that old and new sources meet on the same ones by construction.

An archive with a search is asked for each subject, and what it finds is dealt out one document a subject in turn. Of a
dataset of rows those are kept that are about a subject. A source whose rows are about no subject is read as without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from types import MappingProxyType
from typing import Literal

from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tasks.sources.rows import FIRST_LINE
from tasks.sources.source import ASKED_FOR, Document, Reject
from tasks.sources.subject_list import words_of

ALWAYS_ALLOWED = 10
"""Documents on one subject that are taken whatever its even share."""
MENTIONS = 3
SHORT_CHARS, LONG_CHARS = 400, 3000
"""A text is about a subject that it names three times; a short one once in 400 characters, a long one in 3,000."""

Way = Literal["search", "rows", "no"]
WAYS: Mapping[Way, str] = MappingProxyType(
    {
        "search": "its archive is searched for each subject",
        "rows": "its rows are read, and those about a subject are kept",
        "no": "it cannot be asked by subject and is read as without subjects",
    }
)


def way_of(spec: SourceSpec) -> Way:
    """Tell how a source can be asked by subject."""
    if spec.archive == "local_files" or spec.bulk or not spec.by_subject:
        return "no"
    return "rows" if spec.is_rows else "search"


def about(spec: SourceSpec, subjects: tuple[str, ...]) -> SourceSpec:
    """Return the entry that asks for these subjects, or the entry as it is where it cannot be asked."""
    return spec if way_of(spec) == "no" else spec.model_copy(update={"subjects": subjects})


def most_on_one(wanted: int, subjects: int) -> int:
    """Return how many of `wanted` documents may be on one subject: twice its even share."""
    return max(ALWAYS_ALLOWED, -(-2 * wanted // max(1, subjects)))


async def ask_in_turn(
    subjects: Sequence[str], wanted: int, ask: Callable[[str, int], Awaitable[Sequence[Item]]]
) -> tuple[list[Item], str]:
    """Search for each subject, in the order of the list, and deal out what is found, one of each subject in turn.

    Args:
        subjects: The list.
        wanted: How many items are wanted; when so many subjects have one, no further ones are asked for.
        ask: Finds at most so many items on a subject.

    Returns:
        The items, each under the first subject that it was dealt for, and a remark on subjects without any.
    """
    piles: list[list[Item]] = []
    without: list[str] = []
    for subject in subjects:
        if len(piles) >= wanted:
            break
        if found := await ask(subject, most_on_one(wanted, len(subjects))):
            piles.append([replace(item, data={**item.data, ASKED_FOR: subject}) for item in found])
        else:
            without.append(subject)
    dealt: dict[str, Item] = {}
    for layer in zip_longest(*piles):
        for item in filter(None, layer):
            dealt.setdefault(item.native_id, item)
    named = ", ".join(without[:5]) + " ..." * (len(without) > 5)
    remark = f"nothing is found on {len(without)} of {len(subjects)} subjects: {named}" if without else ""
    return list(dealt.values())[:wanted], remark


class RowsAbout:
    """Finds the rows of a dataset that are about one of its subjects."""

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._has_titles = spec.columns.title != FIRST_LINE  # the first line of a text is no more than its text
        self._phrases: dict[str, list[tuple[list[str], str]]] = {}
        for subject in spec.subjects:
            words = words_of(subject)
            for last in {words[-1], f"{words[-1]}s", words[-1].removesuffix("s")}:
                phrase = [*words[:-1], last]
                self._phrases.setdefault(phrase[0], []).append((phrase, subject))
        for phrases in self._phrases.values():
            phrases.sort(key=lambda one: -len(one[0]))  # a comet with a name is not just any comet

    def keep(self, outcome: Document | Reject) -> Document | Reject:
        """Mark a document with the subject that it is about; one that is about none becomes a reject."""
        if isinstance(outcome, Reject) or not self._spec.subjects:
            return outcome
        titled = self._count(outcome.title or "") if self._has_titles else Counter[str]()
        counts = titled + self._count(outcome.text)
        subject = max(counts, key=lambda one: (one in titled, counts[one]), default="")
        if subject not in titled and counts[subject] < _enough(len(outcome.text)):
            return Reject(outcome.id, outcome.url, "other-subject", "it is about none of the subjects asked for")
        return replace(outcome, extra={**outcome.extra, ASKED_FOR: subject})

    def _count(self, text: str) -> Counter[str]:
        words, counts = words_of(text), Counter[str]()
        end = 0
        for place, word in enumerate(words):
            for phrase, subject in self._phrases.get(word, ()) if place >= end else ():
                if words[place : place + len(phrase)] == phrase:
                    counts[subject] += 1
                    end = place + len(phrase)
                    break
        return counts


def _enough(characters: int) -> float:
    """Return how often a text of this length names what it is about."""
    return max(min(MENTIONS, 1 + characters // SHORT_CHARS), characters / LONG_CHARS)
