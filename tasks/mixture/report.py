"""What a mixture tells of itself: `metadata.json`, and the lines that a person reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from storage.errors import StoreError
from storage.untrusted import read_object
from storage.vocabulary import BANDS, TRIVIA, Band
from tasks.mixture.bands import TYPICAL_SOURCES
from tasks.mixture.distribution import Distribution, advise, count_histogram, format_distribution, measure_distribution
from tasks.mixture.draw import SIDES, Drawn
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.samples import METADATA

if TYPE_CHECKING:
    from tasks.mixture.build import Pool
    from tasks.mixture.corpus import Corpus
    from tasks.mixture.deduplicate import Duplicates
    from tasks.mixture.documents import Documents


class Record(BaseModel):
    """A part of `metadata.json`."""

    model_config = ConfigDict(frozen=True)


class DocumentCounts(Record):
    """Documents read, and what became of them."""

    read: int
    kept: int
    without_samples: int
    outside_focus: int
    cut: int
    characters_left_out: int


class BandCounts(Record):
    """Samples of a source in one band: available, drawn, and the proportional share of the band's samples."""

    available: int
    drawn: int
    proportional: int


class SourceCounts(Record):
    """Samples of one source; `band` is the one that most of them have, `bands` lists each."""

    available: int
    train: int
    valid: int
    share: float
    band: Band
    bands: dict[Band, BandCounts]
    near_duplicates: int
    mean_ocr_quality: float | None


class PromptCounts(Record):
    """Samples of one kind, and their share of all samples of the mixture, lessons included."""

    samples: int
    share: float


class ConflictCounts(PromptCounts):
    """Samples whose prompt is answered by low and by high authority, the prompts, and their samples by band."""

    prompts: int
    bands: dict[Band, int]
    subjects: dict[str, int]
    """Prompts by what they ask about: a `title` that documents share, or a `subject` found in their texts."""


class MixtureReport(Record):
    """The whole of `metadata.json`."""

    name: str
    distribution: dict[str, Distribution]
    plan: dict[str, object]
    limited_by: list[str]
    remarks: list[str]
    duplicates: dict[str, int]
    near_duplicates: PromptCounts
    documents: DocumentCounts
    cleaning: dict[str, int]
    scoring_versions: list[str]
    sources: dict[str, SourceCounts]
    conflicts: ConflictCounts
    lessons: PromptCounts
    advice: list[str]
    histograms: dict[str, dict[str, list[int]]]

    def summary(self) -> list[str]:
        """Return the distribution as the guide prints it, what limits the size, and where the samples come from."""
        train, valid = (self.distribution[side].total for side in SIDES)
        d, conflicts = self.documents, self.conflicts
        lines = [
            f"{train:,} training and {valid:,} validation samples from {d.kept:,} of {d.read:,} documents, and "
            f"{self.lessons.samples:,} lessons about sources",
            f"Left out: {self.duplicates['exact_duplicates']} exact and {self.duplicates['near_duplicates']} near "
            f"duplicates" + f", {d.outside_focus} outside what was asked for" * bool(d.outside_focus),
        ]
        if d.cut:
            lines.append(
                f"Cut: {d.cut:,} documents are longer than --max-pieces allows; {d.characters_left_out:,} characters "
                "at their ends are left out"
            )
        if acted := [f"{count:,} {rule.replace('_', ' ')}" for rule, count in self.cleaning.items() if count]:
            lines.append(f"Cleaned: {', '.join(acted)}")
        lines.append(
            f"Conflicts: {conflicts.samples:,} samples ({conflicts.share:.1%}) answer {conflicts.prompts:,} prompts "
            f"that low and high authority both answer"
        )
        lines += [f"Limited: {limit}" for limit in self.limited_by]
        lines += [f"Note: {remark}" for remark in self.remarks]
        lines += ["", format_distribution(self.distribution["train"]), "", *self._source_lines()]
        return [*lines, "", "What to do:", *(f"  - {line}" for line in self.advice)] if self.advice else lines

    def _source_lines(self) -> list[str]:
        width = max((len(name) for name in self.sources), default=0)
        lines = ["Sources (drawn of available samples):"]
        for name, source in self.sources.items():
            for band, counts in source.bands.items():
                lines.append(f"  {name:<{width}}  {band:<6}  {counts.drawn:7,} of {counts.available:7,}")
        return lines


def read_report(folder: Path) -> MixtureReport:
    """Read the report of a mixture.

    Raises:
        StoreError: It is missing or damaged.
    """
    try:
        return MixtureReport.model_validate(read_object(folder / METADATA))
    except (OSError, ValueError, ValidationError) as error:
        raise StoreError(f"{folder / METADATA} is damaged ({error!r:.200}); delete {folder} and run again") from error


def make_report(
    name: str,
    corpus: Corpus,
    duplicates: Duplicates,
    pool: Pool,
    drawn: Drawn,
    conflict_ids: list[str | None],
    lessons: tuple[int, int],
) -> MixtureReport:
    """Gather everything that a person wants to know about a mixture."""
    documents = corpus.documents
    distributions = _measure_sides(documents, pool, drawn)
    kept = np.flatnonzero(duplicates.keep)
    total = drawn.plan.total + sum(lessons)
    conflicts = _count_conflicts(pool, drawn, conflict_ids, total)
    remarks = [*drawn.remarks, *_conflict_remarks(conflicts, corpus.parameters)]
    near = int(duplicates.near.sum())
    return MixtureReport(
        name=name,
        distribution=distributions,
        plan=drawn.plan.as_dict(),
        limited_by=drawn.plan.limited_by,
        remarks=remarks,
        duplicates=duplicates.counts,
        near_duplicates=PromptCounts(samples=near, share=round(near / max(1, len(documents.ids)), 6)),
        documents=DocumentCounts(
            read=len(documents.ids) + documents.outside,
            kept=len(kept),
            without_samples=sum(not documents.parts[i] for i in kept.tolist()),
            outside_focus=documents.outside,
            cut=int((documents.left_out[kept] > 0).sum()),
            characters_left_out=int(documents.left_out[kept].sum()),
        ),
        cleaning=dict(sorted(documents.cleaning.items())),
        scoring_versions=sorted(documents.scoring_versions),
        sources=_count_sources(documents, duplicates, pool, drawn),
        conflicts=conflicts,
        lessons=PromptCounts(samples=sum(lessons), share=round(sum(lessons) / total, 6)),
        advice=advise(distributions["train"]),
        histograms=_histograms(documents, pool, drawn),
    )


def _measure_sides(documents: Documents, pool: Pool, drawn: Drawn) -> dict[str, Distribution]:
    """Measure the document samples of each side."""
    measured = {}
    for side, rows in zip(SIDES, (drawn.train, drawn.valid), strict=True):
        owners = pool.documents[rows]
        trivia = [TRIVIA[code] for code in documents.trivia[owners].tolist()]
        measured[side] = measure_distribution(documents.authority[owners], documents.entropy[owners], trivia)
    return measured


def _count_conflicts(pool: Pool, drawn: Drawn, conflict_ids: list[str | None], total: int) -> ConflictCounts:
    rows = np.concatenate([drawn.train, drawn.valid])
    inside = [row for row, name in zip(rows.tolist(), conflict_ids, strict=True) if name]
    by_text = {
        name for row, name in zip(rows.tolist(), conflict_ids, strict=True) if name and row in pool.conflicts.subjects
    }
    prompts = {name for name in conflict_ids if name}
    return ConflictCounts(
        samples=len(inside),
        share=round(len(inside) / total, 6),
        prompts=len(prompts),
        bands=pool.candidates.band_counts(np.array(inside, np.int64)),
        subjects={"title": len(prompts - by_text), "subject": len(by_text)},
    )


def _conflict_remarks(conflicts: ConflictCounts, p: MixtureParameters) -> list[str]:
    if conflicts.samples:
        return []
    if p.prompts != "neutral":
        why = "prompts by source name the kind of document, so no two kinds answer the same one; use --prompts neutral"
    else:
        why = (
            "no document of low authority is on the same subject as one of high authority; ask both kinds of source "
            f"for the same subjects (download-corpus --subjects bundled, or a list of your own), for example "
            f"{TYPICAL_SOURCES['low']} and {TYPICAL_SOURCES['high']}"
        )
    return [f"no prompt is answered by both low and high authority, so the weights have nothing to decide: {why}"]


def _count_sources(documents: Documents, duplicates: Duplicates, pool: Pool, drawn: Drawn) -> dict[str, SourceCounts]:
    """Count each source's samples: available and drawn, by side and by band."""
    c, number = pool.candidates, len(pool.candidates.source_names)
    rows = np.concatenate([drawn.train, drawn.valid])
    available, taken = (
        np.bincount(c.sources[some] * len(BANDS) + c.bands[some], minlength=number * len(BANDS)).reshape(number, -1)
        for some in (np.arange(len(c.ids)), rows)
    )
    train, valid = (np.bincount(c.sources[side], minlength=number) for side in (drawn.train, drawn.valid))
    proportional = np.rint(available / np.maximum(1, available.sum(axis=0)) * taken.sum(axis=0)).astype(np.int64)
    gone = np.flatnonzero(duplicates.near)
    prefixes = [documents.ids[i].partition(":")[0] for i in gone.tolist()]
    owners = pool.documents[rows]
    counts = {}
    for i, name in enumerate(c.source_names):
        qualities = documents.quality[owners[c.sources[rows] == i]]
        known = qualities[~np.isnan(qualities)]
        counts[name] = SourceCounts(
            available=int(available[i].sum()),
            train=int(train[i]),
            valid=int(valid[i]),
            share=round(int(taken[i].sum()) / drawn.plan.total, 6),
            band=BANDS[int(available[i].argmax())],
            bands={
                band: BandCounts(available=int(have), drawn=int(got), proportional=int(fair))
                for band, have, got, fair in zip(BANDS, available[i], taken[i], proportional[i], strict=True)
                if have
            },
            near_duplicates=prefixes.count(name),
            mean_ocr_quality=round(float(known.mean()), 3) if len(known) else None,
        )
    return counts


def _histograms(documents: Documents, pool: Pool, drawn: Drawn) -> dict[str, dict[str, list[int]]]:
    """Count the drawn samples of each source by authority (0 to 1) and by entropy (0 to 10 bits)."""
    rows = np.concatenate([drawn.train, drawn.valid])
    owners: npt.NDArray[np.int64] = pool.documents[rows]
    sources = pool.candidates.sources[rows]
    return {
        name: {
            "auth_weight": count_histogram(documents.authority[owners[sources == number]], 1.0),
            "prov_entropy": count_histogram(documents.entropy[owners[sources == number]], 10.0),
        }
        for number, name in enumerate(pool.candidates.source_names)
    }
