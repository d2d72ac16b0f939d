"""``python -m deployments up|down|apply|switch``: the local server, its workers and everything deployed on it.

``install-worker``, ``install-server`` and their ``uninstall-`` twins make services of them.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import signal
import sys

from deployments import processes, server, services
from deployments.access import HOST, Access, from_environment, read_access
from storage.errors import ParameterError, PrerequisiteError, UserError

WORKERS = {"data": "data", "mac": "mac-train"}
SERVICE_COMMANDS = [f"{verb}-{kind}" for kind in ("worker", "server") for verb in ("install", "uninstall", "run")]


def up(wanted: Access, notify: str = "") -> None:
    """Start what is not running yet and apply the project's state; a worker that is at work keeps its runs.

    Raises:
        ParameterError: The server runs already, with another password, database or address than was asked for.
        PrerequisiteError: The runs that a worker left could not be marked; no worker takes its place.
    """
    known = read_access(processes.home())
    with server.in_use():
        running = server.running_access()
        if running is not None and _contradicts(wanted, running):
            raise ParameterError("The running server has a different host, password or database: run `make down` first")
        port = server.join_or_start(wanted)
        server.keep()
    dataclasses.replace(server.access_to(port), token="").save(processes.home())
    print(f"server     {server.api_url(port)}")
    os.environ.update(server.client_environment(port))
    # Stopping a worker ends its runs. One that is alive is replaced only if the server's address has changed.
    replaced = WORKERS if known != read_access(processes.home()) else ended_workers()
    for name in replaced:
        processes.stop(f"worker-{name}")
    server.mark_dead_runs(replaced, required=True)
    from deployments.apply import apply  # reads the server's address when imported

    for change in asyncio.run(apply(notify=notify)):
        print(change)
    for name, pool in WORKERS.items():
        if name not in replaced:
            print(
                f"worker     {name} on pool {pool}, already running; to change its environment, run `make down` first"
            )
            continue
        command, environment = server.worker_command(name, pool), server.worker_environment(port)
        processes.detach(processes.spawn(f"worker-{name}", command, environment))
        print(f"worker     {name} on pool {pool}")
    print(
        f"\nThe UI is at {server.api_url(port).removesuffix('/api')}. Start a flow there, or in a shell:\n"
        "  .venv/bin/python -m flows score-corpus\n"
        f"Prefect's own commands need its address: export PREFECT_API_URL={server.api_url(port)}\n"
        f"`make down` stops all of it; logs are in {os.environ.get('PREFECT_HOME', '.prefect')}."
    )


def ended_workers() -> dict[str, str]:
    """Return the workers of `make up` that are not running, and their pools."""
    return {name: pool for name, pool in WORKERS.items() if not processes.is_running(f"worker-{name}")}


def _contradicts(wanted: Access, known: Access) -> bool:
    """Whether something was asked for that the running server does not have; what was left out may be anything."""
    host = wanted.host if wanted.is_exposed else ""
    pairs = ((wanted.auth, known.auth), (wanted.database, known.database), (host, known.host))
    return any(asked and asked != has for asked, has in pairs)


def down() -> None:
    """Stop workers and server, and mark the runs that this ends.

    A command that is at work keeps its server until it has ended.

    Raises:
        PrerequisiteError: The server still answers. A person who stops it means to exchange its database or its code.
    """
    names = processes.started_processes()
    with server.in_use():  # until the ends of the runs are recorded
        port = server.running_port()
        for name in filter(lambda name: name != "server", names):
            print(f"{name}: stopping; its runs have {processes.SAVE_TIMEOUT_SECONDS:.0f} s to save", flush=True)
            stop(name)
        if port is not None:
            os.environ.update(server.client_environment(port))
            message = "Stopped by `make down`. Start it again: it continues where it stopped."
            server.mark_dead_runs(ended_workers(), message=message)
    with server.unused() as free:
        server.let_go()
        if not free:
            print("server: still used by a command; it stops when that command ends")
            return
        if "server" in names:
            stop("server")
    if (port := server.running_port()) is not None:
        raise PrerequisiteError(
            f"the server at {server.api_url(port)} is still running, and `make up` did not start it: if it is a "
            "service, stop it with `.venv/bin/python -m deployments uninstall-server` (install-server brings it back)"
        )
    if not names:
        print("Nothing was running.")


def stop(name: str) -> None:
    """Stop a process and say so."""
    print(f"{name}: {'stopped' if processes.stop(name) else 'had already stopped'}")


def change_server(arguments: argparse.Namespace) -> None:
    """Apply the project's state, or switch schedules and automations, and print what changes."""
    running = None if os.environ.get("PREFECT_API_URL") else server.running_port()
    if running is not None:  # the local server, unless the environment names another one
        os.environ.update(server.client_environment(running))
    from deployments.apply import apply, switch  # both read the server's address when imported

    if arguments.command == "apply":
        changes = asyncio.run(apply(dry_run=arguments.dry_run, notify=arguments.notify))
    else:
        changes = asyncio.run(switch(arguments.names, on=not arguments.off))
    print("\n".join(map(str, changes)))


def serve(arguments: argparse.Namespace) -> None:
    """Install, remove or become a service."""
    verb, _, kind = arguments.command.partition("-")
    service = services.Service.worker(arguments.pool) if kind == "worker" else services.Service.of_server()
    if arguments.print:
        print(services.installation(service).text, end="")
        return
    if verb == "uninstall":
        print("\n".join(services.uninstall(service)))
        return
    if arguments.server:
        services.work_for(arguments.server)
    services.known_access()
    if verb == "install":
        print("\n".join(services.install(service)))
    elif kind == "worker":
        services.run_worker(arguments.pool)
    else:
        services.run_server()


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    line = argparse.ArgumentParser(prog="python -m deployments", description=__doc__)
    line.add_argument("command", choices=["up", "down", "apply", "switch", *SERVICE_COMMANDS])
    line.add_argument("names", nargs="*", help="switch: slugs of schedules, names of automations")
    line.add_argument("--dry-run", action="store_true", help="apply: only say what would change on the server")
    line.add_argument("--notify", default="", metavar="TYPE/NAME", help="block that gets the notifications")
    line.add_argument("--off", action="store_true", help="switch: turn off instead of on")
    line.add_argument("--port", type=int, default=server.DEFAULT_PORT, help="port of the server (default: %(default)s)")
    line.add_argument("--host", default=HOST, help="address that the server listens on (default: %(default)s)")
    line.add_argument("--open", action="store_true", help="accept an address other than loopback without a password")
    line.add_argument("--pool", default="data", choices=sorted(WORKERS.values()), help="pool of the worker to install")
    line.add_argument(
        "--server", default="", help="API address of the server on another machine that the worker serves"
    )
    line.add_argument("--print", action="store_true", help="only show the service file; install nothing")
    return line


def main() -> int:
    """Run one command and return its exit status."""
    line = parser()
    arguments = line.parse_args()
    if bool(arguments.names) != (arguments.command == "switch"):
        line.error("only `switch` takes names (of schedules and automations)")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started by `... &`: what starts here must not inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if arguments.command == "up":
            wanted = from_environment(arguments.port, arguments.host)
            if not arguments.open:
                wanted.require_loopback()
            up(wanted, arguments.notify)
        elif arguments.command == "down":
            down()
        elif arguments.command in SERVICE_COMMANDS:
            serve(arguments)
        else:
            change_server(arguments)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; run it again to finish.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
