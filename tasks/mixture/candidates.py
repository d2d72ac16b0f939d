"""The samples that a mixture may be drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from storage.vocabulary import BANDS, Band

Indices = npt.NDArray[np.int64]
SIDES = ("train", "valid")


@dataclass(frozen=True)
class Candidates:
    """Every sample that may be drawn, one entry a sample.

    Attributes:
        ids: Sample ids, all different.
        groups: Group of each sample, an index into `group_names`.
        group_names: Name of each group.
        bands: Index into `storage.schemas.BANDS`.
        trivia: Index into `storage.schemas.TRIVIA`.
        sources: Index into `source_names`, which is sorted.
        source_names: Names of the sources.
    """

    ids: Sequence[str]
    groups: Indices
    group_names: Sequence[str]
    bands: Indices
    trivia: Indices
    sources: Indices
    source_names: Sequence[str]

    def band_counts(self) -> dict[Band, int]:
        """Count the samples of each band."""
        return dict(zip(BANDS, np.bincount(self.bands, minlength=len(BANDS)).tolist(), strict=True))
