"""``python -m deployments up|down|apply|switch``: the local server, its workers and everything deployed on it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from deployments import server
from storage.errors import UserError

WORKERS = {"data": "data", "mac": "mac-train"}


def up(port: int, notify: str = "") -> None:
    """Start what is not running yet and apply the project's state."""
    running = server.running_port()
    if running is None:
        running = server.free_port(port)
        server.start_server(running)
    print(f"server     {server.api_url(running)}")
    os.environ.update(server.client_environment(running))
    from deployments.apply import apply  # reads the server's address when imported

    for change in asyncio.run(apply(notify=notify)):
        print(change)
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


def name_local_server() -> None:
    """Let Prefect's client talk to the local server that is up, unless the environment names another one."""
    running = None if os.environ.get("PREFECT_API_URL") else server.running_port()
    if running is not None:
        os.environ.update(server.client_environment(running))


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
    parser.add_argument("command", choices=["up", "down", "apply", "switch"])
    parser.add_argument(
        "--port", type=int, default=server.DEFAULT_PORT, help="port of the server (default: %(default)s)"
    )
    parser.add_argument("names", nargs="*", help="switch: slugs of schedules, names of automations")
    parser.add_argument("--dry-run", action="store_true", help="apply: only tell what would change on the server")
    parser.add_argument("--notify", default="", metavar="TYPE/NAME", help="block that gets the notifications")
    parser.add_argument("--off", action="store_true", help="switch: off instead of on")
    arguments = parser.parse_args()
    if bool(arguments.names) != (arguments.command == "switch"):
        parser.error("switch takes names of schedules and automations, the other commands take none")
    try:
        if arguments.command == "up":
            up(arguments.port, arguments.notify)
        elif arguments.command == "down":
            down()
        else:
            name_local_server()
            from deployments.apply import apply, switch  # both read the server's address when imported

            if arguments.command == "apply":
                changes = asyncio.run(apply(dry_run=arguments.dry_run, notify=arguments.notify))
            else:
                changes = asyncio.run(switch(arguments.names, on=not arguments.off))
            print("\n".join(map(str, changes)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
