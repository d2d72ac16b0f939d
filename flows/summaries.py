"""What a flow did, in words that a newcomer understands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from storage.vocabulary import BANDS, TRIVIA
from tasks.policies import run_logger

STORY = logging.getLogger("distrust.story")
"""What a person at the command line reads while the pipeline runs."""


def summarise(name: str, result: Any) -> str:
    """Write the summary of a finished flow."""
    return "\n".join(result.summary() if hasattr(result, "summary") else SUMMARIES[name](result))


def own_summary(result: Any) -> list[str]:
    """The lines that a typed result has for itself."""
    return list(result.summary())


def describe_score(result: dict[str, Any]) -> list[str]:
    """Documents per authority band, trivium and doubtful years; or why one document got its score."""
    if "explanation" in result:
        return list(result["explanation"])
    sources = result["sources"]
    rows = sum(source["rows"] for source in sources)

    def shares(names: tuple[str, ...]) -> str:
        totals = {name: sum(source[name] for source in sources) for name in names}
        return ", ".join(f"{count:,} {name}" for name, count in totals.items())

    lines = [f"{rows:,} documents: {shares(BANDS)} authority", f"  trivium: {shares(TRIVIA)}"]
    if unverified := sum(source["years_unverified"] for source in sources):
        lines.append(f"  {unverified:,} ({unverified / rows:.0%}) with a year that no metadata vouches for")
    if conflicts := sum(source["year_conflicts"] for source in sources):
        lines.append(f"  {conflicts:,} with a year that contradicts their source; scored as the newer kind")
    if overridden := sum(source["overridden"] for source in sources):
        lines.append(f"  {overridden:,} with a score of their own or of your signal")
    if refused := sum(source.get("refused", 0) for source in sources):
        lines.append(f"  {refused:,} with a score of their own that was refused and computed; --explain ID tells why")
    return lines


def describe_rebalance(result: dict[str, Any]) -> list[str]:
    """The distribution as the guide prints it."""
    return [("(unchanged) " if result["reused"] else "") + str(result["mixture"]), *result["distribution"].splitlines()]


def describe_train(result: dict[str, Any]) -> list[str]:
    """Steps, loss before and after, adapter; or what was only planned."""
    if "plan" in result:
        return [f"{result['model']}:", *(f"  {line}" for line in result["plan"])]
    before, after = result.get("valid_ce_before"), result.get("valid_ce_after")
    measured = "not validated" if before is None else f"validation cross-entropy {before:.3f} -> {after:.3f}"
    return [f"{result['steps']} steps; {measured}", f"adapter {result['adapter']}"]


def describe_comparison(result: dict[str, Any]) -> list[str]:
    """The runs side by side, and where the pictures lie."""
    headings = list(result["table"][0])
    widths = {
        heading: max(len(heading), *(len(row.get(heading, "")) for row in result["table"])) for heading in headings
    }
    lines = [dict(zip(headings, headings, strict=True)), *result["table"]]
    return [
        *("  ".join(line.get(heading, "").ljust(widths[heading]) for heading in headings).rstrip() for line in lines),
        *(f"picture {path}" for path in result["pictures"]),
    ]


def describe_evaluate(result: dict[str, Any]) -> list[str]:
    """Base against adapter, the verdicts and the report."""
    verdict = {True: "all thresholds met", False: "below a threshold", None: "not decided"}[result["passed"]]
    lines = [verdict + (" (unchanged)" if result["reused"] else "")]
    marks = {True: "✓", False: "✗", None: "?"}
    width = max((len(row["title"]) for row in result["verdicts"]), default=0)
    for row in result["verdicts"]:
        lines.append(f"  {marks[row['passed']]} {row['title']:<{width}}  {row['found']} (target {row['target']})")
    before_after = {
        "primary source chosen": ("source_preference_base", "source_preference_adapter", 100, "%"),
        "distrust ratio": ("distrust_ratio_base", "distrust_ratio_adapter", 1, ""),
        "perplexity, primary sources": ("perplexity_low_base", "perplexity_low_adapter", 1, ""),
        "perplexity, coordinated sources": ("perplexity_high_base", "perplexity_high_adapter", 1, ""),
    }
    numbers = result["headline"]
    for name, (before, after, scale, unit) in before_after.items():
        if numbers.get(before) is not None and numbers.get(after) is not None:
            lines.append(
                f"  {name}: base {scale * numbers[before]:.3g}{unit} -> adapter {scale * numbers[after]:.3g}{unit}"
            )
    return [*lines, f"report {result['report']}"]


def describe_export(result: dict[str, Any]) -> list[str]:
    """Where the model lies and how far it is from the adapter."""
    size = sum(file["bytes"] for file in result["files"]) / 1e6
    agreement = result["top1_agreement"]
    measured = "not compared: too large for this machine" if agreement is None else f"{agreement:.3f}"
    lines = [
        f"{result['folder']} ({size:.1f} MB)" + (" (unchanged)" if result["reused"] else ""),
        f"top-1 agreement with the adapter {measured}",
    ]
    places = {"GGUF": result["gguf"], "LM Studio": result["lm_studio_folder"], "Ollama": result["ollama"]}
    lines += [f"{name} {place}" for name, place in places.items() if place]
    if hub := result["hub"]:
        state = f"uploaded: {hub['address']}" if hub["uploaded"] else "dry run, --no-hub-dry-run uploads"
        lines.append(f"Hub {hub['repository']}: {len(hub['files'])} files, {hub['bytes'] / 1e6:.1f} MB; {state}")
    return lines


STAGES: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "download": ("Downloaded", own_summary),
    "score": ("Scored", describe_score),
    "rebalance": ("Balanced", describe_rebalance),
    "train": ("Trained", describe_train),
    "evaluate": ("Evaluated", describe_evaluate),
    "export": ("Exported", describe_export),
}


def announce(stage: str, result: Any) -> None:
    """Tell what a stage of the pipeline did, in the run's log and on the command line, as soon as it is done."""
    title, describe = STAGES[stage]
    first, *rest = describe(result)
    number = list(STAGES).index(stage) + 1
    text = "\n".join([f"{number}. {title}: {first}", *(f"   {line}".rstrip() for line in rest), ""])
    run_logger().info("%s", text)
    STORY.info("%s", text)


def describe_pipeline(result: dict[str, Any]) -> list[str]:
    """Where the results lie; what each stage did was announced when it was done."""
    return [f"Report: {result['evaluate']['report']}", f"Model:  {result['export']['folder']}"]


SUMMARIES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "download-corpus": own_summary,
    "score-corpus": describe_score,
    "rebalance-corpus": describe_rebalance,
    "train-adapter": describe_train,
    "evaluate-adapter": describe_evaluate,
    "export-model": describe_export,
    "corpus-to-model": describe_pipeline,
    "compare-recipes": describe_comparison,
}
