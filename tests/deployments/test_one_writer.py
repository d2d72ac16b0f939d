"""Transactions that read and then write, many at once, on a real SQLite file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.server.database import dependencies
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.one_writer import OneWriter, install

AT_ONCE = 30


class Counter:
    """A number in a database, counted up by transactions that read it first."""

    def __init__(self, configuration: AioSqliteConfiguration) -> None:
        self.configuration = configuration

    async def session(self) -> AsyncSession:
        return await self.configuration.session(await self.configuration.engine())

    async def execute(self, statement: str) -> None:
        async with await self.session() as session:
            await session.execute(sa.text(statement))
            await session.commit()

    async def value(self) -> int:
        async with await self.session() as session:
            return int((await session.execute(sa.text("select n from counter"))).scalar_one())

    async def count(self, seconds: float = 0.0) -> None:
        async with await self.session() as session, self.configuration.begin_transaction(session):
            found = (await session.execute(sa.text("select n from counter"))).scalar_one()
            await asyncio.sleep(seconds)
            await session.execute(sa.text("update counter set n = :n"), {"n": found + 1})


@pytest.fixture(params=[OneWriter])
async def counter(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Counter]:
    counter = Counter(request.param(connection_url=f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"))
    await counter.execute("create table counter (n integer)")
    await counter.execute("insert into counter values (0)")
    yield counter
    await (await counter.configuration.engine()).dispose()


async def test_all_that_read_first_write_what_they_mean(counter: Counter) -> None:
    await asyncio.gather(*(counter.count(0.001) for _ in range(AT_ONCE)))
    assert await counter.value() == AT_ONCE


@pytest.mark.parametrize("counter", [AioSqliteConfiguration], indirect=True)
async def test_prefects_own_transactions_meet_a_locked_database(counter: Counter) -> None:
    """What the project's configuration is for; once Prefect no longer needs it, this fails."""
    answers = await asyncio.gather(*(counter.count(0.01) for _ in range(AT_ONCE)), return_exceptions=True)
    assert any(isinstance(answer, OperationalError) and "database is locked" in str(answer) for answer in answers)


async def test_beside_writers_without_a_transaction(counter: Counter) -> None:
    """Prefect's recorders of events and task runs write each statement on its own."""
    await counter.execute("create table events (n integer)")
    single = (counter.execute(f"insert into events values ({number})") for number in range(AT_ONCE))
    await asyncio.gather(*(counter.count(0.002) for _ in range(AT_ONCE)), *single)
    assert await counter.value() == AT_ONCE


async def test_a_transaction_inside_another_does_not_wait_for_itself(counter: Counter) -> None:
    async def whole() -> None:
        async with await counter.session() as outer, counter.configuration.begin_transaction(outer):
            await outer.execute(sa.text("update counter set n = 5"))
            async with await counter.session() as inner, counter.configuration.begin_transaction(inner):
                assert (await inner.execute(sa.text("select n from counter"))).scalar_one() == 0
            assert await counter.value() == 0  # nor does a session that only reads

    await asyncio.wait_for(whole(), 10)
    assert await counter.value() == 5


async def test_what_was_started_inside_a_transaction_waits_once_that_has_ended(counter: Counter) -> None:
    gate = asyncio.Event()

    async def later() -> None:
        await gate.wait()
        await asyncio.gather(*(counter.count(0.001) for _ in range(AT_ONCE)))

    async with await counter.session() as session, counter.configuration.begin_transaction(session):
        started = asyncio.create_task(later())
    gate.set()
    await asyncio.gather(started, *(counter.count(0.001) for _ in range(AT_ONCE)))
    assert await counter.value() == 2 * AT_ONCE


async def test_one_that_fails_or_is_cancelled_leaves_the_turn_to_the_next(counter: Counter) -> None:
    with pytest.raises(ZeroDivisionError):
        async with await counter.session() as session, counter.configuration.begin_transaction(session):
            await session.execute(sa.text("update counter set n = 9"))
            raise ZeroDivisionError
    slow = asyncio.create_task(counter.count(60))
    waiting = asyncio.create_task(counter.count())
    await asyncio.sleep(0.1)
    waiting.cancel()
    slow.cancel()
    await asyncio.gather(slow, waiting, return_exceptions=True)
    await asyncio.wait_for(counter.count(), 10)
    assert await counter.value() == 1


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("sqlite+aiosqlite:////nowhere/prefect.db", True),
        ("sqlite+aiosqlite:///file::memory:?cache=shared&uri=true", False),
        ("postgresql+asyncpg://prefect@127.0.0.1/prefect", False),
    ],
)
def test_a_server_on_a_file_uses_it(url: str, used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dependencies.MODELS_DEPENDENCIES, "database_config", None)
    with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: url}):
        install()
    assert isinstance(dependencies.MODELS_DEPENDENCIES["database_config"], OneWriter) is used
