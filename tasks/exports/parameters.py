"""What a person may choose about an export; imports no MLX, so that forms and workers stay light."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Quantize = Literal["none", "4bit", "8bit"]
GroupSize = Literal[32, 64, 128]
Gguf = Literal["none", "f16", "bf16", "q8_0", "q4_0", "q4_k_m", "q5_k_m", "q6_k"]

BITS: dict[Quantize, int | None] = {"none": None, "4bit": 4, "8bit": 8}
K_QUANTS = ("q4_k_m", "q5_k_m", "q6_k")
"""Kinds of GGUF that llama.cpp's own quantiser makes."""


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
    gguf: Gguf = Field(
        default="none",
        title="GGUF",
        description="Also write a GGUF file of this kind for llama.cpp and Ollama; q4_k_m, q5_k_m and q6_k need "
        "llama-quantize of llama.cpp.",
    )
    ollama: bool = Field(
        default=False,
        title="Ollama",
        description="Also write a Modelfile for the GGUF file (q8_0 unless chosen); register it if ollama is there.",
    )
    peft: bool = Field(
        default=False,
        title="PEFT adapter",
        description="Also write the adapter in the form that the PEFT library opens, in the folder peft.",
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
    hub_repository: str | None = Field(
        default=None,
        title="Hub repository",
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="Repository (owner/name) of the Hugging Face Hub to upload the export to; created as private.",
    )
    hub_dry_run: bool = Field(
        default=True,
        title="Hub dry run",
        description="Only say what an upload would send; switch it off to send it.",
    )
    minimum_top1_agreement: float = Field(
        default=0.98,
        title="Minimum agreement",
        ge=0,
        le=1,
        description="Share of tokens on which an unquantised export must rank the same token first as the adapter.",
    )
    minimum_top1_agreement_quantised: float = Field(
        default=0.7,
        title="Minimum agreement, quantised",
        ge=0,
        le=1,
        description="The same bound where base or export is quantised, which moves near-ties.",
    )

    @property
    def gguf_kind(self) -> Gguf:
        """The GGUF file to write; Ollama needs one."""
        return "q8_0" if self.ollama and self.gguf == "none" else self.gguf
