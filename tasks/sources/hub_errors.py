"""What a failure of the Hugging Face libraries means, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from storage.errors import ArchiveBusy, ArchiveUnreachable, DistrustError, PrerequisiteError, SourceUnavailable
from tasks.sources.answers import retry_after
from tasks.sources.catalogue import SourceSpec

TOKENS = "https://huggingface.co/settings/tokens"

_TRANSPORTS = ("httpx", "httpcore", "aiohttp", "urllib3", "requests")
_WINDOW = re.compile(r"(?:^|;)\s*([rt])=(\d{1,6})\b", re.ASCII)
_OTHER_COLUMNS = ("column names don't match", "No match for FieldRef", "Couldn't cast")


def hub_error(error: BaseException, spec: SourceSpec, *, first_contact: bool = False) -> DistrustError:
    """Say what a failure means for a source.

    The libraries wrap errors in each other, a rate limit may even arrive as "file not found", so the whole chain
    of causes is looked at; where they cut it, their words are.

    Args:
        error: What was raised.
        spec: The catalogue entry.
        first_contact: Nothing came from the Hub before, so that a Hub out of reach is a network that is not there.
    """
    chain = _chain(error)
    kinds = {type(link).__name__ for link in chain} | {code for link in chain if (code := _header(link, "Code"))}
    statuses = {status for link in chain if (status := _status(link)) is not None}
    words = " ".join(str(link) for link in chain)
    about = f"source {spec.name!r}: dataset {spec.repo}"
    said = " ".join(str(error).split())[:300]
    if "OfflineModeIsEnabled" in kinds or "OfflineModeIsEnabled" in words:
        return PrerequisiteError(
            f"{about} must be fetched, but the Hub's libraries are told to stay offline; unset HF_HUB_OFFLINE and "
            "HF_DATASETS_OFFLINE, and run again where there is a network"
        )
    if busy := {status for status in statuses if status in (408, 429) or status >= 500}:
        return ArchiveBusy(f"{about}: the Hub answered {min(busy)} ({said})", _pause(chain))
    if (refusal := _refusal(about, spec, kinds, statuses, words)) is not None:
        heard = next((heard for link in chain if (heard := _header(link, "Message"))), "")
        return SourceUnavailable(refusal + (f" (the Hub says: {heard[:200]})" if heard else ""))
    if first_contact and kinds & {"ConnectError", "ConnectTimeout", "ProxyError"}:
        return PrerequisiteError(
            f"{about}: the Hub cannot be reached ({said}); is there a network? Run again when there is, or set "
            "HF_ENDPOINT to a mirror that can be reached"
        )
    if "scripts are no longer supported" in said:
        return SourceUnavailable(
            f"{about} needs a script of its own, which is never run; try revision = 'refs/convert/parquet' with "
            "data_dir = the configuration's name, or another dataset with the same texts"
        )
    if any(words in str(link) for words in _OTHER_COLUMNS for link in chain):
        return SourceUnavailable(
            f"{about}: its files do not share one set of columns ({said}); name files that do with `data_files` of the "
            "catalogue entry"
        )
    unreachable = any(isinstance(link, ConnectionError | TimeoutError) for link in chain) or any(
        type(link).__module__.startswith(_TRANSPORTS) for link in chain if _status(link) is None
    )
    if unreachable:
        return ArchiveUnreachable(f"{about} could not be read ({type(error).__name__}: {said})")
    return SourceUnavailable(f"{about} cannot be read ({type(error).__name__}: {said})")


def _refusal(about: str, spec: SourceSpec, kinds: set[str], statuses: set[int], words: str) -> str | None:
    """Say why the Hub does not give a dataset to this client, and what to do; none if it is for another reason."""
    page = f"https://huggingface.co/datasets/{spec.repo}"
    if kinds & {"GatedRepoError", "GatedRepo"} or "is a gated dataset" in words:
        return f"{about} is gated: sign in, accept its terms on {page}, and set HF_TOKEN to a token of that account"
    if "Invalid credentials in Authorization header" in words:
        return f"{about}: the Hub does not know HF_TOKEN; make a new one on {TOKENS}, or unset it"
    if "DisabledRepoError" in kinds or "Access to this resource is disabled" in words:
        return f"{about} was disabled by the Hub; see {page}, or name another dataset with the same texts"
    if kinds & {"RevisionNotFoundError", "RevisionNotFound"} or re.search(r"Revision '.*' doesn't exist", words):
        return f"{about} has no revision {spec.revision!r}; correct it in the catalogue entry"
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError", "RepoNotFound"} or statuses & {401, 403}:
        return (
            f"{about} does not exist or is private; check `repo` of the catalogue entry against {page}, or set "
            "HF_TOKEN to a token of an account that may read it"
        )
    return None


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _header(error: BaseException, name: str) -> str:
    """Return one of the headers by which the Hub explains a refusal."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return str(headers.get(f"X-Error-{name}") or headers.get(f"x-error-{name.lower()}") or "")


def _pause(chain: list[BaseException]) -> float | None:
    for link in chain:
        headers = getattr(getattr(link, "response", None), "headers", None)
        if headers and (pause := named_pause(headers, datetime.now(UTC))) is not None:
            return pause
    return None


def named_pause(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the pause in seconds that an answer asks for; none if it names none.

    The Hub says ``RateLimit: "api";r=0;t=55``: none of the window's requests is left for 55 seconds. Otherwise
    ``Retry-After`` counts, in seconds or as a date.
    """
    window = dict(_WINDOW.findall(headers.get("RateLimit", "") or headers.get("ratelimit", "")))
    if window.get("r") == "0" and "t" in window:
        return float(window["t"])
    return retry_after(headers.get("Retry-After") or headers.get("retry-after"), now)
