"""Rebalancing as Prefect sees it: one task that builds the mixture, one that reports its distribution."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import acreate_markdown_artifact

from storage.atomic import remove_temporaries_of
from storage.errors import StoreError
from storage.layout import Layout
from storage.manifest import Manifest, MixtureNotes, find_damage, read_manifest, require_manifest
from storage.untrusted import read_object
from tasks.mixture.build import build_mixture
from tasks.mixture.corpus import MapShards, on_threads
from tasks.mixture.distribution import Distribution, format_distribution
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.synthetic import build_synthetic_mixture
from tasks.mixture.write import JSONL_NAMES, METADATA, MIXTURE_LAYOUT
from tasks.policies import LOCAL_WORK, Check, exclusive, run_logger, try_component


def mixture_inputs(layout: Layout, sources: Sequence[str]) -> dict[str, str]:
    """Digests of everything a mixture of these sources is made from.

    Raises:
        StoreError: A source is not scored yet, or was downloaded again since.
    """
    inputs = {}
    for source in sources:
        step = f"python -m flows score-corpus --sources {source}"
        raw = require_manifest(
            layout.raw(source), f"download it first: python -m flows download-corpus --sources {source}"
        )
        inputs[f"raw/{source}"] = raw.digest
        scored = require_manifest(layout.scored(source), f"score it first: {step}")
        if scored.inputs.get("raw") != raw.digest:
            raise StoreError(
                f"the scores of {source} were made from documents other than those in raw/{source}; score it again: "
                f"{step}"
            )
        inputs[f"scored/{source}"] = scored.digest
    return inputs


def find_finished(folder: Path, inputs: dict[str, str], parameters: MixtureParameters) -> Manifest | None:
    """Return the manifest of a mixture that is whole and was made from these inputs and parameters, if it is there."""
    manifest = read_manifest(folder)
    if manifest is None or not manifest.made_from(inputs, parameters.model_dump(mode="json")):
        return None
    if manifest.notes.get("layout") != MIXTURE_LAYOUT or find_damage(folder, manifest):
        return None
    beside = [METADATA, *(JSONL_NAMES.values() if parameters.jsonl else ())]
    return manifest if all((folder / name).is_file() for name in beside) else None


@task(task_run_name="build-mixture-{name}", **LOCAL_WORK)
async def build_balanced(
    layout: Layout,
    name: str,
    sources: Sequence[str],
    parameters: MixtureParameters,
    map_shards: MapShards | None = None,
) -> tuple[Manifest, bool]:
    """Deduplicate, sample and split; return the manifest and whether it was there already."""
    folder = layout.balanced(name)
    raw = {source: layout.raw(source) for source in sources}
    scored = {source: layout.scored(source) for source in sources}
    async with exclusive(folder):  # another run may have finished it while this one waited
        await asyncio.to_thread(remove_temporaries_of, folder)
        inputs = mixture_inputs(layout, sources)
        if present := find_finished(folder, inputs, parameters):
            return present, True
        on_shards = map_shards or on_threads
        return await asyncio.to_thread(build_mixture, raw, scored, folder, parameters, inputs, on_shards), False


def describe_mixture(folder: Path) -> str:
    """Write the distribution of a mixture as the guide prints it, and what limits its size."""
    try:
        metadata = read_object(folder / METADATA)
        sides = {side: Distribution.model_validate(value) for side, value in metadata["distribution"].items()}
        documents, duplicates = metadata["documents"], metadata["duplicates"]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise StoreError(f"{folder / METADATA} is damaged ({error!r:.200}); delete {folder} and run again") from error
    lines = [
        f"{sides['train'].total:,} training and {sides['valid'].total:,} validation samples from "
        f"{documents['kept']:,} of {documents['read']:,} documents",
        f"Left out: {duplicates['exact_duplicates']} exact and {duplicates['near_duplicates']} near duplicates"
        + (
            f", {documents['outside_focus']} outside the authority or years asked for"
            * bool(documents["outside_focus"])
        ),
        *(
            [
                f"Cut: {documents['cut']:,} documents are longer than --max-pieces allows; "
                f"{documents['characters_left_out']:,} characters at their ends are left out"
            ]
            * bool(documents["cut"])
        ),
        *(f"Limited: {limit}" for limit in metadata["limited_by"]),
        *(f"Note: {remark}" for remark in metadata["remarks"]),
        "",
        format_distribution(sides["train"]),
    ]
    if metadata["advice"]:
        lines += ["", "What to do:", *(f"  - {line}" for line in metadata["advice"])]
    return "\n".join(lines)


@task(task_run_name="report-distribution-{name}", **LOCAL_WORK)
async def report_distribution(layout: Layout, name: str) -> str:
    """Show the distribution of a mixture in the UI, and return it as text."""
    text = describe_mixture(layout.balanced(name))
    await show_distribution(name, text)
    run_logger().info("%s", text)
    return text


async def show_distribution(name: str, text: str) -> None:
    """Show the distribution of a mixture on the page of the run that calls this."""
    await acreate_markdown_artifact(
        key="mixture-distribution",
        markdown=f"## Mixture `{name}`\n\n```text\n{text}\n```",
        description="Shares by authority band and trivium, provenance entropy, and what limits the mixture.",
    )


@task(task_run_name="check-data-preparation", **LOCAL_WORK)
async def check_data_preparation() -> Check:
    """Make a mixture of synthetic documents, from raw shards on."""

    async def work() -> str:
        with tempfile.TemporaryDirectory() as folder:
            manifest = await asyncio.to_thread(build_synthetic_mixture, Path(folder))
            if (verdict := manifest.notes_as(MixtureNotes).verdict) != {"train": "good", "valid": "good"}:
                raise ValueError(f"the synthetic documents gave a mixture that is {verdict}")
            counts = manifest.counts
            return f"{counts['train']} training and {counts['valid']} validation samples of synthetic documents"

    return await try_component("data preparation", work)
