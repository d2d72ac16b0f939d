"""What the site builds from the files themselves, so that no page has to be kept in step by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LINK_OUT = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!decisions/|pictures/)[^)]*\)")
"""A link to a file of the repository that is no page: it works there, and has no target on the site."""


def on_config(config: Any) -> Any:
    """Complete the navigation by every decision."""
    decisions = next(entry["Decisions"] for entry in config.nav if "Decisions" in entry)
    decisions += [f"decisions/{path.name}" for path in numbered_decisions(Path(config.docs_dir))]
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """List every decision on their index; a link out of ``docs`` becomes the name it shows."""
    markdown = LINK_OUT.sub(r"\1", markdown)
    if page.file.src_uri != "decisions/index.md":
        return markdown
    rows = [f"- [{title_of(path)}]({path.name})" for path in numbered_decisions(Path(config.docs_dir))]
    return "\n".join([markdown, *rows, ""])


def numbered_decisions(docs: Path) -> list[Path]:
    """All decisions in the order of their numbers."""
    return sorted((docs / "decisions").glob("[0-9]*.md"))


def title_of(path: Path) -> str:
    """The first heading of a page."""
    return path.read_text("utf-8").partition("\n")[0].removeprefix("# ")
