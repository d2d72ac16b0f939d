"""Rebalancing as Prefect sees it: one task that builds the mixture, one that reports its distribution."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from pydantic import BaseModel, ConfigDict

from storage.atomic import remove_temporaries_of
from storage.errors import StoreError
from storage.layout import Layout
from storage.manifest import Manifest, MixtureNotes, find_damage, read_manifest, require_manifest
from storage.markdown import cell
from tasks.mixture.build import build_mixture
from tasks.mixture.lesson_file import lesson_file_sha256
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.report import read_report
from tasks.mixture.samples import JSONL_NAMES, METADATA, MIXTURE_LAYOUT
from tasks.mixture.shards import MapShards, on_threads
from tasks.mixture.synthetic import build_synthetic_mixture
from tasks.policies import LOCAL_WORK, Check, exclusive, run_logger, try_component

logger = logging.getLogger(__name__)


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
    if manifest.notes.get("layout") != MIXTURE_LAYOUT:
        logger.info("%s was drawn by an earlier version, which paired and cleaned less; it is drawn again", folder)
        return None
    if parameters.lessons_share and manifest.notes.get("lessons") != lesson_file_sha256():
        logger.info("the file of lessons has changed since %s was drawn; it is drawn again", folder)
        return None
    if find_damage(folder, manifest):
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


class MixtureResult(BaseModel):
    """What a rebalancing made, or found made."""

    model_config = ConfigDict(frozen=True)

    mixture: str
    digest: str
    counts: dict[str, int]
    reused: bool
    distribution: str

    def summary(self) -> list[str]:
        """The distribution as the guide prints it."""
        return [("(unchanged) " if self.reused else "") + self.mixture, *self.distribution.splitlines()]


@task(task_run_name="report-distribution-{name}", **LOCAL_WORK)
async def report_distribution(layout: Layout, name: str) -> str:
    """Show the distribution of a mixture in the UI, and return it as text."""
    text = "\n".join(read_report(layout.balanced(name)).summary())
    await show_distribution(name, text)
    run_logger().info("%s", text)
    return text


async def show_distribution(name: str, text: str) -> None:
    """Show the distribution of a mixture on the page of the run that calls this."""
    await acreate_markdown_artifact(
        key="mixture-distribution",
        markdown="\n\n".join([f"## Mixture `{name}`", *map(in_markdown, text.split("\n\n"))]),
        description="Shares by authority band and trivium, provenance entropy, and what limits the mixture.",
    )


def in_markdown(paragraph: str) -> str:
    """Write sentences as a list, whose lines wrap on a page, and columns as they are."""
    lines = paragraph.splitlines()
    if any("  " in line.strip() for line in lines):
        return f"```text\n{paragraph}\n```"
    return "\n".join(line if line.endswith(":") else f"- {cell(line.strip().removeprefix('- '))}" for line in lines)


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
