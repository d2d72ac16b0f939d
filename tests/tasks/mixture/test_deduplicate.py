from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.shingles import BATCH_BYTES, SHINGLE_WORDS, Fingerprints, fingerprint_texts, ordered_shingles, spaced
from tasks.mixture.deduplicate import Duplicates, deduplicate
from tests.tasks.mixture.corpora import make_text, make_words


def run(
    texts: Sequence[str],
    ids: Sequence[str] | None = None,
    authority: Sequence[float] | None = None,
    years: Sequence[int] | None = None,
    works: Sequence[str | None] | None = None,
) -> Duplicates:
    count, shingles = len(texts), ordered_shingles(list(texts))
    return deduplicate(
        ids or [f"d{i:05d}" for i in range(count)],
        fingerprint_texts(pa.array(list(map(spaced, texts)), pa.string())),
        np.array(authority if authority is not None else [0.5] * count),
        np.array(years if years is not None else [2000] * count, np.int64),
        works or [None] * count,
        lambda rows: [shingles[row] for row in rows.tolist()],
    )


def jaccard(one: str, other: str) -> float:
    def shingles(text: str) -> set[tuple[str, ...]]:
        words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
        return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}

    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def garble(rng: random.Random, text: str, share: float) -> str:
    return "".join(rng.choice("abcdefgh") if c != " " and rng.random() < share else c for c in text)


def test_layout_case_and_punctuation_do_not_count() -> None:
    result = run(["Hello, World: a  test!", "hello world A\n\u201ctest\u201d\u2014", "hello worlds a test"])
    assert result.keep.tolist().count(True) == 2
    assert result.counts["exact_duplicates"] == 1


def test_words_at_a_document_boundary_stay_apart() -> None:
    result = run(["ab cd", "abcd", "ab", "cd ab", "cd", "cdab"])
    assert result.keep.all()


def test_the_lowest_authority_stays_then_the_oldest() -> None:
    text = make_text(random.Random(1), 50)
    assert run([text] * 3, authority=[0.4, 0.1, 0.9]).keep.tolist() == [False, True, False]
    result = run([text] * 3, years=[1990, 1950, 9999])
    assert result.keep.tolist() == [False, True, False]
    assert result.cluster_id == ["d00001"] * 3


def test_groups_join_clusters_and_works() -> None:
    rng = random.Random(2)
    shared, *others = (make_text(rng, 60) for _ in range(4))
    result = run(
        [shared, others[0], shared, others[1], others[2]], works=["book a", "book a", "book b", "book b", None]
    )
    assert result.group_id == ["d00000"] * 4 + ["d00004"]
    assert result.keep.tolist().count(True) == 4


def test_documents_too_short_for_a_shingle_are_compared_exactly_only() -> None:
    result = run(["a b c d", "e f g h", "", " .", "a b c d."])
    assert result.counts["near_duplicates"] == 0
    assert result.counts["exact_duplicates"] == 2


def test_planted_copies_are_found_and_originals_stay_apart() -> None:
    rng = random.Random(7)
    vocabulary = make_words(rng, 3000)
    originals = [" ".join(rng.choices(vocabulary, k=rng.randint(150, 400))) for _ in range(800)]
    copies, owners = [], []
    for owner in range(0, 800, 2):
        text = originals[owner]
        share = (0.0, 0.002, 0.005)[owner // 2 % 3]
        copies.append(garble(rng, text, share) if owner % 4 else text[: int(len(text) * 0.8)])
        owners.append(owner)
    result = run(originals + copies)
    clusters = result.cluster_id
    assert len({clusters[i] for i in range(800)}) == 800
    similar = [k for k, owner in enumerate(owners) if jaccard(originals[owner], copies[k]) >= 0.8]
    found = [clusters[800 + k] == clusters[owners[k]] for k in similar]
    assert len(similar) > 150
    assert sum(found) / len(found) >= 0.99


def test_input_order_does_not_matter() -> None:
    rng = random.Random(5)
    texts = [make_text(rng, 80) for _ in range(40)]
    texts += [garble(rng, text, 0.003) for text in texts[:20]] + texts[:5]
    ids = [f"d{i:03d}" for i in range(len(texts))]
    works = [f"w{i % 30}" if i % 2 else None for i in range(len(texts))]
    plain = run(texts, ids, works=works)
    order = rng.sample(range(len(texts)), len(texts))
    mixed = run([texts[i] for i in order], [ids[i] for i in order], works=[works[i] for i in order])
    kept = {ids[i] for i in np.flatnonzero(plain.keep)}
    assert {ids[order[i]] for i in np.flatnonzero(mixed.keep)} == kept
    assert {ids[order[i]]: mixed.group_id[i] for i in range(len(order))} == dict(zip(ids, plain.group_id, strict=True))


def test_nothing_is_removed_over_a_chain() -> None:
    words = make_words(random.Random(8), 2000)
    windows = [" ".join(words[start : start + 400]) for start in range(0, 1200, 40)]
    assert 0.8 < jaccard(windows[0], windows[1]) < 0.85
    result = run(windows)
    stays = [windows[i] for i in np.flatnonzero(result.keep)]
    assert result.keep[0] and len(stays) > len(windows) // 3
    for i in np.flatnonzero(~result.keep).tolist():
        original = windows[int(result.cluster_id[i].removeprefix("d"))]
        assert original in stays and jaccard(windows[i], original) >= 0.8
    assert len(set(result.group_id)) == 1, "what overlaps stays on one side"


def test_leaflets_with_one_closing_page_all_stay() -> None:
    rng = random.Random(9)
    closing = make_text(rng, 900)
    leaflets = [make_text(rng, 60) + "\n\n" + closing for _ in range(10)]
    assert jaccard(leaflets[0], leaflets[1]) > 0.8
    assert run(leaflets).keep.all()


def test_copies_of_a_text_without_blanks_are_found() -> None:
    rng = random.Random(10)
    text = "".join(chr(rng.randint(0x4E00, 0x9FFF)) for _ in range(300))
    other = "".join(chr(rng.randint(0x4E00, 0x9FFF)) for _ in range(300))
    result = run([text, text[:150] + "\u4e00" + text[151:], other])
    assert result.keep.tolist() == [True, False, True] or result.keep.tolist() == [False, True, True]


def test_every_text_of_an_id_is_compared() -> None:
    rng = random.Random(4)
    one, other = make_text(rng, 80), make_text(rng, 80)
    for texts in ([one, other], [other, one]):
        copies = [one + " more", other + " more"]
        result = run([*texts, *copies], ids=["same", "same", "b", "c"], authority=[0.1, 0.1, 0.5, 0.5])
        assert result.counts["kept"] == 1


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(alphabet="abc D.\u2019é\n", max_size=60), max_size=12), st.integers(1, 5))
def test_fingerprints_do_not_depend_on_how_the_column_is_cut(texts: list[str], size: int) -> None:
    whole = fingerprint_texts(pa.array(texts, pa.string()))
    chunks = [pa.array(texts[i : i + size], pa.string()) for i in range(0, len(texts), size)]
    parts = fingerprint_texts(pa.chunked_array(chunks, pa.string()))
    single = Fingerprints.joined([fingerprint_texts(pa.array([text], pa.string())) for text in texts])
    for other in (parts, single):
        assert np.array_equal(whole.exact, other.exact)
        assert np.array_equal(whole.comparable, other.comparable)
        assert np.array_equal(whole.signatures, other.signatures)


SIGNATURE_GOLDEN = [3256786957, 1804728936, 618805973, 3323094801]
SENTENCE = "The quick brown fox jumps over the lazy dog near the old mill."


def test_the_exact_hash_is_that_of_the_words() -> None:
    words = SENTENCE.lower().rstrip(".").replace(" ", "\0").encode()
    halves = fingerprint_texts(pa.array([SENTENCE])).exact[0].tolist()
    assert b"".join(half.to_bytes(8, "big") for half in halves) == blake2b(words, digest_size=16).digest()


def test_signatures_are_the_same_on_every_platform() -> None:
    assert fingerprint_texts(pa.array([SENTENCE])).signatures[0, :4].tolist() == SIGNATURE_GOLDEN


def test_a_long_text_is_hashed_as_its_beginning_is() -> None:
    text = f"{SENTENCE} " * (BATCH_BYTES // len(SENTENCE) + 1)
    whole, beginning = ordered_shingles([text, text[: 20 * len(SENTENCE)]])
    assert np.array_equal(whole[:200], beginning[:200])
