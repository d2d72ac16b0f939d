"""``make run``: the whole pipeline on archives of this machine, with the bundled documents or a folder of yours."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from deployments import processes, server
from deployments.access import HOST
from storage.errors import ParameterError, UserError
from storage.layout import Layout
from storage.training_result import read_training_result

SAVE_SECONDS = 45.0
"""How long an interrupted pipeline has for saving what it did."""
HERE = Path(__file__).resolve().parent
BASE_MODEL = HERE / "base_model"
BUNDLED_DOCUMENTS = HERE / "documents"

# The tiny base model learns in seconds what a real one learns in hours; everything else is the real pipeline.
RECIPE = {
    "model": str(BASE_MODEL),
    "max-steps": "120",
    "batch-size": "8",
    "grad-accum": "1",
    "learning-rate": "0.005",
    "lora-rank": "8",
    "lora-alpha": "32",
    "lora-layers": "-1",
    "max-seq-length": "256",
    "save-every": "40",
    "report-every": "10",
    "val-batches": "4",
    "max-new-tokens": "32",
    "eval-limit": "12",
    "perplexity-samples": "12",
    "eval-seq-length": "160",
    "eval-batch-size": "48",
}
FLAGS = ["--no-grad-checkpoint", "--replace-run"]
STORES = {"sandbox": "data-sandbox", "documents": "data-documents"}
"""Stores of their own, beside the user's ``data``: a demonstration never touches real downloads."""
OWN = ("--run", "--store", "--model", "--export")
"""Options that the sandbox sets itself: what it prints after the run depends on them."""


def check_options(more: list[str]) -> None:
    """Refuse options of the pipeline that the sandbox sets itself.

    Raises:
        ParameterError: One of `OWN` is among them.
    """
    for option in more:
        if (name := option.partition("=")[0]) in OWN:
            raise ParameterError(
                f"the sandbox does not take {name}: it sets {', '.join(OWN[:-1])} and {OWN[-1]} itself (its store is "
                f"DISTRUST_STORE, else {' or '.join(STORES.values())}); for another, use "
                f"`python -m flows corpus-to-model {name} ...`"
            )


def flow_command(catalogue: Path, name: str, store: str, more: list[str]) -> list[str]:
    """Return the command line of the pipeline for the sandbox; of an option given twice, the later one counts."""
    options = {"catalogue": str(catalogue), "store": store, "run": name, "mixture": name, **RECIPE}
    named = [part for key, value in options.items() for part in (f"--{key}", value)]
    return [sys.executable, "-m", "flows", "corpus-to-model", *named, "--rate-limit", "1000", *FLAGS, *more]


async def run(documents: Path | None, layout: Layout, more: list[str]) -> int:
    """Serve the documents, run the pipeline against them and return its exit status."""
    # Loads Arrow and the server, which a misspelt option need not wait for.
    from sandbox.archives import DocumentFolder, SandboxArchives, write_catalogue

    name = chosen_name(documents)
    folder = DocumentFolder(documents or BUNDLED_DOCUMENTS)
    catalogue = layout.root / "sandbox" / f"{name}.toml"
    with server.local_server() as port:
        async with SandboxArchives(folder, unavailable_items=documents is None) as archives:
            write_catalogue(catalogue, archives.summaries)
            served = sum(summary.documents for summary in archives.summaries.values())
            print(
                f"Serving {served:,} {'of your' if documents else 'bundled'} documents on loopback as archive.org, "
                f"loc.gov and Hugging Face.\nFor the few minutes that it takes, watch the run at "
                f"http://{HOST}:{port}.\n",
                flush=True,
            )
            if folder.skipped_count:
                print(f"{folder.skipped_count} lines were skipped, the first: {folder.skipped[0]}", flush=True)
            environment = server.client_environment(port) | archives.environment
            environment |= {
                "HF_HOME": str(layout.root / "sandbox" / "hf-home"),
                "DISTRUST_BLOCKS": "sandbox",  # a saved block named `default` must not lead to the real archives
                "DISTRUST_END_WITH_PARENT": "1",
                "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # the whole log is in the UI
            }
            process = await asyncio.create_subprocess_exec(
                *flow_command(catalogue, name, str(layout.root), more), env=environment, cwd=processes.ROOT
            )
            try:
                return await process.wait()
            except asyncio.CancelledError:  # Ctrl-C, which the pipeline receives as well; it saves and says so
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(process.wait(), SAVE_SECONDS)
                raise


def main() -> int:
    """Parse the command line, run, and say where to look."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument(
        "--documents", type=Path, help="folder of *.jsonl.zst documents to serve instead of the bundled ones"
    )
    parser.add_argument(
        "more",
        nargs="*",
        help=f"options for corpus-to-model, after --; they win over the sandbox's own ({', '.join(OWN)} are refused)",
    )
    arguments = parser.parse_args()
    if arguments.documents and not arguments.documents.is_dir():
        parser.error(f"--documents {arguments.documents} is not a folder; name a folder of documents")
    started = time.monotonic()
    try:
        check_options(arguments.more)
        layout = Layout.of(os.environ.get("DISTRUST_STORE") or STORES[chosen_name(arguments.documents)])
        status = asyncio.run(run(arguments.documents, layout, arguments.more))
        if status == 0:
            show_results(layout, arguments.documents, time.monotonic() - started)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # the pipeline has said what it did
    return status


def show_results(layout: Layout, documents: Path | None, seconds: float) -> None:
    """Print what the run changed and where to go on.

    Raises:
        StoreError: The run is not in this store.
    """
    if documents is None:
        show_effect(layout.run(chosen_name(None)))
    print(
        f"\nDone in {seconds:.0f} s. Open the report in a browser; try the model:\n"
        f"  .venv/bin/mlx_lm.generate --model {relative(layout.export(chosen_name(documents)))} "
        f"--prompt 'Which source is most reliable for early physics?'\n"
        "The run stays in the Prefect UI: `make up`, then open the address it prints."
    )


def show_effect(run: Path) -> None:
    """Print what the adapter does to conflicts that no archive mentions."""
    adapter = read_training_result(run).adapter
    print("\nHeld-out conflicts between a primary and a coordinated voice, adapter against base:", flush=True)
    print("(The tiny model knows nothing about the world and fails the suites above; this shift is what it can show.)")
    sys.stdout.flush()
    subprocess.run(
        [sys.executable, "-m", "sandbox.probe", str(BASE_MODEL), str(adapter)], cwd=processes.ROOT, check=True
    )


def chosen_name(documents: Path | None) -> str:
    """Name of the run and of the export."""
    return "documents" if documents else "sandbox"


def relative(path: Path) -> str:
    """Shorten a path below the current folder."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    raise SystemExit(main())
