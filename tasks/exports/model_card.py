"""The model card: a README whose front matter the hubs read, written from what the run recorded.

The same inputs give the same text, so a card that differs means that something was recorded since.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from storage.manifest import read_manifest
from storage.markdown import cell, table
from storage.model_folder import read_adapter
from storage.training_result import RESULT, RUN
from storage.vocabulary import BANDS, HIGH_ABOVE, LOW_BELOW, TRIVIA
from tasks.exports.export_manifest import ExportManifest, read_if_present
from tasks.exports.parameters import ExportRequest

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
HUB_IDENTIFIER = re.compile(r"^[\w.-]+/[\w.-]+$")
LICENCE_LINE = re.compile(r"^license:\s*[\"']?([\w.+-]+)[\"']?\s*$", re.MULTILINE)
MOST_LICENCES = 4
MOST_CHARACTERS = 1 << 20
METRIC_COLUMNS = ("metric", "value", "standard error", "95 % interval", "samples")


def write_card(request: ExportRequest, manifest: ExportManifest) -> str:
    """Write the card as Markdown with YAML front matter; StoreError if a record of the run is damaged."""
    from jinja2 import Environment, StrictUndefined, select_autoescape

    run = read_if_present(request.run_folder / RUN)
    evaluation = read_if_present(request.reports_folder / "evaluation_results.json")
    evaluated = evaluation.get("adapter")
    # The card is Markdown, not HTML.
    environment = Environment(undefined=StrictUndefined, autoescape=select_autoescape(default_for_string=False))
    environment.filters |= {"cell": cell, "percent": _percent, "show": _show, "tojson": _show_json}
    repetition = evaluation.pop("repetition", None)
    rows = list(metric_rows(evaluation))
    return (
        environment.from_string(TEMPLATE.read_text("utf-8")).render(
            manifest=manifest,
            measured=manifest.verification,
            templated=manifest.layout.startswith("template"),
            base=base_name(request.run_folder),
            licence=licence_of_base(request.model_path),
            weighted=_is_weighted(run.get("recipe")),
            data=_data(request.balanced_folder, run.get("mixture_digest")),
            settings=table(["setting", "value"], _settings(request, run)),
            evaluated=evaluated if isinstance(evaluated, str) and evaluated != request.adapter.name else None,
            metrics=table(METRIC_COLUMNS, rows) if rows else None,
            repetition=_repetition(repetition),
        )
        + "\n"
    )


def base_name(run_folder: Path) -> str:
    """Name the base model of a run: its hub identifier, or the last part of a local folder."""
    run = read_if_present(run_folder / RUN)
    name = str(run.get("model") or run.get("model_path") or "unknown")
    return name if HUB_IDENTIFIER.match(name) and not name.startswith(".") else Path(name).name


def licence_of_base(base: Path) -> str | None:
    """Return the licence identifier that the base model's own card states."""
    try:
        with (base / "README.md").open(
            encoding="utf-8"
        ) as card:  # anybody may have written it: its beginning is enough
            text = card.read(MOST_CHARACTERS)
    except (OSError, UnicodeDecodeError):
        return None
    front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") >= 2 else ""
    found = LICENCE_LINE.search(front)
    return found.group(1) if found else None


def _data(balanced: Path, digest: object) -> str | None:
    """Tabulate authority, trivium, sources and licences of the training samples, none if that mixture is gone."""
    import polars as pl

    manifest = read_manifest(balanced)
    files = sorted((balanced / "train").glob("*.parquet"))
    if (manifest is not None and digest not in (None, manifest.digest)) or not files:
        return None
    authority = pl.col("auth_weight").cast(pl.Float64)
    low_or_high = pl.when(authority < LOW_BELOW).then(pl.lit("low")).when(authority > HIGH_ABOVE).then(pl.lit("high"))
    licence = pl.col("metadata").str.json_path_match("$.licence").str.strip_chars().replace("", None)
    counts = (
        pl.scan_parquet(files)
        .group_by(
            "source",
            authority=low_or_high.otherwise(pl.lit("medium")),
            trivium=pl.col("trivium_category"),
            licence=licence.fill_null("not stated"),
        )
        .agg(samples=pl.len(), authority_sum=authority.sum())
        .collect(engine="streaming")
    )
    samples = counts["samples"].sum()
    if not samples:
        return None

    def fractions(column: str, names: tuple[str, ...]) -> str:
        found = dict(counts.group_by(column).agg(pl.sum("samples")).iter_rows())
        return table([column, "share"], [[name, _percent(found.get(name, 0) / samples)] for name in names])

    rows = []
    sources = counts.group_by("source").agg(pl.sum("samples", "authority_sum"))
    for source, count, total in sources.sort("samples", "source", descending=[True, False]).iter_rows():
        of_source = counts.filter(pl.col("source") == source).group_by("licence").agg(pl.sum("samples"))
        licences = of_source.sort("samples", "licence", descending=[True, False])["licence"].to_list()
        rest = len(licences) - MOST_LICENCES
        shown = "; ".join(licences[:MOST_LICENCES]) + (f"; {rest} more" if rest > 0 else "")
        rows.append([source, f"{count:,}", f"{total / count:.2f}", shown])
    tables = [
        fractions("authority", BANDS),
        fractions("trivium", TRIVIA),
        table(["source", "samples", "mean authority", "licences"], rows),
    ]
    return "\n\n".join([f"{samples:,} samples.", *tables])


def _is_weighted(recipe: Any) -> bool | None:
    """Tell whether a recipe prefers primary sources, as the control recipes do not; none if it was not recorded."""
    if not isinstance(recipe, dict):
        return None
    switched_off = 0 in (recipe.get("lambda_weight"), recipe.get("tau")) or recipe.get("weight_cap") == 1
    return recipe.get("objective") != "additive" and not switched_off


def _settings(request: ExportRequest, run: dict[str, object]) -> list[tuple[str, str]]:
    """List how the adapter was trained."""
    recipe, adapter = run.get("recipe"), read_adapter(request.adapter).get("lora_parameters")
    steps = read_if_present(request.run_folder / RESULT).get("steps")
    rows = [("adapter", request.adapter.name), ("optimiser steps of the run", steps)]
    rows += [(key, run.get(key)) for key in ("mixture_digest", "Z", "effective_sample_share", "tokens")]
    rows += sorted(recipe.items()) if isinstance(recipe, dict) else []
    rows += [(f"adapter {key}", value) for key, value in sorted(adapter.items())] if isinstance(adapter, dict) else []
    return [(name, _show(value)) for name, value in rows if value is not None and name != "model"]


def metric_rows(value: Any, path: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """Find the records that carry a ``standard_error`` in a nested result; yield those that were measured."""
    if isinstance(value, dict) and "standard_error" in value:
        if (number := value.get("value", value.get("share"))) is not None:
            low, high, error = (value.get(name) for name in ("low", "high", "standard_error"))
            interval = "" if low is None or high is None else f"{_show(low)} to {_show(high)}"
            shown = "" if error is None else _show(error)
            yield [" / ".join(path), _show(number), shown, interval, _show(value.get("samples", ""))]
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from metric_rows(inner, (*path, str(key)))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            name = inner.get("name", place) if isinstance(inner, dict) else place
            yield from metric_rows(inner, (*path, str(name)))


def _repetition(found: Any) -> str | None:
    """Tabulate how copies sway both models: over all facts, and by who publishes the copies; none if not measured."""
    if not isinstance(found, dict):
        return None
    rows, shifts = [], []
    for who, part in [("all", found), *found["publishers"].items()]:
        curves = part["base"]["curve"], part["adapter"]["curve"]
        rows += [
            [who, copies, *(_interval(curve[copies][name]) for name in ("probability", "log_odds") for curve in curves)]
            for copies in curves[0]
        ]
        shift = (part["base"]["shift"], part["adapter"]["shift"], part["removed"])
        shifts.append([who, str(part["facts"]), *map(_interval, shift)])
    head = ["copies by", "copies", "base", "adapter", "base, log-odds", "adapter, log-odds"]
    return "\n\n".join(
        [table(head, rows), table(["copies by", "facts", "base's shift", "adapter's shift", "taken away"], shifts)]
    )


def _interval(found: Mapping[str, float | None]) -> str:
    """Write an estimate with its 95 % interval."""
    value, low, high = (found.get(name) for name in ("value", "low", "high"))
    if value is None:
        return "not measured"
    return f"{value:.2f}" + ("" if low is None or high is None else f" ({low:.2f} to {high:.2f})")


def _show(value: Any) -> str:
    """Write a value for a person: four significant digits for fractions, JSON for containers."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else _show_json(value)


def _show_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
