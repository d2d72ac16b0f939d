"""The two forms of the report, and what is drawn in them."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tasks.evals.drawings import draw_curve, draw_ratios
from tasks.evals.estimates import Estimate
from tasks.evals.report import render_report, report_markdown
from tasks.evals.results import EvaluationResult, EvaluationResults, read_results
from tasks.evals.verdicts import TIMES

EVIL = '<script>alert(1)</script><img src="https://example.org/x.png">'


class Tags(HTMLParser):
    """Collects what a browser would see as elements."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


@pytest.fixture
def results(events: list[dict[str, Any]]) -> EvaluationResults:
    return read_results(Path(events[-1]["results"]).parent)


def changed(results: EvaluationResults, **changes: Any) -> EvaluationResults:
    return EvaluationResults.model_validate(results.model_dump() | changes)


@pytest.mark.parametrize(("passed", "refused"), [(True, False), (False, True), (None, True)])
def test_a_gate_lets_only_a_full_approval_pass(
    results: EvaluationResults, tmp_path: Path, passed: bool | None, refused: bool
) -> None:
    found = changed(results, passed=passed)
    assert EvaluationResult.of(found, tmp_path, gate=True, reused=False).gate_failed is refused
    assert EvaluationResult.of(found, tmp_path, gate=False, reused=False).gate_failed is False


def test_the_report_escapes_what_a_model_wrote_and_needs_nothing_else(results: EvaluationResults) -> None:
    behaviours = results.model_dump()["behaviours"]
    behaviours["tests"][0]["adapter"]["response"] = EVIL + "x" * 200
    behaviours["tests"][1]["base"]["reason"] = EVIL
    html = render_report(changed(results, behaviours=behaviours, run="a|b<script>"))
    tags = Tags()
    tags.feed(html)
    assert "script" not in tags.names and "img" not in tags.names and "link" not in tags.names
    assert tags.links[0] == "http://127.0.0.1:4300/talk?run=a%7Cb%3Cscript%3E"
    assert all(link.startswith("#") for link in tags.links[1:])
    assert "url(" not in html and "@import" not in html
    assert "&lt;script&gt;alert(1)" in html and "svg" in tags.names
    assert results.digest in html


def test_the_markdown_holds_numbers_but_no_answers(results: EvaluationResults) -> None:
    behaviours = results.model_dump()["behaviours"]
    behaviours["tests"][0]["adapter"]["response"] = "| evil |"
    text = report_markdown(changed(results, behaviours=behaviours, run="a|b <img>", contaminated_prompts=["tea"]))
    assert "evil" not in text and text.startswith("## a\\|b &lt;img>: ") and "<" not in text
    assert text.count("\n| ") >= 15 and len(text) < 4000
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {5, 6}
    assert "### What to do next\n\n- " in text and "**1 evaluation prompts also " in text


def test_the_contents_lead_to_what_is_there_and_each_card_says_what_its_number_means(
    results: EvaluationResults,
) -> None:
    for shown in (results, changed(results, behaviours=None)):
        html = render_report(shown)
        contents = re.findall(r'<li><a href="#([\w-]+)">', html)
        assert ("answers" in contents) is (shown.behaviours is not None)
        assert {*contents} == {*re.findall(r' id="([\w-]+)"', html)}
        folded = html.partition("<details")[2]
        assert "<table" in folded and html.count('class="part"') == len(contents) - 1, "all but the verdicts"
        meanings = re.findall(r'<p class="meaning">(.*?)</p>', html)
        assert len(meanings) == len(shown.verdicts) and all(meaning.endswith(".") for meaning in meanings)


def test_whole_numbers_of_the_objective_are_written_in_full(results: EvaluationResults) -> None:
    objective = {"objective": "weighted", "max_steps": 10000, "seed": 1234567, "alpha": 2.7, "Z": 1.23456}
    html = render_report(changed(results, objective=objective))
    for shown in ("weighted", "10000", "1234567", "2.7", "1.235"):
        assert f"<dd>{shown}</dd>" in html


def test_every_source_of_the_mixture_has_its_histograms(results: EvaluationResults) -> None:
    html = render_report(results)
    named = re.findall(r'class="histogram (\w+)" role="img" aria-label="(\w+) of (\w+)"', html)
    assert named == [
        *(("low", column, "patents") for column in ("authority", "entropy")),
        *(("high", column, "press") for column in ("authority", "entropy")),
    ]
    assert "1,234" in html and "not_drawn" not in html
    authority_of_press = html.partition('aria-label="authority of press"')[2].partition("</div>")[0]
    assert re.findall(r"left:([\d.]+)%;width:([\d.]+)%;height:([\d.]+)%", authority_of_press) == [
        ("75.0", "5.0", "100.0"),
        ("80.0", "5.0", "50.0"),
    ]


def test_a_curve_stays_within_its_frame_and_falls_downwards(results: EvaluationResults) -> None:
    rows = [{"step": step, "kind": "train", "ce": 5.0 - step / 10, "valid_ce": None} for step in range(0, 30, 5)]
    last = {"step": 30, "kind": "valid", "ce": math.nan, "valid_ce": 4.0}  # one point makes no line
    html = render_report(changed(results, training_curve=[*rows, last]))
    losses = html.partition('aria-label="Losses of the run"')[2].partition("</svg>")[0]
    assert re.findall(r">([\d.]+)</text>", losses) == ["2", "3", "4", "5", "0", "10", "20"]
    ((kind, drawn),) = re.findall(r'<polyline class="(train|valid)" points="([^"]+)">', html)
    points = [tuple(map(float, pair.split(","))) for pair in drawn.split()]
    assert kind == "train" and len(points) == 6
    assert all(48 <= x <= 904 and 12 <= y <= 252 for x, y in points)
    assert [y for _, y in points] == sorted(y for _, y in points), "a falling loss goes down the page"
    assert draw_curve([]) is None and draw_curve([{"step": 1, "kind": "train", "ce": 2.0}]) is None


def test_ratios_are_drawn_on_either_side_of_one() -> None:
    alone = Estimate(1, 0.9)  # of one text
    below, above = Estimate(9, 0.8, 0.1, 0.75, 0.9), Estimate(9, 1.2, 0.1, 1.1, 1.3)
    strip = draw_ratios({"low": below, "medium": alone, "high": above})
    assert strip is not None and (50, f"1.00{TIMES}") in strip.ticks
    (low, *first), (high, *second) = strip.spans
    assert (low, high) == ("low", "high")
    value, begin, end = first
    assert 0 <= begin < value < end < 50
    value, begin, end = second
    assert 50 < begin < value < end <= 100
    assert draw_ratios({"medium": alone}) is None
