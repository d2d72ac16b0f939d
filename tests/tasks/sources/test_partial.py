"""Files that arrive in pieces: whatever a server does, what appears is the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from storage.errors import CorruptAnswer, ItemUnavailable
from tasks.sources.pace import HEADWAY_BYTES, Tally
from tests.tasks.sources.conftest import FakeClock, Serve, client_to

BODY = bytes(range(256)) * 2048
MD5 = ("md5", hashlib.md5(BODY, usedforsecurity=False).hexdigest())
Misdeed = Callable[["FileServer", web.Request, int], web.StreamResponse | None]


class FileServer:
    """Serves one file, with ranges; a misdeed may answer in its place, given the offset that was asked for."""

    def __init__(self, *misdeeds: Misdeed) -> None:
        self.misdeeds = list(misdeeds)
        self.offsets: list[int] = []

    async def file(self, request: web.Request) -> web.StreamResponse:
        start = request.http_range.start or 0
        self.offsets.append(start)
        misdeed = self.misdeeds.pop(0) if self.misdeeds else None
        answer = misdeed(self, request, start) if misdeed else None
        return answer or part(start)


def part(start: int, stop: int | None = None, told: str | None = None) -> web.Response:
    body = BODY[start:stop]
    if start == 0 and told is None:
        return web.Response(body=body)
    headers = {"Content-Range": told or f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"}
    return web.Response(status=206, body=body, headers=headers)


class Cut(web.Response):
    """Promises everything from `start`, sends some bytes and hangs up."""

    def __init__(self, start: int, sent: int) -> None:
        super().__init__(status=206 if start else 200)
        self.start, self.sent = start, sent

    async def prepare(self, request: web.BaseRequest) -> None:  # type: ignore[override]
        response = web.StreamResponse(status=self.status)
        response.content_length = len(BODY) - self.start
        if self.start:
            response.headers["Content-Range"] = f"bytes {self.start}-{len(BODY) - 1}/{len(BODY)}"
        await response.prepare(request)
        await response.write(BODY[self.start : self.start + self.sent])
        assert request.transport is not None
        request.transport.close()


def cut(sent: int) -> Misdeed:
    return lambda server, request, start: Cut(start, sent)


async def fetch(
    serve: Serve,
    clock: FakeClock,
    tmp_path: Path,
    server: FileServer,
    *,
    checked: bool = True,
    tally: Tally | None = None,
) -> bytes:
    root = await serve({"/f": server.file})
    async with client_to(root, clock) as client:
        checksum = MD5 if checked else None
        await client.save(client.url("f"), tmp_path / "f", cap=2**20, size=len(BODY), checksum=checksum, tally=tally)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    return (tmp_path / "f").read_bytes()


async def test_a_file_that_breaks_off_is_continued(serve: Serve, clock: FakeClock, tmp_path: Path) -> None:
    server = FileServer(cut(100_000), cut(200_000))
    assert await fetch(serve, clock, tmp_path, server) == BODY
    assert server.offsets == [0, 100_000, 300_000]


async def test_a_process_that_died_left_something_to_go_on_from(serve: Serve, clock: FakeClock, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(BODY[:5000])
    server = FileServer()
    assert await fetch(serve, clock, tmp_path, server) == BODY
    assert server.offsets == [5000]


async def test_a_part_that_leads_elsewhere_is_begun_anew(serve: Serve, clock: FakeClock, tmp_path: Path) -> None:
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    here.mkdir()
    for checked in (True, False):
        elsewhere.write_bytes(BODY[:5000])
        (here / "f.part").symlink_to(elsewhere)
        server = FileServer()
        assert await fetch(serve, clock, here, server, checked=checked) == BODY
        assert server.offsets == [0] and elsewhere.read_bytes() == BODY[:5000]
        assert not (here / "f").is_symlink()
        (here / "f").unlink()


async def test_a_whole_part_is_only_checked(serve: Serve, clock: FakeClock, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(BODY)
    server = FileServer()
    assert await fetch(serve, clock, tmp_path, server) == BODY
    assert server.offsets == []


@pytest.mark.parametrize(
    ("left", "misdeed"),
    [
        pytest.param(b"wrong" * 100, None, id="what was there is of another file"),
        pytest.param(BODY + b"more", None, id="more is there than there should be"),
        pytest.param(BODY[:9], lambda server, request, start: part(0), id="the range is ignored"),
        pytest.param(
            BODY[:9], lambda server, request, start: part(5, None, f"bytes 5-{len(BODY) - 1}/{len(BODY)}"), id="offset"
        ),
        pytest.param(BODY[:9], lambda server, request, start: part(9, None, "bytes 9-20/21"), id="another file's size"),
        pytest.param(BODY[:9], lambda server, request, start: part(9, None, "nonsense"), id="unreadable range"),
        pytest.param(BODY[:9], lambda server, request, start: web.Response(status=416), id="416"),
        pytest.param(BODY[:9], lambda server, request, start: part(9, 100), id="a part cut short"),
        pytest.param(b"", lambda server, request, start: web.Response(body=b"x" * len(BODY)), id="wrong md5 once"),
        pytest.param(b"", lambda server, request, start: web.Response(body=BODY[:-1]), id="too short once"),
        pytest.param(b"", lambda server, request, start: web.Response(status=503), id="503"),
    ],
)
async def test_no_continuation_corrupts_a_file(
    serve: Serve, clock: FakeClock, tmp_path: Path, left: bytes, misdeed: Misdeed | None
) -> None:
    if left:
        (tmp_path / "f.part").write_bytes(left)
    server = FileServer(*([misdeed] if misdeed else []))
    assert await fetch(serve, clock, tmp_path, server) == BODY


async def test_a_file_is_on_the_disk_before_it_has_its_name(
    serve: Serve, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync, rename = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def check_synced(source: Path, target: Path) -> None:
        assert source.stat().st_ino in synced
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", check_synced)
    assert await fetch(serve, clock, tmp_path, FileServer()) == BODY


async def test_without_a_checksum_nothing_is_continued(serve: Serve, clock: FakeClock, tmp_path: Path) -> None:
    server = FileServer(cut(100_000))
    assert await fetch(serve, clock, tmp_path, server, checked=False) == BODY
    assert server.offsets == [0, 0]


async def test_a_wrong_file_for_ever_is_given_up(serve: Serve, clock: FakeClock, tmp_path: Path) -> None:
    async def wrong(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * len(BODY))

    root = await serve({"/f": wrong})
    tally = Tally()
    async with client_to(root, clock, attempts=3) as client:
        with pytest.raises(CorruptAnswer, match="MD5"):
            await client.save(client.url("f"), tmp_path / "f", cap=2**20, size=len(BODY), checksum=MD5, tally=tally)
    assert tally.attempts == 3
    assert list(tmp_path.iterdir()) == []


async def test_headway_is_not_counted_as_a_failure(serve: Serve, clock: FakeClock, tmp_path: Path) -> None:
    steps = len(BODY) // HEADWAY_BYTES
    tally = Tally()
    server = FileServer(*[cut(HEADWAY_BYTES) for _ in range(steps - 1)])
    assert await fetch(serve, clock, tmp_path, server, tally=tally) == BODY
    assert len(server.offsets) == steps > 5
    assert tally.attempts <= 2


async def test_a_file_over_the_cap_is_thrown_away(serve: Serve, clock: FakeClock, tmp_path: Path) -> None:
    root = await serve({"/f": FileServer().file})
    async with client_to(root, clock) as client:
        with pytest.raises(ItemUnavailable, match="too-large"):
            await client.save(client.url("f"), tmp_path / "f", cap=1000)
    assert list(tmp_path.iterdir()) == []
