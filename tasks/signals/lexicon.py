"""The lexicon of scoring v1: 321 phrases, compiled into one pattern for two regex engines.

``lexicon.tsv`` is a part of the scoring version: another file is another version.

The dialect is what Python's `re`, Rust's `regex` and RE2 read alike: no look-around, no back-references, bounded
repeats, word boundaries and case folding on ASCII only. `compile_for_python` and `spell_for_rust` write the one
spelling for each engine. Rust's Unicode word boundary would also throw its fast automaton out (4 against
235 MB/s).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

LEXICON_FILE = Path(__file__).with_name("lexicon.tsv")

GAP = r"[ \t\r\n-]{1,3}"
"""What a blank in a phrase matches: line ends and hyphens too, since scans break phrases over lines."""


@dataclass(frozen=True)
class Phrase:
    """One row of the lexicon: a phrase, and what one occurrence of it counts for."""

    text: str
    case_sensitive: bool
    tier: str | None
    """Rank of the institution named: A, B, C, D or W."""
    consensus: int
    primary: int
    """Weight as a marker of primary evidence: 0, 1 or 2."""
    kind: str | None
    """Evidence type, one of `storage.schemas.EVIDENCE_TYPES`."""

    @property
    def key(self) -> str:
        """What `key_of` makes of every span that matches this phrase."""
        return self.text.lower()


def load_lexicon(path: Path = LEXICON_FILE) -> tuple[Phrase, ...]:
    """Read the phrases of a lexicon file (tab-separated; ``#`` starts a comment line, ``-`` means none)."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if row and not row[0].startswith("#")]
    return tuple(
        Phrase(
            text=text,
            case_sensitive=case == "s",
            tier=None if tier == "-" else tier,
            consensus=int(consensus),
            primary=int(primary),
            kind=None if kind == "-" else kind,
        )
        for text, case, tier, consensus, primary, kind in rows
    )


def key_of(span: str) -> str:
    """Return the lexicon key of a matched span: blanks and hyphens become one space, letters lower case."""
    return re.sub(r"[ \t\r\n-]+", " ", span).lower()


def list_phrases(phrases: Iterable[Phrase]) -> str:
    """Return one pattern that finds the longest phrase at each place, every span once: all side by side.

    This is what the lexicon means, and what the reference looks for; `join_phrases` finds the same, faster.
    The reference shares no search with the engine, so a fault in the factored pattern shows as unequal scores.
    """
    return _pattern_of(phrases, _list)


Node = dict[str, "Node"]
"""Texts by their letters: what follows each letter; the empty one ends a text."""


def join_phrases(phrases: Iterable[Phrase]) -> str:
    """Return a pattern that finds what that of `list_phrases` finds, faster: phrases share their common beginnings.

    At a branch the longer continuation is tried first.
    """
    return _pattern_of(phrases, _factor)


def _pattern_of(phrases: Iterable[Phrase], alternation: Callable[[list[str]], str]) -> str:
    """Put case-sensitive phrases before the others."""
    phrases = list(phrases)
    exact = alternation([phrase.text for phrase in phrases if phrase.case_sensitive])
    folded = alternation([phrase.text for phrase in phrases if not phrase.case_sensitive])
    return rf"\b(?:{exact}|(?i:{folded}))\b"


def _list(texts: list[str]) -> str:
    """Write an alternation of literal texts, the longest first."""
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return "|".join(GAP.join(map(re.escape, text.split(" "))) for text in longest_first)


def compile_for_python(pattern: str) -> re.Pattern[str]:
    """Compile a pattern of the shared dialect for Python."""
    return re.compile(pattern, re.ASCII)


def spell_for_rust(pattern: str) -> str:
    r"""Spell a pattern of the shared dialect for Rust: ``\b`` and ``(?i:`` on ASCII only."""
    return pattern.replace(r"\b", r"(?-u:\b)").replace("(?i:", "(?i-u:")


def _factor(texts: Iterable[str]) -> str:
    """Write an alternation of literal texts as nested groups of their common prefixes."""
    root: Node = {}
    for text in texts:
        node = root
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}
    return _spell(root)


def _spell(node: Node) -> str:
    branches = [
        (GAP if character == " " else re.escape(character)) + _spell(rest)
        for character, rest in sorted(node.items())
        if character
    ]
    if not branches:
        return ""
    ends_here = "" in node
    group = branches[0] if len(branches) == 1 and not ends_here else f"(?:{'|'.join(branches)})"
    return group + "?" if ends_here else group


LEXICON = load_lexicon()
LEXICON_PATTERN = join_phrases(LEXICON)
"""The whole lexicon as one pattern of the shared dialect, for the engine."""
