"""How the archives are reached: where they are, how fast they may be asked, and a client for each of their services."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from storage.addresses import LOOPBACK, checked_address
from storage.errors import ParameterError
from tasks.sources.catalogue import SourceSpec
from tasks.sources.http import ArchiveClient
from tasks.sources.web import Web

ARCHIVE_ORG = "https://archive.org"
LOC = "https://www.loc.gov"
LOC_TEXT = "https://tile.loc.gov"
LOC_BULK = "https://chroniclingamerica.loc.gov"

ARCHIVE_ORG_PER_SECOND = 2.0
SEARCHES_PER_MINUTE, TEXTS_PER_MINUTE, BATCHES_PER_MINUTE = 18.0, 135.0, 0.9
"""A tenth below the limits that loc.gov published in 2026: 20 searches, 150 texts and 1 bulk file a minute."""
BLOCK_SECONDS = 3600.0
"""How long loc.gov shuts out a client that was too fast; its 429 names no pause."""
LOOPBACK_BLOCK_SECONDS = 2.0

Service = Literal["archive.org", "search", "texts", "bulk"]
"""A service of an archive that has an address and a rate limit of its own."""


@dataclass(frozen=True)
class Connection:
    """Where the archives are, and who is asking.

    Args:
        archive_org_url: Root of the Internet Archive.
        loc_url: Root of the Library of Congress' JSON API.
        loc_text_url: Root of the Library of Congress' text services.
        loc_bulk_url: Root of the Library of Congress' bulk files of recognised text.
        contact: E-mail address or URL for the User-Agent; archives throttle anonymous clients sooner.
        hf_token: Token of the Hugging Face Hub, for gated datasets and higher limits.
        allowed_hosts: Hosts to which a download may be redirected, besides the archive's own.
        archive_org_per_second: Most requests a second to the Internet Archive; none: as the source and the flow say.
        loc_api_per_minute: Most searches a minute at the Library of Congress; likewise.
        loc_text_per_minute: Most page texts a minute there; likewise.

    Raises:
        ParameterError: A root is neither https nor on this machine, or a rate is not above 0.
    """

    archive_org_url: str = ARCHIVE_ORG
    loc_url: str = LOC
    loc_text_url: str = LOC_TEXT
    loc_bulk_url: str = LOC_BULK
    contact: str = ""
    hf_token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    archive_org_per_second: float | None = None
    loc_api_per_minute: float | None = None
    loc_text_per_minute: float | None = None

    def __post_init__(self) -> None:
        for name in ("archive_org_url", "loc_url", "loc_text_url", "loc_bulk_url"):
            checked_address(getattr(self, name), name)
        for name in ("archive_org_per_second", "loc_api_per_minute", "loc_text_per_minute"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate <= 60_000:
                raise ParameterError(f"{name} {rate} is outside (0, 60000]")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Connection:
        """Read the connection from the environment variables of the project; unset or empty ones keep the default."""
        values = os.environ if environment is None else environment
        return cls(
            archive_org_url=values.get("DISTRUST_ARCHIVE_ORG_URL") or ARCHIVE_ORG,
            loc_url=values.get("DISTRUST_LOC_URL") or LOC,
            loc_text_url=values.get("DISTRUST_LOC_TEXT_URL") or LOC_TEXT,
            # If the search is led elsewhere, the public bulk files are not wanted either.
            loc_bulk_url=values.get("DISTRUST_LOC_BULK_URL") or values.get("DISTRUST_LOC_URL") or LOC_BULK,
            contact=values.get("DISTRUST_CONTACT") or "",
            hf_token=values.get("HF_TOKEN") or None,
            allowed_hosts=tuple(filter(None, map(str.strip, values.get("DISTRUST_ALLOWED_HOSTS", "").split(",")))),
            archive_org_per_second=_number(values, "DISTRUST_ARCHIVE_ORG_PER_SECOND"),
            loc_api_per_minute=_number(values, "DISTRUST_LOC_API_PER_MINUTE"),
            loc_text_per_minute=_number(values, "DISTRUST_LOC_TEXT_PER_MINUTE"),
        )


def _number(values: Mapping[str, str], name: str) -> float | None:
    try:
        return float(values[name]) if values.get(name) else None
    except ValueError:
        raise ParameterError(f"{name} is {values[name]!r}, which is not a number") from None


@dataclass(frozen=True)
class Pace:
    """How fast an archive is asked; never part of what is asked for."""

    concurrency: int = 10
    requests_per_second: float = 10.0
    attempts: int = 5
    first_delay_seconds: float = 1.0


class _Limits(NamedTuple):
    """Where a service is, and its ceilings in requests per second: published, of the catalogue, of the user."""

    root: str
    public: float
    catalogue: float | None
    own: float | None


@dataclass(frozen=True)
class Archives:
    """What all sources of a process share: where the archives are, how fast they are asked, and the web to them.

    Attributes:
        current_year: No document is from a later year.
    """

    connection: Connection
    pace: Pace
    web: Web
    current_year: int = field(default_factory=lambda: datetime.now(UTC).year)

    def host_in_turn(self, spec: SourceSpec) -> str:
        """Return the host whose pace all sources and processes of a machine keep together; empty if there is none."""
        roots = {"internet_archive": self.connection.archive_org_url, "chronicling_america": self.connection.loc_url}
        return urlsplit(roots.get(spec.archive, "")).netloc

    def rate(self, spec: SourceSpec, service: Service) -> float:
        """Return the requests a second for a service: what is wanted, under every ceiling that holds for it.

        A ceiling of the catalogue or of the user's connection always holds. Where the catalogue gives none, the public
        archive's own limit holds, unless the "archive" is a server on this machine.
        """
        limits = self._limits(spec, service)
        wanted = min(self.pace.requests_per_second, limits.own or self.pace.requests_per_second)
        if limits.catalogue is not None:
            return min(wanted, limits.catalogue)
        return wanted if is_loopback(limits.root) else min(wanted, limits.public)

    def client(self, spec: SourceSpec, service: Service) -> ArchiveClient:
        """Make the client of one service for one source."""
        root = self._limits(spec, service).root
        block_seconds = spec.block_seconds
        if block_seconds is None and service != "archive.org":
            block_seconds = LOOPBACK_BLOCK_SECONDS if is_loopback(root) else BLOCK_SECONDS
        return ArchiveClient(
            self.web,
            root,
            requests_per_second=self.rate(spec, service),
            service=service,
            allowed_hosts=self.connection.allowed_hosts,
            attempts=self.pace.attempts,
            first_delay_seconds=self.pace.first_delay_seconds,
            block_seconds=block_seconds,
        )

    def _limits(self, spec: SourceSpec, service: Service) -> _Limits:
        to = self.connection
        match service:
            case "archive.org":
                own = to.archive_org_per_second
                return _Limits(to.archive_org_url, ARCHIVE_ORG_PER_SECOND, spec.requests_per_second, own)
            case "search":
                own = _per_second(to.loc_api_per_minute)
                return _Limits(to.loc_url, SEARCHES_PER_MINUTE / 60, _per_second(spec.api_per_minute), own)
            case "texts":
                own = _per_second(to.loc_text_per_minute)
                return _Limits(to.loc_text_url, TEXTS_PER_MINUTE / 60, _per_second(spec.text_per_minute), own)
            case "bulk":
                return _Limits(to.loc_bulk_url, BATCHES_PER_MINUTE / 60, None, None)


def _per_second(per_minute: float | None) -> float | None:
    return None if per_minute is None else per_minute / 60


def is_loopback(url: str) -> bool:
    """Tell whether a root URL is on this machine, where no public archive needs protection."""
    return urlsplit(url).hostname in LOOPBACK
