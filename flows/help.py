"""``--help`` of a flow, and what ``python -m flows`` alone says: what is in this store, and what to type next."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flows.groups import grouped
from storage.layout import Layout
from storage.training_result import RESULT

COMMAND = "python -m flows"
WIDEST = 100
COLUMN = 30
MOST_NAMES = 5

EXAMPLES: dict[str, dict[str, str]] = {
    "download-corpus": {
        "--dry-run": "how much there is, and how long it takes",
        "--path ~/letters": "only your own documents",
        "--sources wikipedia,us_patents --max-samples 1000": "some of two sources",
    },
    "score-corpus": {
        "": "every downloaded document",
        "--explain wikipedia": "which documents disagree most with their label",
    },
    "rebalance-corpus": {
        "": "the method's mixture, or the largest that the corpus allows",
        "--mixture old --last-year 1969 --accept-imbalance": "only old documents",
    },
    "train-adapter": {
        "--model auto --plan": "does it fit this machine?",
        "--model auto --max-steps 10000": "train, or go on with an interrupted training",
        "--recipe mac-32gb": "by a recipe of the gallery",
    },
    "evaluate-adapter": {
        "": "the run named distrust",
        "--others checkpoint-500,other-run": "several adapters on the same questions",
    },
    "export-model": {
        "--quantize 4bit": "for MLX and LM Studio",
        "--ollama": "for Ollama, and llama.cpp",
    },
    "corpus-to-model": {
        "--recipe first-try": "some hours, to see it work on real texts",
        "--path ~/letters --max-steps 1000": "a model of your own documents",
        "--recipe mac-32gb": "the real thing, on a Mac with 32 GB",
    },
    "compare-recipes": {
        "--recipe ablation": "the objective against its control",
        "--alphas 2.5,2.9 --max-steps 2000": "two strengths",
    },
    "check-setup": {
        "": "is everything there?",
        "--load-model mistral-7b-test": "load a model as well",
        "--fix": "mend what can be mended",
    },
    "prune-store": {
        "": "what could be removed",
        "--no-dry-run --keep-checkpoints 1": "remove it",
    },
}
"""What may be typed after the name of each flow, and what it is for."""


def help_of(flow: str, form: type[BaseModel], description: str) -> str:
    """Write the help of a flow: examples, the essential options, then every other one in its group."""
    width = min(WIDEST, shutil.get_terminal_size().columns)
    lines = [f"usage: {COMMAND} {flow} [options]", "", f"{description[0].upper()}{description[1:]}.", "", "Examples:"]
    for words, aim in EXAMPLES[flow].items():
        lines += [f"  # {aim}", f"  {COMMAND} {flow} {words}".rstrip()]
    for group, names in grouped(flow, form.model_fields):
        lines += ["", f"{group}:"]
        for name in names:
            lines += option_lines(name, form.model_fields[name], width)
    lines += ["", "Always:", *two_columns("--json", "Print the result as JSON, last.", width)]
    return "\n".join([*lines, *two_columns("--help, -h", "Show this.", width)])


def option_lines(field: str, info: FieldInfo, width: int) -> list[str]:
    """Write one option: how it is spelt, what it does, its bounds and its default."""
    spelled = str(getattr(info.validation_alias, "choices", [field])[0]).replace("_", "-")
    kind, default = value_of(info.annotation), info.get_default(call_default_factory=True)
    is_switch = info.annotation is bool
    known = [bounds(info)]
    if is_switch:
        spelled = f"no-{spelled}" if default else spelled
        known.append(f"on unless --{spelled}" if default else "")
    elif default not in (None, "", [], ()):
        many = isinstance(default, list | tuple)
        known.append(f"default {','.join(map(str, default)) if many else default}")
    if notes := "; ".join(filter(None, known)):
        notes = f" [{notes}]"
    left = f"--{spelled}" if is_switch else f"--{spelled} {kind}"
    return two_columns(left, f"{info.description}{notes}", width)


def two_columns(left: str, right: str, width: int) -> list[str]:
    """Set a name and its explanation side by side; a long name has a line of its own."""
    indented = " " * (COLUMN + 2)
    text = textwrap.wrap(right, max(30, width - COLUMN - 2), break_on_hyphens=False, break_long_words=False)
    if len(left) >= COLUMN:
        return [f"  {left}", *(indented + line for line in text)]
    return [f"  {left:<{COLUMN}}{text[0]}", *(indented + line for line in text[1:])]


def value_of(annotation: Any) -> str:
    """Say what stands after an option."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not NoneType)
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (list, tuple):
        part = value_of(get_args(annotation)[0])
        return f"{part},..." if len(part) < COLUMN else "NAME,..."
    return {int: "N", float: "X", bool: "true|false"}.get(annotation, "TEXT")


def bounds(info: FieldInfo) -> str:
    """Say between which values a number lies."""
    found: dict[str, Any] = {}
    for part in info.metadata:
        found |= {name: getattr(part, name) for name in ("ge", "gt", "le", "lt") if hasattr(part, name)}
    low = f"{found['ge']:,}" if "ge" in found else f"above {found['gt']:,}" if "gt" in found else ""
    high = f"{found['le']:,}" if "le" in found else ""
    return f"{low} to {high}" if low and high else f"at least {low}" if "ge" in found else low or high


def overview(layout: Layout | None, named: str) -> str:
    """Say what a store holds and what to type next."""
    if layout is None:
        return f"The store is {named or 'named by a saved block or a bucket'}; its flows say what it holds."
    rows = {
        "downloaded": layout.completed("raw"),
        "scored": layout.completed("scored"),
        "mixtures": layout.completed("balanced"),
        "trained runs": _below(layout, f"runs/*/{RESULT}"),
        "reports": _below(layout, "runs/*/reports/report.html", 2),
        "exports": _below(layout, "exports/*/export.json"),
    }
    lines = [f"Store {layout.root}"]
    for what, names in rows.items():
        more = " ..." if len(names) > MOST_NAMES else ""
        lines += [f"  {what:<13} {len(names):>3}  {', '.join(names[:MOST_NAMES])}{more}"] if names else []
    return "\n".join([*lines, *([] if len(lines) > 1 else ["  is empty."]), "", "Next:", *next_steps(layout)])


def _below(layout: Layout, pattern: str, depth: int = 1) -> list[str]:
    return sorted(path.parents[depth - 1].name for path in layout.root.glob(pattern))


def next_steps(layout: Layout) -> Iterator[str]:
    """Name the command that goes on from what a store holds, and what it does."""
    raw, scored, mixtures = (layout.completed(stage) for stage in ("raw", "scored", "balanced"))
    begun = [path.parent.name for path in layout.root.glob("runs/*/train.json")]
    trained = _below(layout, f"runs/*/{RESULT}")
    unfinished = sorted(set(begun) - set(trained))
    unread = sorted(set(trained) - set(_below(layout, "runs/*/reports/report.html", 2)))
    steps: dict[str, str] = {}
    if not raw:
        steps["check-setup"] = "is everything there?"
        steps["corpus-to-model --recipe first-try"] = "everything once, in some hours"
        steps["corpus-to-model --path DIR"] = "a model of your own documents: any files, in any folder"
        steps["download-corpus --dry-run"] = "what the real download takes"
    elif set(raw) - set(scored):
        left = len(set(raw) - set(scored))
        steps["score-corpus"] = "1 source is not scored yet" if left == 1 else f"{left} sources are not scored yet"
    elif not mixtures:
        steps["rebalance-corpus"] = "draw a mixture from the scored documents"
    elif unfinished:
        steps[f"train-adapter --run {unfinished[0]}"] = "go on with this training; give it the options it had"
    elif not trained:
        mixture = "" if "default" in mixtures else f" --mixture {mixtures[0]}"
        steps[f"train-adapter --model auto{mixture} --plan"] = "does it fit? without --plan, train"
    elif unread:
        steps[f"evaluate-adapter --run {unread[0]}"] = "what did the training change?"
    else:
        steps[f"try-model --run {trained[-1]}"] = "talk to base and adapter"
        steps[f"export-model --run {trained[-1]}"] = "save a model that other programs open"
    width = max(map(len, steps))
    yield from (f"  {COMMAND} {command:<{width}}  # {aim}" for command, aim in steps.items())
