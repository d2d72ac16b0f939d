"""The pages held against the code: links, rows of the guide, sources, arrows, tiers and the tree."""

from __future__ import annotations

import contextlib
import html
import io
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import build_docs
from flows.arguments import FORMS
from storage import errors
from tasks.lora.memory import plan_memory, usable_bytes
from tasks.lora.presets import load_presets, resolve_model
from tasks.lora.recipe import Recipe
from tasks.sources.catalogue import load_catalogue
from tests.test_arrows import FOLDERS, ROOMS, forbidden

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
EXTERNAL = {"https://x.com/BrianRoemmele/status/1993393673451847773"}
"""Addresses outside the repository that pages link to: listed here, never asked for."""


GUIDE = tomllib.loads((ROOT / "tests/guide_rows.toml").read_text("utf-8"))
"""What the training guide speaks of: every parameter, threshold and trouble, in its words."""


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def rows(text: str) -> list[list[str]]:
    """Cells of every table row."""
    lines = [line.strip()[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def test_everything_the_guide_speaks_of_is_answered() -> None:
    table = rows(read("docs/guide.md") + read("docs/troubleshooting.md"))
    questions = read("docs/faq.md")
    found = {
        phrase: [row for row in table if any(phrase in cell for cell in row)]
        for phrases in GUIDE.values()
        for phrase in phrases
    }
    unanswered = [phrase for phrase, told in found.items() if not told and phrase not in questions]
    assert unanswered + [phrase for phrase, told in found.items() if not all(all(row[:2]) for row in told)] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    answer = subprocess.run([sys.executable, "build_docs.py", folder], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return folder


def test_the_site_has_every_page_and_asks_nothing_of_the_network(site: Path) -> None:
    index = (site / "decisions/index.html").read_text("utf-8")
    for path in DOCS.rglob("*.md"):
        assert (site / path.relative_to(DOCS).with_suffix(".html")).is_file()
        assert path.parent.name != "decisions" or path.stem == "index" or f"{path.stem}.html" in index
    pages = [page.read_text("utf-8") for page in site.rglob("*.html")]
    fetched = re.findall(r"(?:<script|<link|<img)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+", "".join(pages))
    assert not fetched, "the site needs no network"
    assert all('lang="en"' in page and "__palette" in page for page in pages), "light and dark"


def test_the_reference_has_every_option_and_the_notebook_what_it_printed(site: Path) -> None:
    def text_of(page: str) -> str:
        return html.unescape(re.sub(r"<[^>]+>", "", (site / page).read_text("utf-8")))

    shown = text_of("reference/commands.html")
    for flow, form in FORMS.items():
        part = shown.partition(f"python -m flows {flow}")[2]
        options = [
            str(getattr(info.validation_alias, "choices", [name])[0]) for name, info in form.model_fields.items()
        ]
        assert [name for name in options if f"-{name.replace('_', '-')}" not in part] == []
    assert "score_document(" in text_of("reference/python.html")
    assert "sentences speak for a maker's own report" in text_of("notebook.html")


def test_a_link_that_leads_nowhere_stops_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build_docs, "messages_page", lambda: "# Every message\n\n[gone](../nowhere.md)\n")
    assert build_docs.main(tmp_path / "site") == 1 and not (tmp_path / "site").exists()


def test_troubleshooting_knows_every_kind_of_error_and_reason_and_quotes_what_the_code_says() -> None:
    page = read("docs/troubleshooting.md")
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    raised = list(build_docs.messages())
    reasons = {text for _, kind, text in raised if kind == "ItemUnavailable" and "\N{HORIZONTAL ELLIPSIS}" not in text}
    assert {name for name in kinds | reasons if f"`{name}`" not in page} == set()
    more = ("Makefile", "flows/__main__.py", "flows/faults.py", "flows/terminal.py", "storage/own_origin.py")
    code = " ".join(text for _, _, text in raised) + "".join(map(read, (*more, "tasks/mixture/shortfall.py")))
    code = re.sub(r"\s+", " ", re.sub(r'" *\n *f?"', "", code))
    quoted = [
        span.split("\N{HORIZONTAL ELLIPSIS}")
        for span in re.findall(r"`([^`\n]*)`", page)
        if span != "http-\N{HORIZONTAL ELLIPSIS}"
    ]
    words = [part.strip(" (),'") for parts in quoted if len(parts) > 1 for part in parts]
    assert len(words) > 40 and [said for said in words if said not in code] == []


def test_the_notebook_prints_what_it_shows() -> None:
    cells = json.loads(read("docs/notebook.ipynb"))["cells"]
    space: dict[str, object] = {}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec("".join(cell["source"]), space)
        assert printed.getvalue() == "".join("".join(output["text"]) for output in cell["outputs"])


def test_links_lead_somewhere() -> None:
    assert [f"{page.relative_to(ROOT)} links to {target}" for page in PAGES for target in broken_links(page)] == []


def broken_links(page: Path) -> Iterator[str]:
    """Links of a page to what is not there, and to other sites that are not listed here."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)):
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        if target.startswith(("http://", "https://")):
            yield from [] if target in EXTERNAL else [target]
        elif name.startswith("../../actions/"):  # of the place that hosts the repository
            yield from (
                []
                if (ROOT / name.replace("../../actions", ".github").removesuffix("/badge.svg")).exists()
                else [target]
            )
        elif not file.exists():
            yield target
        elif anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            yield from [] if anchor in anchors else [target]


def test_examples_stand_on_the_page_as_they_are() -> None:
    shown = re.findall(r"<!-- file: (\S+) -->\n\n```\w+\n(.*?)```", read("docs/extending.md"), re.DOTALL)
    assert len(shown) == 4
    for name, text in shown:
        assert text == (DOCS / name).read_text("utf-8"), f"docs/{name} differs from the page"


def test_every_source_stands_with_its_licence() -> None:
    told = {row[0].split("`")[1]: row for row in rows(read("docs/sources.md")) if row[0].startswith("`")}
    catalogue = load_catalogue()
    assert set(told) == set(catalogue)
    for name, spec in catalogue.items():
        priors = f"{spec.prior_authority:.2f} / {spec.prior_entropy:.1f}"
        assert told[name][2:] == [f"{spec.target:,}", priors, spec.trivium, spec.licence, spec.note], name


def test_the_arrows_on_the_page_are_those_of_the_test() -> None:
    table = [row for row in rows(read("docs/architecture.md")) if len(row) == 3 and row[0].startswith("`")]
    modules = {"tasks/*.py": "tasks/training.py", "tasks/<room>/": "tasks/lora/x.py"}
    assert len(table) == len(ROOMS) + 1
    for origin, allowed, never in table:
        name = origin.strip("`")
        path = ROOT / modules.get(name, f"{name}/x.py")
        may = set(re.findall(r"`(\w+)`", allowed))
        not_ever = set(re.findall(r"`(\w+)`", never))
        assert not any(forbidden(path, room) for room in may - {"tasks"}), origin
        assert all(forbidden(path, "tasks.lora.x" if room == "tasks" else room) for room in not_ever), origin
        if "other rooms" in never:
            others = [folder for folder in FOLDERS if folder != "lora"]
            assert all(forbidden(path, f"tasks.{folder}.x") for folder in others), origin


def test_the_evenings_path_is_an_evening() -> None:
    path = re.findall(
        r"`([\w/]+\.py)`", read("docs/architecture.md").partition("## An evening's path")[2].partition("## ")[0]
    )
    assert len(path) > 25 and sum(map(count_lines, path)) <= 5000


def count_lines(name: str) -> int:
    """Count the lines of a module that are neither blank nor a comment; fails if it is not there."""
    lines = map(str.strip, read(name).splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)


def test_the_tiers_are_what_auto_takes() -> None:
    table = [row for row in rows(read("README.md")) if re.match(r"\d+ GB", row[0])]
    assert len(table) == len(load_presets())
    for memory, preset, _, shape, peak, limit in table:
        memory_gb = int(memory.split(" ")[0])
        recipe = resolve_model(Recipe(model="auto"), memory_gb)
        plan = plan_memory(load_presets()[recipe.model].architecture, recipe)
        assert preset == f"`{recipe.model}`"
        assert shape == f"{recipe.batch_size} x {recipe.grad_accum}"
        assert peak == f"{plan.total / 1e9:.1f} GB" and limit == f"{usable_bytes(memory_gb) / 1e9:.0f} GB"


def test_the_tree_names_every_file_and_folder() -> None:
    tree = read("README.md").partition("## The tree")[2].partition("## ")[0]
    listed = set(re.findall(r"^ *([\w.]+)/? {2,}", tree, re.MULTILINE))
    answer = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    top = {name.split("/")[0] for name in answer.stdout.splitlines() if not name.startswith(".")}
    gone = listed - top - set(FOLDERS)
    assert top <= listed, f"the README's tree lacks {sorted(top - listed)}"
    assert not gone, f"the README's tree names {sorted(gone)}, which is not there"


@pytest.mark.parametrize("page", ["docs/promises.md", "docs/architecture.md"])
def test_a_page_names_files_that_are_there(page: str) -> None:
    gone, folder = [], ROOT
    for name in re.findall(r"`([\w/]+\.(?:py|toml))`", read(page)):
        path = ROOT / name if "/" in name else folder / name  # a bare name is in the folder of the one before
        folder = path.parent
        gone += [] if path.is_file() else [name]
    assert gone == []


def test_pictures_are_small_and_used() -> None:
    pictures = sorted((DOCS / "pictures").iterdir())
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert all(path.stat().st_size < 150_000 and path.name in text for path in pictures)
    assert sum(path.stat().st_size for path in pictures) < 1_000_000
