"""What checks requests to MLX's server: only its own pages and programs are answered, for the one export it serves.

By itself MLX's server answers every web page (CORS ``*``), loads whatever folder or repository a request names as
``model``, ``draft_model`` or ``adapters``, and fetches the addresses of images.
"""

from __future__ import annotations

import hmac
import json
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

from storage.own_origin import OwnOrigin

MODEL = "default_model"
"""The name under which the server knows the model that it was started with."""
LONGEST_BODY_BYTES = 16 * 2**20
IDLE_SECONDS = 60.0
"""How long a client may be silent in the middle of a request, or leave an answer unread."""
DRAIN_SECONDS = 2.0
FOREIGN_FIELDS = ("adapters", "adapter", "adapter_path", "draft_model", "chat_template")
"""Fields of a request that would name another file, repository or program for the templates."""


class ApiHandler(BaseHTTPRequestHandler):
    """Mixed in before MLX's handler: checks requests before MLX reads them, and fields before MLX acts on them."""

    own: OwnOrigin
    key = ""
    folder = ""
    body: Any
    requested_model: str
    requested_draft_model: Any
    adapter: Any
    timeout = IDLE_SECONDS

    def parse_request(self) -> bool:
        """Read a request's first lines; answer what is refused here."""
        if not super().parse_request():
            return False
        status, why = self._refusal()
        if status:
            self._answer(status, {"error": why})
            self._drain()
        return not status

    def _refusal(self) -> tuple[int, str]:
        why = self.own.refusal(self.command, self.headers.items())
        if why:
            return 403, why
        given = self.headers.get("Authorization", "").encode("latin-1", "replace")
        if self.key and not hmac.compare_digest(given, f"Bearer {self.key}".encode()):
            return 401, "This server needs its key: send the header Authorization: Bearer KEY."
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            return 411, "The request needs a Content-Length."
        if not (length.isascii() and length.isdigit()):
            return 400, f"Content-Length {length[:50]!r} is not a number."
        if int(length[:20]) > LONGEST_BODY_BYTES:
            return 413, f"The request is larger than {LONGEST_BODY_BYTES} bytes."
        return 0, ""

    def do_POST(self) -> None:
        """Answer a request with a body; one that cannot be read as JSON gets an answer as well."""
        try:
            super().do_POST()  # type: ignore[misc]
        except (UnicodeDecodeError, RecursionError):
            self._answer(400, {"error": "The request is not JSON in UTF-8, or is nested too deeply."})

    def validate_model_parameters(self) -> None:
        """Raise ValueError for a field that names something else to load; MLX calls this before it uses any field."""
        super().validate_model_parameters()  # type: ignore[misc]
        if self.requested_model not in (MODEL, self.folder, self.folder.rpartition("/")[2]):
            raise ValueError(f"this server has one model, {MODEL!r}; it does not load {self.requested_model[:200]!r}")
        options = self.body.get("chat_template_kwargs") or {}
        if not isinstance(options, dict):
            raise ValueError("chat_template_kwargs must be an object")
        for name in FOREIGN_FIELDS:
            if any(fields.get(name) not in (None, MODEL) for fields in (self.body, options)):
                raise ValueError(f"this server has one model and does not take {name!r}; leave it out")
        check_messages(self.body.get("messages") or [])
        self.requested_model, self.requested_draft_model, self.adapter = MODEL, MODEL, None

    def handle_models_request(self) -> None:
        """Name the served export, and none of the models that happen to be in this machine's cache."""
        models = [{"id": name, "object": "model"} for name in (MODEL, self.folder)]
        self._answer(200, {"object": "list", "data": models})

    def _set_cors_headers(self) -> None:
        """Send none: no other site may read an answer."""

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        self.close_connection = True

    def _drain(self) -> None:
        """Take in what is under way: closing before that would make the system throw the answer away."""
        deadline, left = time.monotonic() + DRAIN_SECONDS, LONGEST_BODY_BYTES
        self.connection.settimeout(0.2)
        try:
            while left > 0 and time.monotonic() < deadline and (part := self.connection.recv(65536)):
                left -= len(part)
        except OSError:
            pass


def check_messages(messages: Any) -> None:
    """Raise ValueError for anything but text: an image is an address that the server would fetch."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("messages must be a list of objects")
    for content in [message.get("content") for message in messages]:
        parts = content if isinstance(content, list) else []
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
            raise ValueError("this model takes text only: leave images, sound and files out of the messages")
