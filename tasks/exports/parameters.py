"""What a person may choose about an export, and what its process is asked to do; loads no MLX, so forms stay light."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from storage.errors import ParameterError
from storage.layout import checked_name

Quantize = Literal["none", "4bit", "8bit"]
GroupSize = Literal[32, 64, 128]
Gguf = Literal["none", "f16", "bf16", "q8_0", "q4_0", "q4_k_m", "q5_k_m", "q6_k"]

BITS: dict[Quantize, int | None] = {"none": None, "4bit": 4, "8bit": 8}
K_QUANTS = ("q4_k_m", "q5_k_m", "q6_k")
"""Kinds of GGUF that llama.cpp's own quantiser makes."""
WEIGHT_PARAMETERS = {"quantize", "group_size", "dequantize"}
"""Parameters that change the exported weights; the others add files or name places to send them to."""
PEFT_FILES = ("peft/adapter_model.safetensors", "peft/adapter_config.json")


class ExportParameters(BaseModel):
    """Parameters of one export."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    quantize: Quantize = Field("none", title="Quantise")
    """Bits per weight of the exported model; 'none' keeps the precision of the base model."""
    group_size: GroupSize = Field(64, title="Group size")
    """Weights that share one scale when quantising; smaller is more faithful and larger on disk."""
    dequantize: bool = Field(False, title="Dequantise")
    """Write a quantised base model as 16-bit weights, which keeps more of a small adapter."""
    gguf: Gguf = Field(
        default="none",
        title="GGUF",
        description="Also write a GGUF file of this kind for llama.cpp and Ollama; q4_k_m, q5_k_m and q6_k need "
        "llama-quantize of llama.cpp.",
    )
    ollama: bool = Field(False, title="Ollama")
    """Also write a Modelfile for the GGUF file (q8_0 unless chosen); register it if Ollama is installed."""
    peft: bool = Field(False, title="PEFT adapter")
    """Also write the adapter in the form that the PEFT library opens, in the folder peft."""
    lm_studio_folder: str | None = Field(None, title="LM Studio models folder")
    """Models folder of LM Studio (often ~/.lmstudio/models) in which the export also appears."""
    lm_studio_publisher: str = Field("local", title="LM Studio publisher", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the publisher under which LM Studio lists the model."""
    hub_repository: str | None = Field(None, title="Hub repository", pattern=r"^[\w.-]+/[\w.-]+$")
    """Repository (owner/name) of the Hugging Face Hub to upload the export to; created as private."""
    hub_dry_run: bool = Field(True, title="Hub dry run")
    """Only say what an upload would send; switch it off to send it."""
    minimum_top1_agreement: float = Field(0.98, title="Minimum agreement", ge=0, le=1)
    """Share of tokens on which an unquantised export must rank the same token first as the adapter."""
    minimum_top1_agreement_quantised: float = Field(0.7, title="Minimum agreement, quantised", ge=0, le=1)
    """The same bound where base or export is quantised, which moves near-ties."""

    @property
    def gguf_kind(self) -> Gguf:
        """The GGUF file to write; Ollama needs one."""
        return "q8_0" if self.ollama and self.gguf == "none" else self.gguf


class ExportRequest(BaseModel):
    """What to export, from where, to where: the specification that the flow writes and the child process reads."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    run_folder: Path
    model_path: Path
    """Folder of the base model."""
    adapter: Path
    """Folder of the checkpoint."""
    export_folder: Annotated[Path, AfterValidator(Path.absolute)]
    reports_folder: Path
    balanced_folder: Path
    """The mixture that the run was trained on."""
    parameters: ExportParameters
    approved: str | None = None
    """Digest of the upload that a person approved; none if no person was asked."""

    def check_place(self) -> None:
        """Raise ParameterError if writing the export would replace something else."""
        folder, place = self.export_folder, self.export_folder.resolve()
        checked_name(folder.name, "export name")
        if place != folder.parent.resolve() / folder.name:
            raise ParameterError(f"the export folder {folder} is a link; choose another export name")
        inputs = {"run": self.run_folder, "base model": self.model_path, "mixture": self.balanced_folder}
        for what, other in ((what, path.resolve()) for what, path in inputs.items()):
            if place.is_relative_to(other) or other.is_relative_to(place):
                raise ParameterError(f"the export folder {place} overlaps the {what} {other}; choose another name")

    @property
    def weight_parameters(self) -> dict[str, str | int | bool]:
        """The parameters that decide what the weights are; a group size without bits decides nothing."""
        unused = {"group_size"} if self.parameters.quantize == "none" else set()
        return self.parameters.model_dump(mode="json", include=WEIGHT_PARAMETERS - unused)

    @property
    def gguf_file(self) -> str | None:
        """Name of the GGUF file to write, if any."""
        kind = self.parameters.gguf_kind
        return None if kind == "none" else f"{self.export_folder.name}-{kind}.gguf"

    @property
    def wanted_files(self) -> set[str]:
        """Files to write besides the MLX folder, by their paths in the export."""
        return {*([self.gguf_file] if self.gguf_file else []), *(PEFT_FILES if self.parameters.peft else ())}
