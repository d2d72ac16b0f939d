"""What a person may choose about a mixture."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PromptStyle = Literal["neutral", "by_source"]

FIRST_YEAR, LAST_YEAR = 1000, 2200
"""Years that a document can have."""
AUTHORITY_MAXIMUM = 0.99


class MixtureParameters(BaseModel):
    """How to rebalance, cut and split the scored corpus."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_size: int | None = Field(
        default=None,
        ge=1,
        title="Training samples",
        description="Samples to train on; empty: four times the validation samples, or the method's 80,000 (and "
        "20,000 to validate), or the largest mixture at that ratio when the corpus holds less.",
    )
    val_size: int | None = Field(
        default=None,
        ge=1,
        title="Validation samples",
        description="Held-out samples; empty: a quarter of the training samples, 20,000 by default.",
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
        "without sizes up to 100,000 samples are drawn. Training then has to be told to accept the mixture too.",
    )
    filter_source: list[str] = Field(
        default=[],
        title="Only these sources",
        description="Use only sources whose name is, or contains, one of these; empty: all sources.",
    )
    min_authority: float = Field(
        default=0.0,
        ge=0,
        le=AUTHORITY_MAXIMUM,
        title="Least authority",
        description="Use only documents of at least this authority.",
    )
    max_authority: float = Field(
        default=AUTHORITY_MAXIMUM,
        ge=0,
        le=AUTHORITY_MAXIMUM,
        title="Most authority",
        description="Use only documents of at most this authority.",
    )
    first_year: int | None = Field(
        default=None,
        ge=FIRST_YEAR,
        le=LAST_YEAR,
        title="First year",
        description="Use only documents of this year or later; undated ones are left out then.",
    )
    last_year: int | None = Field(
        default=None,
        ge=FIRST_YEAR,
        le=LAST_YEAR,
        title="Last year",
        description="Use only documents of this year or earlier; undated ones are left out then.",
    )
    prompts: PromptStyle = Field(
        default="neutral",
        title="Prompts",
        description="neutral: made of the title or of a subject that documents of low and high authority share, so "
        "that both answer the same question; by_source: naming the kind of document and its trivium, as in the guide.",
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
        description="Besides exact duplicates also remove documents that share four fifths of their 5-word runs with "
        "one that stays.",
    )
    clean_pages: bool = Field(
        default=True,
        title="Clean pages",
        description="Take page numbers, running heads and licence lines out of the texts and join lines that a page "
        "broke; the downloaded documents stay as they are.",
    )
    min_ocr_quality: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title="Least OCR quality",
        description="Leave out English documents of which a smaller share of words is in a list of common ones; clean "
        "prose has 0.85 to 0.98, a poor scan 0.6. Short and other texts have no rating and stay.",
    )
    lessons_share: float = Field(
        default=0.10,
        ge=0,
        le=0.3,
        title="Share of lessons",
        description="Share of the samples that are lessons about sources, made from the titles, years and kinds of the "
        "documents; they come on top of the sizes and shares of the bands.",
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
        description="Most samples made of one document; the rest of a longer document is left out and counted.",
    )
    jsonl: bool = Field(
        default=False,
        title="Also write JSONL",
        description="Besides the Parquet shards write train.jsonl and val.jsonl.",
    )

    @model_validator(mode="after")
    def _ranges_hold_something(self) -> Self:
        if self.min_authority > self.max_authority:
            raise ValueError(
                f"min_authority is {self.min_authority}, above max_authority {self.max_authority}; no document lies "
                "between them"
            )
        if self.first_year is not None and self.last_year is not None and self.first_year > self.last_year:
            raise ValueError(
                f"first_year is {self.first_year}, after last_year {self.last_year}; no document lies between them"
            )
        return self

    @property
    def focus(self) -> str:
        """What narrows the corpus, as it was asked for; empty: nothing."""
        asked = {
            "filter_source": ",".join(self.filter_source) or None,
            "min_authority": self.min_authority or None,
            "max_authority": self.max_authority if self.max_authority < AUTHORITY_MAXIMUM else None,
            "first_year": self.first_year,
            "last_year": self.last_year,
        }
        return ", ".join(f"{name}={value}" for name, value in asked.items() if value is not None)

    @property
    def has_period(self) -> bool:
        """Whether documents are chosen by year."""
        return self.first_year is not None or self.last_year is not None
