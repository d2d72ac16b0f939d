"""``python -m deployments.prefect_server --host HOST --port PORT``: Prefect's API, UI and services behind a guard.

It is what ``prefect server start`` runs, in one process: Prefect reads the same variables, and migrates its database.

The guard lets only programs and the server's own pages through, over HTTP and websockets. Prefect itself answers every
page of every site (CORS ``*``). Such a page can read the token of the CSRF protection and the secrets in blocks, and
can create a deployment whose steps a worker executes.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from storage.errors import ParameterError
from storage.lock import if_free
from storage.own_origin import OwnOrigin, further_names

IDENTITY_KEY = "DISTRUST_SERVER_TOKEN"
"""Variable with the secret by which a server proves that it is the one that was started."""
IDENTITY = "/distrust/identity"
RESPONSE = "websocket.http.response"
"""What a server can do that may answer a handshake with more than a status."""
CHALLENGE = r"[0-9a-f]{16,128}"
KEPT = "kept"
"""File beside the users' lock; while it exists, the server runs on when no command uses it."""
UI_API = "PREFECT_UI_API_URL"
POLL_SECONDS, STOP_SECONDS = 2.0, 20.0

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def proof(token: str, challenge: str) -> str:
    """Return the hex HMAC-SHA256 by which a server shows that it knows the token."""
    return hmac.new(token.encode(), challenge.encode(), hashlib.sha256).hexdigest()


class Guard:
    """An ASGI application that passes on only requests of its own pages and of programs."""

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
        if refusal and scope["type"] == "websocket" and RESPONSE not in (scope.get("extensions") or {}):
            return await send({"type": "websocket.close", "code": 1008, "reason": refusal[:100]})  # answered with 403
        if refusal:
            return await _answer(scope, receive, send, 403, detail=refusal)
        if scope["type"] == "http" and scope["path"] == IDENTITY:
            return await self._identify(scope, receive, send)
        await self.app(scope, receive, _without_cors(send))

    async def _identify(self, scope: Message, receive: Receive, send: Send) -> None:
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("challenge", [""])[0]
        if not self.token or scope["method"] != "GET":
            await _answer(scope, receive, send, 404, detail="Not found")
        elif not re.fullmatch(CHALLENGE, asked):
            await _answer(scope, receive, send, 400, detail="challenge needs 16 to 128 lower-case hexadecimal digits")
        else:
            await _answer(scope, receive, send, 200, proof=proof(self.token, asked), pid=os.getpid())


def _is_visit(scope: Message, headers: dict[str, str]) -> bool:
    """Whether a person followed a link to a page of the UI, say from a notification: the other site sees none of it."""
    how = (scope["type"], scope.get("method"), headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    return how == ("http", "GET", "navigate", "document") and not scope["path"].startswith(("/api", IDENTITY))


async def _answer(scope: Message, receive: Receive, send: Send, status: int, **content: str | int) -> None:
    from starlette.responses import JSONResponse  # as Prefect brings it

    await JSONResponse(content, status)(scope, receive, send)


def _without_cors(send: Send) -> Send:
    """Remove what would let other sites read an answer, and forbid them to show it in a frame."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", ()) if not pair[0].lower().startswith(b"access-control-")]
            message = {**message, "headers": [*kept, (b"x-frame-options", b"SAMEORIGIN")]}
        await send(message)

    return sent


def create_guarded_app(host: str, port: int) -> App:
    """Return Prefect's application behind the guard; ParameterError if one of the further names is not a host."""
    own = OwnOrigin(host, port, further_names(host))
    # A page asks the server that it came from, under whatever name: another one would be a foreign site for it.
    os.environ.setdefault(UI_API, "/api")
    from prefect.server.api.server import create_app

    from deployments.one_writer import install

    install()
    return Guard(create_app(final=True), own, os.environ.get(IDENTITY_KEY, ""))


def run(host: str, port: int) -> None:
    """Serve until the process is asked to end."""
    app = create_guarded_app(host, port)
    import uvicorn
    from prefect.settings import get_current_settings

    settings = get_current_settings().server
    uvicorn.run(
        app,
        host=host,
        port=port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
    )


def end_when_unused(users: Path) -> None:
    """End this process once no process holds the lock of its users, unless it is to be kept."""
    users.touch()
    while True:
        time.sleep(POLL_SECONDS)
        with if_free(users) as unused:
            if unused and not (users.parent / KEPT).exists():
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(STOP_SECONDS)  # the lock is held until the process has ended: a new command waits for that
                os._exit(1)


def main() -> int:
    """Read the command line and serve; 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m deployments.prefect_server", description="Prefect behind a guard.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument("--while-used", type=Path, metavar="LOCK", help="end once no process holds this lock")
    options = parser.parse_args()
    if options.while_used:
        threading.Thread(target=end_when_unused, args=(options.while_used,), daemon=True).start()
    try:
        run(options.host, options.port)
    except ParameterError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # uvicorn has shut down and hands the signal on
        return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
