"""Run any flow from the command line: ``python -m flows NAME [options]``.

Exit status: 0 on success, 1 for a failed run, 2 for bad arguments.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import subprocess
import sys
from typing import Any, TextIO

from flows.arguments import FLOWS, BadArguments, parse, read
from flows.faults import nearest
from flows.terminal import describe_defect, hush_tracebacks, why_no_run
from storage.errors import DistrustError
from storage.events import end_with_parent

__all__ = ["BY_HAND", "FLOWS", "load_flow", "main", "parse", "usage"]

BY_HAND = {"try-model": ("tasks.evals.try_model", "put prompts to a finished run, base and adapter side by side")}
"""Commands that talk with a person, and are no flows: the module that each of them runs."""


SERVERLESS = {
    # A run without a server gets a temporary local one; `make up` starts the permanent one.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # In memory, the leases of a killed run would die with its server, and its slots stay taken for ever.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}
"""Settings that a run from the command line takes where the environment says nothing."""


def load_flow(name: str) -> Any:
    """Import the flow of a dash-case name."""
    attribute = name.replace("-", "_")
    return getattr(importlib.import_module(f"flows.{attribute}"), attribute)


def usage() -> str:
    """List the commands."""
    width = max(map(len, FLOWS))
    commands = FLOWS | {name: what for name, (_, what) in BY_HAND.items()}
    rows = "\n".join(f"  {name:<{width}}  {what}" for name, what in commands.items())
    return f"usage: python -m flows NAME [options]\n\n{rows}\n\npython -m flows NAME --help lists the options of one."


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name in BY_HAND:
        return subprocess.run([sys.executable, "-m", BY_HAND[name][0], *rest]).returncode
    if name not in FLOWS:
        close = nearest(name, [*FLOWS, *BY_HAND])
        hint = f"did you mean {close!r}?" if close else f"\n\n{usage()}"
        print(f"there is no flow {name!r}; {hint}", file=sys.stderr)
        return 2
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
    tell_story(sys.stderr if as_json else sys.stdout)
    try:
        result = run(name, parameters)
    except DistrustError as error:
        print(f"\n{name} stopped: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        crashed = type(error).__name__ == "CrashedRun"  # a run that says itself why it went no further
        print(f"\n{name} stopped: {error if crashed else describe_defect(name, error)}", file=sys.stderr)
        return 1
    print(json.dumps(result, ensure_ascii=False, default=str) if as_json else summary(name, result))
    return 0


def run(name: str, parameters: dict[str, Any]) -> Any:
    """Run a flow to its end; importing Prefect takes seconds, which a usage error need not wait for."""
    flow = load_flow(name)
    hush_tracebacks()
    return asyncio.run(flow(**parameters))


def tell_story(stream: TextIO) -> None:
    """Print what the stages announce, as they announce it."""
    story = logging.getLogger("distrust.story")
    story.handlers = [logging.StreamHandler(stream)]
    story.setLevel(logging.INFO)
    story.propagate = False


def summary(name: str, result: dict[str, Any]) -> str:
    """Write what a flow did, for a person."""
    from flows.summaries import summarise

    return summarise(name, result)


if __name__ == "__main__":
    for name, value in SERVERLESS.items():
        os.environ.setdefault(name, value)
    raise SystemExit(main(sys.argv[1:]))
