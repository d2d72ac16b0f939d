"""The form of every flow: what a person may choose, in the UI, with ``-p`` and on the command line.

Nothing heavy is imported here, so that ``--help`` and a misspelt option are answered at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import AliasChoices, Field

from flows import faults
from flows.faults import Fault
from flows.parameters import FlowParameters
from storage.layout import NAME_PATTERN, Layout
from storage.retention import RetentionParameters
from storage.runner_parameters import RunnerParameters
from tasks.evals.parameters import EvaluationParameters
from tasks.exports.parameters import ExportParameters
from tasks.lora.recipe import AUTO, Recipe
from tasks.mixture.parameters import MixtureParameters


class DownloadCorpusParameters(FlowParameters):
    """What to download, and how politely."""

    sources: list[str] = Field([], title="Sources", description="Catalogue names; empty: all that are not optional.")
    max_samples: int = Field(30_000, ge=1, title="Documents per source", description="At most this many of each.")
    concurrency: int = Field(10, ge=1, le=64, title="Concurrency", description="Concurrent requests per source.")
    rate_limit: float = Field(
        10.0, gt=0, le=1000, title="Rate limit", description="Maximum number of requests per second to an archive."
    )
    catalogue: str = Field("", title="Catalogue", description="A TOML file that adds to or overrides the catalogue.")
    path: str = Field(
        "",
        title="Your own documents",
        description="Your own documents: a folder or file of texts, web pages, PDF, e-books, office files, tables and "
        "archives of them; without sources, nothing else is downloaded, and their shares need no balance.",
    )
    source_type: str = Field(
        "unknown", title="Kind of documents", description="What your own documents are; unknown is a good answer."
    )
    name: str = Field("", title="Name", description="Name of the source of your own documents; empty: the folder's.")
    text_column: str = Field(
        "",
        title="Text column",
        description="Column of your own tables that holds the text; empty: the one whose name says so.",
    )
    subjects: str = Field(
        "",
        title="Subjects",
        description="A file of subjects, one a line, that every archive is asked for, so that old and new sources meet "
        "on the same ones; 'bundled': 410 that come with the project; empty: whatever there is.",
    )
    bulk: bool = Field(False, title="Bulk", description="Read newspapers from the library's bulk files.")
    refresh: bool = Field(
        False, title="Refresh", description="Fetch up to max-samples documents that are new since the last download."
    )
    retry_failed: bool = Field(
        False, title="Retry failed", description="Fetch items again that failed for a reason that may pass."
    )
    patience_hours: float = Field(
        48.0,
        ge=0,
        le=1000,
        title="Patience",
        description="How long to wait for an archive that stopped answering, in hours.",
    )

    def faults(self, layout: Layout | None) -> Iterator[Fault]:
        """Report sources that the catalogue does not name, subjects that cannot be read and documents that are not."""
        yield from faults.unknown_sources(self.catalogue, self.sources)
        yield from faults.unusable_subjects(self.subjects, self.bulk)
        yield from faults.unusable_documents(self.path, self.source_type, self.name, self.text_column)
        yield from faults.unusable_store(layout)


class DownloadCorpusForm(DownloadCorpusParameters):
    """The download on its own, which can also only list or estimate."""

    list_catalogue: bool = Field(
        False,
        title="Only list",
        validation_alias=AliasChoices("list", "list_catalogue"),
        description="Only list the catalogue and what is on disk.",
    )
    dry_run: bool = Field(
        False, title="Only estimate", description="Only ask how much there is and estimate bytes and hours."
    )

    def faults(self, layout: Layout | None) -> Iterator[Fault]:
        """A preview writes nothing, so the store may be read-only."""
        looks = self.list_catalogue or self.dry_run
        yield from super().faults(None if looks else layout)


class ScoreCorpusParameters(RunnerParameters, FlowParameters):
    """Which documents to score."""

    sources: list[str] = Field([], title="Sources", description="Downloaded sources to score; empty: all of them.")
    run_year: int = Field(
        2026,
        ge=1900,
        le=2200,
        title="Run year",
        description="The year from which a document's age is counted; the clock is not used.",
    )
    scoring: Literal["v1", "v2"] = Field(
        "v2",
        title="Scoring",
        description="v2 reads what a text shows of its origin, which may overrule its source's label; v1 goes by the "
        "label.",
    )
    coordination: bool = Field(
        True,
        title="Coordination",
        description="Count in how many outlets the same words stand, over all downloaded documents; it raises their "
        "authority. Scoring v1 does not count.",
    )
    max_conflict_share: float = Field(
        0.2,
        ge=0,
        le=1,
        title="Max conflict share",
        description="Warn when more of a source's documents carry a year that contradicts it; with scoring v1, fail.",
    )
    signal: str = Field(
        "",
        title="Signal",
        description="A scoring function of your own, module:function, found in the current folder or on the Python "
        "path; empty: the built-in scores.",
    )
    signal_mode: Literal["replace", "join"] = Field(
        "replace",
        title="Signal mode",
        description="Whether your signal's scores replace the built-in ones or are averaged with them.",
    )

    def faults(self, layout: Layout | None) -> Iterator[Fault]:
        """Report sources that are not downloaded."""
        yield from faults.unfinished_sources(layout, "raw", self.sources, "download-corpus")
        yield from faults.unusable_store(layout)


class ScoreCorpusOptions(ScoreCorpusParameters):
    """Scoring, or the explanation of one score."""

    explain: str = Field(
        "",
        title="Explain",
        description="Id of a document whose score to explain, source:id, or a source, to list the documents that "
        "disagree most with their label; nothing is scored then.",
    )

    def faults(self, layout: Layout | None) -> Iterator[Fault]:
        """An explanation writes nothing."""
        yield from super().faults(None if self.explain else layout)


class RebalanceCorpusParameters(RunnerParameters, FlowParameters, MixtureParameters):
    """Which mixture to draw from the scored documents."""

    sources: list[str] = Field([], title="Sources", description="Scored sources to draw from; empty: all of them.")
    mixture: str = Field("default", pattern=NAME_PATTERN, title="Mixture", description="Name of the balanced mixture.")

    def faults(self, layout: Layout | None) -> Iterator[Fault]:
        """Report sources that are not scored."""
        yield from faults.unfinished_sources(layout, "scored", self.sources, "score-corpus")
        yield from faults.unusable_store(layout)


class TrainAdapterParameters(FlowParameters, Recipe):
    """The recipe, the mixture it learns from and the name of the run."""

    model: str = Field(
        AUTO, min_length=1, title="Base model", description=str(Recipe.model_fields["model"].description)
    )
    mixture: str = Field("default", pattern=NAME_PATTERN, title="Mixture", description="Name of the balanced mixture.")
    run: str = Field("distrust", pattern=NAME_PATTERN, title="Run", description="Name of the training run.")
    replace_run: bool = Field(
        False,
        title="Replace run",
        description="Set an earlier run of this name aside when its recipe or mixture differs, instead of stopping.",
    )
    accept_imbalance: bool = Field(
        False,
        title="Accept imbalance",
        description="Train on a mixture whose distribution is poor, instead of stopping.",
    )

    def faults(self, layout: Layout | None) -> Iterator[Fault]:
        """Report a model, a mixture or a checkpoint that does not exist."""
        yield from faults.unknown_model(self.model)
        yield from faults.missing_mixture(layout, self.mixture)
        yield from faults.missing_checkpoint(layout, self.run, self.resume_from)
        yield from faults.unusable_store(layout)


class TrainAdapterForm(TrainAdapterParameters):
    """The training on its own, which can also only plan."""

    plan: bool = Field(
        False, title="Plan", description="Only predict the peak memory, and what would make it fit; train nothing."
    )
    memory_gb: float = Field(
        0, ge=0, le=10_000, title="Memory", description="Plan for a machine with this many GB; 0: for this one."
    )

    def faults(self, layout: Layout | None) -> Iterator[Fault]:
        """A plan needs a model and nothing else."""
        yield from super().faults(None if self.plan else layout)


class EvaluateAdapterParameters(FlowParameters, EvaluationParameters):
    """Which run to evaluate, and how thoroughly."""

    run: str = Field("distrust", pattern=NAME_PATTERN, title="Run", description="Name of the training run.")

    def faults(self, layout: Layout | None) -> Iterator[Fault]:
        """Report runs and questions that do not exist."""
        yield from faults.missing_run(layout, self.run)
        yield from faults.missing_others(layout, self.run, self.others)
        yield from faults.missing_paths("questions", self.questions)
        yield from faults.unusable_store(layout)


class ExportModelParameters(FlowParameters, ExportParameters):
    """Which run to export, and in what form."""

    run: str = Field("distrust", pattern=NAME_PATTERN, title="Run", description="Name of the training run.")
    export: str = Field("", title="Export", description="Name of the exported model; empty: the name of the run.")
    approve: bool = Field(
        False, title="Approve", description="Wait for a person's approval in the UI before anything is uploaded."
    )

    def faults(self, layout: Layout | None) -> Iterator[Fault]:
        """Report a run that does not exist."""
        yield from faults.missing_run(layout, self.run)
        yield from faults.unusable_store(layout)


class CorpusToModelParameters(
    DownloadCorpusParameters,
    ScoreCorpusParameters,
    RebalanceCorpusParameters,
    TrainAdapterParameters,
    EvaluateAdapterParameters,
    ExportModelParameters,
):
    """Everything the six flows take."""

    def faults(self, layout: Layout | None) -> Iterator[Fault]:
        """Report what the six flows do not make themselves."""
        yield from DownloadCorpusParameters.faults(self, layout)
        yield from faults.unknown_model(self.model)
        yield from faults.missing_paths("questions", self.questions)


class CompareRecipesParameters(TrainAdapterParameters):
    """What all runs have in common, and what differs; every combination is a run."""

    alphas: list[float] = Field([2.5, 2.7, 2.9], title="Alphas", description="Values of alpha, each in its own run.")
    objectives: list[Literal["weighted", "additive"]] = Field(
        [], title="Objectives", description="Objectives to compare; empty: the one above."
    )
    models: list[str] = Field([], title="Base models", description="Base models to compare; empty: the one above.")


class CheckSetupParameters(FlowParameters):
    """How thoroughly to check."""

    load_model: str = Field("", title="Load model", description="Also load and run this preset, Hub id or folder once.")
    catalogue: str = Field("", title="Catalogue", description="A TOML file that adds to or overrides the catalogue.")
    fix: bool = Field(
        False,
        title="Fix",
        description="Mark runs without a process as Crashed, and free slots that no run holds; otherwise only report.",
    )
    silent_minutes: float = Field(
        15.0,
        gt=0,
        le=100_000,
        title="Silent minutes",
        description="Minutes without a sign of life after which a run counts as dead.",
    )

    def faults(self, layout: Layout | None) -> Iterator[Fault]:
        """Report a model or a catalogue that does not exist."""
        yield from faults.unknown_sources(self.catalogue, ())
        if self.load_model:
            yield from faults.unknown_model(self.load_model, "load_model")


class PruneStoreParameters(FlowParameters, RetentionParameters):
    """What is kept, and whether anything is removed at all."""

    dry_run: bool = Field(True, title="Dry run", description="Only say what would be removed; off: remove it.")
