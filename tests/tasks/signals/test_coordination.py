"""Copies are counted over outlets and years, not over documents."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.parquet import read_shard, write_shard
from storage.schemas import FINGERPRINT_SCHEMA, RAW_SCHEMA
from tasks.signals import coordination
from tasks.signals.coordination import count_outlets, fingerprint_shard, outlet_of
from tasks.signals.reference import score_document
from tests.tasks.mixture.corpora import make_text
from tests.tasks.signals.raw_documents import raw_table

Document = dict[str, Any]


def story(number: int, words: int = 160) -> str:
    return make_text(random.Random(number), words)


def printed(text: str, outlets: Sequence[str], year: int | None = 1942) -> list[Document]:
    """A text in several newspapers, each of which breaks its lines elsewhere and adds a line of its own."""
    return [
        {
            "text": f"THE DAILY {name.upper()}\n{text[: 40 + 9 * n]}\n{text[40 + 9 * n :].strip()}",
            "url": f"https://www.{name}.example/{n}",
            "year": year,
        }
        for n, name in enumerate(outlets)
    ]


def counted(folder: Path, *shards: Sequence[Document]) -> list[list[int]]:
    """Count over shards of documents; the number of outlets of every document."""
    files = []
    for number, documents in enumerate(shards):
        rows = [raw_table([doc["text"]], **{k: v for k, v in doc.items() if k != "text"}) for doc in documents]
        name = f"shard-{number:05d}.parquet"
        write_shard(folder / "raw" / name, pa.concat_tables([RAW_SCHEMA.empty_table(), *rows]), RAW_SCHEMA)
        fingerprint_shard(folder / "raw" / name, folder / name, {})
        files.append(folder / name)
    found = []
    for documents, rows in zip(shards, count_outlets(files), strict=True):
        outlets = [1] * len(documents)
        for row, count in rows.tolist():
            outlets[row] = count
        found.append(outlets)
    return found


NAMES = [f"town{n}" for n in range(40)]


def test_a_wire_story_in_forty_outlets_is_forty_in_one_and_forty_copies_of_one_outlet_are_not(tmp_path: Path) -> None:
    wire, own = printed(story(1), NAMES), printed(story(2), ["gazette"] * 40)
    others = [{"text": story(n), "url": f"https://other{n}.example/"} for n in range(100, 130)]
    found = counted(tmp_path, [*wire[:25], *own[:20], *others], [*own[20:], *wire[25:]], [])
    assert found == [[40] * 25 + [1] * 20 + [1] * 30, [1] * 20 + [40] * 15, []]


def test_what_reprints_an_old_text_is_no_campaign(tmp_path: Path) -> None:
    letter, reprints = printed(story(3), ["archive"], 1776), printed(story(3), NAMES[:12], 1942)
    late, undated = printed(story(3), ["weekly"], 1943), printed(story(3), ["undated"], None)
    found = counted(tmp_path, [*letter, *reprints, *late, *undated])
    assert found == [[2, *([14] * 12), 14, 15]]


def test_texts_that_share_a_part_or_say_little_are_no_copies(tmp_path: Path) -> None:
    shared = story(4, 140)
    halves = [f"{shared} {story(n, 60)}" for n in range(200, 220)]
    licence = "".join(f"This e-book is for the use of {story(n, 12)}\n" for n in range(500, 520))
    books = [f"{licence}{story(n, 60)}" for n in range(300, 320)]
    short = ["No text was read on this page of the paper."] * 20
    for texts in (halves, books, short):
        documents = [{"text": text, "url": f"https://{NAMES[n]}.example/"} for n, text in enumerate(texts)]
        assert counted(tmp_path, documents) == [[1] * 20]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("a", "https://www.Paper.example/1", "{}"), ("b", "https://paper.example/2", "{}"), True),
        (("loc", "https://loc.gov/1", '{"lccn": "sn1"}'), ("loc", "https://loc.gov/2", '{"lccn": "sn2"}'), False),
        (("loc", "https://loc.gov/1", '{"lccn": "sn1"}'), ("own", None, '{"lccn": "sn1"}'), True),
        (("a", "https://user@Paper.example:8080/1", "{}"), ("b", "https://paper.example?2", "{}"), True),
        (("a", None, "{}"), ("b", "http://[broken", "{}"), False),
        (("a", "/folder/file.txt", "{}"), ("a", None, '{"outlet": ""}'), True),
    ],
)
def test_an_outlet_is_named_or_a_host_or_a_source(one: tuple[Any, ...], other: tuple[Any, ...], same: bool) -> None:
    assert (outlet_of(*one) == outlet_of(*other)) is same


def test_a_story_in_a_script_without_blanks_is_compared_by_its_characters(tmp_path: Path) -> None:
    rng = random.Random(6)
    text, other = ("".join(chr(rng.randrange(0x4E00, 0x5000)) for _ in range(400)) for _ in range(2))
    documents = [*printed(text, NAMES[:3]), {"text": other, "url": "https://other.example/"}]
    assert counted(tmp_path, documents) == [[3, 3, 3, 1]]


def test_many_bands_at_a_time_or_one_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [*printed(story(5), NAMES[:7]), *({"text": story(n)} for n in range(400, 420))]
    found = counted(tmp_path, documents)
    monkeypatch.setattr(coordination, "READ_BYTES", 1)
    monkeypatch.setattr(coordination, "PAIRS_AT_ONCE", 3)
    assert counted(tmp_path, documents) == found == [[7] * 7 + [1] * 20]
    assert read_shard(tmp_path / "shard-00000.parquet", FINGERPRINT_SCHEMA).num_rows == 27


def test_more_outlets_never_lower_authority_and_share_the_bits() -> None:
    text = "I measured the wire with a gauge and found 3.5 mm. I saw it break at ten o'clock. " * 3
    for kind in ("unknown", "historical_newspaper", "lab_notebook", "wiki"):
        scores = [score_document(text, kind, n_outlets=n) for n in (1, 2, 3, 8, 40)]
        authority = [score.auth_weight for score in scores]
        assert authority == sorted(authority)
        assert scores[0].prov_entropy > scores[-1].prov_entropy
        one, two = (score.components.measured_bits for score in scores[:2])
        assert one is not None and two is not None and two < one / 2
        assert scores[0] != score_document(text, kind)  # counted once is not the same as not counted
        assert scores[0].auth_weight == score_document(text, kind).auth_weight
    assert [score_document(text, "historical_newspaper", n_outlets=n).band for n in (1, 2, 40)] == [
        "low",
        "low",
        "high",
    ]


def test_a_work_in_two_archives_keeps_its_label() -> None:
    plain = score_document("The soul is like a city. " * 40, "classical_philosophy", n_outlets=1)
    twice = score_document("The soul is like a city. " * 40, "classical_philosophy", n_outlets=2)
    assert twice.auth_weight == pytest.approx(plain.auth_weight)


def test_a_copied_text_in_a_language_that_is_not_known_is_coordinated_all_the_same() -> None:
    text = "El ministerio anunció el lunes que las nuevas medidas se aplicarán en todo el país. " * 6
    alone, copied = (score_document(text, "historical_newspaper", n_outlets=n) for n in (1, 40))
    assert (alone.auth_weight, copied.band) == (pytest.approx(0.15), "high")
    assert json.dumps(copied.components.n_outlets) == "40"
