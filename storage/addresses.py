"""Which addresses may be asked: https everywhere, http on this machine only.

A mirror in a private network is no exception: tokens would travel in clear text, and nobody could tell whose documents
arrive. Put a TLS proxy on loopback in front of it. Redirects inside the Hub's library are not checked; digests are.
"""

from __future__ import annotations

import os
from urllib.parse import SplitResult, urlsplit

from storage.errors import ParameterError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Hosts that are this machine."""


def is_safe(scheme: str, host: str | None) -> bool:
    """Tell whether what is sent stays secret and unchanged on its way."""
    return bool(host) and (scheme == "https" or (scheme == "http" and host in LOOPBACK))


def split_address(url: str) -> SplitResult | None:
    """Take an absolute URL apart; None if it has no host, an impossible port, or blanks."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        return None
    return parts if parts.hostname and not any(map(str.isspace, url)) else None


def checked_address(url: str, what: str = "address") -> str:
    """Return an absolute https URL, or an http one of this machine; ParameterError if it is neither."""
    parts = split_address(url)
    if parts is None or parts.scheme not in ("http", "https"):
        raise ParameterError(f"{what} {url!r} is not an absolute URL; write it like https://archive.example")
    if not is_safe(parts.scheme, parts.hostname):
        raise ParameterError(
            f"{what} {url!r} is not encrypted: anyone on the way could read tokens and change documents. Use https; "
            "http is for servers on this machine only (127.0.0.1)"
        )
    return url


def check_hub() -> None:
    """Check the address of the Hugging Face Hub before its libraries send a token there.

    Raises:
        ParameterError: ``HF_ENDPOINT`` is neither an https URL nor on this machine.
    """
    if endpoint := os.environ.get("HF_ENDPOINT"):
        checked_address(endpoint, "HF_ENDPOINT")
