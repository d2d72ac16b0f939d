"""``python build_docs.py FOLDER``: put the pages of docs/ and those made of the code together, and build the site.

It stops at a link that leads nowhere. The site asks nothing of the network; its search wants to be served:
``python -m http.server --directory FOLDER``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
DOCS = ROOT / "docs"
LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]*)[^)]*\)")
PYTHON = {
    "Where things are": ("storage.layout", "storage.manifest", "storage.parquet"),
    "Scores": ("tasks.signals.reference", "tasks.signals.explain", "tasks.signals.shards"),
    "Mixtures": ("tasks.mixture.parameters", "tasks.mixture.build", "tasks.mixture.report"),
    "Training": ("tasks.lora.recipe", "tasks.lora.memory", "tasks.lora.loss"),
    "Evaluation and export": ("tasks.evals.model_under_test", "tasks.evals.results", "tasks.exports.parameters"),
    "Errors": ("storage.errors",),
}
"""The modules whose functions a script or notebook calls; none of them knows Prefect."""
CODE = ("flows", "tasks", "storage", "blocks", "deployments", "sandbox")
ROOMS = {
    "tasks/sources": "Downloads and your own documents",
    "tasks/signals": "Scores",
    "tasks/mixture": "Mixtures",
    "tasks/lora": "Training",
    "tasks/evals": "Evaluation",
    "tasks/exports": "Export and serving",
    "deployments": "Server and workers",
    "storage": "The store and its files",
    "sandbox": "The sandbox",
}


def main(destination: Path) -> int:
    """Build the site in a folder, which is replaced only if everything is well."""
    with tempfile.TemporaryDirectory() as work:
        write_pages(Path(work) / "docs")
        shutil.copy(ROOT / "zensical.toml", work)
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        built = subprocess.run(command, cwd=work, capture_output=True, text=True)
        if built.returncode or "Warning" in built.stderr:
            sys.stderr.write(built.stdout + built.stderr)
            return 1
        if gone := list(dead_links(Path(work) / "site")):
            print("\n".join(gone), file=sys.stderr)
            return 1
        shutil.rmtree(destination, ignore_errors=True)
        shutil.copytree(Path(work) / "site", destination)
    return 0


def write_pages(folder: Path) -> None:
    """Write every page of the site in Markdown."""
    shutil.copytree(DOCS, folder, ignore=shutil.ignore_patterns("examples", "__pycache__", "*.ipynb"))
    (folder / "reference").mkdir()
    made = {
        "reference/commands.md": commands_page(),
        "reference/python.md": python_page(),
        "reference/messages.md": messages_page(),
    } | {f"{notebook.stem}.md": notebook_page(notebook) for notebook in DOCS.glob("*.ipynb")}
    for name, text in made.items():
        (folder / name).write_text(text, "utf-8")
    for page in folder.rglob("*.md"):
        text = LINK.sub(partial(inside, page=page, folder=folder), page.read_text("utf-8"))
        page.write_text(text.replace(".ipynb)", ".md)"), "utf-8")
    decisions = folder / "decisions"
    rows = [f"- [{title_of(page)}]({page.name})" for page in sorted(decisions.glob("[0-9]*.md"))]
    with (decisions / "index.md").open("a", encoding="utf-8") as index:
        index.write("\n".join(["", *rows, ""]))


def inside(link: re.Match[str], page: Path, folder: Path) -> str:
    """A link, or only its words where it leads to a file of the repository that is no page of the site."""
    leads_to = (page.parent / link[2]).resolve()
    return link[0] if leads_to.is_relative_to(folder.resolve()) else link[1]


def dead_links(site: Path) -> Iterator[str]:
    """Addresses on the pages behind which the site has no file; Zensical checks those of pages, not of pictures."""
    for page in site.rglob("*.html"):
        for address in re.findall(r'(?:href|src)="([^"#?:]+)[#?"]', page.read_text("utf-8")):
            if page.name != "404.html" and not (page.parent / address).exists():
                yield f"{page.relative_to(site)} links to {address}, which is not there"


def title_of(page: Path) -> str:
    """The first heading of a page."""
    return page.read_text("utf-8").partition("\n")[0].removeprefix("# ")


def cell(text: str) -> str:
    """A text as it may stand in a table: Markdown's own marks mean themselves."""
    parts = " ".join(text.split()).split("`")
    parts[::2] = [re.sub(r"([*_<>\[\]#])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts).replace("|", "\\|")


def commands_page() -> str:
    """Every option of every flow, from the parameter models that also make the forms and ``--help``."""
    from flows.arguments import FLOWS, FORMS
    from flows.groups import grouped
    from flows.help import COMMAND, EXAMPLES

    lines = [
        "# Every command",
        "",
        f"`{COMMAND} NAME --help` shows the same. Names and values are those of the UI.",
        "",
    ]
    for flow, description in FLOWS.items():
        lines += [f"## {flow}", "", f"{description[0].upper()}{description[1:]}.", "", "```bash"]
        lines += [f"{COMMAND} {flow} {words}".strip() + f"  # {aim}" for words, aim in EXAMPLES[flow].items()]
        lines += ["```", ""]
        for group, names in grouped(flow, FORMS[flow].model_fields):
            lines += [f"**{group}**", "", "| option | what it does |", "|---|---|"]
            lines += [option_row(name, FORMS[flow].model_fields[name]) for name in names]
            lines += [""]
    return "\n".join(lines)


def option_row(name: str, info: Any) -> str:
    """One option as a row."""
    from flows.help import option_lines

    first, *rest = option_lines(name, info, 10_000)
    option, _, text = first.strip().partition("  ")
    return f"| `{option}` | {cell(text or ' '.join(rest))} |".replace("|N", "\\|N")


def python_page() -> str:
    """The functions and classes that a script may call."""
    lines = [
        "# Python",
        "",
        "Every command is also an asynchronous function with the same options as keywords: "
        "`from flows.score_corpus import score_corpus`, then `await score_corpus(store='data')`. It needs a Prefect "
        "server as the command does. What follows runs without one; [the notebook](../notebook.md) uses some of it.",
        "",
    ]
    for title, modules in PYTHON.items():
        lines += [f"## {title}", ""]
        for name in modules:
            module = importlib.import_module(name)
            lines += [f"### {name}", "", inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0], ""]
            for part in vars(module).values():
                is_code = inspect.isfunction(part) or inspect.isclass(part)
                if is_code and part.__module__ == name and part.__doc__ and not part.__name__.startswith("_"):
                    lines += described(part)
    return "\n".join(lines)


def described(part: Any) -> Iterator[str]:
    """One function or class: how it is called, and its docstring."""
    fields = getattr(part, "model_fields", None)
    if fields is not None:
        inner = [f"{name}: {inspect.formatannotation(info.annotation)}" for name, info in fields.items()]
        answer = ""
    elif inspect.isclass(part) and issubclass(part, Exception):
        inner, answer = [], ""
    else:
        signature = re.sub(r"(: |-> )'([^']+)'", r"\1\2", str(inspect.signature(part)))
        inside, _, answer = signature.removeprefix("(").rpartition(")")
        inner = re.split(r", (?=\w+:|\*)", inside) if inside else []
    called = f"{'class ' if inspect.isclass(part) else ''}{part.__name__}"
    short = f"{called}({', '.join(inner)}){answer}"
    text = re.sub(r"``?", "`", inspect.getdoc(part) or "")
    text = re.sub(r"^(Args|Returns|Raises|Attributes):$", r"\n*\1*\n", text, flags=re.MULTILINE)
    text = re.sub(r"^ {4}(\w+): ", r"- `\1`: ", text, flags=re.MULTILINE)
    yield from ("```python", short if len(short) < 90 else f"{called}(\n    " + ",\n    ".join(inner) + f",\n){answer}")
    yield from ("```", "", re.sub(r"^ {2,}", "  ", text, flags=re.MULTILINE), "")


def messages() -> Iterator[tuple[str, str, str]]:
    """Every message that the code raises on purpose: its file, the class, and the text with … for each value."""
    from storage import errors

    own = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in own and node.args:
                text = template(node.args[0])
                if re.search(r"\w", text):
                    yield str(path.relative_to(ROOT)), node.func.id, text  # type: ignore[attr-defined]


def template(node: ast.expr) -> str:
    """A message as it stands in the code, with … where a value will be."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(template, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return "…"


def messages_page() -> str:
    """Every message by what it is about: what happened, then what to do."""
    lines = [
        "# Every message",
        "",
        "Made from the code: each error that the project raises on purpose, with … for its values. Look for words of "
        "yours. [Troubleshooting](../troubleshooting.md) begins with what you see, and says what each kind means.",
    ]
    found: dict[str, dict[str, str]] = {}
    for path, kind, text in messages():
        if kind == "ItemUnavailable":
            continue  # a reject's reason, explained in Troubleshooting
        room = next((title for folder, title in ROOMS.items() if path.startswith(folder)), "Runs and their options")
        found.setdefault(room, {})[text] = kind
    for room, texts in sorted(found.items()):
        lines += ["", f"## {room}", "", "| what happened | what to do | kind |", "|---|---|---|"]
        for text, kind in sorted(texts.items(), key=lambda entry: entry[0].lstrip("… ").lower()):
            happened, _, cure = text.partition("; ")
            if re.search(r"\w", happened):
                lines.append(f"| {cell(happened)} | {cell(cure)} | {kind} |")
    return "\n".join([*lines, ""])


def notebook_page(path: Path) -> str:
    """A notebook as a page: its texts, its code, and what the code printed when it was last run."""
    lines = []
    for part in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(part["source"])
        if part["cell_type"] == "markdown":
            lines += [source, ""]
            continue
        lines += ["```python", source, "```", ""]
        printed = "".join("".join(output.get("text", [])) for output in part["outputs"])
        lines += ["```text", printed.rstrip(), "```", ""] if printed else []
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
