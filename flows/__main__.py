"""Run any flow from the command line: ``python -m flows NAME [options]``.

Exit status: 0 on success, 1 for a failed run, 2 for bad arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from storage.errors import DistrustError
from storage.events import end_with_parent

FLOWS = {
    "download-corpus": "pull documents from the archives into Parquet",
    "score-corpus": "authority, provenance entropy and trivium of every document",
    "rebalance-corpus": "deduplicate, sample to the target shares, split",
    "train-adapter": "train or resume a LoRA adapter with the distrust objective",
    "evaluate-adapter": "compare base model and adapter, write the report",
    "export-model": "merge the adapter and save a model for MLX, LM Studio, llama.cpp, Ollama",
    "corpus-to-model": "all six, one after the other",
    "compare-recipes": "train with several alphas, objectives or base models, side by side",
    "check-setup": "prove every component on this machine before a long run",
    "prune-store": "remove old checkpoints, exports, set-aside datasets and leftovers",
}

BY_HAND = {"try-model": ("tasks.evals.try_model", "put prompts to a finished run, base and adapter side by side")}
"""Commands that talk with a person, and are no flows: the module that each of them runs."""


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


def parse(name: str, model: type[Any], arguments: list[str]) -> tuple[dict[str, Any], bool]:
    """Read the options of a flow; return its parameters and whether to print JSON."""

    class Options(model, BaseSettings):  # type: ignore[misc]
        model_config = SettingsConfigDict(
            cli_prog_name=f"python -m flows {name}",
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_avoid_json=True,
            extra="forbid",
        )
        json_result: bool = Field(False, validation_alias="json", description="Print the result record as JSON, last.")

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (init_settings,)  # the command line alone: environment variables must not look like options

    Options.__doc__ = FLOWS[name]
    options = CliApp.run(Options, cli_args=arguments)
    return options.model_dump(include=set(model.model_fields)), options.json_result


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name in BY_HAND:
        return subprocess.run([sys.executable, "-m", BY_HAND[name][0], *rest]).returncode
    if name not in FLOWS:
        print(f"{name!r} is no flow.\n\n{usage()}", file=sys.stderr)
        return 2
    if os.environ.get("DISTRUST_END_WITH_PARENT"):
        end_with_parent()
    with contextlib.nullcontext() if "--help" in rest or "-h" in rest else local_server():
        flow = load_flow(name)
        try:
            parameters, as_json = parse(name, flow.fn.parameters_model, rest)
        except (ValidationError, SettingsError) as error:
            print(describe_bad_arguments(error), file=sys.stderr)
            return 2
        tell_story(sys.stderr if as_json else sys.stdout)
        return run(name, flow, parameters, as_json=as_json)


def run(name: str, flow: Any, parameters: dict[str, Any], *, as_json: bool) -> int:
    """Run a flow, say how it ended and return the exit status."""
    from prefect.exceptions import Abort, CancelledRun, CrashedRun, Pause

    from flows.liveness import mark_dead_runs

    async def work() -> Any:
        for dead in await mark_dead_runs():
            print(f"Run {dead} had no process any more: marked Crashed.", file=sys.stderr)
        return await flow(**parameters)

    try:
        result = asyncio.run(work())
    except (DistrustError, CrashedRun) as error:
        print(f"\n{name} stopped: {error}", file=sys.stderr)
        return 1
    except (CancelledRun, Pause, Abort, KeyboardInterrupt) as error:
        print(f"\n{error or 'Interrupted.'}", file=sys.stderr)
        return 130
    print(json.dumps(result, ensure_ascii=False, default=str) if as_json else summary(name, result))
    return 0


@contextlib.contextmanager
def local_server() -> Iterator[None]:
    """Use the server that the environment or Prefect's own profile names, else the project's local one."""
    if os.environ.get("PREFECT_API_URL") or profile_names_a_server():
        yield
        return
    from deployments import server

    with server.local_server() as port:
        os.environ.update(server.client_environment(port))
        yield


def profile_names_a_server() -> bool:
    """Whether the active profile of Prefect, which `prefect cloud login` writes, holds the address of a server."""
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    try:
        profiles = tomllib.loads((home / "profiles.toml").read_text("utf-8"))
        active = os.environ.get("PREFECT_PROFILE") or profiles["active"]
        return bool(profiles["profiles"][active].get("PREFECT_API_URL"))
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return False


def tell_story(stream: TextIO) -> None:
    """Print what the stages announce, as they announce it."""
    story = logging.getLogger("distrust.story")
    story.handlers = [logging.StreamHandler(stream)]
    story.setLevel(logging.INFO)
    story.propagate = False


def describe_bad_arguments(error: ValidationError | SettingsError) -> str:
    """Say which option has which fault, all at once."""
    if isinstance(error, SettingsError):
        return str(error)
    return "\n".join(
        f"--{'.'.join(str(part) for part in fault['loc']).replace('_', '-')}: {fault['msg']} (got {fault['input']!r})"
        if fault["loc"]
        else fault["msg"].removeprefix("Value error, ")  # options that contradict each other; no single one is at fault
        for fault in error.errors()
    )


def summary(name: str, result: dict[str, Any]) -> str:
    """Write what a flow did, for a person."""
    from flows.summaries import summarise

    return summarise(name, result)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
