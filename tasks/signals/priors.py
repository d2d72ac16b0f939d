"""The source registry: what is known of a document from the kind of its source alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.vocabulary import SourceType

AUTHORITY_MAXIMUM = 0.99
BITS_MAXIMUM = 10.0
LABEL_COLUMNS = ["components.text_auth", "components.source_type", "components.unscored_language"]
"""What `label_differences` reads of a shard of scores."""


@dataclass(frozen=True)
class Prior:
    """What a source type says of its documents before their text is read."""

    authority: float
    """Fraction in [0, 0.99]."""
    bits: float
    """Provenance entropy, in the bit-like units of scoring v1, [0, 10]."""
    first_year: int | None
    """No document of this type is older; none: no bound."""
    last_year: int | None
    """No document of this type is younger; none: no bound."""
    if_newer: SourceType | None = None
    """The type of a document whose year lies after `last_year`."""


PRIORS: dict[SourceType, Prior] = {
    "patent_pre1970": Prior(0.05, 7.0, 1790, 1969, "patent_modern"),
    "patent_modern": Prior(0.30, 4.5, 1970, None),
    "lab_notebook": Prior(0.10, 7.4, 1500, 1969, "unknown"),
    "classical_philosophy": Prior(0.08, 7.5, None, 1928, "unknown"),
    "historical_book": Prior(0.10, 6.0, 1450, 1928, "unknown"),
    "classical_literature": Prior(0.10, 6.5, 1450, 1928, "unknown"),
    "classical_rhetoric": Prior(0.12, 6.0, None, 1969, "unknown"),
    "historical_newspaper": Prior(0.15, 6.0, 1600, 1969, "news_modern"),
    "preprint": Prior(0.50, 3.5, 1991, None),
    "logic_training": Prior(0.55, 3.2, 1995, None),
    "academic_paper": Prior(0.60, 3.0, 1950, None),
    "news_modern": Prior(0.75, 1.5, 1980, None),
    "medical_guidelines": Prior(0.85, 1.2, 1990, None),
    "wiki": Prior(0.90, 1.0, 2001, None),
    "government": Prior(0.95, 0.5, 1990, None),
    "notebook_modern": Prior(0.12, 6.5, 1970, None),
    "declaration": Prior(0.12, 6.5, None, None),
    "raw_data": Prior(0.12, 6.5, None, None),
    "interview": Prior(0.15, 6.0, None, None),
    "unknown": Prior(0.50, 3.0, None, None),
}


def known_type(name: str | None) -> SourceType:
    """Return the source type of that name; a name outside the registry, or none, is ``unknown``."""
    return name if name in PRIORS else "unknown"


def label_differences(components: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Subtract the authority of each document's label from that of its text; NaN where the two cannot disagree.

    Args:
        components: Structs with at least the fields of `LABEL_COLUMNS`.
    """
    text, kinds, unscored = (
        pc.struct_field(components, name.removeprefix("components.")).combine_chunks() for name in LABEL_COLUMNS
    )
    encoded = kinds.fill_null("unknown").dictionary_encode()
    names = [known_type(name) for name in encoded.dictionary.to_pylist()]
    labels = np.array([np.nan if name == "unknown" else PRIORS[name].authority for name in names])
    differences = text.cast("float64").to_numpy(zero_copy_only=False) - labels[encoded.indices.to_numpy()]
    return np.where(unscored.fill_null(False).to_numpy(zero_copy_only=False), np.nan, differences)
