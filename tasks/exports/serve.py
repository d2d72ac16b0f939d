"""``python -m tasks.exports.serve EXPORT``: MLX's server on an export, with an API like OpenAI's.

``--check`` starts it on a free port, asks through that API, prints what came back and ends.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from storage import blas
from storage.addresses import LOOPBACK
from storage.errors import DistrustError, ParameterError, StoreError, UserError
from storage.events import end_with_parent
from storage.layout import NAME_PATTERN, Layout
from storage.own_origin import OwnOrigin, further_names
from tasks.exports.api_handler import MODEL as MODEL
from tasks.exports.api_handler import ApiHandler
from tasks.exports.export_manifest import ExportManifest

KEY = "DISTRUST_SERVE_KEY"
"""Variable with the key that every request must bring; without one the server listens on this machine only."""
START_SECONDS = 600.0
ANSWER_SECONDS = 300.0
CHECK_TOKENS = 16
QUESTION = "Which sources should I trust for historical research?"


def find_export(named: str, store: str | None) -> Path:
    """Return the folder of an export, named by its folder or its name in the store; UserError without a whole one."""
    # A name in the store goes before a folder here: the project has folders of its own.
    stored = Layout.of(store).export(named) if re.fullmatch(NAME_PATTERN, named) else None
    folder = stored if stored is not None and (stored.is_dir() or not Path(named).is_dir()) else Path(named)
    manifest = ExportManifest.read(folder)
    if manifest is None:
        raise ParameterError(f"export {named!r} does not exist ({folder}); run export-model first")
    if not manifest.is_whole(folder):  # the server would come up and then never answer
        raise StoreError(f"{folder} has missing or damaged files; run export-model again")
    return folder.resolve()


def key_for(host: str) -> str:
    """Return the key that requests must bring: may be empty, but ParameterError where other machines can ask."""
    key = os.environ.get(KEY, "").strip()
    if not key and host not in LOOPBACK:
        raise ParameterError(
            f"host {host!r} can be reached from other machines: set a key that they must know, {KEY}=…, "
            "or leave the host out"
        )
    return key


def serve(folder: Path, host: str, port: int) -> None:
    """Run MLX's server in this process until it is ended; no other model is ever loaded for a request."""
    fields = {"own": OwnOrigin(host, port, further_names(host)), "key": key_for(host), "folder": str(folder)}
    os.environ["HF_HUB_OFFLINE"] = "1"
    if os.environ.get("DISTRUST_END_WITH_PARENT"):
        end_with_parent()
    blas.load()
    from mlx_lm import server

    handler = type("Handler", (ApiHandler, server.APIHandler), fields)

    def run(host: str, port: int, provider: server.ModelProvider) -> None:
        cache = server.LRUPromptCache(provider.cli_args.prompt_cache_size)
        server._run_http_server(host, port, server.ResponseGenerator(provider, cache), handler_class=handler)

    server.run = run  # MLX's own always uses its own handler
    sys.argv = ["mlx_lm.server", "--model", str(folder), "--host", host, "--port", str(port)]
    server.main()


def ask(port: int, path: str, body: object = None, timeout: float = ANSWER_SECONDS) -> Any:
    """Send one request to the server on loopback; return the JSON of its answer, OSError for any other status."""
    key = key_for("127.0.0.1")
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        text = response.read().decode("utf-8")
    if response.status != 200:
        raise OSError(f"{path} answered with status {response.status}: {text[:300]}")
    return json.loads(text)


@contextmanager
def running(folder: Path) -> Iterator[int]:
    """Run the server as a child on a free port of loopback; yield the port once the model is open, else UserError."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tasks.exports.serve", str(folder), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(root), "DISTRUST_END_WITH_PARENT": "1"}
    child = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + START_SECONDS
    try:
        while not _is_healthy(port):
            if child.poll() is not None:
                last = child.stderr.read().decode("utf-8", "replace")[-1000:] if child.stderr else ""
                raise UserError(f"the server ended with status {child.returncode}: {last}")
            if time.monotonic() > deadline:
                raise UserError("the server did not open the model in time; export with quantize=4bit")
            time.sleep(0.1)
        yield port
    finally:
        child.terminate()
        child.communicate()


def _is_healthy(port: int) -> bool:
    try:
        return bool(ask(port, "/health", timeout=5))
    except OSError:
        return False


class Checked(BaseModel):
    """What a served export answered, and the seconds of the chat request."""

    models: list[str]
    answer: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    seconds: float


def check(folder: Path) -> Checked:
    """Ask an export through the API; UserError if the server does not start, or does not answer as the API promises."""
    question = {"model": MODEL, "max_tokens": CHECK_TOKENS}
    with running(folder) as port:
        try:
            models = [model["id"] for model in ask(port, "/v1/models")["data"]]
            started = time.monotonic()
            messages = [{"role": "user", "content": QUESTION}]
            chat = ask(port, "/v1/chat/completions", {**question, "messages": messages})
            seconds = time.monotonic() - started
            text = ask(port, "/v1/completions", {**question, "prompt": QUESTION})
            return read_answers(models, chat, text, round(seconds, 3))
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"the served model does not answer as the API promises ({error!r})") from error


def read_answers(models: list[str], chat: Any, text: Any, seconds: float) -> Checked:
    """Read a chat answer; ValueError unless it and a plain answer have the shape of OpenAI's API."""
    choice, usage = chat["choices"][0], chat["usage"]
    kinds = chat["object"], choice["message"]["role"], type(text["choices"][0]["text"])
    if kinds != ("chat.completion", "assistant", str):
        raise ValueError(f"unexpected answers: {json.dumps([chat, text])[:500]}")
    return Checked(
        models=models,
        answer=choice["message"]["content"],
        finish_reason=choice["finish_reason"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        seconds=seconds,
    )


def main(arguments: list[str]) -> int:
    """Serve or check; return the exit status: 1 for a failure that a person can mend, 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m tasks.exports.serve", description="Serve an exported model.")
    parser.add_argument("export", help="name of an export in the store, or its folder")
    parser.add_argument("--store", help="folder of the corpus store (DISTRUST_STORE, else ./data)")
    parser.add_argument("--host", default="127.0.0.1", help=f"address to listen on; all but 127.0.0.1 need {KEY}")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--check", action="store_true", help="start on a free port, ask one question, print the answer and stop"
    )
    options = parser.parse_args(arguments)
    try:
        key = key_for(options.host)
        folder = find_export(options.export, options.store)
        if options.check:
            print(check(folder).model_dump_json())
        else:
            print(f"http://{options.host}:{options.port}/v1 (model {MODEL!r}{', with key' if key else ''})", flush=True)
            serve(folder, options.host, options.port)
    except DistrustError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
