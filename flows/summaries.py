"""What a flow did, in words that a newcomer understands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from storage.schemas import BANDS, TRIVIA
from tasks.policies import run_logger

STORY = logging.getLogger("distrust.story")
"""What a person at the command line reads while the pipeline runs."""


def summarise(name: str, result: dict[str, Any]) -> str:
    """Write the summary of a finished flow."""
    return "\n".join(SUMMARIES[name](result))


def describe_download(result: dict[str, Any]) -> list[str]:
    """Documents, rejects and incomplete sources; or what was only looked at."""
    if "catalogue" in result:
        return describe_catalogue(result["catalogue"])
    if "survey" in result:
        return describe_survey(result["survey"])
    sources = result["sources"]
    there = [source for source in sources if source["manifest"]]
    lines = [f"{sum(s['documents'] for s in there):,} documents from {len(there)} of {len(sources)} sources"]
    width = max((len(source["source"]) for source in sources), default=0)
    for source in sources:
        state = "already complete" if source["reused"] else "fetched"
        if source["problem"]:
            state = f"kept, not refreshed: {source['problem']}"
        rejected = f", {source['rejects']:,} rejected" if source["rejects"] else ""
        outcome = (
            f"{source['documents']:>6,} {state}{rejected}" if source["manifest"] else f"incomplete: {source['problem']}"
        )
        lines.append(f"  {source['source']:<{width}}  {source['band']:<6}  {outcome}")
    return lines


def describe_catalogue(rows: list[dict[str, Any]]) -> list[str]:
    """Every source by authority band, with what of it is on disk."""
    lines = [f"{len(rows)} sources; those with * are fetched only when they are named"]
    width = max(len(row["source"]) for row in rows) + 1
    for band in ("low", "medium", "high"):
        lines.append(f"{band} authority")
        for row in rows:
            if row["band"] == band:
                name = row["source"] + ("*" if row["optional"] else "")
                begun = f"{row['shards']} shards" if row["shards"] else "nothing"
                there = f"{row['documents']:,} documents" if row["sealed"] else begun
                lines.append(
                    f"  {name:<{width}}  {row['archive']:<19}  target {row['target']:>6,}  "
                    f"on disk: {there}  ({row['licence']})"
                )
    return lines


def describe_survey(rows: list[dict[str, Any]]) -> list[str]:
    """What every source offers, and what its download would take; only what an archive has said is added up."""
    told = [row for row in rows if not row["problem"] and row["documents"] is not None]
    total = f"{sum(row['documents'] for row in told):,} documents, {sum(row['bytes'] for row in told) / 1e9:.1f} GB"
    lines = [
        f"{total} in {len(told)} of {len(rows)} sources; nothing was fetched. "
        "Sources of one archive take turns, archives do not wait for each other"
    ]
    width = max(len(row["source"]) for row in rows)
    for row in rows:
        if row["problem"]:
            what = f"could not be reached: {row['problem']}" if row["unreachable"] else row["problem"]
        else:
            much = f"about {row['bytes'] / 1e6:,.0f} MB and {row['hours']:.1f} h"
            what = (
                f"{row['documents']:>6,} documents of {row['offered']:,} offered, {much}"
                if row["documents"] is not None
                else f"it does not say how many it has; the {row['wanted']:,} wanted would take {much}"
            )
        lines.append(f"  {row['source']:<{width}}  {what}")
    return lines


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
        lines.append(f"  {conflicts:,} with a year that contradicts their source")
    if overruled := sum(source.get("overruled", 0) for source in sources):
        lines.append(f"  {overruled:,} whose text overrules their source's label; --explain SOURCE lists them")
    if unscored := sum(source.get("unscored_language", 0) for source in sources):
        lines.append(f"  {unscored:,} in a language that the scores do not know; they keep their source's score")
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


def describe_check(result: dict[str, Any]) -> list[str]:
    """One line per component."""
    return [
        f"  {check['component']:<22} {'ok' if check['ok'] else 'FAILED':<7} {check['detail']}"
        for check in result["checks"]
    ]


def describe_pruning(result: dict[str, Any]) -> list[str]:
    """What went or would go, with its size and the reason."""
    rows, dry = result["entries"], result["dry_run"]
    total = sum(row["bytes"] for row in rows if not row["outcome"].startswith("kept"))
    verb = "would free" if dry else "freed"
    lines = [f"{len(rows)} entries in {result['store']}, {verb} {total / 1e6:,.1f} MB"]
    lines += [f"  {row['bytes'] / 1e6:>10,.1f} MB  {row['what']}: {row['why']} ({row['outcome']})" for row in rows]
    return [*lines, "Nothing was removed; --no-dry-run removes it"] if dry and rows else lines


STAGES: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "download": ("Downloaded", describe_download),
    "score": ("Scored", describe_score),
    "rebalance": ("Balanced", describe_rebalance),
    "train": ("Trained", describe_train),
    "evaluate": ("Evaluated", describe_evaluate),
    "export": ("Exported", describe_export),
}


def announce(stage: str, result: dict[str, Any]) -> None:
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
    "download-corpus": describe_download,
    "score-corpus": describe_score,
    "rebalance-corpus": describe_rebalance,
    "train-adapter": describe_train,
    "evaluate-adapter": describe_evaluate,
    "export-model": describe_export,
    "corpus-to-model": describe_pipeline,
    "compare-recipes": describe_comparison,
    "check-setup": describe_check,
    "prune-store": describe_pruning,
}
