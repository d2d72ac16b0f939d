"""``python -m benchmarks.teaching``: every bar of a mixture that teaches, with its figure; one JSON line a corpus.

It reads the bundled documents of the sandbox and, where it is there, a folder of real documents: JSON lines named after
their source (`--corpus`, by default ``../shared/corpus``). The bars are those that docs/method.md explains. ``--pairs``
and ``--lessons`` print what a person reads by eye.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.measuring import find_copies, read_rows, seal
from storage.parquet import read_shard
from storage.schemas import RAW_SCHEMA, SAMPLE_SCHEMA, SCORED_SCHEMA
from storage.shingles import ordered_shingles, spaced
from storage.text import clean_text
from storage.vocabulary import band_of
from tasks.mixture.build import build_mixture
from tasks.mixture.deduplicate import LEAST_SIMILARITY, similarity
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.report import MixtureReport, read_report
from tasks.mixture.suites import shares_run, suite_runs
from tasks.signals.engine import score_table

ROOT = Path(__file__).parents[1]
BUNDLED = ROOT / "sandbox" / "documents"
CATALOGUE = ROOT / "tasks" / "sources" / "catalogue.toml"
REAL = ROOT.parent / "shared" / "corpus"
TYPES = {
    "archive_org_djvu_ocr": "historical_book",
    "archive_org_philtrans_modern_ocr": "historical_book",
    "speeches_pre1970": "classical_rhetoric",
    "newspapers_ocr": "historical_newspaper",
    "patents_post1976": "patent_modern",
    "arxiv_papers": "preprint",
    "pubmed_central": "academic_paper",
    "textbooks_openstax": "academic_paper",
    "modern_news": "news_modern",
    "medical_advice": "medical_guidelines",
    "wikipedia": "wiki",
    "government_documents": "government",
}
PLANTED_PAIRS = 200
NAMES_A_PART = re.compile(r"\bpart \d+\b", re.IGNORECASE)

Row = dict[str, Any]


def read_documents(folder: Path) -> Iterator[tuple[str, str, list[Row]]]:
    """Yield each file's name, source type and documents as rows of the raw schema."""
    catalogue = tomllib.loads(CATALOGUE.read_text("utf-8"))
    for path in sorted(folder.glob("*.jsonl.zst")):
        source = path.name.partition(".")[0]
        kind = TYPES.get(source) or catalogue.get(source, {}).get("source_type", source)
        yield source, kind, [_row(source, kind, number, row) for number, row in enumerate(read_rows(path))]


def _row(source: str, kind: str, number: int, document: Row) -> Row:
    work = document.get("part_of") or document.get("doc_id")
    return {
        "id": f"{source}:{document.get('native_id') or document.get('id') or number}",
        "source": source,
        "source_type": kind,
        **{name: document.get(name) for name in ("url", "title", "author", "year", "date", "language", "licence")},
        "year_evidence": "metadata" if document.get("year") is not None else "none",
        "text": document["text"],
        "sha256": "0" * 64,
        "fetched_at": datetime(2026, 1, 1, tzinfo=UTC),
        "extra": json.dumps({"part_of": work} if work else {}),
    }


def write_store(folder: Path, store: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Write sealed raw and scored datasets of a folder of documents."""
    raw, scored = {}, {}
    for source, _, rows in read_documents(folder):
        table = pa.Table.from_pylist(rows, schema=RAW_SCHEMA)
        raw[source], scored[source] = store / "raw" / source, store / "scored" / source
        documents = seal(raw[source], "raw", [table], RAW_SCHEMA)
        seal(scored[source], "scored", [score_table(table)], SCORED_SCHEMA, raw=documents.digest)
    return raw, scored


def read_samples(folder: Path) -> list[Row]:
    """Read every sample of a mixture, with its side."""
    rows: list[Row] = []
    for side in ("train", "valid"):
        for path in sorted((folder / side).glob("*.parquet")):
            rows += [row | {"side": side} for row in read_shard(path, SAMPLE_SCHEMA).to_pylist()]
    return rows


def measure_prompts(samples: Sequence[Row]) -> Row:
    """Count the samples whose prompt low and high documents of the same side answer, and other bars on prompts."""
    bands: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in samples:
        if not row["lesson"]:
            bands[row["side"], row["prompt"]].add(band_of(row["auth_weight"]))
    documents = [row for row in samples if not row["lesson"]]
    both = [row for row in documents if {"low", "high"} <= bands[row["side"], row["prompt"]]]
    lessons = [row for row in samples if row["lesson"]]
    return {
        "samples": len(documents),
        "conflict_share": round(len(both) / max(1, len(documents)), 4),
        "conflicts_named": len(both) == sum(row["conflict_id"] is not None for row in samples),
        "prompts_naming_a_part": sum(_names_a_part(row["prompt"]) for row in documents),
        "lessons_share": round(len(lessons) / len(samples), 4),
        "lessons_sharing_words_with_a_suite": sum(_shares_words(row) for row in lessons),
        **measure_cues(lessons),
    }


def _names_a_part(prompt: str) -> bool:
    return not prompt.startswith("Continue this text:") and NAMES_A_PART.search(prompt) is not None


def _shares_words(row: Row) -> bool:
    return shares_run(f"{row['prompt']} {row['response']}", suite_runs())


def measure_cues(lessons: Sequence[Row]) -> Row:
    """Tell how often a rule that knows nothing answers a two-way lesson: oldest or newest year, first named, longer."""
    rules: Counter[str] = Counter()
    asked = 0
    for row in lessons:
        form = json.loads(row["metadata"])["form"]
        years = [re.search(r"\b(1[5-9]|20)\d\d\b", row[name] or "") for name in ("response", "rejected")]
        if form != "two" or not all(years):
            continue
        right, wrong = (int(year[0]) for year in years if year)
        asked += 1
        rules["oldest_year"] += right < wrong
        rules["newest_year"] += right > wrong
        prompt = row["prompt"].casefold()
        places = [prompt.find((row[name] or "").rstrip(".").casefold()) for name in ("response", "rejected")]
        rules["first_named"] += places[0] < places[1]
        rules["longer_answer"] += len(row["response"]) > len(row["rejected"])
    return {f"lessons_by_{rule}": round(rules[rule] / max(1, asked), 3) for rule in sorted(rules)}


def measure_sources(report: MixtureReport) -> Row:
    """Find the source and band that got the least of its proportional share."""
    shares = {
        f"{name}/{band}": counts.drawn / counts.proportional
        for name, source in report.sources.items()
        for band, counts in source.bands.items()
        if counts.proportional >= 2
    }
    worst = min(shares, key=lambda name: shares[name])
    return {"least_share_of_a_source": round(shares[worst], 3), "of": worst}


def measure_copies(folder: Path) -> Row:
    """Measure near-duplicates: precision on the documents of a folder, recall and precision on planted copies."""
    texts = [clean_text(row["text"]) for _, _, rows in read_documents(folder) for row in rows]
    kept = find_copies(list(map(spaced, texts)))
    removed = [(row, original) for row, original in enumerate(kept) if row != original]
    shingles = ordered_shingles(texts)
    exact = [row for row, original in removed if texts[row] == texts[original]]
    near = [similarity(shingles[row], shingles[original]) for row, original in removed if row not in set(exact)]
    return {
        "near_duplicates_removed": len(near),
        "near_duplicate_precision": round(sum(j >= LEAST_SIMILARITY for j in near) / len(near), 4) if near else None,
        **measure_planted(texts),
    }


def measure_planted(texts: Sequence[str]) -> Row:
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
    kept = find_copies([*originals, *copies])
    found = [kept[row] == kept[len(originals) + row] for row, j in enumerate(alike) if j >= LEAST_SIMILARITY]
    return {"planted": len(found), "planted_found": round(sum(found) / max(1, len(found)), 4)}


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


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.teaching", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--corpus", type=Path, default=REAL, help="folder of real documents; skipped where it is absent"
    )
    parser.add_argument("--pairs", type=int, default=0, help="conflicts to print")
    parser.add_argument("--lessons", type=int, default=0, help="lessons to print")
    arguments = parser.parse_args()
    for folder in (BUNDLED, arguments.corpus):
        if not folder.is_dir():
            continue
        with tempfile.TemporaryDirectory() as temporary:
            raw, scored = write_store(folder, Path(temporary))
            mixture = Path(temporary) / "balanced" / folder.name
            build_mixture(raw, scored, mixture, MixtureParameters(accept_imbalance=True), {})
            report, samples = read_report(mixture), read_samples(mixture)
            measured = measure_prompts(samples) | measure_sources(report) | measure_copies(folder)
            measured |= {"cleaned": report.cleaning, "conflict_prompts": report.conflicts.subjects}
            print(json.dumps({"benchmark": f"teaching: {folder.name}", **measured}), flush=True)
            show(samples, arguments.pairs, arguments.lessons)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
