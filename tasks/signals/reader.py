"""Blocks: the tokens of texts cut into sentences, and sentences of more than 30 words into pieces of 30."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from tasks.signals.tokens import NUMBER, OTHER, WORD, Bools, Integers, Tokens
from tasks.signals.vocabulary import VOCABULARY

BLOCK_WORDS = 30
RARE = ~sum(VOCABULARY.bit[name] for name in ("function", "someone", "lead", "second", "feature"))
"""The classes with few words in a text, which are sought among each other."""
_ENDING_LY, _ENDING_ED = (int.from_bytes(ending, "little") for ending in (b"ly", b"ed"))


class Reader:
    """The tokens of some texts with what is known of each; every rule returns places of tokens."""

    def __init__(self, tokens: Tokens) -> None:
        number = VOCABULARY.look_up(tokens.word)
        line_start, keep, begins = _punctuation(tokens, number)
        self.kept = kept = np.flatnonzero(keep)
        self.breaks = _paragraph_breaks(tokens)
        self.tokens = Tokens(*(getattr(tokens, name)[kept] for name in Tokens.__annotations__))
        self.number, self.sign, self.line_start = number.take(kept), self.tokens.sign, line_start.take(kept)
        self.bits = VOCABULARY.bits.take(self.number)
        self.rare = np.flatnonzero((self.bits & RARE) != 0)
        self.rare_bits = self.bits.take(self.rare)
        self.kind, self.capital = self.tokens.kind, self.tokens.capital
        self.glued = self.tokens.glued & ~self.line_start
        self.size = len(self.kind)
        self.begins = begins[kept]
        """What begins a sentence; what a dropped token begins, the next kept one begins."""
        heads = np.searchsorted(kept, np.flatnonzero(begins & ~keep))
        self.begins[heads[heads < self.size]] = True
        self.begins[:1] = True
        self.begins[1:] |= self.tokens.text[1:] != self.tokens.text[:-1]
        self.block, self.first, self.words = self._blocks()

    def _blocks(self) -> tuple[Integers, Integers, Integers]:
        """Cut the sentences into blocks: of each token its block, of each block its first token and its words."""
        counted = self.kind != OTHER
        words, so_far = np.flatnonzero(counted), np.cumsum(counted)
        begins = self.begins.copy()
        starts = np.flatnonzero(begins)
        first = so_far[starts] - counted[starts]
        further = np.maximum(np.diff(first, append=len(words)) - 1, 0) // BLOCK_WORDS
        piece = np.arange(further.sum()) - np.repeat(np.cumsum(further) - further, further) + 1
        begins[words[np.repeat(first, further) + BLOCK_WORDS * piece]] = True
        starts = np.flatnonzero(begins)
        block = np.repeat(np.arange(len(starts)), np.diff(starts, append=self.size))
        return block, starts, np.diff(so_far[starts] - counted[starts], append=len(words))

    def paragraph(self, places: Integers) -> Integers:
        """Return the number of each place's paragraph."""
        return np.searchsorted(self.breaks, self.kept.take(places), side="right")

    def starts(self, places: Integers) -> Bools:
        """Tell which places begin a block."""
        return np.asarray(self.first[self.block[places]] == places)

    def of(self, name: str) -> Integers:
        """Return the places of the words of a class."""
        bit = VOCABULARY.bit[name]
        if bit & RARE:
            return np.asarray(self.rare[(self.rare_bits & bit) != 0])
        return np.flatnonzero((self.bits & bit) != 0)

    def is_a(self, name: str, places: Integers) -> Bools:
        """Tell which places hold a word of a class."""
        return np.asarray((self.bits.take(places) & VOCABULARY.bit[name]) != 0)

    def after(self, places: Integers, steps: int = 1) -> Integers:
        """Return the places some steps on, inside the same block; a place beyond is that of the mark itself."""
        onward = np.minimum(np.maximum(places + steps, 0), self.size - 1)
        return np.where(self.block.take(onward) == self.block.take(places), onward, places)

    def skip(self, places: Integers, times: int = 2) -> Integers:
        """Return the next places, adverbs passed over."""
        here = self.after(places)
        for _ in range(times):
            here = np.where(self.is_a("adverb", here) | self._ends_in_ly(here), self.after(here), here)
        return here

    def _ends_in_ly(self, places: Integers) -> Bools:
        ends = self.tokens.ending[places] >> 16 == _ENDING_LY
        return np.asarray(ends & (self.tokens.length[places] > 4) & (self.kind[places] == WORD))

    def is_past(self, places: Integers) -> Bools:
        """Tell which places hold a verb in the past: a known one, or a word in -ed."""
        ends = (self.tokens.ending[places] >> 16 == _ENDING_ED) & (self.tokens.length[places] > 4)
        return np.asarray(self.is_a("past", places) | (ends & (self.kind[places] == WORD)))

    @functools.cached_property
    def told(self) -> tuple[Integers, Integers]:
        """Where "I" or "we" stand with a verb in the past: the places of the writer, and of the verb."""
        writers = self.of("writer")
        writers = writers[self.capital[writers] | (self.tokens.length[writers] > 1)]
        verbs = self.skip(writers)
        past = self.is_past(verbs)
        return writers[past], verbs[past]


def _punctuation(tokens: Tokens, number: NDArray[np.int16]) -> tuple[Bools, Bools, Bools]:
    """Tell which tokens begin a line, which to keep, and which begin a sentence.

    A full stop behind an abbreviation or a single letter ends nothing, unless that is the unit of a number.
    Scans break lines anywhere, so that a line's end ends a sentence only before a capital, a number or a quotation,
    and a blank line always.
    """
    sign = tokens.sign
    newline = sign == ord("\n")
    line_start = _shifted(newline)
    line_start[:1] = True
    line_start[1:] |= tokens.text[1:] != tokens.text[:-1]
    abbreviation = (VOCABULARY.bits.take(number) & VOCABULARY.bit["abbreviation"]) != 0
    short = (tokens.kind == WORD) & (abbreviation | (tokens.length == 1))
    open_ended = np.ones_like(short)  # nothing stands directly behind the token
    open_ended[:-1] = ~tokens.glued[1:]
    unit = _shifted(short & _shifted(tokens.kind == NUMBER) & ~line_start) & open_ended
    abbreviated = (sign == ord(".")) & _shifted(short) & ~unit
    stop = ((sign == ord(".")) & ~abbreviated) | (sign == ord("!")) | (sign == ord("?")) | (sign == ord(";"))
    closing = (sign == ord('"')) | (sign == ord(")")) | (sign == ord("]"))
    fresh = line_start & (tokens.capital | (tokens.kind == NUMBER) | newline | (sign == ord('"')))
    begins = fresh | (_shifted(stop) & ~closing) | _shifted(closing & _shifted(stop))
    return line_start, ~(newline | stop | abbreviated), begins


def _paragraph_breaks(tokens: Tokens) -> Integers:
    """Return the tokens that begin a text or a blank line."""
    newline = tokens.sign == ord("\n")
    begins = newline & _shifted(newline)
    begins[1:] |= tokens.text[1:] != tokens.text[:-1]
    return np.flatnonzero(begins)


def _shifted(flags: Bools) -> Bools:
    """Return the flag of the token before each one."""
    moved = np.zeros_like(flags)
    moved[1:] = flags[:-1]
    return moved
