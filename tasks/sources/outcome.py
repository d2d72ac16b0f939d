"""What became of a shard and of a source: pointers and counts, never documents."""

from __future__ import annotations

from dataclasses import dataclass, field

from storage.vocabulary import Band


@dataclass(frozen=True)
class ShardOutcome:
    """What a finished shard holds: pointers and counts, never documents."""

    file: str
    documents: int
    rejects: int
    bytes: int
    reasons: dict[str, int] = field(default_factory=dict)

    def describe_rejects(self) -> str:
        """List how many items were rejected, by reason."""
        return ", ".join(f"{count} {reason}" for reason, count in self.reasons.items()) or "none"


@dataclass(frozen=True)
class SourceOutcome:
    """What became of one source in a download."""

    source: str
    band: Band
    documents: int = 0
    rejects: int = 0
    reused: bool = False
    manifest: str = ""
    problem: str = ""
    passing: bool = False
    """Whether the problem may pass, so that the source is worth another try."""

    @property
    def usable(self) -> bool:
        """Tell whether later stages can read this source."""
        return bool(self.manifest) and self.documents > 0
