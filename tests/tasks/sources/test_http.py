from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from storage.errors import (
    ArchiveAway,
    ArchiveBusy,
    ArchiveUnreachable,
    CorruptAnswer,
    ItemUnavailable,
)
from tasks.sources.answers import redirect_target
from tasks.sources.catalogue import load_catalogue
from tasks.sources.connection import Archives, Connection, Pace
from tasks.sources.http import ArchiveClient
from tasks.sources.pace import DOWN_AFTER, Tally
from tasks.sources.web import Web, user_agent
from tests.tasks.sources.conftest import FakeClock, Handler, Serve, client_to


def scripted(*answers: web.Response) -> Handler:
    """Answer with each response in turn, then with the last one for ever."""
    queue = list(answers)

    async def handle(request: web.Request) -> web.Response:
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)

    return handle


def good() -> web.Response:
    return web.json_response({"items": [1]})


async def test_a_named_pause_is_kept_and_tries_are_counted(serve: Serve, clock: FakeClock) -> None:
    root = await serve({"/a": scripted(web.Response(status=429, headers={"Retry-After": "7"}), good())})
    tally = Tally()
    async with client_to(root, clock) as client:
        assert await client.get_json(client.url("a"), expect=("items",), tally=tally) == {"items": [1]}
    assert sum(clock.slept) == pytest.approx(7, abs=0.01)
    assert tally.attempts == 2


async def test_without_a_named_pause_the_backoff_doubles(serve: Serve, clock: FakeClock) -> None:
    root = await serve({"/a": scripted(web.Response(status=503))})
    tally = Tally()
    async with client_to(root, clock, attempts=4, first_delay_seconds=2) as client:
        with pytest.raises(ArchiveBusy, match="503"):
            await client.get_json(client.url("a"), tally=tally)
    assert tally.attempts == 4
    assert clock.slept[0] == 0  # one fault mostly passes at once
    assert len(clock.slept) == 3
    for n, slept in enumerate(clock.slept[1:]):
        assert 2 * 2**n <= slept <= 2 * 2**n + 2


async def test_too_many_is_never_answered_by_asking_at_once(serve: Serve, clock: FakeClock) -> None:
    root = await serve({"/a": scripted(web.Response(status=429), good())})
    async with client_to(root, clock, first_delay_seconds=2) as client:
        await client.get_json(client.url("a"))
    assert 2 <= sum(clock.slept) <= 4


async def test_nobody_at_home_is_told_of_soon(clock: FakeClock) -> None:
    async with client_to("http://127.0.0.1:9", clock) as client:
        with pytest.raises(ArchiveUnreachable, match="could not be read"):
            await client.get_json(client.url("a"))
        assert 0 < sum(clock.slept) < 12
        clock.slept.clear()
        with pytest.raises(ArchiveUnreachable):
            await client.get_json(client.url("b"))
    assert clock.slept == []  # it was found out already


async def test_a_line_that_breaks_later_is_no_wrong_address(serve: Serve, clock: FakeClock) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    root = await serve({"/a": scripted(web.Response(status=500)), "/b": hang_up})
    async with client_to(root, clock, attempts=2) as client:
        for path in ("a", "b"):
            with pytest.raises(ArchiveBusy) as caught:
                await client.get_json(client.url(path))
            assert type(caught.value) is ArchiveBusy


@pytest.mark.parametrize("declared", [True, False])
async def test_more_than_the_cap_is_refused(serve: Serve, clock: FakeClock, declared: bool) -> None:
    sent = 0

    async def large(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        if declared:
            return web.Response(body=b"x" * 2_000_000)
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(200):
            try:
                await response.write(b"x" * 1_000_000)
            except ConnectionError:
                break
            sent += 1
        return response

    root = await serve({"/a": large})
    async with client_to(root, clock) as client:
        with pytest.raises(ItemUnavailable) as caught:
            await client.get_body(client.url("a"), cap=1_000_000)
    assert caught.value.reason == "too-large"
    assert sent < 100


async def test_redirects_are_followed_on_the_same_host_only(serve: Serve, clock: FakeClock) -> None:
    asked: list[str] = []

    async def file(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.Response(body=b"moved")

    second = await serve({"/x/{name:.*}": file})

    async def near(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"{second}/x/a%20b%23c.txt")

    async def far(request: web.Request) -> web.Response:
        raise web.HTTPFound(second.replace("127.0.0.1", "localhost") + "/x/f")

    async def loop(request: web.Request) -> web.Response:
        raise web.HTTPFound("/loop")

    root = await serve({"/near": near, "/far": far, "/loop": loop})
    async with client_to(root, clock) as client:
        assert (await client.get_body(client.url("near")))[0] == b"moved"
        for path, reason in (("far", "foreign-redirect"), ("loop", "redirect-loop")):
            with pytest.raises(ItemUnavailable) as caught:
                await client.get_body(client.url(path))
            assert caught.value.reason == reason
    assert asked == ["/x/a%20b%23c.txt"]
    async with client_to(root, clock, allowed_hosts=("localhost",)) as client:
        assert (await client.get_body(client.url("far")))[0] == b"moved"


@pytest.mark.parametrize(
    ("start", "location", "trusted"),
    [
        ("https://archive.org/a", "https://ia800908.us.archive.org/0/a.txt", True),
        ("https://archive.org/a", "https://evilarchive.org/a", False),
        ("https://archive.org/a", "https://archive.org.evil.example/a", False),
        ("https://archive.org/a", "http://archive.org/a", False),
        ("https://archive.org/a", "file:///etc/passwd", False),
        ("https://archive.org/a", "//evil.example/a", False),
        ("https://archive.org/a", "../b", True),
    ],
)
def test_where_a_redirect_may_lead(start: str, location: str, trusted: bool) -> None:
    client = ArchiveClient(Web(), "https://archive.org", requests_per_second=1)
    url = client.url("a")
    assert str(url) == start
    if trusted:
        assert redirect_target(url, location, ("archive.org",)).host
    else:
        with pytest.raises(ItemUnavailable, match="foreign-redirect"):
            redirect_target(url, location, ("archive.org",))


async def test_the_client_says_who_it_is(serve: Serve, clock: FakeClock) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"agent": request.headers["User-Agent"], "q": request.query["q"]})

    root = await serve({"/a": echo})
    async with client_to(root, clock, contact="me@example.org") as client:
        answer = await client.get_json(client.url("a"), {"q": "a AND b:[1 TO 2]&c"})
    assert answer == {"agent": "empirical-distrust/0.1 (+me@example.org)", "q": "a AND b:[1 TO 2]&c"}
    assert "\n" not in user_agent("me\r\nX-Evil: 1")
    assert user_agent("") == "empirical-distrust/0.1 (no contact given)"


def test_urls_quote_what_is_not_trusted() -> None:
    client = ArchiveClient(Web(), "http://h/root/", requests_per_second=1)
    assert str(client.url("metadata", "../x y")) == "http://h/root/metadata/..%2Fx%20y"
    assert str(client.url("d", "sub/a b#c?.txt", keep_slashes=True)) == "http://h/root/d/sub/a%20b%23c%3F.txt"


async def test_the_pace_holds_for_requests_sent_together(serve: Serve) -> None:
    root = await serve({"/a": scripted(good())})
    loop = asyncio.get_running_loop()
    async with client_to(root, requests_per_second=100) as client:
        start = loop.time()
        await asyncio.gather(*(client.get_json(client.url("a")) for _ in range(40)))
        # Ten at once, the other thirty at a hundred a second.
        assert loop.time() - start >= 0.28


@pytest.mark.parametrize(
    ("wanted", "catalogue", "own", "root", "rate"),
    [
        (10, None, None, "https://archive.org", 2),
        (1, None, None, "https://archive.org", 1),
        (10, 5, None, "https://archive.org", 5),
        (10, None, None, "http://127.0.0.1:8000", 10),
        (10, 0.5, None, "http://127.0.0.1:8000", 0.5),
        (10, None, 0.5, "https://archive.org", 0.5),
        (10, 5, 50, "https://archive.org", 5),
    ],
)
def test_ceilings_protect_the_public_archive(
    wanted: float, catalogue: float | None, own: float | None, root: str, rate: float
) -> None:
    spec = load_catalogue()["internet_archive_books"].model_copy(update={"requests_per_second": catalogue})
    connection = Connection(archive_org_url=root, archive_org_per_second=own)
    archives = Archives(connection, Pace(requests_per_second=wanted), Web())
    assert archives.rate(spec, "archive.org") == rate


async def test_a_connection_that_the_host_closed_costs_a_turn(serve: Serve, clock: FakeClock) -> None:
    asked = 0

    async def close_every_other(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 2:
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"items": []})

    root = await serve({"/a": close_every_other})
    tally = Tally()
    async with client_to(root, clock) as client:
        await client.get_json(client.url("a"))
        await client.get_json(client.url("a"), tally=tally)
    assert (asked, tally.attempts) == (3, 2)  # not retried by the library, unseen


async def test_one_parked_host_leaves_the_others_alone(serve: Serve, clock: FakeClock) -> None:
    parked = await serve({"/a": scripted(good(), web.Response(status=429, headers={"Retry-After": "90"}), good())})
    other = await serve({"/a": scripted(good())})
    async with Web(clock=clock) as web_:
        slow = ArchiveClient(web_, parked, requests_per_second=1000)
        quick = ArchiveClient(web_, other, requests_per_second=1000)
        await slow.get_json(slow.url("a"))
        waiting = asyncio.create_task(slow.get_json(slow.url("a")))
        for _ in range(20):
            await quick.get_json(quick.url("a"))
        assert await waiting
        second = ArchiveClient(web_, parked, requests_per_second=1000)  # another source of the same host
        assert second.pace is slow.pace
    assert sum(clock.slept) == pytest.approx(90, abs=1)


async def test_a_host_that_is_back_with_broken_answers_is_not_asked_for_ever(serve: Serve, clock: FakeClock) -> None:
    asked = 0

    async def fails(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked == 1:
            return good()
        if asked < 60:
            return web.Response(status=503)
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    root = await serve({"/a": fails})
    async with client_to(root, clock, attempts=3, patience_seconds=1e9) as client:
        await client.get_json(client.url("a"))
        for _ in range(60):
            with pytest.raises((ArchiveBusy, CorruptAnswer)):
                await client.get_json(client.url("a"))
        assert asked < 300


async def test_a_probe_that_finds_its_page_gone_rejects_no_other(serve: Serve, clock: FakeClock) -> None:
    root = await serve({"/known": scripted(good(), web.Response(status=404)), "/wanted": scripted(good())})
    async with client_to(root, clock) as client:
        await client.get_json(client.url("known"))
        for _ in range(DOWN_AFTER):
            client.pace.note(ArchiveBusy("503"))
        assert client.pace.is_down
        assert await client.get_json(client.url("wanted")) == {"items": [1]}


REFUSED = web.Response(status=403, text="<h1>403 Forbidden</h1>", content_type="text/html")


async def test_a_page_that_is_closed_to_everybody_concerns_no_other(serve: Serve, clock: FakeClock) -> None:
    asked: list[str] = []

    async def closed(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=403, text="<h1>403 Forbidden</h1>", content_type="text/html")

    root = await serve({"/open": scripted(good()), "/closed/{n}": closed})
    sentences: list[str] = []
    async with client_to(root, clock, block_seconds=3600, notify=sentences.append) as client:
        await client.get_json(client.url("open"))
        for number in range(30):  # however many there are
            tally = Tally()
            with pytest.raises(ItemUnavailable) as caught:
                await client.get_json(client.url("closed", str(number)), tally=tally)
            assert (caught.value.reason, tally.attempts) == ("access-restricted", 1)
    assert len(asked) == 30
    assert (sentences, sum(clock.slept)) == ([], 0)


async def test_a_first_page_that_is_closed_is_found_out_by_the_others(serve: Serve, clock: FakeClock) -> None:
    root = await serve({"/closed": scripted(REFUSED), "/open": scripted(good())})
    async with client_to(root, clock, block_seconds=3600) as client:
        closed, answer = await asyncio.gather(
            client.get_json(client.url("closed")), client.get_json(client.url("open")), return_exceptions=True
        )
        assert isinstance(closed, ItemUnavailable) and isinstance(answer, dict)
    async with client_to(root, clock, block_seconds=3600) as client:  # there is no other
        with pytest.raises(ItemUnavailable, match="access-restricted"):
            await client.get_json(client.url("closed"))
    assert sum(clock.slept) < 30


@pytest.mark.parametrize("status", [200, 403])
async def test_a_client_that_is_shut_out_waits_and_loses_nothing(serve: Serve, clock: FakeClock, status: int) -> None:
    shut = {"until": 0.0}
    asked = 0

    async def page(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if clock.now < shut["until"]:
            return web.Response(status=status, text="<h1>Forbidden</h1>", content_type="text/html")
        return good()

    root = await serve({"/{n}": page})
    sentences: list[str] = []
    async with client_to(root, clock, block_seconds=3600, notify=sentences.append) as client:
        await client.get_json(client.url("known"))
        shut["until"] = clock.now + 3000
        answers = await asyncio.gather(*(client.get_json(client.url(str(number))) for number in range(10)))
    assert answers == [{"items": [1]}] * 10
    assert clock.now >= 1000 + 3600
    assert asked <= 1 + 10 + 1 + 10
    assert "parked for 3600 s" in sentences[0] and "blocks this client" in sentences[0]


async def test_a_client_that_was_shut_out_before_it_began_is_told_so(serve: Serve, clock: FakeClock) -> None:
    root = await serve({"/{n}": scripted(REFUSED)})
    async with client_to(root, clock, block_seconds=3600, patience_seconds=1000) as client:
        outcomes = await asyncio.gather(
            *(client.get_json(client.url(str(number))) for number in range(10)), return_exceptions=True
        )
    assert [type(outcome) for outcome in outcomes] == [ArchiveAway] * 10
    assert "blocks this client" in str(outcomes[0])


async def test_a_dead_search_of_a_second_source_is_not_a_dead_host(serve: Serve, clock: FakeClock) -> None:
    root = await serve({"/a": scripted(good()), "/dead": scripted(web.Response(status=500))})
    async with Web(clock=clock) as web_:
        first = ArchiveClient(web_, root, requests_per_second=1000)
        await first.get_json(first.url("a"))
        second = ArchiveClient(web_, root, requests_per_second=1000)
        with pytest.raises(ArchiveBusy, match="500"):
            await second.get_json(second.url("dead"))
    assert clock.now - 1000 < 60
