"""``python -m deployments.prefect_server --host HOST --port PORT``: Prefect's API, UI and services behind our guard.

It is what ``prefect server start`` runs, in one process: Prefect reads the same variables, and migrates its database.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

from deployments.guard import IDENTITY_KEY, App, Guard
from deployments.server import KEPT
from storage.errors import ParameterError
from storage.lock import if_free
from storage.own_origin import OwnOrigin, further_names

UI_API = "PREFECT_UI_API_URL"
POLL_SECONDS, STOP_SECONDS = 2.0, 20.0


def create_guarded_app(host: str, port: int) -> App:
    """Return Prefect's application behind the guard.

    Raises:
        ParameterError: One of the further names is not a host.
    """
    own = OwnOrigin(host, port, further_names(host))
    # The page asks the server that it came from, by whatever name: another one would be a foreign site for it.
    os.environ.setdefault(UI_API, "/api")
    from prefect.server.api.server import create_app

    from deployments.one_writer import install

    install()
    return Guard(create_app(final=True), own, os.environ.get(IDENTITY_KEY, ""))


def run(host: str, port: int) -> None:
    """Serve until the process is told to end."""
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
    """End this process once nobody holds the lock of its users, unless it is to be kept."""
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
    parser = argparse.ArgumentParser(prog="python -m deployments.prefect_server", description=__doc__)
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
