"""Prompts that documents of low and of high authority both answer."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.mixture.pairing import Words, pair_pieces
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.subjects import find_candidates, key_hashes
from tests.tasks.mixture.corpora import Doc, balanced_sources, make_text, make_words
from tests.tasks.mixture.test_build import PARAMETERS, build, rows_of

SUBJECTS = ("harbor soundings", "quinine dosage", "steam hammers", "comet tails", "silk looms", "ice cellars")


def text_on(subject: str, rng: random.Random, own: list[str]) -> str:
    """A text of some 250 words that keeps coming back to a subject and to the words that belong to it."""
    sentences = []
    for _ in range(12):
        words = [*rng.choices(own, k=8), *make_words(rng, 10)]
        rng.shuffle(words)
        sentences.append(f"The {subject} {' '.join(words)}.")
    return " ".join(sentences)


def sources_with_subjects() -> dict[str, list[Doc]]:
    rng = random.Random(6)
    sources = balanced_sources()
    for number, subject in enumerate(SUBJECTS):
        own = make_words(rng, 12)
        for source, auth in (("patents", 0.05), ("encyclopedia", 0.9)):
            sources[source].append(
                Doc(
                    f"{source}:on-{number}", text_on(subject, rng, own), auth, "logic", f"Item {number} of the {source}"
                )
            )
    return sources


def samples_of(folder: Path) -> list[dict[str, Any]]:
    return [row | {"side": side} for side in ("train", "valid") for row in rows_of(folder, side)]


def test_texts_on_one_subject_stand_under_one_prompt(tmp_path: Path) -> None:
    folder, manifest = build(tmp_path / "one", sources_with_subjects(), MixtureParameters())
    answers = defaultdict(list)
    for row in samples_of(folder):
        if row["conflict_id"]:
            answers[row["conflict_id"]].append(row)
    assert len(answers) >= 5
    for rows in answers.values():
        (prompt,) = {row["prompt"] for row in rows}
        assert {row["auth_weight"] < 0.3 for row in rows} == {True, False}
        assert len({row["side"] for row in rows}) == 1
        (number,) = {row["doc_id"].rpartition("-")[2] for row in rows}
        assert any(word in prompt for word in SUBJECTS[int(number)].split()), prompt
    report = json.loads((folder / "metadata.json").read_text("utf-8"))
    conflicts = report["conflicts"]
    assert conflicts["samples"] == sum(map(len, answers.values())) and conflicts["prompts"] == len(answers)
    assert conflicts["subjects"] == {"title": 0, "subject": len(answers)}
    assert conflicts["bands"]["low"] + conflicts["bands"]["high"] == conflicts["samples"]
    assert not any("no prompt is answered" in remark for remark in manifest.notes["remarks"])
    _, cut_otherwise = build(tmp_path / "two", sources_with_subjects(), MixtureParameters(), shard_docs=9)
    assert cut_otherwise.digest == manifest.digest


def test_equal_titles_are_one_prompt_but_shared_words_and_parts_of_one_work_are_none(tmp_path: Path) -> None:
    rng = random.Random(7)
    sources = balanced_sources()
    for source, auth in (("patents", 0.05), ("preprints", 0.5), ("encyclopedia", 0.9)):
        sources[source].append(Doc(f"{source}:t", make_text(rng, 70), auth, "logic", "The  Great Comet"))
        words = make_words(rng, 300)
        words[::25], words[12::25] = ["vaccination"] * 12, ["quarantine"] * 12
        sources[source].append(Doc(f"{source}:w", " ".join(words), auth, "logic", f"Own {source}"))
    for auth in (0.05, 0.9):
        sources["novels"].append(
            Doc(f"novels:{auth}", make_text(rng, 70), auth, "logic", "The Old Book", part_of="the old book")
        )
    folder, _ = build(tmp_path, sources, MixtureParameters())
    named = [row for row in samples_of(folder) if row["conflict_id"]]
    assert {row["doc_id"].partition(":")[2] for row in named} == {"t"}
    assert len({row["prompt"] for row in named}) == 1 and "The Great Comet" in named[0]["prompt"]
    assert {"patents", "encyclopedia"} <= {row["source"] for row in named}


def test_prompts_by_source_have_no_conflicts_and_say_so(tmp_path: Path) -> None:
    _, manifest = build(tmp_path, sources_with_subjects(), PARAMETERS.model_copy(update={"prompts": "by_source"}))
    assert any("use --prompts neutral" in remark for remark in manifest.notes["remarks"])


def test_a_key_that_everybody_names_makes_no_candidate() -> None:
    pieces = np.arange(400)
    bands = np.array([0, 2] * 200)
    common, rare = np.uint64(5), np.uint64(6)
    keys = np.full(400, common)
    found, everybodys = find_candidates(pieces, keys, bands)
    assert len(found) == 0 and everybodys == {5}
    keys[:2] = rare
    assert find_candidates(pieces, keys, bands)[0].tolist() == [0, 1]


def test_keys_are_the_words_that_a_piece_repeats() -> None:
    text = "The yellow fever came. Yellow fever killed. No yellow fever then; a fever it was. Quarantine, quarantine."
    assert key_hashes(text) == key_hashes(text.upper())
    assert len(key_hashes(text)) == 3 and key_hashes("It was not so, and it was so.") == []


def test_documents_of_a_poor_scan_can_be_left_out(tmp_path: Path) -> None:
    sources = balanced_sources()
    prose = "the weather was fair and the ship with all her men was not far from the coast that the captain knew. " * 8
    poor = (
        "tbe weatber wis fiir ind tbe sbip with ill ber men wis not far from the coist thit the ciptiin knew and the. "
        * 8
    )
    sources["novels"] += [Doc("novels:clean", prose, 0.1, "rhetoric"), Doc("novels:poor", poor, 0.1, "rhetoric")]
    folder, _ = build(tmp_path, sources, MixtureParameters(min_ocr_quality=0.8))
    report = json.loads((folder / "metadata.json").read_text("utf-8"))
    assert report["documents"]["outside_focus"] == 1
    everything, _ = build(tmp_path / "all", sources, MixtureParameters())
    quality = {r["doc_id"]: json.loads(r["metadata"])["ocr_quality"] for r in samples_of(everything) if not r["lesson"]}
    assert all(value is None for name, value in quality.items() if name not in ("novels:clean", "novels:poor"))
    assert quality.get("novels:clean", 0.9) > 0.85 and quality.get("novels:poor", 0.5) < 0.8


def test_page_furniture_is_taken_out_and_counted(tmp_path: Path) -> None:
    sources = balanced_sources()
    sources["novels"] = [
        replace(doc, text=f"{doc.text}\n\n- 12 -\n\nDigitized by Google\n") for doc in sources["novels"]
    ]
    folder, _ = build(tmp_path, sources, PARAMETERS)
    assert "Digitized by" not in "".join(row["text"] for row in samples_of(folder))
    cleaning = json.loads((folder / "metadata.json").read_text("utf-8"))["cleaning"]
    assert cleaning == {"licence_lines": 40, "page_numbers": 40}
    kept, _ = build(tmp_path, sources, PARAMETERS.model_copy(update={"clean_pages": False}))
    assert "Digitized by" in "".join(row["text"] for row in samples_of(kept))


def test_pieces_that_keep_to_the_subject_their_archives_were_asked_for_stand_under_one_prompt(tmp_path: Path) -> None:
    """Old and new voices share few words; that both were found by a subject, and keep to it, is evidence enough."""
    rng = random.Random(8)
    sources = balanced_sources()
    for number in range(12):
        for source, auth in (("patents", 0.05), ("encyclopedia", 0.9)):
            asked_for = SUBJECTS[number % 2] if number < 10 else "guano"
            words = make_words(rng, 300)
            for place in range(40 if number < 8 else 1):
                words[7 * place] = f"the {asked_for.title()}"
            sources[source].append(
                Doc(
                    f"{source}:by-{number}",
                    " ".join(words),
                    auth,
                    "logic",
                    f"Own {source} {number}",
                    asked_for=asked_for,
                )
            )
    folder, _ = build(tmp_path, sources, MixtureParameters())
    named = [row for row in samples_of(folder) if row["conflict_id"]]
    found = {row["doc_id"] for row in named}
    assert found == {f"{source}:by-{n}" for source in ("patents", "encyclopedia") for n in range(8)}
    assert len({row["prompt"] for row in named}) == 2
    assert all(SUBJECTS[int(row["doc_id"].rpartition("-")[2]) % 2] in row["prompt"] for row in named)
    conflicts = json.loads((folder / "metadata.json").read_text("utf-8"))["conflicts"]
    assert conflicts["subjects"] == {"title": 0, "subject": 2}


def piece(leading: str, seed: int, also: str = "") -> Words:
    """A piece that keeps naming some words, among `also` and words of its own."""
    rng = random.Random(seed)
    own = ["".join(rng.choices("bcdfgklmnprst", k=9)) for _ in range(40)]
    words = [*leading.split() * 6, *also.split() * 2, *own]
    rng.shuffle(words)
    return Words.of(" ".join(words))


def test_a_pair_needs_more_than_two_words_in_common_and_no_text_in_common() -> None:
    others = [piece("", seed) for seed in range(50, 80)]
    bands, groups = np.array([0, 2, *[0, 2] * 15]), np.arange(32)
    related = "pipette solder furnace ingot anode crucible slag alloy"
    two = [piece("copper zinc", 1, related), piece("copper zinc", 2, related)]
    (pair,) = pair_pieces([*two, *others], bands, groups)
    assert {*pair.subject.split()} <= {"copper", "zinc"} and (pair.low, pair.high) == ((0,), (1,))
    assert not pair_pieces([piece("copper zinc", 1), piece("copper zinc", 2), *others], bands, groups)
    same_work = np.array([0, 0, *range(2, 32)])
    assert not pair_pieces(
        [piece("copper zinc", 1, related), piece("copper zinc", 2, related)], bands[:2], same_work[:2]
    )
    leaflet = Words.of("Ask whether copper or zinc in your crucible harms a furnace, an anode or the alloy. " * 4)
    assert not pair_pieces([leaflet, leaflet, *others], bands, groups)
