"""What stands before the Prefect server: only programs and its own pages reach it, over HTTP and websockets.

Prefect answers every page of every site (CORS ``*``), and a page that may read the answers may read the token of its
CSRF protection as well, the secrets in blocks, and may create a deployment whose steps a worker executes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from storage.own_origin import OwnOrigin

IDENTITY_KEY = "DISTRUST_SERVER_TOKEN"
"""Variable with the secret by which a server shows that it is the one that was started."""
IDENTITY = "/distrust/identity"
CHALLENGE = r"[0-9a-f]{16,128}"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def proof(token: str, challenge: str) -> str:
    """Return the hex HMAC-SHA256 by which a server shows that it knows the token."""
    return hmac.new(token.encode(), challenge.encode(), hashlib.sha256).hexdigest()


class Guard:
    """An ASGI application that hands on only what its own pages and programs ask for."""

    def __init__(self, app: App, own: OwnOrigin, token: str = "") -> None:
        self.app, self.own, self.token = app, own, token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        if _is_visit(scope, dict(headers)):
            headers = [(name, value) for name, value in headers if name == "host"]
        refusal = self.own.refusal(scope.get("method", "GET"), headers)
        if refusal:
            return await _refuse(scope, send, refusal)
        if scope["type"] == "http" and scope["path"] == IDENTITY:
            return await self._identify(scope, send)
        await self.app(scope, receive, _without_cors(send))

    async def _identify(self, scope: Message, send: Send) -> None:
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("challenge", [""])[0]
        if not self.token or scope["method"] != "GET":
            await _answer(send, 404, {"detail": "Not found"})
        elif not re.fullmatch(CHALLENGE, asked):
            await _answer(send, 400, {"detail": "challenge needs 16 to 128 hexadecimal digits in lower case"})
        else:
            await _answer(send, 200, {"proof": proof(self.token, asked), "pid": os.getpid()})


def _is_visit(scope: Message, headers: dict[str, str]) -> bool:
    """Whether somebody followed a link to a page of the UI, say from a notification: the other site sees none of it."""
    how = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    api = ("/api", IDENTITY)
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and how == ("navigate", "document")
        and not any(scope["path"].startswith(path) for path in api)
    )


async def _refuse(scope: Message, send: Send, why: str) -> None:
    if scope["type"] == "http":
        await _answer(send, 403, {"detail": why})
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        await _answer(send, 403, {"detail": why}, "websocket.http.response")
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": why[:100]})  # the server answers with 403


async def _answer(send: Send, status: int, content: dict[str, Any], kind: str = "http.response") -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})


def _without_cors(send: Send) -> Send:
    """Take away what would let other sites read an answer, and forbid them to show it in a frame."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", ()) if not pair[0].lower().startswith(b"access-control-")]
            message = {**message, "headers": [*kept, (b"x-frame-options", b"SAMEORIGIN")]}
        await send(message)

    return sent
