"""Build a balanced mixture on disk: read, deduplicate, cut, draw, write; the manifest comes last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.atomic import atomic_folder, full_disk_explained, write_json
from storage.errors import MixtureError
from storage.manifest import Manifest, ShardRecord, write_manifest
from storage.vocabulary import BANDS, TRIVIA
from tasks.mixture.candidates import SIDES, Candidates
from tasks.mixture.compose import ChosenSamples, compose_shard
from tasks.mixture.corpus import Documents, MapShards, ShardPair, list_shards, on_threads, scan_documents
from tasks.mixture.deduplicate import Duplicates, deduplicate
from tasks.mixture.distribution import Distribution, advise, count_histogram, measure_distribution
from tasks.mixture.draw import Drawn, draw_mixture
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.write import KIND, METADATA, MIXTURE_LAYOUT, write_jsonl, write_side


@dataclass(frozen=True)
class _Pool:
    """Candidates, with the document and the piece that each of them is."""

    candidates: Candidates
    documents: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]


def build_mixture(
    raw_folders: Mapping[str, Path],
    scored_folders: Mapping[str, Path],
    destination: Path,
    parameters: MixtureParameters,
    inputs: dict[str, str],
    map_shards: MapShards = on_threads,
) -> Manifest:
    """Build a mixture from sealed raw and scored datasets.

    Args:
        raw_folders: Folder of each source's documents.
        scored_folders: Folder of each source's scores.
        destination: The mixture's folder; it appears, or replaces an older one, whole.
        parameters: Sizes, shares, seed and pieces.
        inputs: Digest of every input, kept in the manifest.
        map_shards: Where the two passes over the shards are worked on; it does not change what comes out.

    Returns:
        The manifest that seals the mixture. The shards depend on documents, scores and parameters alone.

    Raises:
        MixtureError: The corpus does not hold the mixture.
        ParameterError: A parameter names something that is not there.
        StoreError: A dataset is missing, damaged or not scored.
    """
    pairs = list_shards(raw_folders, scored_folders, parameters.filter_source)
    documents = scan_documents(pairs, parameters, map_shards)
    d = documents
    duplicates = deduplicate(d.ids, d.fingerprints, d.authority, d.years, d.works, parameters.seed)
    pool = _make_pool(pairs, documents, duplicates)
    try:
        drawn = draw_mixture(pool.candidates, parameters)
    except MixtureError as error:
        raise MixtureError(f"{error}. {_what_was_read(pool.candidates, documents, parameters)}") from error
    distributions = {
        side: _measure(documents, pool, rows) for side, rows in zip(SIDES, (drawn.train, drawn.valid), strict=True)
    }
    with full_disk_explained(destination.parent), atomic_folder(destination) as folder:
        records = _write_sides(folder, pairs, documents, duplicates, pool, drawn, parameters, map_shards)
        if parameters.jsonl:
            write_jsonl(folder, records)
        manifest = _seal(destination.name, inputs, parameters, records, duplicates, drawn, distributions)
        write_json(folder / METADATA, _describe(destination.name, documents, duplicates, pool, drawn, distributions))
        write_manifest(folder, manifest)
    return manifest


def _seal(
    name: str,
    inputs: dict[str, str],
    parameters: MixtureParameters,
    records: list[ShardRecord],
    duplicates: Duplicates,
    drawn: Drawn,
    distributions: Mapping[str, Distribution],
) -> Manifest:
    return Manifest(
        kind=KIND,
        name=name,
        inputs=inputs,
        parameters=parameters.model_dump(mode="json"),
        shards=records,
        counts={"train": len(drawn.train), "valid": len(drawn.valid), **duplicates.counts},
        notes={
            "layout": MIXTURE_LAYOUT,
            "verdict": {side: distribution.verdict for side, distribution in distributions.items()},
            "remarks": drawn.remarks,
            "limited_by": drawn.plan.limited_by,
        },
    )


def _make_pool(pairs: Sequence[ShardPair], documents: Documents, duplicates: Duplicates) -> _Pool:
    """Make a candidate of every piece of every document that stays."""
    kept = np.flatnonzero(duplicates.keep)
    counts = np.array([len(documents.parts[i]) for i in kept.tolist()], np.int64)
    owner = np.repeat(kept, counts)
    parts = [part for i in kept.tolist() for part in documents.parts[i]]
    names = sorted({pair.source for pair in pairs})
    source_of_shard = np.array([names.index(pair.source) for pair in pairs], np.int64)
    group_names = sorted({duplicates.group_id[i] for i in kept.tolist()})
    numbers = {name: number for number, name in enumerate(group_names)}
    group_of = np.array([numbers[duplicates.group_id[i]] for i in kept.tolist()], np.int64)
    candidates = Candidates(
        ids=[sample_id(documents.ids[i], part) for i, part in zip(owner.tolist(), parts, strict=True)],
        groups=np.repeat(group_of, counts),
        group_names=group_names,
        bands=documents.bands[owner],
        trivia=documents.trivia[owner],
        sources=source_of_shard[documents.shards[owner]],
        source_names=names,
    )
    return _Pool(candidates, owner, np.array(parts, np.int64))


def sample_id(document_id: str, part: int) -> str:
    """Name a piece of a document."""
    return f"{document_id}#{part}"


def _write_sides(
    folder: Path,
    pairs: Sequence[ShardPair],
    documents: Documents,
    duplicates: Duplicates,
    pool: _Pool,
    drawn: Drawn,
    parameters: MixtureParameters,
    map_shards: MapShards,
) -> list[ShardRecord]:
    """Fetch the chosen texts shard by shard and write both sides."""
    chosen = np.concatenate([drawn.train, drawn.valid])
    shards = documents.shards[pool.documents[chosen]]
    of_shards = (
        _choose(pairs[index], documents, duplicates, pool, chosen, np.flatnonzero(shards == index))
        for index in np.unique(shards).tolist()
    )
    tables = list(map_shards(compose_shard, ((of_shard, parameters) for of_shard in of_shards)))
    sizes = (len(drawn.train), len(drawn.valid))
    return [
        record
        for side, first, rows in zip(SIDES, (0, sizes[0]), sizes, strict=True)
        for record in write_side(folder, side, tables, first, rows)
    ]


def _choose(
    pair: ShardPair,
    documents: Documents,
    duplicates: Duplicates,
    pool: _Pool,
    chosen: npt.NDArray[np.int64],
    ranks: npt.NDArray[np.int64],
) -> ChosenSamples:
    """Gather what is known of the chosen samples of a shard; `ranks` are their places in `chosen`."""
    owners, parts = pool.documents[chosen[ranks]], pool.parts[chosen[ranks]]
    order = np.lexsort((parts, documents.rows[owners]))  # the samples of a document one after another
    ranks, owners, parts = ranks[order], owners[order], parts[order]
    return ChosenSamples(
        pair=pair,
        ids=[pool.candidates.ids[i] for i in chosen[ranks].tolist()],
        document_ids=[documents.ids[owner] for owner in owners.tolist()],
        group_ids=[duplicates.group_id[owner] for owner in owners.tolist()],
        ranks=ranks,
        rows=documents.rows[owners],
        parts=parts,
        authority=documents.authority[owners],
        entropy=documents.entropy[owners],
        bands=documents.bands[owners],
        trivia=documents.trivia[owners],
        cleaned=documents.cleaned[owners],
    )


def _measure(documents: Documents, pool: _Pool, rows: npt.NDArray[np.int64]) -> Distribution:
    owners = pool.documents[rows]
    trivia = [TRIVIA[code] for code in documents.trivia[owners].tolist()]
    return measure_distribution(documents.authority[owners], documents.entropy[owners], trivia)


def _describe(
    name: str,
    documents: Documents,
    duplicates: Duplicates,
    pool: _Pool,
    drawn: Drawn,
    distributions: Mapping[str, Distribution],
) -> dict[str, Any]:
    """Everything that a person wants to know about a mixture, as JSON."""
    kept = np.flatnonzero(duplicates.keep)
    return {
        "name": name,
        "distribution": {side: value.model_dump(mode="json") for side, value in distributions.items()},
        "plan": drawn.plan.as_dict(),
        "limited_by": drawn.plan.limited_by,
        "remarks": drawn.remarks,
        "duplicates": duplicates.counts,
        "documents": {
            "read": len(documents.ids) + documents.outside,
            "kept": len(kept),
            "without_samples": sum(not documents.parts[i] for i in kept.tolist()),
            "outside_focus": documents.outside,
            "cut": int((documents.left_out[kept] > 0).sum()),
            "characters_left_out": int(documents.left_out[kept].sum()),
        },
        "scoring_versions": sorted(documents.scoring_versions),
        "sources": _source_shares(pool.candidates, drawn),
        "advice": advise(distributions["train"]),
        "histograms": _histograms(documents, pool, drawn),
    }


def _source_shares(candidates: Candidates, drawn: Drawn) -> dict[str, dict[str, float]]:
    """Count each source's samples: available, in each side, and its share of the mixture."""
    number = len(candidates.source_names)
    columns = [candidates.sources, candidates.sources[drawn.train], candidates.sources[drawn.valid]]
    counts = zip(*(np.bincount(column, minlength=number).tolist() for column in columns), strict=True)
    return {
        source: {
            "available": available,
            "train": train,
            "valid": valid,
            "share": round((train + valid) / drawn.plan.total, 6),
        }
        for source, (available, train, valid) in zip(candidates.source_names, counts, strict=True)
    }


def _histograms(documents: Documents, pool: _Pool, drawn: Drawn) -> dict[str, dict[str, list[int]]]:
    """Count the drawn samples of each source by authority (0 to 1) and by entropy (0 to 10 bits)."""
    rows = np.concatenate([drawn.train, drawn.valid])
    owners, sources = pool.documents[rows], pool.candidates.sources[rows]
    return {
        name: {
            "auth_weight": count_histogram(documents.authority[owners[sources == number]], 1.0),
            "prov_entropy": count_histogram(documents.entropy[owners[sources == number]], 10.0),
        }
        for number, name in enumerate(pool.candidates.source_names)
    }


def _what_was_read(candidates: Candidates, documents: Documents, parameters: MixtureParameters) -> str:
    """Name the sources read, the bands of their samples and what the focus leaves out, for an error message."""
    if not candidates.source_names:
        return "No source was given; download and score some first"
    listed, outside, total = [], documents.outside, documents.outside + len(documents.ids)
    narrowed = f"{outside} of {total} documents lie outside {parameters.focus}. " if outside else ""
    for number, source in enumerate(candidates.source_names):
        bands = np.bincount(candidates.bands[candidates.sources == number], minlength=len(BANDS)).tolist()
        listed.append(f"{source} ({', '.join(f'{rows} {band}' for band, rows in zip(BANDS, bands, strict=True))})")
    return f"{narrowed}Samples by source: {'; '.join(listed)}"
