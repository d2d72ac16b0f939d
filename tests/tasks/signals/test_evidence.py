from __future__ import annotations

import pytest

from storage.schemas import EVIDENCE_TYPES, TIERS
from tasks.signals.evidence import find_evidence

NOTHING = [
    "a man who came",
    "her conscience",
    "his signature",
    "we act immediately; an intermediate step",
    "to annihilate",
    "the nature of the soul",
    "unofficially",
    "the end.Governor",
    "lancet windows",
    "join us 3 apples",
    "He gave us 3 apples",
    "join us 24/7",
    "De 1850 a 1860",
    "stop city",
    "shop cited",
    "her libido",
    "(see 1999)",
    "(Figure 1234)",
    "[2020]",
    "5. However, the year was 2020",
    "MAN WHO SHOT MAYOR",
    "THE WHO CONCERT",
    "labnotebook",
]


@pytest.mark.parametrize("text", NOTHING)
def test_common_words_show_nothing(text: str) -> None:
    found = find_evidence(text)
    assert found.marks[0] + found.citations[0] == 0


@pytest.mark.parametrize(
    ("text", "citations"),
    [
        ("[1, 2, 5-7]", 1),
        ("[12\u201315]", 1),
        ("[3]; [4]", 2),
        ("(Smith & Jones, 2020)", 1),
        ("(Smith et al., 2020; Jones, 2019)", 2),
        ("Smith (2019a) and Jones (1887)", 2),
        ("Ibid. p. 3, op. cit., loc.cit.", 3),
        ("doi: 10.1000/x https://doi.org/10.1/y arXiv:1908.04412 PMID: 123 PMC12 ISBN 978", 6),
        ("\n1. Smith, J.\n 2. Jones, K.", 2),
        ("\n[2] Jones, K.", 2),
    ],
)
def test_citations(text: str, citations: int) -> None:
    assert find_evidence(text).citations.tolist() == [citations]


@pytest.mark.parametrize(
    ("text", "tiers"),
    [
        ("Nature Medicine", "A"),
        ("published in Nature (2019)", "A"),
        ("the WHO, said", "A"),
        ("WHO advises", "A"),
        ("cdc.gov", "B"),
        ("Ministry of Health", "B"),
        ("mit.edu", "C"),
        ("Professor", "C"),
        ("CNN", "D"),
        ("History[edit]", "W"),
        ("Retrieved 3 May", "W"),
    ],
)
def test_institutions(text: str, tiers: str) -> None:
    found = dict(zip(TIERS, find_evidence(text).tiers[0].tolist(), strict=True))
    assert "".join(tier for tier, count in found.items() if count) == tiers


def test_plurals_count_as_primary_evidence() -> None:
    found = find_evidence("experiments measurements observations patents letters from interviews specimens")
    assert found.primary == 7
    assert {kind for kind, count in zip(EVIDENCE_TYPES, found.kinds[0].tolist(), strict=True) if count} == {
        "lab_notebook",
        "measurement",
        "patent",
        "correspondence",
        "oral_history",
        "archive",
    }


@pytest.mark.parametrize("text", ["US Pat. No. 1,234,567", "Patent 1,234,567", "Serial No. 452", "EP1234567"])
def test_patent_numbers(text: str) -> None:
    assert find_evidence(text).kinds[0][EVIDENCE_TYPES.index("patent")] >= 1
    assert find_evidence(text).primary >= 1
