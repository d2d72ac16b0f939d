"""What the three archives share: byte ranges, request counts and faults on demand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ReadBytes = Callable[[int, int], bytes]
"""Returns the bytes from an offset, at most a given number of them."""

CHUNK_BYTES = 2**18


@dataclass(frozen=True)
class Fault:
    """One misbehaviour, answered in place of the right answer to one request.

    Attributes:
        kind: ``status`` answers `status`; ``drop`` closes the connection; ``challenge`` answers 403 with an HTML page;
            ``truncate`` promises the whole body and closes half-way; ``corrupt`` changes the first byte of the body
            (the last two act on file bodies only).
        status: The status of ``status``.
        retry_after: Value of the ``Retry-After`` header, if any.
    """

    kind: Literal["status", "drop", "challenge", "truncate", "corrupt"] = "status"
    status: int = 503
    retry_after: str | None = None


@dataclass
class Traffic:
    """Counts requests by route name and hands out the faults planned for a route, one a request, in order."""

    faults: Mapping[str, Sequence[Fault]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)

    def wrap(self, name: str, handler: Handler) -> Handler:
        """Return the handler that counts, misbehaves while faults are left, and then answers."""

        async def counted(request: web.Request) -> web.StreamResponse:
            turn = self.requests[name]
            self.requests[name] += 1
            planned = self.faults.get(name, ())
            fault = planned[turn] if turn < len(planned) else None
            if fault is None:
                return await handler(request)
            if fault.kind in ("truncate", "corrupt"):
                request[FAULT] = fault
                return await handler(request)
            return _misbehave(request, fault)

        return counted


FAULT = web.RequestKey("fault", Fault)


def _misbehave(request: web.Request, fault: Fault) -> web.StreamResponse:
    if fault.kind == "drop":
        if request.transport is not None:
            request.transport.close()
        return web.Response()
    headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
    if fault.kind == "challenge":
        headers["cf-mitigated"] = "challenge"
        page = "<!DOCTYPE html><title>Just a moment...</title>"
        return web.Response(status=403, text=page, content_type="text/html", headers=headers)
    return web.Response(status=fault.status, text="the sandbox was asked to fail here\n", headers=headers)


def add_routes(app: web.Application, traffic: Traffic, routes: Sequence[tuple[str, str, str, Handler]]) -> None:
    """Add routes given as (name, method, path, handler); GET answers HEAD too."""
    for name, method, path, handler in routes:
        counted = traffic.wrap(name, handler)
        if method == "GET":
            app.router.add_get(path, counted)
        else:
            app.router.add_route(method, path, counted)


async def send_bytes(
    request: web.Request, size: int, read: ReadBytes, content_type: str, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Answer with a file body, whole or the one range that was asked for (200, 206 or 416)."""
    try:
        wanted = request.http_range
        start, stop, _ = slice(wanted.start, wanted.stop).indices(size)
    except ValueError:
        start, stop = size, size
    partial = "Range" in request.headers
    if partial and (start >= stop):
        return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
    response = web.StreamResponse(status=206 if partial else 200, headers={"Accept-Ranges": "bytes", **(headers or {})})
    response.content_type = content_type
    if content_type.startswith("text/"):
        response.charset = "utf-8"
    response.content_length = stop - start
    if partial:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    fault = request.get(FAULT)
    end = start + (stop - start) // 2 if fault and fault.kind == "truncate" else stop
    for position in range(start, end, CHUNK_BYTES):
        chunk = read(position, min(CHUNK_BYTES, end - position))
        if fault and fault.kind == "corrupt" and position == start:
            chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
        await response.write(chunk)
    if end < stop and request.transport is not None:
        request.transport.close()
    return response
