"""A signal of one's own: an author who writes "I measured" was there, so the evidence is easier to verify."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

WITNESS = r"\b(?:I|we) (?:have )?(?:measured|observed|weighed|counted|saw)\b"
BITS_A_WITNESS = 0.5
MOST_BITS = 10.0
PRIOR_BITS = 6.0


def score(documents: pa.Table) -> dict[str, list[float | None]]:
    """Give documents that speak of their own observations more provenance entropy.

    Args:
        documents: Columns of `storage.schemas.RAW_SCHEMA`, one row a document.

    Returns:
        ``prov_entropy`` in bits, 0 to 10; none leaves the built-in score.
    """
    counts = pc.count_substring_regex(documents.column("text"), WITNESS).to_pylist()
    return {"prov_entropy": [min(MOST_BITS, PRIOR_BITS + BITS_A_WITNESS * n) if n else None for n in counts]}
