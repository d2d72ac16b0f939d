"""``python -m benchmarks.teaching``: every bar of a mixture that teaches, met or not; one JSON line a bar.

It measures three corpora: the bundled documents, a folder of real documents where it is there (`--corpus`, JSON lines
named after their source, by default ``../shared/corpus``), and the bundled documents as the sandbox's archives give
them when they are asked by subject. ``--pairs`` and ``--lessons`` print what a person has to read by eye.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measuring import find_copies
from benchmarks.stores import BUNDLED, write_raw, write_scores
from storage.pages import clean_pages
from storage.parquet import read_shard
from storage.schemas import RAW_SCHEMA, SAMPLE_SCHEMA
from storage.shingles import ordered_shingles, spaced
from storage.text import clean_text
from storage.vocabulary import band_of
from tasks.mixture.build import build_mixture
from tasks.mixture.deduplicate import LEAST_SIMILARITY, similarity
from tasks.mixture.lesson_file import read_lesson_file
from tasks.mixture.pages import SHORTEST_RATED_CHARS
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.report import MixtureReport, read_report
from tasks.mixture.suites import shares_run, suite_runs
from tests.flows.asked_by_subject import SOURCES, download_by_subject
from tests.tasks.signals.shared_corpus import SHARED

LEAST_CONFLICTS = {"bundled": 0.2, "real": 0.03, "by subjects": 0.3}
"""Real documents that share their subjects by luck alone have 3 to 8 % such samples."""
PLANTED_PAIRS = 200
FEWEST_FRAMES = 40
FEWEST_ASKED = 20
"""Of fewer lessons with two options, a share says nothing."""
MOST_BY_A_CUE = 0.65
"""How often a rule that knows nothing may answer a lesson with two options."""
NAMES_A_PART = re.compile(r"\bpart \d+\b", re.IGNORECASE)

Row = dict[str, Any]


class Bar(NamedTuple):
    """A row of the promise: what was measured, and what it must reach."""

    row: str
    figure: float | None
    least: float = 0.0
    most: float = float("inf")

    def line(self, corpus: str) -> Row:
        """Say whether it is met; a figure that there is none of misses nothing."""
        least, most = f"at least {self.least:g}" * (self.least > 0), f"at most {self.most:g}" * (self.most < np.inf)
        return {
            "benchmark": f"teaching: {corpus}",
            "row": self.row,
            "figure": None if self.figure is None else round(self.figure, 4),
            "bar": ", ".join(filter(None, (least, most))),
            "met": self.figure is None or self.least <= self.figure <= self.most,
        }


def read_samples(folder: Path) -> list[Row]:
    """Read every sample of a mixture, with its side."""
    rows: list[Row] = []
    for side in ("train", "valid"):
        for path in sorted((folder / side).glob("*.parquet")):
            rows += [row | {"side": side} for row in read_shard(path, SAMPLE_SCHEMA).to_pylist()]
    return rows


def measure_prompts(samples: Sequence[Row], least: float) -> Iterator[Bar]:
    """Measure what documents are asked by; `least` is the share whose prompt both bands must answer."""
    voices: defaultdict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    documents = [row for row in samples if not row["lesson"]]
    for row in documents:
        voices[row["side"], row["prompt"]].add((band_of(row["auth_weight"]), row["group_id"]))
    both = [row for row in documents if _disagree(voices[row["side"], row["prompt"]])]
    yield Bar("samples whose prompt is answered by a low and a high document", len(both) / len(samples), least)
    counted = sum(row["conflict_id"] is not None for row in samples)
    yield Bar("such samples that the report leaves out, or counts in vain", abs(len(both) - counted), most=0)
    yield Bar("prompts that name a part without its text", sum(_names_a_part(row["prompt"]) for row in documents), 0, 0)
    furniture = sum(_furnished(row["response"]) for row in documents)
    yield Bar("samples with page numbers, running heads or licence lines", furniture / len(documents), most=0.01)
    long = [json.loads(row["metadata"]) for row in documents if len(row["response"]) >= SHORTEST_RATED_CHARS]
    rated = sum(about["ocr_quality"] is not None for about in long)
    yield Bar("longer samples that carry an OCR quality", rated / len(long) if long else None, 0.9)


def _disagree(voices: set[tuple[str, str]]) -> bool:
    low, high = ({group for band, group in voices if band == wanted} for wanted in ("low", "high"))
    return any(one != other for one in low for other in high)


def _furnished(text: str) -> bool:
    return any(rule != "joined_lines" for rule in clean_pages(text)[1])


def measure_lessons(samples: Sequence[Row]) -> Iterator[Bar]:
    """Measure the lessons about sources."""
    lessons = [row for row in samples if row["lesson"]]
    documents = {row["doc_id"] for row in samples if not row["lesson"]}
    yield Bar("lessons among the samples", len(lessons) / len(samples), 0.095, 0.105)
    yield Bar("frames of lessons", len(read_lesson_file().frames), FEWEST_FRAMES)
    yield Bar("lessons that share words with a suite", sum(map(_shares_words, lessons)), most=0)
    nameless = sum(not set(json.loads(row["metadata"])["documents"]) <= documents for row in lessons)
    yield Bar("lessons that name no document of the mixture", nameless, most=0)
    for rule, share in measure_cues(lessons).items():
        yield Bar(f"lessons with two options that '{rule}' answers", share, 1 - MOST_BY_A_CUE, MOST_BY_A_CUE)


def _names_a_part(prompt: str) -> bool:
    return not prompt.startswith("Continue this text:") and NAMES_A_PART.search(prompt) is not None


def _shares_words(row: Row) -> bool:
    return shares_run(f"{row['prompt']} {row['response']}", suite_runs())


def measure_cues(lessons: Sequence[Row]) -> dict[str, float]:
    """Tell how often a rule that knows nothing answers a two-way lesson: oldest or newest year, first named, longer."""
    rules: Counter[str] = Counter()
    asked = 0
    for row in lessons:
        years = [re.search(r"\b(1[5-9]|20)\d\d\b", row[name] or "") for name in ("response", "rejected")]
        prompt = row["prompt"].casefold()
        places = [prompt.find((row[name] or "-").rstrip(".").casefold()) for name in ("response", "rejected")]
        if min(places) < 0 or not all(years):
            continue
        right, wrong = (int(year[0]) for year in years if year)
        asked += 1
        rules["the oldest"] += right < wrong
        rules["the newest"] += right > wrong
        rules["the first"] += places[0] < places[1]
        rules["the longer"] += len(row["response"]) > len(row["rejected"])
    return {rule: rules[rule] / asked for rule in sorted(rules)} if asked >= FEWEST_ASKED else {}


def measure_sources(report: MixtureReport) -> Bar:
    """Find the source and band that got the least of its proportional share."""
    shares = {
        f"{name}/{band}": counts.drawn / counts.proportional
        for name, source in report.sources.items()
        for band, counts in source.bands.items()
        if counts.proportional >= 2
    }
    worst = min(shares, key=lambda name: shares[name])
    return Bar(f"least of its proportional share that a source got in a band ({worst})", shares[worst], 0.5)


def measure_copies(raw: dict[str, Path]) -> Iterator[Bar]:
    """Measure near-duplicates: precision on documents, recall on planted copies."""
    paths = [path for folder in raw.values() for path in sorted(folder.glob("shard-*.parquet"))]
    given = [text for path in paths for text in read_shard(path, RAW_SCHEMA, ["text"]).column("text").to_pylist()]
    texts = [clean_pages(clean_text(text))[0] for text in given]
    kept = find_copies(list(map(spaced, texts)))
    near = [(row, of) for row, of in enumerate(kept) if texts[row] != texts[of]]
    shingles = ordered_shingles(texts)
    alike = [similarity(shingles[row], shingles[of]) >= LEAST_SIMILARITY for row, of in near]
    precision = sum(alike) / len(alike) if alike else None
    yield Bar(f"near-duplicates removed that are duplicates (of {len(alike)})", precision, 0.95)
    found = measure_planted(texts)
    yield Bar(f"planted near-duplicates found (of {len(found)})", sum(found) / len(found), 0.99)


def measure_planted(texts: Sequence[str]) -> list[bool]:
    """Plant copies with errors of a scan among documents, and look which are found."""
    dice = random.Random(11)
    originals = [text[:4000] for text in texts if len(text) > 2000]
    originals = dice.sample(originals, min(PLANTED_PAIRS, len(originals)))
    if not originals:
        words = ["".join(dice.choices("abcdefghijklmnop", k=6)) for _ in range(4000)]
        originals = [" ".join(dice.choices(words, k=300)) for _ in range(PLANTED_PAIRS)]
    copies = [_spoiled(text, (0.001, 0.003, 0.006)[row % 3], dice) for row, text in enumerate(originals)]
    shingles = ordered_shingles([*originals, *copies])
    alike = [similarity(shingles[row], shingles[len(originals) + row]) for row in range(len(originals))]
    kept = find_copies(list(map(spaced, [*originals, *copies])))
    return [kept[row] == kept[len(originals) + row] for row, j in enumerate(alike) if j >= LEAST_SIMILARITY]


def _spoiled(text: str, rate: float, dice: random.Random) -> str:
    return "".join(dice.choice("xqz1") if char != " " and dice.random() < rate else char for char in text)


def show(samples: Sequence[Row], pairs: int, lessons: int) -> None:
    """Print pairs and lessons for a person to read."""
    dice = random.Random(5)
    by_prompt: defaultdict[str, list[Row]] = defaultdict(list)
    for row in samples:
        if row["conflict_id"]:
            by_prompt[row["conflict_id"]].append(row)
    for name in dice.sample(sorted(by_prompt), min(pairs, len(by_prompt))):
        print(f"\n## {by_prompt[name][0]['prompt']}")
        for band in ("low", "high"):
            row = next(row for row in by_prompt[name] if band_of(row["auth_weight"]) == band)
            print(f"  {band:<5} {row['id']}: {' '.join(row['response'].split())[:400]}")
    of_lessons = [row for row in samples if row["lesson"]]
    for row in dice.sample(of_lessons, min(lessons, len(of_lessons))):
        print(f"\n{row['prompt']}\n  => {row['response']}   not: {row['rejected']}")


def measure(corpus: str, raw: dict[str, Path], store: Path, pairs: int, lessons: int) -> None:
    """Build the mixture of a corpus and print its bars."""
    mixture = store / "balanced" / "default"
    build_mixture(raw, write_scores(raw, store), mixture, MixtureParameters(accept_imbalance=True), {})
    report, samples = read_report(mixture), read_samples(mixture)
    cleaned = sum(report.cleaning.values())
    bars = [*measure_prompts(samples, LEAST_CONFLICTS[corpus]), measure_sources(report), *measure_copies(raw)]
    bars += [*measure_lessons(samples), Bar("page furniture and broken lines that were mended", cleaned, 1)]
    for bar in bars:
        print(json.dumps(bar.line(corpus)), flush=True)
    show(samples, pairs, lessons)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.teaching", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--corpus", type=Path, default=SHARED / "corpus", help="folder of real documents; skipped where it is absent"
    )
    parser.add_argument("--only", choices=list(LEAST_CONFLICTS), help="measure one corpus")
    parser.add_argument("--pairs", type=int, default=0, help="conflicts to print")
    parser.add_argument("--lessons", type=int, default=0, help="lessons to print")
    given = parser.parse_args()
    for corpus in [given.only] if given.only else LEAST_CONFLICTS:
        if corpus == "real" and not given.corpus.is_dir():
            print(json.dumps({"benchmark": "teaching: real", "skipped": f"there is no folder {given.corpus}"}))
            continue
        with tempfile.TemporaryDirectory() as temporary:
            store = Path(temporary)
            if corpus == "by subjects":
                asyncio.run(download_by_subject(store, PREFECT_HOME=str(store / "prefect")))
                raw = {name: store / "store" / "raw" / name for name in SOURCES}
            else:
                raw = write_raw(BUNDLED if corpus == "bundled" else given.corpus, store)
            measure(corpus, raw, store, given.pairs, given.lessons)


if __name__ == "__main__":
    main()
