"""Marks: what the sentences of texts show of where their content comes from, found in arrays of tokens.

A sentence of more than 30 words is read in pieces of 30, so that every piece of a text is a block that votes once. What
is denied, conditional or quoted is found and does not count; a block that repeats an earlier one does not count again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.signals.reader import Reader
from tasks.signals.tokens import NUMBER, OTHER, WORD, Bools, Hashes, Integers, Tokens
from tasks.signals.vocabulary import FEATURES, VOCABULARY, WORDS

REACH_BEFORE_NEGATION = 3
"""A negation takes so many tokens before it out of account, and all behind it in its block."""
FEWEST_WORDS = 4
"""A block of fewer words does not vote."""
FOREIGN_BLOCKS = (2, 6)
"""Up to 2 foreign blocks, a block without a common word of any language counts whole, and from 6 not at all."""
TEXT_FACTOR = np.uint64(0x9E3779B97F4A7C15)
BEYOND_ASCII = np.uint32(0x80808080)
SELF = 1
"""The writer as an origin; others are known by the hash of their last name."""


@dataclass(frozen=True)
class Blocks:
    """What the blocks of some texts show."""

    text: Integers
    """(blocks) Index of the text."""
    words: Integers
    """(blocks) Words and numbers; 0 for a block that an earlier one of its text repeats, or whose
    marks are all denied, conditional or quoted."""
    counts: NDArray[np.uint8]
    """(blocks, `FEATURES`) Marks that count, two at most."""
    first: Integers
    """(blocks) Index of the first token among those of all texts."""
    origins: NDArray[np.uint64]
    """(origins, 3) Text, name and blocks of that text in which it is the origin."""
    share: NDArray[np.float64]
    """(blocks) How much of its weight each has: none in a language that the features do not know, see `_languages`."""
    unscored_language: Bools
    """(texts) Whether more of the words stand in such a language than in English; not for a text of few words."""


def find_marks(reader: Reader) -> tuple[Integers, Integers]:
    """Find the marks of all features: their places and the features."""
    named = (*_reports(reader), *_measures(reader), *_second_hand(reader))
    found = [(place, np.full(len(place), VOCABULARY.features[name])) for name, place in named]
    place, kind = map(np.concatenate, zip(*found, *_phrases(reader), strict=True))
    alone = ~_listed(reader)[place]
    return place[alone], kind[alone]


def _listed(r: Reader) -> Bools:
    """Tell which words stand among three or more telling ones in a row: a list of such words is no sentence."""
    telling = (r.bits & (VOCABULARY.bit["feature"] | VOCABULARY.bit["organisation"])) != 0
    three = telling[:-2] & telling[1:-1] & telling[2:] & ~(r.begins[1:-1] | r.begins[2:])
    listed = np.zeros(r.size, np.bool_)
    for step in range(3):
        listed[step : len(three) + step] |= three
    return listed


def _reports(r: Reader) -> Iterator[tuple[str, Integers]]:
    """Find who speaks: first person with a verb in the past, notes, names, questions and answers."""
    yield "own_report", r.told[1]
    notes = r.of("note")
    fresh = r.starts(notes) | (r.kind[np.maximum(notes - 1, 0)] != WORD)
    yield "note", notes[fresh & r.capital[notes]]
    roles = r.of("role")
    named = r.after(roles)
    yield "person", roles[r.capital[named] & (named != roles) & r.capital[roles]]
    letters = np.flatnonzero((r.tokens.length == 1) & r.capital & (r.kind == WORD))
    letters = letters[~r.is_a("no_initial", letters)]
    surname = r.after(letters)
    yield "initials", letters[r.capital[surname] & (r.tokens.length[surname] > 2) & (r.kind[surname] == WORD)]
    lines = np.flatnonzero(r.line_start & (r.kind == WORD) & r.capital)
    second, third = r.after(lines), r.after(lines, 2)
    speaks = (r.sign[second] == ord(":")) | ((r.kind[second] == NUMBER) & (r.sign[third] == ord(":")))
    yield "question_and_answer", lines[speaks | ((r.tokens.length[lines] == 1) & r.is_a("speaker", lines))]


def _measures(r: Reader) -> Iterator[tuple[str, Integers]]:
    """Find numbers that someone read off: with a unit, a time of day, decimals, runs of them."""
    numbers = np.flatnonzero(r.kind == NUMBER)
    later = r.after(numbers)
    second = r.after(later)
    run = (r.kind[later] == NUMBER) & (later != numbers) & (r.kind[second] == NUMBER) & (second != later)
    yield "run_of_numbers", numbers[run]
    yield "time_of_day", numbers[r.tokens.colon[numbers] | (r.is_a("clock", later) & (later != numbers))]
    hours = r.of("at")
    yield "time_of_day", hours[r.is_a("hour", r.after(hours))]
    yield "number_with_unit", numbers[r.is_a("unit", later) & (later != numbers)]
    yield "decimal", numbers[r.tokens.point[numbers]]


def _second_hand(r: Reader) -> Iterator[tuple[str, Integers]]:
    """Find institutions, what they do, and citations."""
    bodies = r.of("organisation")
    bodies = bodies[(r.number[bodies] != VOCABULARY.number["who"]) | (r.capital[bodies] & ~r.starts(bodies))]
    yield "institution", bodies
    acting = r.skip(bodies)
    yield "institution_acts", bodies[r.is_a("acts", acting) & (acting != bodies)]
    brackets = np.flatnonzero((r.sign == ord("[")) | (r.sign == ord("(")))
    inner = r.after(brackets)
    cited = (r.sign[brackets] == ord("[")) & (r.kind[inner] == NUMBER) & ~r.tokens.point[inner]
    for steps in range(1, 6):
        year, closed = r.after(brackets, steps), r.sign[r.after(brackets, steps + 1)] == ord(")")
        cited |= (r.kind[year] == NUMBER) & (r.tokens.length[year] == 4) & closed
    yield "citation", brackets[cited]


def _phrases(r: Reader) -> list[tuple[Integers, Integers]]:
    """Find the words and phrases of the features, of one to four words.

    A word counts only in a sentence's company: with a word such as "the", or a number, among the two on either side.
    """
    plain = ((r.bits & VOCABULARY.bit["function"]) != 0) | (r.kind == NUMBER)
    beside = plain.copy()
    for steps in (1, 2):
        inside = r.block[steps:] == r.block[:-steps]
        beside[steps:] |= plain[:-steps] & inside
        beside[:-steps] |= plain[steps:] & inside
    single = np.flatnonzero(((r.bits & VOCABULARY.bit["feature"]) != 0) & beside)
    found = _of_features(single, VOCABULARY.features_of[:, r.number[single]])
    lead, second = (r.bits & VOCABULARY.bit["lead"]) != 0, (r.bits & VOCABULARY.bit["second"]) != 0
    leads = np.flatnonzero(lead[:-1] & second[1:] & (r.block[1:] == r.block[:-1]))
    key = r.number[leads].astype(np.int64)
    for length, (keys, features) in enumerate(VOCABULARY.phrases[1:], start=2):
        onward = r.after(leads, length - 1)
        key = key * WORDS + r.number[onward]
        place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        alive = (keys[place] == key) & (onward - leads == length - 1)
        leads, key = leads[alive], key[alive]
        found += _of_features(leads, features[:, place[alive]])
    return found


def _of_features(places: Integers, features: Integers) -> list[tuple[Integers, Integers]]:
    """Pair places with their features, (2, places), where there are any."""
    return [(places[known >= 0], known[known >= 0]) for known in features]


def silent_places(r: Reader, places: Integers) -> Bools:
    """Tell which places do not speak for the writer: what is denied, conditional or quoted."""
    negations = r.of("negation")
    earliest = np.full(len(r.first), r.size)
    np.minimum.at(earliest, r.block[negations], negations - REACH_BEFORE_NEGATION)
    denials = r.of("denial")
    denied = denials[r.is_a("be", r.after(denials, -1))]
    shut = np.zeros(len(r.first), np.bool_)
    shut[r.block[denied]] = True
    silent = (places >= earliest[r.block[places]]) | shut[r.block[places]]
    quotes = np.flatnonzero(r.sign == ord('"'))
    if not len(quotes):
        return np.asarray(silent)
    closes_word = r.glued[quotes] & (r.kind[np.maximum(quotes - 1, 0)] != OTHER)
    opens = r.glued[np.minimum(quotes + 1, r.size - 1)] & ~closes_word
    last = np.searchsorted(quotes, places, side="right") - 1
    at = quotes[np.maximum(last, 0)]
    near = r.paragraph(at) == r.paragraph(places)
    return np.asarray(silent | ((last >= 0) & opens[np.maximum(last, 0)] & near))


def find_origins(r: Reader) -> tuple[Integers, Hashes]:
    """Find who or what a text names as the origin of what it says: the places, and a name for each."""
    speech = r.of("speech")
    behind, ahead = r.after(speech, -1), r.after(speech)
    found: list[tuple[Integers, Hashes]] = []
    for place in (behind, ahead):
        named = r.capital[place] & (place != speech) & (r.kind[place] == WORD) & ~r.is_a("someone", place)
        found.append((place[named], r.tokens.word[place[named]]))
    roles = r.of("role")
    name = r.after(roles)
    further = r.after(name)
    name = np.where(r.capital[further] & (r.kind[further] == WORD) & ~r.is_a("speech", further), further, name)
    person = r.capital[roles] & r.capital[name] & (name != roles)
    found.append((roles[person], r.tokens.word[name[person]]))
    own = r.told[0]
    found.append((own, np.full(len(own), SELF, np.uint64)))
    for group in ("gauge", "document", "custody"):
        places = r.of(group)
        found.append((places, r.tokens.word[places]))
    return np.concatenate([place for place, _ in found]), np.concatenate([name for _, name in found])


def read_blocks(tokens: Tokens, texts: int) -> Blocks:
    """Read the blocks of texts from their tokens."""
    r = Reader(tokens)
    if not r.size:
        none = np.zeros(0, np.int64)
        return Blocks(
            none,
            none,
            np.zeros((0, len(FEATURES)), np.uint8),
            none,
            np.zeros((0, 3), np.uint64),
            np.zeros(0),
            np.zeros(texts, np.bool_),
        )
    of_text = r.tokens.text[r.first].astype(np.int64)
    words = r.words
    share, unscored = _languages(r, of_text, words, texts)
    places, features = find_marks(r)
    loud = ~silent_places(r, places)
    blocks = r.block[places[loud]]
    counts = np.zeros((len(words), len(FEATURES)), np.uint8)
    cells, times = np.unique(blocks * len(FEATURES) + features[loud], return_counts=True)
    counts.reshape(-1)[cells] = np.minimum(times, 2)
    silenced = np.zeros(len(words), np.bool_)
    silenced[r.block[places]] = True
    silenced[blocks] = False
    repeated = _repeated(r, of_text, silenced)
    words[silenced | repeated] = 0
    at, names = find_origins(r)
    at, names = at[~repeated[r.block[at]]], names[~repeated[r.block[at]]]
    said = _distinct(r.block[at].astype(np.uint64), names)[0]
    texts_of = of_text[r.block[at[said]]].astype(np.uint64)
    distinct, times = _distinct(texts_of, names[said])
    origins = np.stack([texts_of[distinct], names[said][distinct], times.astype(np.uint64)], axis=1)
    return Blocks(
        text=of_text,
        words=words,
        counts=counts,
        first=r.kept[r.first],
        origins=origins,
        share=share,
        unscored_language=unscored,
    )


def _languages(r: Reader, of_text: Integers, words: Integers, texts: int) -> tuple[NDArray[np.float64], Bools]:
    """Decide the language sentence by sentence, so that what is added to a text changes nothing of the rest.

    A block is foreign with more common words of other languages, or words that end beyond ASCII, than common English
    ones. A block with neither, such as a row of numbers, counts in an English text and fades with the number of foreign
    blocks, whatever else stands there.
    """
    blocks = len(words)
    other = np.flatnonzero((r.kind == WORD) & ((r.tokens.ending & BEYOND_ASCII) != 0))
    english = np.bincount(r.block[r.of("function")], minlength=blocks)
    foreign = np.bincount(r.block[np.concatenate([r.of("foreign"), other])], minlength=blocks) > english
    of_foreign = np.bincount(of_text, foreign & (words >= FEWEST_WORDS), texts)
    fading = np.clip((FOREIGN_BLOCKS[1] - of_foreign) / (FOREIGN_BLOCKS[1] - FOREIGN_BLOCKS[0]), 0.0, 1.0)
    share = np.where(foreign, 0.0, np.where(english > 0, 1.0, fading[of_text]))
    unknown, known = (np.bincount(of_text, words * some, texts) for some in (foreign, ~foreign & (english > 0)))
    return share, (unknown > known) & (np.bincount(of_text, words, texts) >= 40)


def _distinct(first: Hashes, second: Hashes) -> tuple[Integers, Integers]:
    """Return where each distinct pair stands, in the order of the pairs, and how often it occurs."""
    order = np.lexsort((second, first))
    new = np.ones(len(order), np.bool_)
    new[1:] = (first[order[1:]] != first[order[:-1]]) | (second[order[1:]] != second[order[:-1]])
    starts = np.flatnonzero(new)
    return order[starts], np.diff(np.append(starts, len(order)))


def _repeated(r: Reader, of_text: Integers, silenced: Bools) -> Bools:
    """Tell which blocks an earlier block of the same text says, with the same words in any order.

    What was quoted or denied first, and is then said by the writer, is said once.
    """
    hashes = np.add.reduceat(r.tokens.word, r.first) ^ (of_text.astype(np.uint64) * TEXT_FACTOR)
    hashes[silenced] = ~hashes[silenced]
    order = np.argsort(hashes)  # not a stable one, which takes five times as long
    new = np.diff(hashes[order], prepend=~hashes[order[:1]]) != 0
    repeated = np.ones(len(hashes), np.bool_)
    repeated[np.minimum.reduceat(order, np.flatnonzero(new))] = False
    return repeated
