"""Which of the three arts a document exercises: grammar, logic or rhetoric.

The category follows the source, not the text: the guide assigns it per dataset. A source's entry in the
catalogue may name another one, which wins.
"""

from __future__ import annotations

from storage.errors import ParameterError
from storage.vocabulary import TRIVIA, SourceType, Trivium

TRIVIUM_OF: dict[SourceType, Trivium] = {
    "patent_pre1970": "logic",
    "patent_modern": "logic",
    "lab_notebook": "logic",
    "classical_philosophy": "logic",
    "historical_book": "rhetoric",
    "classical_literature": "rhetoric",
    "classical_rhetoric": "grammar",
    "historical_newspaper": "rhetoric",
    "preprint": "logic",
    "logic_training": "logic",
    "academic_paper": "logic",
    "news_modern": "rhetoric",
    "medical_guidelines": "logic",
    "wiki": "grammar",
    "government": "rhetoric",
    "notebook_modern": "logic",
    "declaration": "rhetoric",
    "raw_data": "logic",
    "interview": "rhetoric",
    "unknown": "grammar",
}
"""The default of each source type. Of an unknown text only the structure is certain, hence grammar."""


def checked_trivium(trivium: str | None) -> Trivium | None:
    """Return the category that a catalogue names; none if it names none or an empty one.

    Raises:
        ParameterError: It is none of the three.
    """
    if not trivium:
        return None
    if trivium in TRIVIA:
        return trivium
    raise ParameterError(f"trivium category {trivium!r} is none of {', '.join(TRIVIA)}; correct the source's entry")
