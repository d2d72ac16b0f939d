"""What a flow did, in words that a newcomer understands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from storage.vocabulary import BANDS, TRIVIA


def summarise(name: str, result: Any) -> str:
    """Write the summary of a finished flow."""
    return "\n".join(lines_of(name, result))


def lines_of(name: str, result: Any) -> list[str]:
    """Return the lines that a person reads: those of the result itself, if it can write them."""
    lines: list[str] = result.summary() if hasattr(result, "summary") else SUMMARIES[name](result)
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
        lines.append(f"  {unverified:,} ({unverified / rows:.0%}) with a year that no metadata confirms")
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


SUMMARIES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "score-corpus": describe_score,
}
