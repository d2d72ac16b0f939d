"""What scoring v2 promises of evidence, whatever the label and wherever it stands."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage.vocabulary import SOURCE_TYPES
from tasks.signals.engine import score_table
from tasks.signals.marks import find_marks
from tasks.signals.reader import Reader
from tasks.signals.reference import score_document
from tasks.signals.tokens import tokenise_one
from tasks.signals.vocabulary import FEATURES, FEATURES_FILE
from tests.tasks.signals.agreement import differences, table_of

TEXTS = Path(__file__).with_name("texts")
FIRST_HAND = (
    "I measured it myself with a thermometer at 10:15 and read 3.5 degrees.",
    "I saw him leave the house at ten o'clock and I told Mr. Brown so the next morning.",
    "We weighed each sample twice on the balance and wrote down 12.41 g and 12.43 g.",
    "I declare under penalty of perjury that I saw this with my own eyes.",
    "Added 5 ml of buffer, spun it for 10 min and took off the top layer.",
)
COORDINATED = (
    "The WHO said experts agree.",
    "According to the World Health Organization, there is a broad consensus among experts.",
    "The Department of Health recommends that everyone follow official guidance.",
    "Studies have shown that this is well established (Jones, 2019).",
    "It is widely accepted that the measures are necessary [4, 7-9].",
)
NEUTRAL = (
    "There is no patent, nothing was measured.",
    "I did not see or measure anything, and nothing was recorded under oath.",
    "The WHO said that it is safe and effective, which is false.",
    'He answered: "I saw it fall at 10:15 p.m. and I measured 3.5 inches with my ruler."',
    "There is no consensus, and experts do not agree.",
)
PLAIN = (
    "The valley lies between two hills and a river runs through it.",
    "Most of the houses are built of grey stone from the quarry.",
    "Nothing of this was known to the travellers who came later.",
)
OTHERS = (
    "Le ministre a dit que les chiffres de la commission sont bons.",
    "Er sagte, dass die Zahlen nicht mit dem Bericht stimmen.",
    "12.51 13.4 9.75 10.2 11.8.",
    'Brown said: "This quotation is never closed, and I saw it myself.',
)
"""What must not lend its neighbours a language or silence."""
sentences = st.lists(st.sampled_from(FIRST_HAND + COORDINATED + NEUTRAL + PLAIN + OTHERS), max_size=12)
kinds = st.sampled_from(SOURCE_TYPES)


def authority(sentences: list[str], kind: str = "unknown") -> float:
    return score_document(" ".join(sentences), kind).auth_weight


@settings(deadline=None, max_examples=150)
@example([OTHERS[3], NEUTRAL[3], FIRST_HAND[0], COORDINATED[1]], "patent_pre1970", FIRST_HAND[0], COORDINATED[1], 1)
@given(sentences, kinds, st.sampled_from(FIRST_HAND), st.sampled_from(COORDINATED), st.integers(0, 12))
def test_evidence_moves_authority_one_way_only(
    before: list[str], kind: str, first_hand: str, coordinated: str, place: int
) -> None:
    base = authority(before, kind)
    assert authority([*before[:place], first_hand, *before[place:]], kind) <= base + 1e-9
    assert authority([*before[:place], coordinated, *before[place:]], kind) >= base - 1e-9


@settings(deadline=None, max_examples=60)
@given(sentences, kinds, st.sampled_from(NEUTRAL))
def test_what_is_denied_or_quoted_moves_nothing(before: list[str], kind: str, added: str) -> None:
    assert abs(authority([*before, added], kind) - authority(before, kind)) < 0.03


def test_every_word_and_phrase_of_the_features_is_found_inside_one_sentence() -> None:
    told = tomllib.loads(FEATURES_FILE.read_text("utf-8"))["features"]
    phrases = [(name, words.split("_")) for name, feature in told.items() for words in feature.get("words", "").split()]
    for name, words in phrases:
        whole, torn = (
            find_marks(Reader(tokenise_one(f"And with the {text} of the town.")))[1]
            for text in (" ".join(words), " ".join(words[:-1]) + "! " + words[-1].capitalize())
        )
        assert FEATURES.index(name) in whole, words
        assert len(words) == 1 or whole.tolist().count(FEATURES.index(name)) > torn.tolist().count(FEATURES.index(name))


def test_an_english_sentence_does_not_let_a_foreign_page_speak() -> None:
    page = [f"Le {n} mai à 10:15 on a mesuré 3.5 mm avec le baromètre de la tour." for n in range(12)] + [
        "12.51 13.4 9.75 10.2 11.8 mm."
    ]
    label = score_document("", "wiki").auth_weight
    for added in ("", *COORDINATED):
        assert score_document(" ".join([*page, added]), "wiki").auth_weight >= label - 1e-9
        assert score_document(" ".join([*page, added]), "unknown").auth_weight >= 0.5 - 1e-9


@pytest.mark.parametrize(
    "words", ["affidavit notebook thermometer", "measured observed recorded", "consensus experts guidelines"]
)
@pytest.mark.parametrize("length", [3, 12, 27, 28, 29])
def test_a_list_of_telling_words_is_no_sentence(words: str, length: int) -> None:
    unfinished = " ".join(["They walked on by the river and into the wood"] * 5).split()[:length]
    page = " ".join([*FIRST_HAND[:1], *COORDINATED[:1], *PLAIN, *unfinished])
    assert abs(authority([page, words]) - authority([page])) < 0.03


def test_a_year_in_the_text_makes_no_label_more_trusted() -> None:
    told = " ".join(FIRST_HAND)
    for kind in ("historical_book", "patent_pre1970", "classical_rhetoric"):
        plain, dated = (score_document(f"{told} {added}", kind) for added in ("", "So it was (Jones, 2019)."))
        assert dated.components.conflict and not plain.components.conflict
        assert dated.auth_weight >= plain.auth_weight - 1e-9


@settings(deadline=None, max_examples=40)
@given(sentences, st.sampled_from(FIRST_HAND + COORDINATED), st.integers(2, 6))
def test_a_sentence_counts_once_however_often_it_is_said(before: list[str], sentence: str, times: int) -> None:
    assert authority([*before, *[sentence] * times]) == authority([*before, sentence])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(max_size=300) | st.sampled_from(FIRST_HAND + COORDINATED), max_size=5), kinds)
def test_the_engine_equals_the_reference(texts: list[str], kind: str) -> None:
    assert not differences([(text, kind, None, None) for text in texts])


def test_a_text_that_says_nothing_leaves_its_label() -> None:
    for kind, found in (("unknown", (0.5, 3.0)), ("wiki", (0.9, 1.0)), ("declaration", (0.12, 6.5))):
        score = score_document("", kind)
        assert (score.auth_weight, score.prov_entropy) == pytest.approx(found)


def origins(text: str) -> tuple[float, int | None]:
    why = score_document(text, "unknown").components
    return why.text_bits, why.n_origins


def test_eight_witnesses_are_three_bits_and_one_quoted_eight_times_is_none() -> None:
    names = ["Alder", "Brook", "Cole", "Dunn", "Ellis", "Ford", "Grant", "Hale"]
    eight = " ".join(f"{name} testified that the light went out at {n} minutes past." for n, name in enumerate(names))
    one = " ".join(f"Alder testified that the light went out at {n} minutes past." for n in range(8))
    assert origins(eight) == (pytest.approx(3.0), 8)
    assert origins(one) == (0.0, 1)
    assert origins(f"{eight} {eight}") == origins(eight)


def test_a_year_outside_its_source_leaves_a_document_to_its_text() -> None:
    text = " ".join(FIRST_HAND)
    score = score_document(text, "historical_book", 2020)
    assert score.components.conflict and score.components.source_type == "unknown"
    assert score.auth_weight == pytest.approx(score.components.text_auth)
    notebook = score_document(text, "lab_notebook", 2021)
    assert (notebook.components.conflict, notebook.components.source_type) == (False, "notebook_modern")
    assert notebook.band == "low"


@pytest.mark.parametrize(
    "text",
    [
        "Die Kommission hat am Montag bekannt gegeben, dass alle die neuen Regeln beachten müssen. ",
        "Le ministère a annoncé lundi que les nouvelles mesures seront appliquées dans tout le pays. ",
        "El ministerio anunció el lunes que las nuevas medidas se aplicarán en todo el país. ",
        "Министерство сообщило в понедельник, что новые меры будут применены во всей стране. ",
    ],
)
def test_another_language_keeps_its_label(text: str) -> None:
    score = score_document(text * 6, "historical_newspaper", 1910)
    assert score.components.unscored_language
    assert (score.auth_weight, score.prov_entropy) == pytest.approx((0.15, 6.0))


def scored(half: str, kinds: tuple[str, ...], source_type: str = "unknown") -> np.ndarray:
    paths = [path for path in sorted((TEXTS / half).glob("*.txt")) if path.stem.rpartition("-")[0] in kinds]
    table = table_of([(path.read_text("utf-8"), source_type, None, None) for path in paths])
    return np.asarray(score_table(table).column("auth_weight").to_numpy())


def test_first_hand_texts_of_today_are_low() -> None:
    found = scored("tuning", ("notebook", "declaration", "raw_data", "interview"))
    assert np.mean(found < 0.3) >= 0.9


@pytest.mark.parametrize("source_type", ["unknown", "historical_newspaper", "classical_rhetoric", "government"])
def test_releases_of_war_and_alarm_are_high_whoever_carries_them(source_type: str) -> None:
    assert np.min(scored("tuning", ("release",), source_type)) > 0.85


def test_what_is_read_of_a_long_text_does_not_depend_on_what_follows() -> None:
    text = " ".join([*PLAIN * 40, *FIRST_HAND])
    before, after = (score_document(given, "unknown") for given in (text, text + " ".join(COORDINATED)))
    assert len(text) > 5000 and before.components.evidence == after.components.evidence


def test_the_parts_of_the_bits_add_up() -> None:
    table = score_table(table_of([(" ".join(FIRST_HAND), "lab_notebook", 1950, "metadata")]))
    why = table.column("components")
    parts = [pc.struct_field(why, name)[0].as_py() for name in ("declared_bits", "measured_bits")]
    assert sum(parts) == pytest.approx(table.column("prov_entropy")[0].as_py(), abs=1e-6)
