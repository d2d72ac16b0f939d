"""Run any flow from the command line: ``python -m flows NAME [options]``.

Exit status: 0 on success, 1 for a failed run, 2 for bad arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from pydantic_core import to_jsonable_python

from flows.arguments import FLOWS, FORMS, BadArguments, parse, read, visible_store
from flows.faults import nearest
from flows.help import help_of, overview
from flows.parameters import FlowParameters
from flows.terminal import DETAILS, describe_defect, hush_tracebacks, notify, show_page, why_no_run
from storage.errors import DistrustError
from storage.events import end_with_parent
from storage.lock import introduce

__all__ = ["BY_HAND", "FLOWS", "load_flow", "main", "parse", "usage"]

BY_HAND = {"try-model": ("tasks.evals.try_model", "put prompts to a finished run, base and adapter side by side")}
"""Commands that talk with a person and are not flows: the module that each of them runs, and what it does."""
PIPELINE = "corpus-to-model"
"""The flow that is quiet: it says in a line what each of its stages did."""


def load_flow(name: str) -> Any:
    """Import the flow of a dash-case name."""
    attribute = name.replace("-", "_")
    return getattr(importlib.import_module(f"flows.{attribute}"), attribute)


def usage() -> str:
    """List the commands."""
    width = max(map(len, FLOWS))
    commands = FLOWS | {name: description for name, (_, description) in BY_HAND.items()}
    rows = "\n".join(f"  {name:<{width}}  {description}" for name, description in commands.items())
    return (
        f"usage: python -m flows NAME [options]\n\n{rows}\n\n"
        "python -m flows NAME --help: its examples and options\n"
        'TAB completes in bash or zsh after: eval "$(.venv/bin/python -m flows --completion bash)"'
    )


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    if not arguments:
        print(f"{overview(visible_store(''), os.environ.get('DISTRUST_STORE', ''))}\n")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *rest = arguments
    if name in ("--completion", "--complete"):
        from flows.completion import answer

        return answer(name, rest)
    if name in BY_HAND:
        return subprocess.run([sys.executable, "-m", BY_HAND[name][0], *rest]).returncode
    if name not in FLOWS:
        close = nearest(name, [*FLOWS, *BY_HAND])
        hint = f"did you mean {close!r}?" if close else f"\n\n{usage()}"
        print(f"unknown flow {name!r}; {hint}", file=sys.stderr)
        return 2
    if {"-h", "--help"} & set(rest):
        print(help_of(name, FORMS[name], FLOWS[name]))
        return 0
    try:
        parameters, as_json = read(name, rest)
    except BadArguments as error:
        print(error, file=sys.stderr)
        return error.status
    if os.environ.get("DISTRUST_END_WITH_PARENT"):
        end_with_parent()
    if reason := why_no_run():
        print(f"{name} was not started: {reason}", file=sys.stderr)
        return 1
    introduce(f"the command {name}")
    began = time.monotonic()
    try:
        with local_server():  # before Prefect is loaded, which reads the server's address then
            result = run(name, parameters, sys.stderr if as_json else sys.stdout)
    except SystemExit:
        raise
    except BaseException as error:  # Prefect's signals that a run was paused or ended are not Exceptions
        status = exit_status(name, error)
        if status == 1:  # who ended it knows
            notify(f"{name} stopped", str(error), time.monotonic() - began)
        return status
    told = "\n".join(result.summary())
    print(json.dumps(to_jsonable_python(result, fallback=str), ensure_ascii=False) if as_json else told)
    notify(f"{name} is done", told, time.monotonic() - began)
    if name == PIPELINE and not result.evaluate.reused:
        show_page(Path(result.evaluate.report))
    return 0


def run(name: str, parameters: FlowParameters, stream: TextIO) -> Any:
    """Run a flow to its end, after the runs are marked whose process has died; its story goes to a stream."""
    quiet = name == PIPELINE and not os.environ.get(DETAILS)
    if quiet and stream.isatty():  # where nobody watches, a log is worth more
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
    flow = load_flow(name)
    from deployments.server import mark_dead_runs
    from flows.story import screen

    hush_tracebacks()
    with screen(stream, quiet=quiet):
        mark_dead_runs({}, sys.stderr)
        return asyncio.run(flow(**dict(parameters)))


def exit_status(name: str, error: BaseException) -> int:
    """Say why a run went no further, and return the exit status: 130 if it was asked to end, else 1."""
    kind = type(error).__name__
    if kind in ("CancelledRun", "Pause", "Abort", "TerminationSignal", "KeyboardInterrupt"):
        print(f"\n{error if str(error) else 'Interrupted.'}", file=sys.stderr)
        return 130
    is_explained = isinstance(error, DistrustError) or kind == "CrashedRun"
    print(f"\n{name} stopped: {error if is_explained else describe_defect(name, error)}", file=sys.stderr)
    return 1


@contextlib.contextmanager
def local_server() -> Iterator[None]:
    """Use the server that the environment or Prefect's own profile names, else the project's local one."""
    if os.environ.get("PREFECT_API_URL") or profile_names_a_server():
        yield
        return
    from deployments import server

    before = dict(os.environ)
    with server.local_server() as port:
        os.environ.update(server.client_environment(port))
        try:
            yield
        finally:  # the next command of this process looks for a server again
            os.environ.clear()
            os.environ.update(before)


def profile_names_a_server() -> bool:
    """Whether the active profile of Prefect, which `prefect cloud login` writes, holds the address of a server."""
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    try:
        profiles = tomllib.loads((home / "profiles.toml").read_text("utf-8"))
        active = os.environ.get("PREFECT_PROFILE") or profiles["active"]
        return bool(profiles["profiles"][active].get("PREFECT_API_URL"))
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return False


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
