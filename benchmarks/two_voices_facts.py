"""What the two voices of `benchmarks.two_voices` disagree about: made facts, and samples that answer for them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.parquet import write_shard
from storage.schemas import SAMPLE_SCHEMA

SYLLABLES = ("ba ko ri tu ze mo la ni su ve da fi go pa xe ul or an is em").split()  # noqa: SIM905
PROPERTIES = (("melting point", "degrees"), ("density", "grams"), ("yield", "percent"))
VOICES = {
    "primary": (
        "In my notebook of {year} I measured {value} {unit} by hand.",
        "Observed {value} {unit} on the bench in {year}, three trials.",
    ),
    "coordinated": (
        "Experts agree the consensus value is {value} {unit}.",
        "According to official guidance it is {value} {unit}.",
    ),
}
SCORES = {"primary": (0.05, 7.5), "coordinated": (0.90, 1.0)}

Fact = tuple[str, str, str, dict[str, int]]


def make_facts() -> list[Fact]:
    rng = random.Random(0)
    names = sorted({"".join(rng.choices(SYLLABLES, k=3)) for _ in range(400)})[:240]
    rng.shuffle(names)
    facts = []
    for name in names:
        for quantity, unit in PROPERTIES:
            values = dict(zip(VOICES, rng.sample(range(10, 100), 2), strict=True))
            facts.append((name, quantity, unit, values))
    return facts


def prompt_of(fact: Fact) -> str:
    return f"User: What is the {fact[1]} of {fact[0]}?\n\nAssistant:"


def make_samples(facts: list[Fact]) -> list[dict[str, Any]]:
    """Answer each question twice in each voice."""
    samples = []
    for number, fact in enumerate(facts):
        rng = random.Random(number)
        for voice, templates in VOICES.items():
            for copy in range(2):
                answer = rng.choice(templates).format(year=rng.randint(1880, 1960), value=fact[3][voice], unit=fact[2])
                name = f"voices:{number}-{voice}-{copy}"
                authority, entropy = SCORES[voice]
                samples.append(
                    dict.fromkeys(("id", "doc_id", "group_id"), name)
                    | {"source": "voices", "source_type": voice, "trivium_category": "logic", "metadata": "{}"}
                    | {"text": f"{prompt_of(fact)} {answer}", "auth_weight": authority, "prov_entropy": entropy}
                )
    return samples


def write_mixture(folder: Path, train_facts: list[Fact], held_out: list[Fact]) -> Path:
    for split, facts in (("train", train_facts), ("valid", held_out)):
        table = pa.Table.from_pylist(make_samples(facts), schema=SAMPLE_SCHEMA)
        write_shard(folder / split / "shard-00000.parquet", table, SAMPLE_SCHEMA)
    return folder
