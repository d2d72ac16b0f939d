"""The studio as a browser sees it: over HTTP, on a store of real scores, a real mixture and a real small model."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from storage.errors import ParameterError, StoreError
from storage.layout import Layout
from studio.__main__ import bind, choose_store
from studio.documents import Search, search
from tasks.evals.try_model import PROMPTS, load_run
from tasks.signals.explain import explain
from tests.studio.conftest import HOSTILE, ROOT, Site

ID = re.compile(r'<div class="soft id">([^<]+)</div>')
NEXT = re.compile(r'<a href="([^"]+)">(?:Next page|Search on)</a>')


def listed(page: str) -> list[str]:
    return ID.findall(page)


def test_documents_are_found_by_words_of_their_title_id_or_text(site: Site) -> None:
    assert listed(site.page("/documents?words=DAY+book")) == ["books:0"]
    assert listed(site.page("/documents?words=books:7")) == ["books:7", *(f"books:{n}" for n in range(70, 80))]
    assert listed(site.page("/documents?words=ministry")) == []
    assert listed(site.page("/documents?words=ministry+agency&inside=text&source=books")) == ["books:1"]
    assert "No document" in site.page("/documents?words=book&source=patents")


def test_every_document_stands_on_one_page(site: Site) -> None:
    path, found = "/documents?source=books", []
    while path:
        page = site.page(path)
        found += listed(page)
        following = NEXT.search(page)
        path = html.unescape(following[1]) if following else ""
    assert found == [f"books:{n}" for n in range(100)]


@pytest.mark.parametrize("query", [{}, {"band": "high"}, {"band": "low", "words": "leaf"}, {"trivium": "grammar"}])
def test_filters_and_order_agree_with_the_scores(layout: Layout, query: dict[str, str]) -> None:
    for order in ("lowest", "highest", "stored"):
        found = search(layout, Search.model_validate(query | {"order": order})).documents
        assert all(each.band == query.get("band", each.band) for each in found)
        assert all(each.trivium == query.get("trivium", each.trivium) for each in found)
        authorities = [each.authority for each in found]
        assert found
        assert order == "stored" or authorities == sorted(authorities, reverse=order == "highest")


def test_the_order_by_disagreement_is_that_of_the_command_line(site: Site, layout: Layout) -> None:
    told = explain(layout, "books")[1:]
    page = site.page("/documents?order=disagreement&source=books")
    assert listed(page)[0] == told[0].split()[1] == "books:1"
    for line, each in zip(told, listed(page), strict=False):
        assert line.split()[0] in page and each.startswith("books:")


def test_a_search_that_takes_long_is_gone_on_with(layout: Layout) -> None:
    wanted, steps, found = Search(words="ministry", inside="text", source="books"), 0, []
    while True:
        page = search(layout, wanted, patience_seconds=0)
        found, steps = found + page.documents, steps + 1
        if not page.after:
            break
        assert not page.complete and page.searched == 20 * steps and page.all == 100
        wanted = wanted.model_copy(update={"after": page.after})
    assert steps == 5 and [each.id for each in found] == ["books:1"]


def test_a_document_is_shown_with_the_reasons_of_its_score(site: Site, layout: Layout) -> None:
    link = re.search(r'href="(/document\?id=books%3A1&[^"]+)"', site.page("/documents?source=books"))
    link = link or re.search(r'href="(/document\?id=books:1&[^"]+)"', site.page("/documents?source=books"))
    assert link
    for path in (html.unescape(link[1]), "/document?id=books:1", "/document?id=books:1&file=elsewhere"):
        page = html.unescape(site.page(path))
        assert all(line in page for line in explain(layout, "books:1")[3:])
        assert "The ministry announced today" in page


def test_nothing_that_a_document_says_becomes_markup(site: Site) -> None:
    for path in ("/documents?words=announcement", "/document?id=books:1", "/document?id=books:2", "/mixtures/default"):
        status, page, headers = site.ask(path)
        assert status == 200 and HOSTILE[:20] in html.unescape(page)
        assert "<script>" not in page and "<img" not in page
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
    page = site.page("/documents?words=%22%3E%3Cb%3E")
    assert "<b>" not in page and '"><b>' in html.unescape(page)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example:80"},
        {"Origin": "https://attacker.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Referer": "https://attacker.example/page"},
    ],
)
def test_pages_of_other_sites_are_refused(site: Site, headers: dict[str, str]) -> None:
    assert site.ask("/documents", **headers)[0] == 403
    status, text, _ = site.ask("/talk/answer", {"run": "first", "prompt": "Why?"}, **headers)
    assert status == 403 and "side" not in json.loads(text)
    own = {"Origin": f"http://127.0.0.1:{site.port}", "Sec_Fetch_Site": "same-origin"}
    assert site.ask("/documents", **own)[0] == 200
    assert site.ask("/documents", Host=f"localhost:{site.port}")[0] == 200


def test_a_link_in_a_report_may_be_followed(site: Site) -> None:
    visit = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert site.ask("/talk?run=first", **visit)[0] == 200


def test_a_source_whose_scores_are_of_an_earlier_version_is_named_with_the_cure(site: Site) -> None:
    assert "score it again: python -m flows score-corpus --sources patents" in site.page("/documents?source=patents")
    assert "Remark" not in site.page("/documents?source=books")


def test_a_mixture_shows_shares_conflicts_side_by_side_and_lessons(site: Site) -> None:
    page = site.page("/mixtures/default")
    assert "low authority" in page and "target 25 to 30 %" in page
    conflicts = re.findall(r'<section class="conflict">(.*?)</section>', page, re.DOTALL)
    assert conflicts
    for conflict in conflicts:
        shown = [float(found) for found in re.findall(r"authority <b>([\d.]+)</b>", conflict)]
        assert shown == sorted(shown) and shown[0] < 0.3 < shown[-1]
    assert "should win" in page
    first, second = (
        set(re.findall(r"<h3>([^<]+)</h3>", site.page(f"/mixtures/default?conflicts={n}"))) for n in (0, 1)
    )
    assert first - {"Sources"} and not (first & second) - {"Sources"}


def test_base_and_adapter_answer_in_turn(site: Site, layout: Layout) -> None:
    assert all(prompt in html.unescape(site.page("/talk?run=first")) for prompt in PROMPTS)
    status, text, _ = site.ask("/talk/answer", {"run": "first", "prompt": PROMPTS[1], "max_new_tokens": 6})
    parts = [json.loads(line) for line in text.splitlines()]
    assert status == 200 and len(parts) > 4
    assert [part["side"] for part in parts] == sorted((part["side"] for part in parts), reverse=True)
    model = load_run(layout, "first")
    for side in ("base", "adapter"):
        expected = "".join(model.stream(PROMPTS[1], 6, 0.0, adapted=side == "adapter"))
        assert "".join(part["text"] for part in parts if part["side"] == side) == expected


@pytest.mark.parametrize(
    ("question", "status", "told"),
    [
        ({"run": "absent", "prompt": "Why?"}, 200, "finish it first: python -m flows train-adapter --run absent"),
        ({"run": "../first", "prompt": "Why?"}, 400, "run"),
        ({"run": "first", "prompt": ""}, 400, "prompt"),
        ({"run": "first", "prompt": "Why?", "max_new_tokens": 10**9}, 400, "2048"),
        ({"run": "first", "prompt": "x" * 70_000}, 413, "longer than"),
    ],
)
def test_a_question_that_cannot_be_asked_is_explained(site: Site, question: object, status: int, told: str) -> None:
    found, text, _ = site.ask("/talk/answer", question)
    assert found == status and told in json.loads(text)["problem"]


def test_two_runs_are_compared_and_reports_open_without_scripts(site: Site) -> None:
    page = site.page("/runs?left=first&right=second")
    assert re.search(r"validation ce</th><td>5.000 -&gt; 4.000</td><td>5.000 -&gt; 3.000</td>", page)
    assert re.search(r"max_steps</th><td>3</td><td>9</td>", page)
    assert "alpha</th>" not in page and "Perplexity, low authority</th>" in page
    status, report, headers = site.ask("/runs/first/report")
    assert status == 200 and "evaluation-digest" in report
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "sandbox" in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/runs/second/report", 404, "python -m flows evaluate-adapter --run second"),
        ("/runs/..%2Fruns/report", 404, "There is no page"),
        ("/runs?left=first&right=absent", 404, "absent holds no finished training"),
        ("/mixtures/absent", 404, "python -m flows rebalance-corpus"),
        ("/mixtures/default?lessons=-1", 404, "is not the number of a page"),
        ("/document?id=books:1000", 404, "ids look like"),
        ("/document", 404, "not a plain name"),
        ("/document?id=..:1", 404, "not a plain name"),
        ("/documents?after=x", 400, "after"),
        ("/static/../app.py", 404, "There is no page"),
        ("/nothing", 404, "There is no page /nothing."),
    ],
)
def test_what_is_not_there_is_explained(site: Site, path: str, status: int, told: str) -> None:
    found, page, _ = site.ask(path)
    assert (found, told in html.unescape(page)) == (status, True), page


def test_a_report_that_is_a_link_is_not_served(site: Site, store: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = store / "runs" / "linked" / "reports"
    folder.mkdir(parents=True)
    (folder / "report.html").symlink_to(tmp_path / "secret")
    assert site.ask("/runs/linked/report")[0] == 404


def test_an_empty_store_names_the_next_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "studio", "--store", str(tmp_path), "--port", "0"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1 and "make run" in answer.stderr and str(tmp_path) in answer.stderr


def test_without_a_store_the_one_that_make_run_filled_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTRUST_STORE", raising=False)
    with pytest.raises(StoreError, match="make run"):
        choose_store("")
    (tmp_path / "data-sandbox" / "runs" / "sandbox").mkdir(parents=True)
    assert choose_store("").root == tmp_path / "data-sandbox"
    (tmp_path / "data" / "scored" / "books").mkdir(parents=True)
    assert choose_store("").root == tmp_path / "data"
    monkeypatch.setenv("DISTRUST_STORE", str(tmp_path / "elsewhere"))
    with pytest.raises(StoreError, match="elsewhere"):
        choose_store("")


def test_a_port_that_is_taken_is_named() -> None:
    with bind(0) as taken:
        taken.listen()
        with pytest.raises(ParameterError, match=rf"port {taken.getsockname()[1]} cannot be used"):
            bind(taken.getsockname()[1])
