"""What an archive's HTTP answer means: data, "come back later", "not available", or a blocked client."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from yarl import URL

from storage.addresses import is_safe
from storage.errors import ArchiveBlocked, ArchiveBusy, CorruptAnswer, DistrustError, ItemUnavailable
from storage.hub_errors import retry_after

LATER = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
GONE = {404: "not-found", 410: "not-found"} | dict.fromkeys((401, 403, 451), "access-restricted")
REFUSALS = frozenset({200, 401, 403})
"""A web page with one of these statuses may refuse one page or shut out the client."""

_HALVES = re.compile(r"\\u[dD][89a-fA-F]")
_CHALLENGE_HEADERS = {"cf-mitigated": ("challenge",), "x-amzn-waf-action": ("challenge", "captcha")}
_CHALLENGE = re.compile(
    rb"just a moment\.\.\.|attention required! \| cloudflare|cf[-_]chl|/cdn-cgi/challenge-platform|captcha"
    rb"|(?:you are|you're|are you) (?:not )?(?:a )?(?:human|robot|bot)\b|unusual traffic"
    rb"|automated (?:requests|queries|access|traffic)",
    re.IGNORECASE,
)


def error_of(
    status: int,
    headers: Mapping[str, str],
    url: str,
    page: bytes = b"",
    *,
    wants_json: bool,
    block_seconds: float | None = None,
) -> DistrustError | None:
    """Return the error that a status and its headers stand for; none if the body may be read.

    Args:
        status: HTTP status.
        headers: Headers, case-insensitive.
        url: For the message.
        page: The beginning of the body, if that is a web page.
        wants_json: Whether a web page is the wrong answer.
        block_seconds: The pause in seconds to assume for a block, and for a 429 that names none.
    """
    pause = retry_after(headers.get("Retry-After"))
    if is_challenge(headers, page):
        return blocked(url, pause or block_seconds)
    if wants_json and status == 200 and is_html(headers):
        return CorruptAnswer(f"{url} answered with a web page instead of data")
    if status in LATER:
        overloaded = status == 429 or (status == 503 and pause is not None)
        if pause is None and status == 429:
            pause = block_seconds
        return ArchiveBusy(f"{url} answered {status}", pause, overloaded=overloaded)
    if status != 200:
        return ItemUnavailable(GONE.get(status, f"http-{status}"), f"{url} answered {status}")
    return None


def is_challenge(headers: Mapping[str, str], page: bytes) -> bool:
    """Tell whether an answer asks this client to prove that it is a person."""
    named = any(headers.get(name, "").strip().lower() in values for name, values in _CHALLENGE_HEADERS.items())
    return named or _CHALLENGE.search(page) is not None


def blocked(url: str, seconds: float | None) -> ArchiveBlocked:
    """Return the error of a client that is shut out, with the seconds if they are known."""
    return ArchiveBlocked(
        f"{url} was refused: the archive blocks this client. Lower the rate limit, set DISTRUST_CONTACT, or try from "
        "another network; do not restart immediately",
        seconds,
        overloaded=True,
    )


def is_html(headers: Mapping[str, str]) -> bool:
    """Tell whether an answer claims to be a web page."""
    return media_type(headers) in ("text/html", "application/xhtml+xml")


def media_type(headers: Mapping[str, str]) -> str:
    """Return the media type of an answer without its parameters, in lower case."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def redirect_target(url: URL, location: str, hosts: Sequence[str]) -> URL:
    """Return where a redirect leads: one of `hosts` or a subdomain of one, by TLS or on this machine.

    Raises:
        ItemUnavailable: It leads to another host, away from TLS, or cannot be read.
    """
    try:
        target = url.join(URL(location, encoded="%" in location))
    except ValueError as error:
        raise ItemUnavailable("foreign-redirect", f"{url} redirects to the invalid address {location!r}") from error
    host = target.host or ""
    known = any(host == allowed or host.endswith(f".{allowed}") for allowed in hosts)
    if not known or not is_safe(target.scheme, host):
        raise ItemUnavailable(
            "foreign-redirect",
            f"{url} redirects to {host or target!s}, which is not trusted; if you trust it, name it in "
            "DISTRUST_ALLOWED_HOSTS and retry",
        )
    return target


def parse_json(body: bytes, headers: Mapping[str, str], url: str) -> Any:
    """Parse an answer that must be JSON; a character that no text can hold becomes a question mark.

    Raises:
        CorruptAnswer: Its media type is not JSON, or it does not parse.
    """
    kind = media_type(headers)
    if not (kind in ("application/json", "text/json") or kind.endswith("+json")):
        raise CorruptAnswer(f"{url} answered with {kind or 'no content type'}, not JSON")
    try:
        text = body.decode("utf-8-sig")
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptAnswer(f"{url} answered with broken JSON ({error})") from error
    if _HALVES.search(text):  # half of a UTF-16 pair: JSON can spell it, but no file or address can hold it
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def check_object(value: Any, url: str, expect: tuple[str, ...]) -> dict[str, Any]:
    """Return a JSON value if it is an object with certain keys.

    Raises:
        CorruptAnswer: It is not an object, or lacks a key.
    """
    if not isinstance(value, dict):
        raise CorruptAnswer(f"{url} answered with a JSON {type(value).__name__}, not an object")
    missing = [key for key in expect if key not in value]
    if missing:
        said = f"; it says: {str(value['error'])[:300]}" if value.get("error") else ""
        raise CorruptAnswer(f"{url} answered without the keys {missing}{said}")
    return value
