"""What a failure of the Hugging Face libraries means, and what a person can do about it."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from storage.errors import ArchiveBusy, ArchiveUnreachable, DistrustError, PrerequisiteError

TOKENS = "https://huggingface.co/settings/tokens"

_TRANSPORTS = ("httpx", "httpcore", "aiohttp", "urllib3", "requests")
_WINDOW = re.compile(r"(?:^|;)\s*([rt])=(\d{1,6})\b", re.ASCII)


@dataclass(frozen=True)
class HubRepository:
    """A repository of the Hub, as messages about it need it.

    Attributes:
        about: What it is: "base model org/name".
        page: The address of its page.
        check: What to check when there is no such repository: "check the name, or name a local folder".
        instead: What to do when it cannot be fetched at all: "name another model".
        revision: The branch, tag or commit that was asked for.
        named_in: Where the revision is named: " of the catalogue entry".
        refused: The error for everything that trying again cannot change.
    """

    about: str
    page: str
    check: str
    instead: str
    revision: str = ""
    named_in: str = ""
    refused: type[DistrustError] = PrerequisiteError


def hub_error(error: BaseException, repository: HubRepository, *, first_contact: bool = False) -> DistrustError:
    """Return the error of this project for something that the Hub's libraries raised.

    The libraries wrap errors in each other, and a rate limit may even arrive as "file not found". So the whole chain
    of causes is read, and where they cut the chain, their words.

    Args:
        error: What was raised.
        repository: What was asked for.
        first_contact: Nothing came from the Hub before, so a Hub that cannot be reached means that there is no network.
    """
    chain = error_chain(error)
    kinds = {type(link).__name__ for link in chain} | {code for link in chain if (code := _header(link, "Code"))}
    statuses = {status for link in chain if (status := _status(link)) is not None}
    words = " ".join(str(link) for link in chain)
    about, said = repository.about, " ".join(str(error).split())[:300]
    if "OfflineModeIsEnabled" in kinds or "OfflineModeIsEnabled" in words:
        return PrerequisiteError(
            f"{about} must be fetched, but the Hub's libraries are in offline mode; unset HF_HUB_OFFLINE and "
            "HF_DATASETS_OFFLINE, and run again with a network"
        )
    if busy := {status for status in statuses if status in (408, 429) or status >= 500}:
        pauses = (pause for link in chain if (pause := named_pause(_headers(link), datetime.now(UTC))) is not None)
        return ArchiveBusy(f"{about}: the Hub answered {min(busy)} ({said})", next(pauses, None))
    if (refusal := _refusal(repository, kinds, statuses, words)) is not None:
        reason = next((reason for link in chain if (reason := _header(link, "Message"))), "")
        return repository.refused(refusal + (f" (the Hub says: {reason[:200]})" if reason else ""))
    if first_contact and kinds & {"ConnectError", "ConnectTimeout", "ProxyError"}:
        return PrerequisiteError(
            f"{about}: the Hub cannot be reached ({said}); check the network and run again, or set HF_ENDPOINT to a "
            "mirror that can be reached"
        )
    if any(
        isinstance(link, ConnectionError | TimeoutError)
        or (_status(link) is None and type(link).__module__.startswith(_TRANSPORTS))
        for link in chain
    ):
        return ArchiveUnreachable(f"{about} could not be read ({type(error).__name__}: {said})")
    return repository.refused(f"{about} cannot be read ({type(error).__name__}: {said})")


def _refusal(repository: HubRepository, kinds: set[str], statuses: set[int], words: str) -> str | None:
    """Say why the Hub does not give a repository to this client; none if something else went wrong."""
    about, page = repository.about, repository.page
    if kinds & {"GatedRepoError", "GatedRepo"} or "is a gated dataset" in words:
        return f"{about} is gated: sign in, accept its terms on {page}, and set HF_TOKEN to a token of that account"
    if "Invalid credentials in Authorization header" in words:
        return f"{about}: the Hub does not accept HF_TOKEN; create a new token on {TOKENS}, or unset it"
    if "DisabledRepoError" in kinds or "Access to this resource is disabled" in words:
        return f"{about} was disabled by the Hub; see {page}, or {repository.instead}"
    if kinds & {"RevisionNotFoundError", "RevisionNotFound"} or re.search(r"Revision '.*' doesn't exist", words):
        return f"{about} has no revision {repository.revision!r}; correct `revision`{repository.named_in}"
    missing = {"RepositoryNotFoundError", "DatasetNotFoundError", "RepoNotFound", "HFValidationError"}
    if kinds & missing or statuses & {401, 403}:
        return (
            f"{about} does not exist or is private; {repository.check}, or set HF_TOKEN to a token of an account that "
            "may read it"
        )
    return None


def error_chain(error: BaseException) -> list[BaseException]:
    """Return an error and everything that it was raised from."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _headers(error: BaseException) -> Mapping[str, str]:
    return getattr(getattr(error, "response", None), "headers", None) or {}


def _header(error: BaseException, name: str) -> str:
    """Return one of the headers by which the Hub explains a refusal."""
    headers = _headers(error)
    return str(headers.get(f"X-Error-{name}") or headers.get(f"x-error-{name.lower()}") or "")


def named_pause(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the pause in seconds that an answer asks for; none if it names none.

    The Hub writes ``RateLimit: "api";r=0;t=55`` when no request of the window is left for 55 seconds. Otherwise
    ``Retry-After`` counts, in seconds or as a date.
    """
    window = dict(_WINDOW.findall(headers.get("RateLimit", "") or headers.get("ratelimit", "")))
    if window.get("r") == "0" and "t" in window:
        return float(window["t"])
    return retry_after(headers.get("Retry-After") or headers.get("retry-after"), now)


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Read a Retry-After header (seconds or an HTTP date) as seconds from now; none if absent or unreadable."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
