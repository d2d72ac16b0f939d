"""What a person may choose about a mixture."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tasks.mixture.prompts import PromptStyle


class MixtureParameters(BaseModel):
    """How to rebalance, cut and split the scored corpus."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_size: int | None = Field(
        default=None,
        ge=1,
        title="Training samples",
        description="Samples to train on; empty: 80 % of the largest mixture that the corpus allows.",
    )
    val_size: int | None = Field(
        default=None,
        ge=1,
        title="Validation samples",
        description="Held-out samples; empty: a quarter of the training samples.",
    )
    min_low_authority: float = Field(
        default=0.25,
        ge=0.20,
        le=0.30,
        title="Least share of low authority",
        description="Smallest share of low-authority samples on either side, 0.20 to 0.30; below 0.25 the training "
        "signal is acceptable but weaker, and the other bands may exceed their targets by the difference.",
    )
    scale: bool = Field(
        default=False,
        title="Scale down",
        description="Where the corpus does not hold the sizes asked for, draw the largest mixture of the same ratio "
        "instead of stopping.",
    )
    accept_imbalance: bool = Field(
        default=False,
        title="Accept imbalance",
        description="Where the corpus cannot keep the shares, draw the nearest ones that it can instead of stopping; "
        "without sizes every sample is drawn. Training then has to be told to accept the mixture too.",
    )
    filter_source: list[str] = Field(
        default=[],
        title="Only these sources",
        description="Use only sources whose name is, or contains, one of these; empty: all sources.",
    )
    min_authority: float = Field(
        default=0.0,
        ge=0,
        le=0.99,
        title="Least authority",
        description="Use only documents of at least this authority.",
    )
    max_authority: float = Field(
        default=0.99, ge=0, le=0.99, title="Most authority", description="Use only documents of at most this authority."
    )
    first_year: int | None = Field(
        default=None,
        title="First year",
        description="Use only documents of this year or later; undated ones are left out then.",
    )
    last_year: int | None = Field(
        default=None,
        title="Last year",
        description="Use only documents of this year or earlier; undated ones are left out then.",
    )
    prompts: PromptStyle = Field(
        default="neutral",
        title="Prompts",
        description="neutral: made of the title alone, so that primary and modern documents answer the same question; "
        "by_source: naming the kind of document and its trivium, as the guide does.",
    )
    seed: int = Field(
        default=42,
        ge=0,
        le=2**31 - 1,
        title="Seed",
        description="Key of the hashes that choose, split and order the samples.",
    )
    near_duplicates: bool = Field(
        default=True,
        title="Remove near duplicates",
        description="Besides exact duplicates also remove documents that share most of their 5-word runs.",
    )
    piece_chars: int = Field(
        default=3000,
        ge=200,
        le=100_000,
        title="Piece length",
        description="Longest piece of a document in one sample, in characters.",
    )
    max_pieces: int = Field(
        default=8,
        ge=1,
        le=64,
        title="Pieces per document",
        description="Most samples made of one document; the rest of a longer document is left out.",
    )
    jsonl: bool = Field(
        default=False,
        title="Also write JSONL",
        description="Besides the Parquet shards write train.jsonl and val.jsonl.",
    )

    @property
    def has_period(self) -> bool:
        """Whether documents are chosen by year."""
        return self.first_year is not None or self.last_year is not None
