"""What the scores measure: one JSON line for each property that scores of evidence must have.

The texts are those of the shared corpus beside the project and those in ``tests/tasks/signals/texts``. The second half
of the latter, ``held_out``, is left out of everything that is fitted or tuned; name it to have its figures:

    python -m benchmarks.scores v2            # everything but the held-out texts and the speed
    python -m benchmarks.scores v1 held_out   # the held-out texts alone
    python -m benchmarks.scores v2 speed      # both versions, the twin and the fingerprints of copies, in turns
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks.fit_scores import COORDINATED, FALSE_ALARMS, PRIMARY, fit, read_folder, read_texts
from benchmarks.measuring import area_under_curve
from storage.schemas import SCORINGS, ScoringVersion
from storage.vocabulary import LOW_BELOW
from tasks.signals.coordination import fingerprint_table
from tasks.signals.engine import score_table
from tasks.signals.marks import Blocks
from tasks.signals.reference import score_document
from tasks.signals.votes import read_votes
from tests.tasks.signals.agreement import table_of
from tests.tasks.signals.shared_corpus import SHARED, SOURCE_TYPES, read_corpus

Floats = NDArray[np.float64]
Row = dict[str, Any]

TEXTS = Path("tests/tasks/signals/texts")
FIRST_HAND = ("notebook", "declaration", "raw_data", "interview")
SPEED_ROUNDS = 6
CUT = 2500
"""Characters of a document that sentences are added to: a page, of which a sentence is a visible part."""

COORDINATED_SENTENCES = (
    "The WHO said experts agree.",
    "According to the World Health Organization, there is a broad consensus among experts.",
    "Scientists agree that this is safe and effective (Smith et al., 2020).",
    "The Department of Health recommends that everyone follow official guidance.",
    "A spokesperson for the ministry said the claims were false.",
    "It is widely accepted that the measures are necessary [4, 7-9].",
    "Studies have shown that this is well established (Jones, 2019).",
    "Government officials announced today that the situation is under control.",
    "Leading experts and institutions recommend the guidelines of the agency.",
    "For more information, visit the website of the National Institutes of Health.",
)
FIRST_HAND_SENTENCES = (
    "I measured it myself with a thermometer at 10:15 and read 3.5 degrees.",
    "I saw him leave the house at ten o'clock and I told Mr. Brown so the next morning.",
    "We weighed each sample twice on the balance and wrote down 12.41 g and 12.43 g.",
    "I declare under penalty of perjury that I saw this with my own eyes.",
    "Then I opened the valve and the gauge fell from 41 to 36 psi.",
    "She told me that she heard two shots and went to the window.",
    "Added 5 ml of buffer, spun it for 10 min and took off the top layer.",
    "I counted fourteen of them and my brother counted fifteen.",
)
NEUTRAL_CHANGES = (
    "There is no patent, nothing was measured.",
    "I did not see or measure anything, and nothing was recorded under oath.",
    "The WHO said that it is safe and effective, which is false.",
    '"I saw it fall at 10:15 p.m. and measured 3.5 inches with my ruler."',
    "There is no consensus, and experts do not agree.",
    "affidavit notebook thermometer",
    "measured observed recorded",
    "consensus experts guidelines",
)
OTHER_LANGUAGES = {
    "German": "Die Kommission hat am Montag bekannt gegeben, dass alle Bürger die neuen Regeln beachten müssen. Nach "
    "Ansicht der Fachleute besteht kein Anlass zur Sorge, und die Versorgung ist überall im Lande gesichert. ",
    "French": "Le ministère a annoncé lundi que les nouvelles mesures seront appliquées dans tout le pays. Selon les "
    "experts, il n'y a pas lieu de s'inquiéter et la population est priée de suivre les consignes des autorités. ",
    "Spanish": "El ministerio anunció el lunes que las nuevas medidas se aplicarán en todo el país. Según los expertos "
    "no hay motivo de preocupación, y se ruega a la población que siga las instrucciones de las autoridades. ",
    "Russian": "Министерство сообщило в понедельник, что новые меры будут применены во всей стране. По мнению "
    "специалистов, причин для беспокойства нет, и население должно следовать указаниям властей. ",
}


class Scorer:
    """Scores texts by one version, and by weights that were fitted without some kinds."""

    def __init__(self, scoring: ScoringVersion) -> None:
        self.scoring = scoring
        self.read: dict[tuple[str, int], list[Blocks]] = {}
        self.learned: dict[str, list[Blocks]] = {}

    def table(self, texts: Sequence[str], kinds: str | Sequence[str], years: Sequence[int | None]) -> pa.Table:
        """Score texts of one source type, or of one each."""
        kinds = [kinds] * len(texts) if isinstance(kinds, str) else kinds
        return score_table(
            table_of([(*row, "metadata") for row in zip(texts, kinds, years, strict=True)]), scoring=self.scoring
        )

    def authority(self, texts: Sequence[str], kind: str = "unknown") -> Floats:
        """Score texts without a year."""
        scored = self.table(texts, kind, [None] * len(texts)).column("auth_weight")
        return np.asarray(scored.to_numpy(), dtype=np.float64)

    def blocks(self, kind: str, texts: list[str]) -> list[Blocks]:
        """Read the blocks of texts once."""
        key = (kind, len(texts))
        if key not in self.read:
            self.read[key] = read_texts(texts)
        return self.read[key]

    def without(self, pair: tuple[str, str], texts: dict[str, list[str]]) -> dict[str, Floats]:
        """Rank texts of unknown type by what is learned without two kinds of documents; v1 has learned nothing."""
        if self.scoring == "v1":
            return {kind: self.authority(texts[kind]) for kind in pair}
        self.learned = self.learned or read_folder(SHARED / "corpus", (*PRIMARY, *COORDINATED))
        weights = fit({kind: parts for kind, parts in self.learned.items() if kind not in pair})
        read = {kind: self.blocks(kind, texts[kind]) for kind in pair}
        return {
            kind: np.concatenate([-read_votes(part, weights).evidence for part in parts])
            for kind, parts in read.items()
        }


def own_texts(half: str) -> dict[str, list[str]]:
    """Read the project's own texts by kind."""
    texts: dict[str, list[str]] = {}
    for path in sorted((TEXTS / half).glob("*.txt")):
        texts.setdefault(path.stem.rpartition("-")[0], []).append(path.read_text("utf-8"))
    return texts


def separation(scorer: Scorer, corpus: dict[str, list[Row]]) -> Iterable[Row]:
    """Hold primary and coordinated kinds apart without type and year, each pair left out of what was learned."""
    for name, since in (("auc_unknown_type_no_year", -9999), ("auc_texts_since_1970", 1970)):
        groups = {
            kind: [found["text"] for found in corpus[kind] if found["year"] is None or found["year"] >= since]
            for kind in (*PRIMARY, *COORDINATED)
        }
        if since > 0:
            groups |= {kind: texts for kind, texts in own_texts("tuning").items() if kind in FIRST_HAND}
        primary = [kind for kind in (*PRIMARY, *FIRST_HAND) if groups.get(kind)]
        pairs: dict[str, float] = {}
        groups = {kind: texts for kind, texts in groups.items() if texts}
        sums = {kind: np.zeros(len(texts)) for kind, texts in groups.items()}
        for low, high in product(primary, COORDINATED):
            values = scorer.without((low, high), groups)
            pairs[f"{low} / {high}"] = round(area_under_curve(values[low], values[high]), 3)
            for kind, found in values.items():
                sums[kind] += found / (len(COORDINATED) if kind == low else len(primary))
        pooled = [np.concatenate([sums[kind] for kind in kinds]) for kinds in (primary, COORDINATED)]
        mean = float(np.mean(list(pairs.values())))
        yield {"row": name, "pooled": round(area_under_curve(*pooled), 3), "mean_of_pairs": round(mean, 3)} | pairs


def known_types(scorer: Scorer, corpus: dict[str, list[Row]]) -> Row:
    """Separate with and without types and years, and tell how much of it the prior alone explains."""
    rows = [(found["text"], SOURCE_TYPES[kind], found["year"]) for kind, group in corpus.items() for found in group]
    kinds = np.array([kind for kind, group in corpus.items() for _ in group])
    texts, types, years = zip(*rows, strict=True)
    primary, coordinated = (np.isin(kinds, group) for group in (PRIMARY, COORDINATED))
    area: dict[str, float] = {}
    for typed, dated in product((False, True), (False, True)):
        scored = scorer.table(texts, types if typed else "unknown", years if dated else [None] * len(years))
        authority = np.asarray(scored.column("auth_weight"), dtype=np.float64)
        name = f"auc_{'known' if typed else 'unknown'}_type_{'with' if dated else 'no'}_year"
        area[name] = round(area_under_curve(authority[primary], authority[coordinated]), 3)
    bits, why = np.asarray(scored.column("prov_entropy"), dtype=np.float64), scored.column("components")
    share = [measured_share(scored, kinds, kind) for kind in corpus]
    stands = pc.not_equal(pc.struct_field(why, "overruled").fill_null(False), True)
    kept, kept_kinds = scored.filter(stands), kinds[np.asarray(stands)]
    return {
        "row": "known_type_and_year",
        **area,
        "r_squared_of_the_prior_authority": explained(authority, types),
        "r_squared_of_the_prior_bits": explained(bits, types),
        "measured_term_of_bits_inside_a_source": round(float(np.median(share)), 3),
        "the_same_where_the_label_stands": round(
            float(np.median([measured_share(kept, kept_kinds, kind) for kind in corpus])), 3
        ),
        "declared_share_of_bits_inside_a_source": declared_share(scored, kinds),
        "year_conflicts": int(pc.sum(pc.struct_field(why, "conflict")).as_py()),
        "bands": {
            kind: dict(Counter(scored.filter(pa.array(kinds == kind)).column("band").to_pylist())) for kind in corpus
        },
    }


def explained(values: Floats, groups: Sequence[str]) -> float:
    """Return the share of the variance that the group alone explains."""
    names, index = np.unique(groups, return_inverse=True)
    means = np.bincount(index, values, len(names)) / np.bincount(index, minlength=len(names))
    return round(float(1 - np.var(values - means[index]) / np.var(values)), 3)


def declared_share(scored: pa.Table, kinds: NDArray[Any]) -> float | None:
    """Return the share of the variance of bits inside a kind that comes with what its source declares; none for v1."""
    declared = pc.struct_field(scored.column("components"), "declared_bits")
    if declared.null_count:
        return None
    bits = np.asarray(scored.column("prov_entropy"), dtype=np.float64)
    shares = [
        np.var(np.asarray(declared)[kinds == kind]) / max(1e-9, np.var(bits[kinds == kind]))
        for kind in np.unique(kinds)
    ]
    return round(float(np.median(shares)), 3)


def measured_share(scored: pa.Table, kinds: NDArray[Any], kind: str) -> float:
    """Return the share of the variance of bits inside one kind that goes when the measured term is taken out."""
    part = scored.filter(pa.array(kinds == kind))
    bits = np.asarray(part.column("prov_entropy"), dtype=np.float64)
    why = part.column("components")
    if pc.struct_field(why, "measured_bits").null_count == 0:
        measured = np.asarray(pc.struct_field(why, "measured_bits"), dtype=np.float64)
    else:  # of v1 only the mix of evidence is an entropy; the rest is declared or a bonus for words
        share, mix, weight = (
            np.asarray(pc.struct_field(why, name), dtype=np.float64)
            for name in ("primary_share", "primary_bits", "weight_text")
        )
        measured = share * mix * weight
    return float(max(0.0, 1 - np.var(bits - measured) / np.var(bits))) if np.var(bits) else 0.0


def own_kinds(scorer: Scorer, corpus: dict[str, list[Row]], half: str) -> Iterable[Row]:
    """Tell how the project's own texts of one half score, and modern patents beside them."""
    texts = own_texts(half)
    coordinated = np.concatenate([scorer.authority([row["text"] for row in corpus[kind]]) for kind in COORDINATED])
    alarm, median = np.quantile(coordinated, FALSE_ALARMS), np.median(coordinated)
    groups = {kind: scorer.authority(found) for kind, found in texts.items()}
    first_hand = np.concatenate([groups[kind] for kind in FIRST_HAND])
    yield {
        "row": f"modern_first_hand_{half}",
        "texts": len(first_hand),
        "low_at_10_percent_false_alarms": round(float(np.mean(first_hand < alarm)), 3),
        "in_the_low_band": round(float(np.mean(first_hand < LOW_BELOW)), 3),
        "coordinated_in_the_low_band": round(float(np.mean(coordinated < LOW_BELOW)), 3),
    } | {kind: np.round(groups[kind], 2).tolist() for kind in FIRST_HAND}
    patents = scorer.authority([row["text"] for row in corpus["patents_post1976"]])
    yield {"row": "modern_patents", "low_at_10_percent_false_alarms": round(float(np.mean(patents < alarm)), 3)}
    carried = {
        kind: scorer.authority(texts["release"], kind) for kind in ("historical_newspaper", "classical_rhetoric")
    }
    yield {
        "row": f"releases_{half}",
        "texts": len(groups["release"]),
        "above_the_median_of_coordinated": round(float(np.mean(groups["release"] > median)), 3),
        "low": int(np.sum(groups["release"] < LOW_BELOW)),
        "median_of_coordinated": round(float(median), 3),
        "unknown": np.round(groups["release"], 2).tolist(),
        **{kind: np.round(found, 2).tolist() for kind, found in carried.items()},
        "other_coordinated_texts": {kind: np.round(groups[kind], 2).tolist() for kind in ("leaflet", "summary")},
    }


def additions(scorer: Scorer, corpus: dict[str, list[Row]]) -> Iterable[Row]:
    """Add sentences to pages: evidence may move a score one way only, and a few words not at all."""
    rng = random.Random(0)
    pages = [(kind, row["text"][:CUT]) for kind, group in corpus.items() for row in group if len(row["text"]) > CUT]
    pages = rng.sample(pages, 500)
    for name, sentences, sign in (
        ("coordinated_sentence_never_lowers", COORDINATED_SENTENCES, 1),
        ("first_hand_sentence_never_raises", FIRST_HAND_SENTENCES, -1),
    ):
        shifts = np.concatenate(
            [
                shift(scorer, pages, lambda text, group=sentences: added(rng, text, group), kind)
                for kind in ("own", "unknown")
            ]
        )
        yield {
            "row": name,
            "pairs": len(shifts),
            "violations": int(np.sum(sign * shifts < -1e-6)),
            "worst": round(float(np.min(sign * shifts)), 4),
            "mean": round(float(np.mean(sign * shifts)), 4),
        }
    found = {}
    for sentence in NEUTRAL_CHANGES:
        shifts = np.abs(shift(scorer, pages[:200], lambda text, s=sentence: f"{text}\n{s}", "unknown"))  # type: ignore[misc]
        found[sentence] = [round(float(np.mean(shifts)), 4), round(float(np.max(shifts)), 4)]
    worst = max(largest for _, largest in found.values())
    yield {"row": "negation_quotation_magic_words", "worst": worst, "mean_and_worst": found}


def added(rng: random.Random, text: str, sentences: Sequence[str]) -> str:
    """Add a sentence before, after or inside a text, between two of its sentences."""
    places = [0, len(text), *(match.end() for match in re.finditer(r"[a-z]{3}\. (?=[A-Z])", text))]
    place = rng.choice(places)
    return (
        f"{text[:place]}{rng.choice(sentences)} {text[place:]}"
        if place < len(text)
        else f"{text}\n{rng.choice(sentences)}"
    )


def shift(scorer: Scorer, pages: Sequence[tuple[str, str]], change: Callable[[str], str], kind: str) -> Floats:
    """Return by how much a change of each page moves its authority."""
    texts = [text for _, text in pages]
    kinds = [SOURCE_TYPES[name] if kind == "own" else kind for name, _ in pages]
    years = [None] * len(texts)
    before, after = (
        np.asarray(scorer.table(version, kinds, years).column("auth_weight"), dtype=np.float64)
        for version in (texts, [change(text) for text in texts])
    )
    return after - before


def languages(scorer: Scorer, corpus: dict[str, list[Row]]) -> Row:
    """Tell whether texts in other languages are marked."""

    def marked(texts: list[str]) -> list[bool]:
        why = scorer.table(texts, "historical_newspaper", [None] * len(texts)).column("components")
        if pc.struct_field(why, "unscored_language").null_count:
            return [False] * len(texts)
        return [bool(value) for value in pc.struct_field(why, "unscored_language").to_pylist()]

    spanish = [row["text"] for row in corpus["newspapers_ocr"] if row.get("language") == "es"]
    english = [row["text"] for group in corpus.values() for row in group if row.get("language") != "es"]
    return {
        "row": "unscored_language",
        **{name: marked([text * 5])[0] for name, text in OTHER_LANGUAGES.items()},
        "spanish_pages_marked": f"{sum(marked(spanish))} of {len(spanish)}",
        "english_documents_marked": f"{sum(marked(english))} of {len(english)}",
    }


def examples(scorer: Scorer) -> Row:
    """Score the guide's five examples, two texts each."""
    from tests.tasks.signals.test_reference import GUIDE

    found, within = {}, 0
    for (name, (kind, year, authority, bits)), letter in product(GUIDE.items(), "AB"):
        text = (SHARED / "design" / "examples" / f"{name}_{letter}.txt").read_text("utf-8")
        row = scorer.table([text], kind, [year]).to_pylist()[0]
        got = (row["auth_weight"], row["prov_entropy"])
        within += abs(got[0] - authority) <= 0.03 and abs(got[1] - bits) <= 0.3
        found[f"{name}_{letter}"] = [round(value, 3) for value in got]
    return {"row": "guide_examples", "within_tolerance": f"{within} of {len(found)}", **found}


def speed(corpus: dict[str, list[Row]]) -> Row:
    """Measure both versions and the fingerprints of copies in memory, in turns, by the time of the processor."""
    rows = [(row["text"], SOURCE_TYPES[kind], row["year"]) for kind, group in corpus.items() for row in group]
    table = table_of([(*row, "metadata") for row in rows])
    fixed = {
        name: pa.repeat(pa.scalar(value), len(rows)) for name, value in (("source", "a"), ("url", ""), ("extra", "{}"))
    }
    work: dict[str, Callable[[], object]] = {
        **{version: partial(score_table, table, scoring=version) for version in SCORINGS},
        "fingerprints": partial(
            fingerprint_table, pa.table({**fixed, "year": table.column("year"), "text": table.column("text")}), 0
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for name in (*work, *list(work) * SPEED_ROUNDS):  # the first round warms up
        started = time.process_time()
        work[name]()
        seconds[name].append(time.process_time() - started)
    best = {name: min(found[1:]) for name, found in seconds.items()}
    started = time.process_time()
    for text, kind, year in rows[::40]:
        score_document(text, kind, year)
    return {
        "row": "speed",
        **{f"{name}_documents_per_second": round(len(rows) / found) for name, found in best.items()},
        "v2_speed_by_v1": round(best["v1"] / best["v2"], 2),
        "fingerprints_time_by_v2": round(best["fingerprints"] / best["v2"], 2),
        "twin_documents_per_second": round(len(rows[::40]) / (time.process_time() - started)),
    }


def main(scoring: ScoringVersion = "v2", only: str = "") -> None:
    """Measure and print."""
    if not (SHARED / "corpus").is_dir():
        print(json.dumps({"benchmark": "scores", "skipped": "needs the shared corpus beside the project"}))
        return
    scorer, corpus = Scorer(scoring), {kind: read_corpus(kind) for kind in SOURCE_TYPES}

    def rows() -> Iterable[Row]:
        if only == "speed":
            yield speed(corpus)
        elif only:
            yield from own_kinds(scorer, corpus, only)
        else:
            yield from separation(scorer, corpus)
            yield known_types(scorer, corpus)
            yield from own_kinds(scorer, corpus, "tuning")
            yield from additions(scorer, corpus)
            yield languages(scorer, corpus)
            yield examples(scorer)

    for row in rows():
        print(json.dumps({"scoring": scoring, **row}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
