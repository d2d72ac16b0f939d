from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from storage.errors import ArchiveBusy, DistrustError, PrerequisiteError, SourceUnavailable
from storage.hub_errors import named_pause
from tasks.sources.catalogue import SourceSpec
from tasks.sources.hub_table import dataset_error
from tests.tasks.sources.hub_double import make_fields

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def named(kind: str, message: str = "said", status: int | None = None, **headers: str) -> Exception:
    """Make an error that looks like one of the Hub's libraries, of any version."""
    error: Exception = type(kind, (Exception,), {})(message)
    if status is not None:
        error.response = SimpleNamespace(status_code=status, headers=headers)  # type: ignore[attr-defined]
    return error


def wrapped(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (named("GatedRepoError", status=403), SourceUnavailable, "accept its terms"),
        (named("RepositoryNotFoundError", status=401), SourceUnavailable, "does not exist or is private"),
        (named("DatasetNotFoundError"), SourceUnavailable, "does not exist"),
        (named("RevisionNotFoundError", status=404), SourceUnavailable, "no revision 'v9'"),
        (named("HfHubHTTPError", status=503), ArchiveBusy, "answered 503"),
        (named("HfHubHTTPError", status=429), ArchiveBusy, "answered 429"),
        (wrapped(FileNotFoundError("x.parquet"), named("HTTPStatusError", status=429)), ArchiveBusy, "answered 429"),
        (wrapped(RuntimeError("read"), ConnectionResetError("gone")), ArchiveBusy, "could not be read"),
        (TimeoutError(), ArchiveBusy, "could not be read"),
        (RuntimeError("Dataset scripts are no longer supported, but found ds.py"), SourceUnavailable, "refs/convert"),
        (named("OfflineModeIsEnabled"), PrerequisiteError, "HF_HUB_OFFLINE"),
        # The library cuts the chain of causes; what is left is its words.
        (ConnectionError("Couldn't reach 'org/ds' on the Hub (OfflineModeIsEnabled)"), PrerequisiteError, "HF_HUB_OFF"),
        (named("DatasetNotFoundError", "Dataset 'org/ds' is a gated dataset on the Hub."), SourceUnavailable, "gated:"),
        (named("DatasetNotFoundError", "Revision 'v9' doesn't exist for dataset"), SourceUnavailable, "revision 'v9'"),
        (named("HfHubHTTPError", status=403, **{"x-error-code": "GatedRepo"}), SourceUnavailable, "accept its terms"),
        (ValueError("Couldn't cast\na: string\nto\nb: string"), SourceUnavailable, "do not share one set"),
        (ValueError("BuilderConfig 'x' not found. Available: ['y']"), SourceUnavailable, r"Available: \['y'\]"),
    ],
)
def test_what_a_failure_of_the_hub_means(error: Exception, kind: type[DistrustError], words: str) -> None:
    spec = SourceSpec.model_validate(make_fields(revision="v9"))
    with pytest.raises(kind, match=words):
        raise dataset_error(error, spec)


def test_a_named_pause_of_the_hub_is_kept() -> None:
    spec = SourceSpec.model_validate(make_fields())
    error = dataset_error(named("HfHubHTTPError", status=429, **{"Retry-After": "55"}), spec)
    assert isinstance(error, ArchiveBusy)
    assert error.retry_after_seconds == 55


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"RateLimit": '"api";r=0;t=55', "Retry-After": "7"}, 55),
        ({"RateLimit": '"api";r=12;t=55'}, None),
        ({"ratelimit": '"resolvers";t=9;r=0'}, 9),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": " 7 "}, 7),
        ({"Retry-After": "Mon, 23 Nov 2026 12:01:30 GMT"}, 90),
        ({"retry-after": "Mon, 23 Nov 2026 11:00:00 GMT"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "٣"}, None),
        ({}, None),
    ],
)
def test_the_pause_that_an_answer_names(headers: dict[str, str], seconds: float | None) -> None:
    assert named_pause(headers, NOW) == seconds
