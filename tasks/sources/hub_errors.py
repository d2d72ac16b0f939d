"""What a failure of the Hugging Face libraries means, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from storage.errors import ArchiveBusy, ArchiveUnreachable, DistrustError, PrerequisiteError, SourceUnavailable
from tasks.sources.answers import retry_after
from tasks.sources.catalogue import SourceSpec

_TRANSPORTS = ("httpx", "httpcore", "aiohttp", "urllib3", "requests")
_WINDOW = re.compile(r"(?:^|;)\s*([rt])=(\d{1,6})\b", re.ASCII)
_OTHER_COLUMNS = ("column names don't match", "No match for FieldRef", "Couldn't cast")


def hub_error(error: BaseException, spec: SourceSpec) -> DistrustError:
    """Say what a failure means for a source.

    The libraries wrap errors in each other, a rate limit may even arrive as "file not found", so the whole chain
    of causes is looked at.
    """
    chain = _chain(error)
    kinds = {type(link).__name__ for link in chain}
    statuses = {status for link in chain if (status := _status(link)) is not None}
    about = f"source {spec.name!r}: dataset {spec.repo}"
    said = " ".join(str(error).split())[:300]
    if "OfflineModeIsEnabled" in kinds:
        return PrerequisiteError(f"{about} is needed, but HF_HUB_OFFLINE is set; unset it")
    if busy := {status for status in statuses if status in (408, 429) or status >= 500}:
        return ArchiveBusy(f"{about}: the Hub answered {min(busy)} ({said})", _pause(chain))
    if "GatedRepoError" in kinds:
        page = f"https://huggingface.co/datasets/{spec.repo}"
        return SourceUnavailable(
            f"{about} is gated: sign in, accept its terms on {page}, and set HF_TOKEN to a token of that account"
        )
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"} or statuses & {401, 403}:
        return SourceUnavailable(
            f"{about} does not exist or is private; check `repo` of the catalogue entry, or set HF_TOKEN"
        )
    if "RevisionNotFoundError" in kinds:
        return SourceUnavailable(f"{about} has no revision {spec.revision!r}; correct it in the catalogue entry")
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
