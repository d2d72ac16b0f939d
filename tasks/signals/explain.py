"""Why a document got its score, for a person: every term and what was found in the text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from storage.errors import ParameterError, StoreError
from storage.layout import Layout
from storage.manifest import ShardRecord, require_manifest
from storage.parquet import read_columns, read_shard
from storage.schemas import RAW_SCHEMA, SCORED_LAYOUT, SCORED_SCHEMA
from storage.text import clean_text
from tasks.signals.evidence import find_phrases
from tasks.signals.formulas import (
    CONSENSUS_MAXIMUM,
    CONSENSUS_PENALTY_BITS,
    INSTITUTION_MAXIMUM,
    INSTITUTION_PENALTY_BITS,
    PRIMARY_BONUS_BITS,
    PRIMARY_RELIEF,
)
from tasks.signals.marks import read_blocks
from tasks.signals.overlay import split_overrides
from tasks.signals.priors import LABEL_COLUMNS, PRIORS, known_type, label_differences
from tasks.signals.tokens import plain_text, token_starts, tokenise_one
from tasks.signals.vocabulary import FEATURES
from tasks.signals.votes import block_votes, block_weights
from tasks.signals.years import MODERN_UNDATED, text_year

PHRASES_SHOWN, SENTENCES_SHOWN, DOCUMENTS_SHOWN = 12, 3, 20
QUOTED_CHARACTERS = 160


def explain(layout: Layout, identifier: str) -> list[str]:
    """Explain the stored score of a document, or list those of a source that disagree most with their label.

    Raises:
        ParameterError: There is no such document.
        StoreError: Its source was not downloaded, not scored, or downloaded again since.
    """
    source, colon, _ = identifier.partition(":")
    if not colon and source not in layout.completed("scored"):
        raise ParameterError(
            f"{identifier!r} is neither a scored source nor a document id of the form source:id, such as "
            "classical_philosophy:1497"
        )
    files = [shard.file for shard in scored_shards(layout, source)]
    if not colon:
        return explain_source(layout.raw(source), layout.scored(source), files)
    return explain_document(layout.raw(source), layout.scored(source), files, identifier)


def scored_shards(layout: Layout, source: str) -> list[ShardRecord]:
    """List the shards of a scored source, which have the same names and row order as those of its documents.

    Raises:
        ParameterError: The name is not that of a source.
        StoreError: It was not downloaded, not scored, or downloaded again since.
    """
    step = f"python -m flows score-corpus --sources {source}"
    documents = require_manifest(
        layout.raw(source), f"download it first: python -m flows download-corpus --sources {source}"
    )
    scores = require_manifest(layout.scored(source), f"score it first: {step}")
    if scores.inputs.get("raw") != documents.digest:
        raise StoreError(
            f"the scores of {source} were made from documents other than those in raw/{source}; score it again: {step}"
        )
    if scores.parameters.get("layout") != SCORED_LAYOUT:
        raise StoreError(f"the scores of {source} were made by an earlier version; score it again: {step}")
    return scores.shards


def explain_document(raw: Path, scored: Path, files: Iterable[str], identifier: str) -> list[str]:
    """Explain the stored score of a document; see `find_document` for what it takes and raises."""
    return explain_score(*find_document(raw, scored, files, identifier))


def find_document(
    raw: Path, scored: Path, files: Iterable[str], identifier: str
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return a document, a row of `storage.schemas.RAW_SCHEMA`, and its scores, one of `SCORED_SCHEMA`.

    Args:
        raw: Folder of the documents of a source.
        scored: Folder of their scores.
        files: The shards to look in.
        identifier: The document.

    Raises:
        ParameterError: There is no such document.
        StoreError: A shard cannot be read.
    """
    example = None
    for file in files:
        ids = read_shard(raw / file, RAW_SCHEMA, ["id"]).column("id")
        example = example or next(iter(ids.to_pylist()), None)
        row = pc.index(ids, identifier).as_py()
        if row >= 0:
            document, score = (
                read_shard(folder / file, schema).slice(row, 1).to_pylist()[0]
                for folder, schema in ((raw, RAW_SCHEMA), (scored, SCORED_SCHEMA))
            )
            return document, score
    raise ParameterError(f"there is no document {identifier!r} in {raw}; ids look like {example!r}")


def explain_score(document: Mapping[str, Any], scored: Mapping[str, Any]) -> list[str]:
    """Explain a score from its components.

    Args:
        document: A row of `storage.schemas.RAW_SCHEMA`.
        scored: The row of `storage.schemas.SCORED_SCHEMA` with the same id.

    Returns:
        Lines for a person.
    """
    why = scored["components"]
    title = f" “{document['title']}”" if document.get("title") else ""
    lines = [
        f"{document['id']}{title}",
        f"authority {scored['auth_weight']:.3f} ({scored['band']}), provenance entropy {scored['prov_entropy']:.2f} "
        f"bits, {scored['trivium_category']}  (scoring {scored['scoring_version']})",
        "",
        *_explain_source(document, why),
        "",
        *(_explain_text(why) if scored["scoring_version"] == "v1" else _explain_votes(why)),
        "",
        *(_explain_findings if scored["scoring_version"] == "v1" else _explain_sentences)(document["text"]),
    ]
    laid_over, refused = split_overrides(why["overrides"])
    lines += [f"not computed: {laid_over}"] if laid_over else []
    return [*lines, f"refused: {refused}"] if refused else lines


def _explain_source(document: Mapping[str, Any], why: Mapping[str, Any]) -> list[str]:
    year = "modern, exact year unknown" if why["year"] == MODERN_UNDATED else why["year"]
    found, taken = _year_found(document, why["year_evidence"]), ""
    if found is not None and why["year"] is not None and found < why["year"]:
        year, taken = found, f"; taken as {why['year']}, the first of its source"
    told = {
        "metadata": f"year {year}, from its metadata{taken}",
        "text": f"year {year}, read in the text: nothing vouches for it{taken}",
        "none": f"no year found; taken as {year}" if year is not None else "no year found",
    }[why["year_evidence"]]
    prior, weight = PRIORS[why["source_type"]], 1 - why["weight_text"]
    lines = [
        f"  source  {prior.authority:.3f}  {prior.bits:5.2f} bits  x {weight:.2f}  {why['source_type']}; {told}",
    ]
    if why["conflict"]:
        lines.append(
            f"          the year contradicts its source {known_type(document['source_type'])!r}, "
            + ("so its text decides" if why["source_type"] == "unknown" else "so it counts as the newer kind")
        )
    return lines


def _year_found(document: Mapping[str, Any], evidence: str) -> int | None:
    """Return a document's year before it was fitted into its source's; none if it has none."""
    if evidence == "none":
        return None
    if evidence == "metadata" or document["year_evidence"] == "text":
        declared: int | None = document["year"]
        return declared
    return text_year(clean_text(document["text"]))


def _explain_text(why: Mapping[str, Any]) -> list[str]:
    """Write the terms whose sums, kept within their bounds, are the text's own scores."""
    gate = why["gate"]
    aged = f"x {gate:.2f} for its age"
    tiers = ", ".join(f"{name} {count}" for name, count in why["tiers"].items() if count) or "none named"
    kinds = ", ".join(f"{name} {count}" for name, count in why["types"].items() if count) or "none"
    institution_bits = INSTITUTION_PENALTY_BITS * why["institution"] / INSTITUTION_MAXIMUM
    consensus_bits = CONSENSUS_PENALTY_BITS * why["consensus"] / CONSENSUS_MAXIMUM
    primary, mix = why["primary"], why["primary_share"] * why["primary_bits"]
    terms = [
        ("age", why["age_auth"], why["age_bits"], ""),
        ("citations", gate * why["citation"], 0.0, f"{why['n_citations']} found, {aged}"),
        ("institutions", gate * why["institution"], -gate * institution_bits, f"by tier: {tiers}, {aged}"),
        ("consensus", gate * why["consensus"], -gate * consensus_bits, f"{why['n_consensus']} phrases, {aged}"),
        ("primary", -PRIMARY_RELIEF * primary, PRIMARY_BONUS_BITS * primary, f"marks weigh {why['n_primary']} in all"),
        ("evidence mix", 0.0, mix, f"{why['primary_share']:.0%} of it uneditable; kinds: {kinds}"),
    ]
    return [
        f"  text    {why['text_auth']:.3f}  {why['text_bits']:5.2f} bits  x {why['weight_text']:.2f}  "
        "the more evidence, the more it weighs",
        *(f"    {name:<12} {auth:+.3f}  {bits + 0.0:+5.2f} bits  {note}".rstrip() for name, auth, bits, note in terms),
    ]


def _explain_votes(why: Mapping[str, Any]) -> list[str]:
    """Write what a text says of itself by scoring v2, and what its copies do."""
    copies = _explain_copies(why)
    if why["unscored_language"]:
        deciding = "its copies decide" if (why["coordination"] or 0) > 0 else "the source decides alone"
        return [f"  text    not scored: its language is one that the scores do not know, so {deciding}", *copies]
    side = "a maker's own report" if why["evidence"] > 0 else "repeated or coordinated"
    overruled = "; it overrules its source" if why["overruled"] else ""
    return [
        f"  text    {why['text_auth']:.3f}             x {why['weight_text']:.2f}  evidence {why['evidence']:+.2f}, "
        f"{side}{overruled}",
        f"    issuer       {why['issuer']:.2f} of the text in an official voice",
        f"    origins      {why['n_origins']} named or quoted, entropy {why['text_bits']:.2f} bits",
        *copies,
        f"    bits         {why['declared_bits']:.2f} declared by the source, {why['measured_bits']:+.2f} measured, "
        "the rest by authority",
    ]


def _explain_copies(why: Mapping[str, Any]) -> list[str]:
    outlets = why["n_outlets"]
    if outlets is None:
        return ["    copies       not counted (--coordination counts them)"]
    if outlets == 1:
        return ["    copies       none in other outlets of about the same time"]
    told = f"the same words in {outlets} outlets of about the same time"
    return [f"    copies       {told}, coordination {why['coordination']:.2f}"]


def _explain_sentences(text: str) -> list[str]:
    """Quote the sentences that weigh most on either side, each with its vote times its length."""
    clean = clean_text(text)
    plain, starts = plain_text(clean), token_starts(clean)
    blocks = read_blocks(tokenise_one(clean), 1)
    votes = block_votes(blocks.counts) * block_weights(blocks)
    begins = [*(starts[index] for index in blocks.first), len(plain)]
    lines = []
    for title, sign in (("for a maker's own report", 1), ("for a repeated or coordinated text", -1)):
        order = [int(block) for block in np.argsort(-sign * votes, kind="stable") if sign * votes[block] > 0]
        lines.append(f"{len(order)} of {len(votes)} sentences speak {title}{':' if order else ''}")
        for block in order[:SENTENCES_SHOWN]:
            quote = " ".join(plain[begins[block] : begins[block + 1]].split())
            marks = ", ".join(name for name, count in zip(FEATURES, blocks.counts[block], strict=True) if count)
            lines.append(f"  {votes[block]:+.2f}  “{quote[:QUOTED_CHARACTERS].strip()}”  ({marks})")
    return lines


def explain_source(raw: Path, scored: Path, files: Iterable[str]) -> list[str]:
    """List the documents of a source whose text disagrees most with their label.

    Raises:
        StoreError: A shard cannot be read.
    """
    found: list[tuple[float, str, str, float, float]] = []
    documents = 0
    for file in files:
        table = read_columns(scored / file, ["id", "auth_weight", *LABEL_COLUMNS])
        titles = read_shard(raw / file, RAW_SCHEMA, ["title"]).column("title")
        documents += table.num_rows
        differences = label_differences(table.column("components"))
        for row in np.argsort(-np.abs(differences), kind="stable")[:DOCUMENTS_SHOWN].tolist():
            if np.isnan(difference := differences[row]):
                break
            identifier, authority = (table.column(name)[row].as_py() for name in ("id", "auth_weight"))
            found.append((abs(difference), identifier, titles[row].as_py() or "", difference, authority))
        found = sorted(found, key=lambda entry: (-entry[0], entry[1]))[:DOCUMENTS_SHOWN]
    if not found:
        return [f"no document of {documents:,} can disagree with its label: all are unknown or in an unscored language"]
    return [
        f"the {len(found)} of {documents:,} documents whose text disagrees most with their label",
        *(
            f"  {difference:+.2f}  {identifier}  authority {authority:.2f}  {title[:60]}".rstrip()
            for _, identifier, title, difference, authority in found
        ),
    ]


def _explain_findings(text: str) -> list[str]:
    found = Counter(find_phrases(clean_text(text)))
    if not found:
        return ["found in the text: nothing, so the source decides alone"]
    shown = [f"{phrase!r} {count}" for phrase, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))]
    more = f" and {len(shown) - PHRASES_SHOWN} others" if len(shown) > PHRASES_SHOWN else ""
    return ["found in the text: " + ", ".join(shown[:PHRASES_SHOWN]) + more]
