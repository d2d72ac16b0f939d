"""The model card: a README whose front matter the hubs read, written from what the run recorded.

The same inputs give the same text, so a card that differs means that something was recorded since.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.exports.manifest import ExportManifest
from tasks.exports.training_data import TrainingData

HUB_IDENTIFIER = re.compile(r"^[\w.-]+/[\w.-]+$")
LICENCE_LINE = re.compile(r"^license:\s*[\"']?([\w.+-]+)[\"']?\s*$", re.MULTILINE)
MAX_LICENCES = 4
MOST_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class CardContent:
    """Everything that a card is written from."""

    run: dict[str, Any]
    """``run.json`` of the training run."""
    result: dict[str, Any]
    """``result.json`` of the training run."""
    checkpoint: str
    """Name of the adapter's folder."""
    adapter: dict[str, Any]
    """``adapter_config.json``."""
    evaluation: dict[str, Any]
    """``evaluation_results.json``; empty if the run was not evaluated."""
    data: TrainingData
    base_licence: str | None
    manifest: ExportManifest


def base_name(run: dict[str, Any]) -> str:
    """Name the base model: its hub identifier, or the last part of a local folder."""
    name = str(run.get("model") or run.get("model_path") or "unknown")
    return name if HUB_IDENTIFIER.match(name) and not name.startswith(".") else Path(name).name


def licence_of_base(base: Path) -> str | None:
    """Return the licence identifier that the base model's own card states."""
    try:
        with (base / "README.md").open(encoding="utf-8") as card:  # somebody else's file: its beginning is enough
            text = card.read(MOST_CHARACTERS)
    except (OSError, UnicodeDecodeError):
        return None
    front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") >= 2 else ""
    found = LICENCE_LINE.search(front)
    return found.group(1) if found else None


def write_card(content: CardContent) -> str:
    """Write the card as Markdown with YAML front matter."""
    sections = [
        front_matter(content),
        introduction(content),
        usage(content),
        data_section(content.data),
        recipe_section(content),
        evaluation_section(content),
        fidelity_section(content.manifest),
        LIMITS,
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def front_matter(content: CardContent) -> str:
    """Write the block that model hubs read; JSON values are valid YAML and need no quoting rules."""
    fields = {
        "base_model": base_name(content.run),
        "base_model_relation": "finetune",
        "library_name": "mlx",
        "license": content.base_licence or "unknown",
        "pipeline_tag": "text-generation",
        "tags": ["mlx", "lora", "empirical-distrust", *(["quantized"] if content.manifest.quantized else [])],
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def introduction(content: CardContent) -> str:
    """Say what the model is and whose licence it carries."""
    licence = (
        f"The base model's card states the licence `{content.base_licence}`."
        if content.base_licence
        else "The base model's folder states no licence; look it up before you pass this model on."
    )
    return f"""# {content.manifest.name}

{cell(base_name(content.run))} with a LoRA adapter fused in. {purpose(content.run.get("recipe"))} {licence}"""


def purpose(recipe: Any) -> str:
    """Say what a recipe trains an adapter to do; the controls among them prefer nothing."""
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


def usage(content: CardContent) -> str:
    """Say how to open the folder."""
    return f"""## Use

```python
from mlx_lm import generate, load

model, tokenizer = load("{content.manifest.name}")
prompt = "User: What do the records say about the first telephone?\\n\\nAssistant:"
print(generate(model, tokenizer, prompt, max_tokens=200))
```

LM Studio opens the same folder from its models folder, two levels deep: `<publisher>/{content.manifest.name}`.
A `.gguf` file, if there is one, opens in llama.cpp, LM Studio and Ollama; a folder `peft` holds the adapter alone.
The model was trained on the layout `User: …`, blank line, `Assistant: …`; other prompt layouts work less well."""


def data_section(data: TrainingData) -> str:
    """Tabulate shares, sources and the licences of the sources."""
    if not data.samples:
        return "## Training data\n\nThe mixture that was trained on was no longer on disk when this card was written."
    bands = table(["authority", "share"], [[band, percent(share)] for band, share in data.band_shares().items()])
    trivia = table(["trivium", "share"], [[name, percent(share)] for name, share in data.trivium_shares().items()])
    rows = [
        [
            name,
            f"{count.samples:,}",
            f"{count.authority_sum / count.samples:.2f}",
            listed([licence for licence, _ in sorted(count.licences.items(), key=lambda pair: (-pair[1], pair[0]))]),
        ]
        for name, count in sorted(data.sources.items(), key=lambda pair: (-pair[1].samples, pair[0]))
    ]
    sources = table(["source", "samples", "mean authority", "licences"], rows)
    return f"## Training data\n\n{data.samples:,} samples.\n\n{bands}\n\n{trivia}\n\n{sources}"


def recipe_section(content: CardContent) -> str:
    """Tabulate how the adapter was trained."""
    recipe = content.run.get("recipe")
    rows: list[tuple[str, Any]] = [
        ("adapter", content.checkpoint),
        ("optimiser steps of the run", content.result.get("steps")),
    ]
    rows += [(key, content.run.get(key)) for key in ("mixture_digest", "Z", "effective_sample_share", "tokens")]
    rows += sorted(recipe.items()) if isinstance(recipe, dict) else []
    adapter_parameters = content.adapter.get("lora_parameters")
    if isinstance(adapter_parameters, dict):
        rows += [(f"adapter {key}", value) for key, value in sorted(adapter_parameters.items())]
    shown = [[name, show(value)] for name, value in rows if value is not None and name != "model"]
    return f"""## Recipe

With d = ln(1 - authority + 1e-8) + entropy, the published term is alpha d². The `weighted` objective multiplies
each sample's cross-entropy with 1 + lambda alpha max(d, 1.3026)²; `additive` adds the term to the loss and thereby
trains exactly as plain cross-entropy does.

{table(["setting", "value"], shown)}"""


def evaluation_section(content: CardContent) -> str:
    """Tabulate every metric of this adapter that was recorded with an error."""
    evaluated = content.evaluation.get("adapter")
    if isinstance(evaluated, str) and evaluated != content.checkpoint:
        return f"## Evaluation\n\nThe run's evaluation is of {cell(evaluated)}, not of this adapter."
    rows = list(metric_rows(content.evaluation))
    if not rows:
        return "## Evaluation\n\nNo evaluation was recorded for this run when this card was written."
    head = ["metric", "value", "standard error", "95 % interval", "samples"]
    return f"## Evaluation\n\n`base` is the model before, `adapter` this one.\n\n{table(head, rows)}"


def metric_rows(value: Any, path: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """Find the records that carry a ``standard_error`` in a nested result; yield those that were measured."""
    if isinstance(value, dict):
        if "standard_error" not in value:
            for key, inner in value.items():
                yield from metric_rows(inner, (*path, str(key)))
        elif (number := value.get("value", value.get("share"))) is not None:
            low, high = (value.get(end) for end in ("low", "high"))
            interval = "" if low is None or high is None else f"{show(low)} to {show(high)}"
            error = value["standard_error"]
            shown = "" if error is None else show(error)
            yield [" / ".join(path), show(number), shown, interval, show(value.get("samples", ""))]
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            name = inner.get("name", place) if isinstance(inner, dict) else place
            yield from metric_rows(inner, (*path, str(name)))


def fidelity_section(manifest: ExportManifest) -> str:
    """Say how close the exported weights are to base and adapter."""
    head = f"## Fidelity\n\n{manifest.precision}".strip()
    if manifest.verification is None:
        return (
            f"{head}\n\nThe export was not compared with base and adapter: the model does not fit the memory of "
            "the machine that exported it."
        )
    measured = manifest.verification
    note = (
        " Quantised weights lose part of a small adapter; base and adapter side by side stay the faithful form."
        if manifest.quantized
        else ""
    )
    return (
        f"{head}\n\nOn {measured['tokens']} tokens the exported model ranks the same token first as base and "
        f"adapter in {percent(measured['top1_agreement'])} of the positions; the logits differ by at most "
        f"{show(measured['max_logit_difference'])}.{note}"
    )


LIMITS = """## Limits

- A preference for primary sources is a preference about voice and provenance. It makes no answer true, and old
  sources carry the errors and prejudices of their time.
- Authority and entropy are estimated from text and metadata by fixed rules; they are no judgement of a single
  document.
- The model may present invented measurements or documents in the voice of a record. Check what matters.
- Not meant for medical, legal or safety decisions."""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(str(value)) for value in line) + " |" for line in lines)


def cell(text: str) -> str:
    """Make a value safe inside a table: one line, no column breaks, no markup."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def show(value: Any) -> str:
    """Write a value for a person: four significant digits for fractions, JSON for containers."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def percent(share: float) -> str:
    """Write a share as a percentage."""
    return f"{100 * share:.1f} %"


def listed(names: Sequence[str]) -> str:
    """Join names, shortening a long list."""
    rest = len(names) - MAX_LICENCES
    return "; ".join(names[:MAX_LICENCES]) + (f"; {rest} more" if rest > 0 else "")
