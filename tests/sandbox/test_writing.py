from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import zstandard

from sandbox.writing.claims import probes
from sandbox.writing.copies import copies
from sandbox.writing.corpus import FOLDER, SUFFIX, documents_of, write_folder
from sandbox.writing.document import WrittenDocument
from sandbox.writing.sources import STYLES
from storage.vocabulary import Band, band_of
from tasks.mixture.prompts import prompt_for
from tasks.signals.reference import score_document
from tasks.sources.catalogue import load_catalogue

BANDS: dict[str, Band] = {"primary": "low", "academic": "medium", "coordinated": "high"}


@cache
def corpus() -> tuple[WrittenDocument, ...]:
    return tuple(document for source in STYLES for document in documents_of(source))


def lines_of(path: Path) -> list[str]:
    return zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().decode().splitlines()


def id_of(document: WrittenDocument) -> str:
    return f"{document.source}:{document.native_id}"


def test_the_committed_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    write_folder(tmp_path)
    names = sorted(path.name for path in FOLDER.glob(f"*{SUFFIX}"))
    assert names == sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}{SUFFIX}" for name in STYLES)
    for name in names:
        assert lines_of(FOLDER / name) == lines_of(tmp_path / name), "run `python -m sandbox.writing` and commit"


def test_the_sources_are_the_obligatory_ones_of_the_catalogue() -> None:
    obligatory = {name for name, source in load_catalogue(None).items() if not source.optional}
    assert set(STYLES) == obligatory


def test_counts_admit_the_shares_of_the_mixture() -> None:
    bands = Counter(BANDS[STYLES[document.source].voice] for document in corpus())
    total = sum(bands.values())
    assert 0.25 <= bands["low"] / total <= 0.30
    assert 0.30 <= bands["medium"] / total <= 0.35
    assert 0.35 <= bands["high"] / total <= 0.40
    assert min(Counter(document.source for document in corpus()).values()) >= 40


@pytest.mark.parametrize("source", STYLES)
def test_texts_are_short_dated_and_in_the_band_of_their_source(source: str) -> None:
    documents = [document for document in corpus() if document.source == source]
    entry = load_catalogue(None)[source]
    words = sum(len(document.text.split()) for document in documents) / len(documents)
    assert 50 <= words <= 120
    assert min(len(document.text) for document in documents) >= 200
    elsewhere = []
    for document in documents:
        assert STYLES[source].years[0] <= document.year <= STYLES[source].years[1]
        score = score_document(document.text, entry.source_type, document.year)
        if band_of(score.auth_weight) != BANDS[STYLES[source].voice]:
            elsewhere.append(document)
    assert len(elsewhere) <= len(documents) / 40, elsewhere  # a text may contradict its label


def test_no_year_lies_outside_those_of_the_catalogue() -> None:
    catalogue = load_catalogue(None)
    for document in corpus():
        entry = catalogue[document.source]
        assert entry.outside_years(document.year) is None
        assert (entry.years.min or 0) <= document.year <= (entry.years.max or 9999)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[place : place + 5]) for place in range(len(words) - 4)}


def test_only_the_deliberate_copies_are_alike() -> None:
    texts = {id_of(document): shingles(document.text) for document in corpus()}
    assert len(texts) == len(corpus())
    deliberate = copies(corpus())
    assert len(deliberate) == 9
    for copy, (original, likeness) in deliberate.items():
        likeness_share = len(texts[copy] & texts[original]) / len(texts[copy] | texts[original])
        assert likeness_share == 1.0 if likeness == "exact" else 0.6 <= likeness_share < 1.0
    names = sorted(set(texts) - set(deliberate))
    holders: dict[tuple[str, ...], list[str]] = {}
    shared: Counter[tuple[str, str]] = Counter()
    for name in names:
        for shingle in texts[name]:
            shared.update((other, name) for other in holders.setdefault(shingle, []))
            holders[shingle].append(name)
    assert all(2 * count < len(texts[one] | texts[other]) for (one, other), count in shared.items()), (
        "two documents share half of their five-word shingles"
    )


def test_the_voices_contradict_each_other_under_one_prompt() -> None:
    voices: dict[str, set[str]] = {}
    for document in corpus():
        if document.title is not None:
            voices.setdefault(document.title, set()).add(STYLES[document.source].voice)
    disputed = [title for title, told in voices.items() if {"primary", "coordinated"} <= told]
    assert len(disputed) >= 90
    openings = {(document.title, STYLES[document.source].voice): opening_of(document) for document in corpus()}
    for title in disputed:
        assert openings[title, "primary"] != openings[title, "coordinated"]


def opening_of(document: WrittenDocument) -> str:
    """The first sentence after the title that some texts repeat."""
    return document.text.removeprefix(f"{document.title}\n").split(".")[0]


def test_probes_are_about_subjects_that_no_archive_mentions() -> None:
    prompts = {prompt_for(document.title) for document in corpus() if document.title}
    written = probes()
    assert len(written) >= 80
    for probe in written:
        assert probe.prompt not in prompts
        assert probe.primary.startswith(" ") and probe.coordinated.startswith(" ")
        assert probe.primary != probe.coordinated
