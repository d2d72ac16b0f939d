"""Keyed hashes: the only source of chance in a mixture, independent of input order, threads and platform."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest


def keyed_hashes(key: str, values: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Hash every value under `key` to 64 bits (XXH3: nothing here has to withstand an adversary)."""
    seed = xxh3_64_intdigest(key.encode())
    return np.fromiter((xxh3_64_intdigest(value.encode(), seed) for value in values), np.uint64)
