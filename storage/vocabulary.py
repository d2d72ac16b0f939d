"""The words of the method: bands, trivium, kinds of source. Importing them loads nothing else."""

from __future__ import annotations

from typing import Literal, get_args

Band = Literal["low", "medium", "high"]
Trivium = Literal["grammar", "logic", "rhetoric"]
SourceType = Literal[
    "patent_pre1970",
    "patent_modern",
    "lab_notebook",
    "classical_philosophy",
    "historical_book",
    "classical_literature",
    "classical_rhetoric",
    "historical_newspaper",
    "preprint",
    "logic_training",
    "academic_paper",
    "news_modern",
    "medical_guidelines",
    "wiki",
    "government",
    "notebook_modern",
    "declaration",
    "raw_data",
    "interview",
    "unknown",
]

BANDS: tuple[Band, ...] = get_args(Band)
TRIVIA: tuple[Trivium, ...] = get_args(Trivium)
SOURCE_TYPES: tuple[SourceType, ...] = get_args(SourceType)

LOW_BELOW = 0.3
HIGH_ABOVE = 0.7

BAND_TARGETS: dict[Band, tuple[float, float]] = {"low": (0.25, 0.30), "medium": (0.25, 0.35), "high": (0.35, 0.40)}
"""The guide's share of each authority band in a mixture, from and to."""
TRIVIUM_TARGET = (0.20, 0.40)
"""The guide's share of each trivium category, from and to."""
ENTROPY_MEAN_TARGET_BITS = (3.5, 6.0)
"""The guide's mean provenance entropy of a mixture, from and to."""


def band_of(auth_weight: float) -> Band:
    """Return the authority band of the guide: low below 0.3, high above 0.7, medium between."""
    if auth_weight < LOW_BELOW:
        return "low"
    return "high" if auth_weight > HIGH_ABOVE else "medium"
