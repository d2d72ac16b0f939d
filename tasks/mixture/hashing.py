"""Keyed hashes: the only source of chance in a mixture, independent of input order, threads and platform."""

from __future__ import annotations

from hashlib import blake2b


def keyed_hash(key: str, value: str) -> int:
    """Hash `value` under `key` to 64 bits (BLAKE2b)."""
    return int.from_bytes(blake2b(value.encode(), digest_size=8, key=key.encode()[:64]).digest(), "big")
