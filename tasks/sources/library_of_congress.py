"""What the two ways into Chronicling America share: how the Library of Congress may be asked."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.sources.catalogue import SourceSpec
from tasks.sources.http import ArchiveClient
from tasks.sources.source import Connection, Pace
from tasks.sources.web import Web, courteous_rate, is_loopback

BLOCK_SECONDS = 3600.0
"""How long loc.gov shuts out a client that was too fast; its 429 names no pause."""
LOOPBACK_BLOCK_SECONDS = 2.0


@dataclass(frozen=True)
class LibraryClients:
    """Makes the clients of one catalogue entry, one for each service with a limit of its own."""

    spec: SourceSpec
    connection: Connection
    pace: Pace
    web: Web

    def client(
        self,
        service: str,
        root: str,
        per_minute: float | None,
        public_per_minute: float,
        own_per_minute: float | None = None,
    ) -> ArchiveClient:
        """Make the client of a service.

        Args:
            service: Its name, for the pace.
            root: Where it is.
            per_minute: Requests a minute that the catalogue entry allows, if it says so.
            public_per_minute: Requests a minute that the library allows.
            own_per_minute: Requests a minute that the user's connection allows, if it says so.
        """
        block_seconds = self.spec.block_seconds
        if block_seconds is None:
            block_seconds = LOOPBACK_BLOCK_SECONDS if is_loopback(root) else BLOCK_SECONDS
        wanted = self.pace.requests_per_second
        ceiling = None if per_minute is None else per_minute / 60
        own = None if own_per_minute is None else own_per_minute / 60
        return ArchiveClient(
            self.web,
            root,
            requests_per_second=courteous_rate(wanted, ceiling, public_per_minute / 60, root, own),
            service=service,
            allowed_hosts=self.connection.allowed_hosts,
            attempts=self.pace.attempts,
            first_delay_seconds=self.pace.first_delay_seconds,
            block_seconds=block_seconds,
        )
