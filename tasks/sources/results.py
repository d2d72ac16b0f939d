"""What a download returns: counts and pointers for shards and sources, a survey or the catalogue; never documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from storage.errors import SourceUnavailable
from storage.vocabulary import BANDS, Band
from tasks.sources.subjects import WAYS, Way


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True)


class ShardOutcome(_Result):
    """What a finished shard holds."""

    file: str
    documents: int
    rejects: int
    bytes: int
    reasons: dict[str, int] = {}

    def describe_rejects(self) -> str:
        """List how many items were rejected, by reason."""
        return ", ".join(f"{count} {reason}" for reason, count in self.reasons.items()) or "none"


class RejectedFiles(_Result):
    """How often a reason occurred in a folder of the user's own, and where first."""

    reason: str
    count: int
    first: list[str]
    detail: str


class FileTable(_Result):
    """What became of the files of a folder of the user's own.

    Attributes:
        files: How many files gave documents or rejects.
        documents: How many files gave documents, and how many documents, by the ending of their name.
        rejected: What was not read, by reason, the most frequent first.
        guessed_encodings: Documents that were not in UTF-8.
        undecodable: Documents with letters that could not be decoded.
        stopped_at: The most documents that were asked for, if there are as many.
    """

    files: int
    documents: dict[str, tuple[int, int]]
    rejected: list[RejectedFiles]
    guessed_encodings: int = 0
    undecodable: int = 0
    stopped_at: int = 0

    def summary(self) -> list[str]:
        """List files read by kind, and rejects by reason with the first names."""
        kinds = ", ".join(f"{files:,} {kind} ({rows:,})" for kind, (files, rows) in self.documents.items())
        lines = [f"    {self.files:,} files; read, with documents in them: {kinds or 'none'}"]
        if self.guessed_encodings:
            lines.append(f"    {self.guessed_encodings:,} documents were not in UTF-8; their encoding was recognised")
        if self.undecodable:
            lines.append(f"    {self.undecodable:,} documents hold letters that could not be decoded (U+FFFD)")
        if self.stopped_at:
            lines.append(f"    --max-samples {self.stopped_at:,} allows no more documents; a larger one reads the rest")
        for row in self.rejected:
            more = f" and {row.count - len(row.first):,} more" if row.count > len(row.first) else ""
            why = f"the first: {row.detail}" if row.count > 1 else row.detail
            lines.append(f"    rejected {row.count:>5,} {row.reason}: {', '.join(row.first)}{more}; {why}")
        return lines


class SourceOutcome(_Result):
    """What became of one source in a download."""

    source: str
    band: Band
    documents: int = 0
    rejects: int = 0
    reused: bool = False
    manifest: str = ""
    problem: str = ""
    passing: bool = False
    """Whether the problem may pass, so that the source is worth another try."""
    files: FileTable | None = None
    """What became of each file, where the source is a folder of the user's own."""

    @property
    def usable(self) -> bool:
        """Tell whether later stages can read this source."""
        return bool(self.manifest) and self.documents > 0

    @property
    def state(self) -> str:
        """Say in a word or two where the documents come from."""
        return "already complete" if self.reused else "fetched"

    def why_empty(self) -> str:
        """Say why a complete source has no documents."""
        lines = [line.strip() for line in self.files.summary()] if self.files else []
        return "; ".join(["no documents", *lines])

    def describe(self) -> str:
        """Say how many documents there are, or what keeps them from being fetched."""
        if not self.manifest:
            return f"incomplete: {self.problem}"
        state = f"kept, not refreshed: {self.problem}" if self.problem else self.state
        rejected = f", {self.rejects:,} rejected" if self.rejects else ""
        return f"{self.documents:>6,} {state}{rejected}"


class DownloadResult(_Result):
    """What became of every source."""

    sources: list[SourceOutcome]

    @property
    def usable_sources(self) -> list[str]:
        """The names of the sources that later stages can read."""
        return [outcome.source for outcome in self.sources if outcome.usable]

    def require_every_band(self) -> None:
        """Make sure that every authority band that was asked for has a source with documents.

        Raises:
            SourceUnavailable: A band lost all its sources; the message says which and why.
        """
        lost = []
        for band in BANDS:
            asked = [outcome for outcome in self.sources if outcome.band == band]
            if asked and not any(outcome.usable for outcome in asked):
                reasons = "; ".join(f"{outcome.source}: {outcome.problem or outcome.why_empty()}" for outcome in asked)
                lost.append(f"{band} authority ({reasons})")
        if lost:
            raise SourceUnavailable(
                f"no source is left for {' and '.join(lost)}; run again when it answers, or name other sources"
            )

    def summary(self) -> list[str]:
        """List documents, rejects and incomplete sources."""
        complete = [outcome for outcome in self.sources if outcome.manifest]
        total = sum(outcome.documents for outcome in complete)
        width = max((len(outcome.source) for outcome in self.sources), default=0)
        return [
            f"{total:,} documents from {len(complete)} of {len(self.sources)} sources",
            *(line for outcome in self.sources for line in self._lines_of(outcome, width)),
        ]

    def _lines_of(self, outcome: SourceOutcome, width: int) -> list[str]:
        line = f"  {outcome.source:<{width}}  {outcome.band:<6}  {outcome.describe()}"
        return [line, *(outcome.files.summary() if outcome.files else [])]


class CatalogueRow(_Result):
    """A source of the catalogue, and how much of it is on disk."""

    source: str
    band: Band
    archive: str
    target: int
    optional: bool
    documents: int
    shards: str
    """How many of the planned shards are finished: "3 of 7"; empty if nothing was planned."""
    sealed: bool
    by_subject: Way
    """How it can be asked for documents on subjects."""
    licence: str
    note: str


class CatalogueResult(_Result):
    """Every source of the catalogue, by authority band."""

    catalogue: list[CatalogueRow]

    def summary(self) -> list[str]:
        """List every source by authority band, with what of it is on disk."""
        lines = [
            f"{len(self.catalogue)} sources; those with * are fetched only when they are named",
            "internet_archive: in the public domain by the archive's metadata alone, which it calls unreliable "
            "(docs/sources.md)",
            *(f"subjects: {way:<6} = with --subjects, {meaning}" for way, meaning in WAYS.items()),
        ]
        width = max(len(row.source) for row in self.catalogue) + 1
        for band in BANDS:
            lines.append(f"{band} authority")
            for row in (row for row in self.catalogue if row.band == band):
                begun = f"{row.shards} shards" if row.shards else "nothing"
                on_disk = f"{row.documents:,} documents" if row.sealed else begun
                lines.append(
                    f"  {row.source + '*' * row.optional:<{width}}  {row.archive:<19}  target {row.target:>6,}  "
                    f"subjects: {row.by_subject:<6}  on disk: {on_disk}  ({row.licence})"
                )
        return lines


class SurveyRow(_Result):
    """What one source offers, and what its download would take; rough, from typical sizes and the archive's pace.

    Attributes:
        offered: How many items the archive says it has; none if it does not say.
        documents: How many of those wanted would be fetched; none if the archive does not say how many it has.
        subjects: What it is asked for, in words; empty: whatever it has.
        problem: Why nothing is known; empty if the source answered.
    """

    source: str
    band: Band
    archive: str
    wanted: int
    subjects: str = ""
    unreachable: bool = False
    problem: str = ""
    offered: int | None = None
    documents: int | None = None
    bytes: int = 0
    hours: float = 0.0

    def describe(self) -> str:
        """Say it in one line."""
        if self.problem:
            return f"could not be reached: {self.problem}" if self.unreachable else self.problem
        much = f"about {self.bytes / 1e6:,.0f} MB and {self.hours:.1f} h"
        if self.subjects:
            return f"{self.subjects}; the {self.wanted:,} wanted would take {much}"
        if self.documents is None:
            return f"it does not say how many it has; the {self.wanted:,} wanted would take {much}"
        return f"{self.documents:>6,} documents of {self.offered:,} offered, {much}"


class SurveyResult(_Result):
    """What every source offers, and what its download would take."""

    survey: list[SurveyRow]

    def summary(self) -> list[str]:
        """List what every source offers; only what an archive has said is added up."""
        known = [row for row in self.survey if row.documents is not None]
        documents, gigabytes = sum(row.documents or 0 for row in known), sum(row.bytes for row in known) / 1e9
        width = max(len(row.source) for row in self.survey)
        return [
            f"{documents:,} documents, {gigabytes:.1f} GB in {len(known)} of {len(self.survey)} sources; nothing was "
            "fetched. Sources of one archive take turns, archives do not wait for each other",
            *(f"  {row.source:<{width}}  {row.describe()}" for row in self.survey),
        ]


def add_reasons(outcomes: Sequence[ShardOutcome]) -> dict[str, int]:
    """Add up the rejects of shards by reason, in the order of the reasons' names."""
    reasons: Counter[str] = Counter()
    for outcome in outcomes:
        reasons.update(outcome.reasons)
    return dict(sorted(reasons.items()))
