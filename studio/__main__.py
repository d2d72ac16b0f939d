"""``python -m studio``: serve the pages of a store on this machine until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from typing import TYPE_CHECKING

from storage.errors import DistrustError, ParameterError, StoreError
from storage.layout import Layout

if TYPE_CHECKING:
    from deployments.prefect_server import App

HOST, PORT = "127.0.0.1", 4300
"""There is no option for another host: whoever reaches the page can read every document of the store."""
STAGES = ("scored", "balanced", "runs")
TRIAL_STORES = ("data-documents", "data-sandbox")
"""What ``make run`` fills; taken if no store is named and the usual one is empty."""


def choose_store(named: str) -> Layout:
    """Return the named store, else the usual one, else the one that ``make run`` filled last.

    Raises:
        ParameterError: The store cannot be a folder.
        StoreError: It holds nothing to look at.
    """
    layout = Layout.of(named)
    if layout.bucket:
        print(f"Fetching what changed in {layout.bucket.uri}.", flush=True)
        layout.pull("raw", *STAGES)
    if _holds_something(layout):
        return layout
    usual = not named and not os.environ.get("DISTRUST_STORE")
    if usual and (trials := [trial for trial in map(Layout.of, TRIAL_STORES) if _holds_something(trial)]):
        return max(trials, key=lambda trial: trial.root.stat().st_mtime)
    raise StoreError(
        f"the store {layout.root} holds no scored documents, mixtures or runs; fill one with make run, or name another "
        "one: make studio STORE=DIR"
    )


def _holds_something(layout: Layout) -> bool:
    return any(any((layout.root / stage).glob("[!.]*/")) for stage in STAGES)


def bind(port: int) -> socket.socket:
    """Listen on a port of this machine; 0 takes a free one.

    Raises:
        ParameterError: The port is not one, or another program has it.
    """
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
        found.listen()
    except (OSError, OverflowError) as error:
        found.close()
        raise ParameterError(f"port {port} cannot be used ({error}); take another: --port {PORT + 1}") from error
    return found


def guarded_app(layout: Layout, port: int) -> App:
    """Return the pages of a store behind the guard that answers only to the server's own name and pages."""
    from deployments.prefect_server import Guard
    from storage.own_origin import OwnOrigin
    from studio.app import Studio

    return Guard(Studio(layout).app(), OwnOrigin(HOST, port))


def main(arguments: list[str]) -> int:
    """Serve; return the exit status: 1 where there is nothing to show."""
    parser = argparse.ArgumentParser(prog="python -m studio", description="Look at a store in the browser.")
    parser.add_argument("--store", default="", help="folder of the corpus store (DISTRUST_STORE, else ./data)")
    parser.add_argument("--port", type=int, default=PORT, help=f"port on {HOST} ({PORT}); 0 takes a free one")
    options = parser.parse_args(arguments)
    try:
        layout = choose_store(options.store)
        with bind(options.port) as listening:
            port = listening.getsockname()[1]
            app = guarded_app(layout, port)
            import uvicorn

            print(f"Studio of {layout.root}: http://{HOST}:{port} (Ctrl-C ends it)", flush=True)
            config = uvicorn.Config(app, log_level="warning", lifespan="off", server_header=False)
            uvicorn.Server(config).run([listening])
    except DistrustError as error:
        print(f"studio: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # uvicorn has shut down and hands the signal on
        return 0
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # MLX's threads abort a process that takes the interpreter down while a thread holds a model
