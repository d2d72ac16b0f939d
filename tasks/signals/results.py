"""What scoring returns: counts per source, or the explanation of one score."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from storage.manifest import Manifest
from storage.vocabulary import BANDS, TRIVIA


class ScoredSource(BaseModel):
    """Counts of the documents of one source."""

    model_config = ConfigDict(frozen=True)

    source: str
    rows: int
    low: int = 0
    medium: int = 0
    high: int = 0
    grammar: int = 0
    logic: int = 0
    rhetoric: int = 0
    year_conflicts: int = 0
    years_unverified: int = 0
    overridden: int = 0
    refused: int = 0
    overruled: int = 0
    unscored_language: int = 0
    copied: int = 0


class ScoreResult(BaseModel):
    """What a scoring made, or found made; or why a document got its score."""

    model_config = ConfigDict(frozen=True)

    sources: tuple[ScoredSource, ...] = ()
    explanation: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifests: Sequence[Manifest]) -> ScoreResult:
        """Read the counts of scored sources."""
        return cls(
            sources=tuple(
                ScoredSource(source=manifest.name, rows=manifest.rows, **manifest.counts) for manifest in manifests
            )
        )

    def summary(self) -> list[str]:
        """Documents per authority band and trivium, and what is doubtful; or the explanation."""
        if self.explanation:
            return list(self.explanation)

        def total(name: str) -> int:
            return sum(getattr(source, name) for source in self.sources)

        def shares(names: tuple[str, ...]) -> str:
            return ", ".join(f"{total(name):,} {name}" for name in names)

        rows = total("rows")
        unverified = f"({total('years_unverified') / max(1, rows):.0%})"
        remarks = {
            "years_unverified": f"{unverified} with a year that no metadata confirms",
            "year_conflicts": "with a year that contradicts their source",
            "overruled": "whose text overrules their source's label; --explain SOURCE lists them",
            "copied": "whose words stand in several outlets of about the same time",
            "unscored_language": "in a language that the scores do not know; they keep their source's score",
            "overridden": "with a score of their own or of your signal",
            "refused": "with a score of their own that was refused and computed; --explain ID tells why",
        }
        return [
            f"{rows:,} documents: {shares(BANDS)} authority",
            f"  trivium: {shares(TRIVIA)}",
            *(f"  {total(name):,} {remark}" for name, remark in remarks.items() if total(name)),
        ]
