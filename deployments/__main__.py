"""``python -m deployments up|down|apply``: the local server, its workers and everything deployed on it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from deployments import server
from storage.errors import UserError

WORKERS = {"data": "data", "mac": "mac-train"}


def up(port: int) -> None:
    """Start what is not running yet and apply the project's state."""
    running = server.running_port()
    if running is None:
        running = server.free_port(port)
        server.start_server(running)
    print(f"server     {server.api_url(running)}")
    os.environ.update(server.client_environment(running))
    from deployments.apply import apply  # reads the server's address when imported

    for line in asyncio.run(apply()):
        print(line.replace(" ", "  ", 1))
    for name, pool in WORKERS.items():
        server.stop(f"worker-{name}")
        server.start_worker(name, pool, running)
        print(f"worker     {name} on pool {pool}")
    print(
        f"\nThe UI is at http://{server.HOST}:{running}. Start a flow there, or in a shell:\n"
        f"  export PREFECT_API_URL={server.api_url(running)}\n"
        "  .venv/bin/prefect deployment run 'score-corpus/score-corpus'\n"
        "`make down` stops all of it; logs lie in .prefect/."
    )


def down() -> None:
    """Stop workers and server."""
    names = server.started_processes()
    for name in names:
        print(f"{name}: {'stopped' if server.stop(name) else 'was not running'}")
    if not names:
        print("Nothing was running.")


def main() -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m deployments", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "apply"])
    parser.add_argument(
        "--port", type=int, default=server.DEFAULT_PORT, help="port of the server (default: %(default)s)"
    )
    arguments = parser.parse_args()
    try:
        if arguments.command == "up":
            up(arguments.port)
        elif arguments.command == "down":
            down()
        else:
            from deployments.apply import apply

            print("\n".join(asyncio.run(apply())))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
