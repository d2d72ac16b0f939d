"""The model card: a README whose front matter the hubs read, written from what the run recorded.

The same inputs give the same text, so a card that differs means that something was recorded since.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storage.manifest import read_manifest
from storage.markdown import cell, table
from storage.model_folder import read_adapter
from storage.training_result import RESULT, RUN
from storage.vocabulary import BANDS, HIGH_ABOVE, LOW_BELOW, TRIVIA
from tasks.exports.export_manifest import ExportManifest, read_if_present
from tasks.exports.parameters import ExportRequest

HUB_IDENTIFIER = re.compile(r"^[\w.-]+/[\w.-]+$")
LICENCE_LINE = re.compile(r"^license:\s*[\"']?([\w.+-]+)[\"']?\s*$", re.MULTILINE)
MOST_LICENCES = 4
MOST_CHARACTERS = 1 << 20
GONE = "## Training data\n\nThe mixture that was trained on was no longer on disk when this card was written."
LIMITS = """## Limits

- A preference for primary sources is a preference about voice and provenance. It makes no answer true, and old
  sources carry the errors and prejudices of their time.
- Authority and entropy are estimated from text and metadata by fixed rules; they do not judge a single document.
- The model may present invented measurements or documents in the voice of a record. Check what matters.
- Not meant for medical, legal or safety decisions."""


def write_card(request: ExportRequest, manifest: ExportManifest) -> str:
    """Write the card as Markdown with YAML front matter.

    Raises:
        StoreError: A record of the run is damaged.
    """
    run = read_if_present(request.run_folder / RUN)
    evaluation = read_if_present(request.reports_folder / "evaluation_results.json")
    base, licence = base_name(request.run_folder), licence_of_base(request.model_path)
    sections = [
        _front_matter(base, licence, manifest.quantized),
        _introduction(base, licence, manifest.name, run.get("recipe")),
        _usage(manifest.name),
        _data(request.balanced_folder, run.get("mixture_digest")),
        _recipe(request, run),
        _evaluation(evaluation, request.adapter.name),
        _fidelity(manifest),
        LIMITS,
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


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


def _front_matter(base: str, licence: str | None, quantized: bool) -> str:
    """Write the block that model hubs read; JSON values are valid YAML and need no quoting rules."""
    fields = {
        "base_model": base,
        "base_model_relation": "finetune",
        "library_name": "mlx",
        "license": licence or "unknown",
        "pipeline_tag": "text-generation",
        "tags": ["mlx", "lora", "empirical-distrust", *(["quantized"] if quantized else [])],
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _introduction(base: str, licence: str | None, name: str, recipe: Any) -> str:
    states = (
        f"The base model's card states the licence `{licence}`."
        if licence
        else "The base model's folder states no licence; look it up before you pass this model on."
    )
    return f"# {name}\n\n{cell(base)} with a LoRA adapter fused in. {_purpose(recipe)} {states}"


def _purpose(recipe: Any) -> str:
    """Say what a recipe trains an adapter to do; the control recipes prefer nothing."""
    if not isinstance(recipe, dict):
        return "What the adapter was trained for was not recorded."
    additive = recipe.get("objective") == "additive"
    if additive or 0 in (recipe.get("lambda_weight"), recipe.get("tau")) or recipe.get("weight_cap") == 1:
        return (
            "The adapter was trained with plain cross-entropy, in which every token counts alike: "
            "neither authority nor provenance entropy had a say in its loss."
        )
    return (
        "The adapter was trained to give more weight to text\nof low authority and high provenance entropy (primary "
        "sources) than to text of high authority and low entropy\n(coordinated sources)."
    )


def _usage(name: str) -> str:
    return f"""## Use

```python
from mlx_lm import generate, load

model, tokenizer = load("{name}")
prompt = "User: What do the records say about the first telephone?\\n\\nAssistant:"
print(generate(model, tokenizer, prompt, max_tokens=200))
```

LM Studio opens the same folder from its models folder, two levels deep: `<publisher>/{name}`.
A `.gguf` file, if there is one, opens in llama.cpp, LM Studio and Ollama; a folder `peft` holds the adapter alone.
The model was trained on the layout `User: …`, blank line, `Assistant: …`; other prompt layouts work less well."""


def _data(balanced: Path, digest: str | None) -> str:
    """Tabulate authority, trivium, sources and licences of the training samples, if that mixture is still on disk.

    Args:
        balanced: The folder of the mixture.
        digest: Of the mixture that was trained on; none: not recorded.
    """
    import polars as pl

    manifest = read_manifest(balanced)
    files = sorted((balanced / "train").glob("*.parquet"))
    if (manifest is not None and digest not in (None, manifest.digest)) or not files:
        return GONE
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
        return GONE

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
    return "\n\n".join([f"## Training data\n\n{samples:,} samples.", *tables])


def _recipe(request: ExportRequest, run: dict[str, Any]) -> str:
    """Tabulate how the adapter was trained."""
    recipe, adapter = run.get("recipe"), read_adapter(request.adapter).get("lora_parameters")
    steps = read_if_present(request.run_folder / RESULT).get("steps")
    rows = [("adapter", request.adapter.name), ("optimiser steps of the run", steps)]
    rows += [(key, run.get(key)) for key in ("mixture_digest", "Z", "effective_sample_share", "tokens")]
    rows += sorted(recipe.items()) if isinstance(recipe, dict) else []
    rows += [(f"adapter {key}", value) for key, value in sorted(adapter.items())] if isinstance(adapter, dict) else []
    shown = [[name, _show(value)] for name, value in rows if value is not None and name != "model"]
    return f"""## Recipe

With d = ln(1 - authority + 1e-8) + entropy, the published term is alpha d². The `weighted` objective multiplies
each sample's cross-entropy with 1 + lambda alpha max(d, 1.3026)²; `additive` adds the term to the loss and thereby
trains exactly as plain cross-entropy does.

{table(["setting", "value"], shown)}"""


def _evaluation(evaluation: dict[str, Any], checkpoint: str) -> str:
    """Tabulate every metric of this adapter that was recorded with an error."""
    evaluated = evaluation.get("adapter")
    if isinstance(evaluated, str) and evaluated != checkpoint:
        return f"## Evaluation\n\nThe run's evaluation is of {cell(evaluated)}, not of this adapter."
    rows = list(metric_rows(evaluation))
    if not rows:
        return "## Evaluation\n\nNo evaluation was recorded for this run when this card was written."
    head = ["metric", "value", "standard error", "95 % interval", "samples"]
    return f"## Evaluation\n\n`base` is the model before, `adapter` this one.\n\n{table(head, rows)}"


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


def _fidelity(manifest: ExportManifest) -> str:
    """Say how close the exported weights are to base and adapter."""
    head = f"## Fidelity\n\n{manifest.precision}".strip()
    if manifest.verification is None:
        return (
            f"{head}\n\nThe export was not compared with base and adapter: the model does not fit the memory of "
            "the machine that exported it."
        )
    measured = manifest.verification
    note = " Quantised weights lose part of a small adapter; base and adapter side by side stay the faithful form."
    return (
        f"{head}\n\nOn {measured.tokens} tokens the exported model ranks the same token first as base and "
        f"adapter in {_percent(measured.top1_agreement)} of the positions; the logits differ by at most "
        f"{_show(measured.max_logit_difference)}.{note if manifest.quantized else ''}"
    )


def _show(value: Any) -> str:
    """Write a value for a person: four significant digits for fractions, JSON for containers."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
