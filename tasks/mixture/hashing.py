"""Keyed hashes: the only source of chance in a mixture, independent of input order, threads and platform."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import numpy.typing as npt


def keyed_hashes(key: str, values: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Hash every value under `key` to 64 bits (BLAKE2b)."""
    keyed = blake2b(digest_size=8, key=key.encode()[:64])  # copied for each value: the key is taken in once

    def digest(value: str) -> bytes:
        hasher = keyed.copy()
        hasher.update(value.encode())
        return hasher.digest()

    return np.frombuffer(b"".join(map(digest, values)), ">u8").astype(np.uint64)
