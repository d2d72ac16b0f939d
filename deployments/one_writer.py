"""SQLite with one writer at a time, in turn.

Prefect begins its transactions DEFERRED. One that has read and then wants to write fails at once ("database is locked")
if another has written meanwhile, however long its timeout, and Prefect drops an event after four failures. Transactions
that wait for the lock also keep a connection each, until none is left for the one that holds the lock.

Here a transaction waits for its turn before it takes a connection, and begins IMMEDIATE: what it reads stays true until
it has written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from prefect.server.database.dependencies import MODELS_DEPENDENCIES
from prefect.server.utilities.database import get_dialect
from prefect.settings import get_current_settings
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


class Turn:
    """A transaction that may write now."""

    is_open = True


TURN: ContextVar[Turn | None] = ContextVar("TURN", default=None)


class OneWriter(AioSqliteConfiguration):
    """Prefect's SQLite configuration, whose transactions take turns."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        """Wait for this transaction's turn; one inside another would wait for itself, and begins as Prefect has it."""
        outer = TURN.get()
        if outer is not None and outer.is_open:
            async with super().begin_transaction(session, with_for_update) as transaction:
                yield transaction
            return
        async with self._lock:
            turn = Turn()
            token = TURN.set(turn)
            try:
                async with super().begin_transaction(session, with_for_update) as transaction:
                    await self._begin_now(session)
                    yield transaction
            finally:
                turn.is_open = False
                TURN.reset(token)

    async def _begin_now(self, session: AsyncSession) -> None:
        mode = SQLITE_BEGIN_MODE.set("IMMEDIATE")
        try:
            await session.connection()
        finally:
            SQLITE_BEGIN_MODE.reset(mode)  # sessions for reading that are opened meanwhile must not wait for this one


def install() -> None:
    """Let Prefect use it in this process, where its database is an SQLite file."""
    url = get_current_settings().server.database.connection_url
    named = url.get_secret_value() if url else ""
    configuration = OneWriter(connection_url=named) if get_dialect(named).name == "sqlite" else None
    if configuration is not None and not configuration.is_inmemory():
        MODELS_DEPENDENCIES["database_config"] = configuration
