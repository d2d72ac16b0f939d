"""Which requests a local server may answer: those of its own pages and of programs, never those of a foreign web page.

A page of any site can send requests to servers on this machine, and to names that it makes resolve to this machine
(DNS rebinding). Browsers tell where a request comes from in ``Origin``, ``Referer`` and ``Sec-Fetch-Site``, and which
name was asked for in ``Host``; a page can forge none of them. What it can send without asking first (a "simple"
request) never has the content type of JSON. Programs send no ``Origin`` and pass.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from storage.addresses import LOOPBACK
from storage.errors import ParameterError

NAMES = "DISTRUST_SERVER_NAMES"
"""Variable with further names of a server, separated by commas: what a reverse proxy or a name server calls it."""
EVERY_ADDRESS = frozenset({"", "0.0.0.0", "::"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_SITES = frozenset({"same-origin", "none"})
"""Values of ``Sec-Fetch-Site``: a page of this server, and an address that the user typed."""
JSON = "application/json"
"""A page may not send this to another site without asking first; text, forms and files it may."""
DEFAULT_PORTS = {"http": 80, "https": 443}

Headers = Iterable[tuple[str, str]]


def further_names(host: str) -> tuple[str, ...]:
    """Return the names besides its address that a server on a host is reached by.

    They are those of the environment and, where it listens on every address, this machine's own: other machines use
    those, and nobody elsewhere can make them resolve to something else.
    """
    named = [name.strip() for name in os.environ.get(NAMES, "").split(",")]
    if host in EVERY_ADDRESS:
        label = socket.gethostname().partition(".")[0]
        named += [name for name in (socket.gethostname(), label, f"{label}.local") if parse_host(name)]
    return tuple(dict.fromkeys(filter(None, named)))


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Split ``name``, ``name:port`` or ``[address]:port`` into its normal form; None if it is none of them."""
    if not text or any(character in text for character in "/\\@?#, ") or not text.isascii():
        return None
    try:
        parts = urlsplit(f"//{text}")
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    name = name.rstrip(".")
    return (_compressed(name), port) if name else None


def _address(name: str) -> str:
    """Return the normal form of an IP address, which no name server can make point elsewhere; empty for a name."""
    try:
        return str(ip_address(name))
    except ValueError:
        return ""


def _compressed(name: str) -> str:
    return _address(name) or name.lower()


def content_type(value: str) -> str:
    """Return the type in a ``Content-Type`` without its parameters."""
    return value.partition(";")[0].strip().lower()


@dataclass(frozen=True)
class OwnOrigin:
    """What a server may be called by.

    Args:
        host: Address that it listens on.
        port: Its port.
        names: Further names that it is reached by, for example behind a reverse proxy: ``name`` or ``name:port``.

    Raises:
        ParameterError: A name is not a host.
    """

    host: str
    port: int
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.names:
            if parse_host(name) is None:
                raise ParameterError(f"{name!r} is not a host name; write it like office.local or office.local:4200")

    def refusal(self, method: str, headers: Headers) -> str:
        """Say in one sentence why a request is not answered; empty if it may be."""
        values: dict[str, list[str]] = {}
        for name, value in headers:
            values.setdefault(name.lower(), []).append(value.strip())
        twice = [name for name in ("host", "origin", "content-type", "sec-fetch-site") if len(values.get(name, [])) > 1]
        if twice:
            return f"The request has several {twice[0]} headers."
        return self._refusal(method, {name: found[0] for name, found in values.items()})

    def _refusal(self, method: str, headers: dict[str, str]) -> str:
        asked = headers.get("host", "")
        if not self.is_called(asked):
            return (
                f"This server is not called {asked[:200]!r}; use {self._called}, or start it with that name in {NAMES}."
            )
        pages = [headers[name] for name in ("origin", "referer") if name in headers]
        for page in filter(lambda page: not self._is_own(page, asked), pages):
            return f"The page {page[:200]!r} belongs to another site than this server."
        if headers.get("sec-fetch-site", "none").lower() not in OWN_SITES:
            return "The request was started by a page of another site."
        kind = headers.get("content-type", "")
        if method.upper() not in SAFE_METHODS and (kind or has_body(headers)) and content_type(kind) != JSON:
            return f"A request that changes something needs the content type {JSON}, not {kind[:200]!r}."
        return ""

    @property
    def _called(self) -> str:
        return f"{'localhost' if self.host in EVERY_ADDRESS else self.host}:{self.port}"

    def is_called(self, asked: str) -> bool:
        """Tell whether a ``Host`` header names this server."""
        found = parse_host(asked)
        if found is None:
            return False
        name, port = found
        if self._is_named(name, port):
            return True
        if self.host in EVERY_ADDRESS and (_address(name) or name in LOOPBACK):
            return True  # whatever port a container or a router maps to ours: rebinding needs a name
        return name in {*LOOPBACK, _compressed(self.host)} and (port or 80) == self.port

    def _is_named(self, name: str, port: int | None) -> bool:
        for known, own_port in filter(None, map(parse_host, self.names)):
            if name == known and (port == own_port if own_port else port in (None, 80, 443, self.port)):
                return True
        return False

    def _is_own(self, page: str, asked: str) -> bool:
        """Tell whether a page came from the server that was asked, or from a name that a proxy has for it."""
        try:
            parts = urlsplit(page)
            name, port = _compressed((parts.hostname or "").rstrip(".")), parts.port
        except ValueError:
            return False
        default = DEFAULT_PORTS.get(parts.scheme)
        called = parse_host(asked)
        if default is None or called is None or not name:
            return False
        return (name, port or default) == (called[0], called[1] or default) or self._is_named(name, port)


def has_body(headers: dict[str, str]) -> bool:
    """Tell whether a request brings content."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
