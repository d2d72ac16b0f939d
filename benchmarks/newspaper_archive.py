"""The newspaper archive of the benchmark of acquisition: search and texts of made pages over loopback HTTP."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from datetime import date, timedelta

from aiohttp import web

FIRST_DAY = date(1900, 1, 1)
PAGES_A_DAY = 100
TEXT = "The quick brown fox of the morning edition jumps over the lazy telegraph. " * 40


class Archive:
    """Search and texts of newspaper pages; remembers when it was asked for texts."""

    def __init__(self, latency_seconds: float, fault_share: float) -> None:
        self.latency = latency_seconds
        self.faults = fault_share
        self.random = random.Random(7)
        self.times: deque[float] = deque()

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/collections/chronicling-america/", self.search)
        app.router.add_get("/text-services/word-coordinates-service", self.text)
        app.router.add_get("/times", self.tell)
        return app

    async def search(self, request: web.Request) -> web.Response:
        first = date.fromisoformat(request.query["start_date"])
        days = (date.fromisoformat(request.query["end_date"]) - first).days + 1
        start = (int(request.query["sp"]) - 1) * 100
        total = days * PAGES_A_DAY
        hits = [
            hit(first + timedelta(days=n // PAGES_A_DAY), n % PAGES_A_DAY)
            for n in range(start, min(total, start + 100))
        ]
        return web.json_response({"results": hits, "pagination": {"of": total, "total": -(-total // 100)}})

    async def text(self, request: web.Request) -> web.StreamResponse:
        self.times.append(time.monotonic())
        segment = request.query["segment"]
        if self.random.random() < self.faults:
            return await self.fault(request, self.random.randrange(3))
        await asyncio.sleep(self.latency)
        return web.json_response({segment: {"full_text": f"{segment} {TEXT}"}})

    async def fault(self, request: web.Request, kind: int) -> web.StreamResponse:
        if kind == 0:
            return web.Response(status=503)
        if kind == 1:
            return web.Response(text='{"half": ', content_type="application/json")
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def tell(self, request: web.Request) -> web.Response:
        times = list(self.times)
        self.times.clear()
        return web.json_response(times)


def hit(day: date, number: int) -> dict[str, object]:
    segment = f"/service/ndnp/a/batch_a_ver01/data/sn1/1/{day:%Y%m%d}01/{number:04}.xml"
    return {
        "id": f"http://www.loc.gov/resource/sn1/{day}/ed-1/?sp={number + 1}",
        "date": day.isoformat(),
        "title": f"Image {number + 1} of The sun (New York), {day}",
        "image_url": [f"https://tile.loc.gov/text-services/word-coordinates-service?segment={segment}&format=alto_xml"],
    }


async def serve(latency_seconds: float, fault_share: float) -> None:
    runner = web.AppRunner(Archive(latency_seconds, fault_share).application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()
