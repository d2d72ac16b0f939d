"""What a person may choose about an export; imports no MLX, so that forms and workers stay light."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Quantize = Literal["none", "4bit", "8bit"]
GroupSize = Literal[32, 64, 128]

BITS: dict[Quantize, int | None] = {"none": None, "4bit": 4, "8bit": 8}


class ExportParameters(BaseModel):
    """Parameters of one export."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantize: Quantize = Field(
        default="none",
        title="Quantise",
        description="Bits per weight of the exported model; 'none' keeps the precision of the base model.",
    )
    group_size: GroupSize = Field(
        default=64,
        title="Group size",
        description="Weights that share one scale when quantising; smaller is more faithful and larger on disk.",
    )
    dequantize: bool = Field(
        default=False,
        title="Dequantise",
        description="Write a quantised base model as 16-bit weights, which keeps more of a small adapter.",
    )
    lm_studio_folder: str | None = Field(
        default=None,
        title="LM Studio models folder",
        description="Models folder of LM Studio (often ~/.lmstudio/models) in which the export also appears.",
    )
    lm_studio_publisher: str = Field(
        default="local",
        title="LM Studio publisher",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Name of the publisher under which LM Studio lists the model.",
    )
    minimum_top1_agreement: float = Field(
        default=0.98,
        title="Minimum agreement",
        ge=0,
        le=1,
        description="Share of tokens on which an unquantised export must rank the same token first as the adapter.",
    )
