"""What is to be exported, from where, to where: a child's specification, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from storage.errors import ParameterError
from storage.layout import checked_name
from tasks.exports.parameters import ExportParameters

WEIGHT_PARAMETERS = {"quantize", "group_size", "dequantize"}
"""Parameters that change the exported weights; the others change which forms are added and where they go."""
PEFT_FOLDER = "peft"
PEFT_FILES = ("adapter_model.safetensors", "adapter_config.json")


@dataclass(frozen=True)
class ExportRequest:
    """What to export, from where, to where."""

    run_folder: Path
    base: Path
    adapter: Path
    export_folder: Path
    reports_folder: Path
    balanced_folder: Path
    parameters: ExportParameters
    approved: str | None = None
    """Digest of the upload that a person approved; none: nobody was asked."""

    @classmethod
    def of(cls, specification: dict[str, Any]) -> ExportRequest:
        """Read a child's specification.

        Raises:
            ParameterError: A parameter is out of bounds, or a folder lies inside another that it would damage.
        """
        try:
            parameters = ExportParameters.model_validate(specification["parameters"])
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ParameterError(f"these export parameters cannot be used: {problems}") from error
        run_folder = Path(specification["run_folder"]).resolve()
        named = Path(specification["adapter"])
        adapter = named if named.is_absolute() else run_folder / checked_name(str(named), "adapter")
        request = cls(
            run_folder=run_folder,
            base=Path(specification["model_path"]).resolve(),
            adapter=adapter.resolve(),
            export_folder=Path(specification["export_folder"]).absolute(),
            reports_folder=Path(specification["reports_folder"]),
            balanced_folder=Path(specification["balanced_folder"]),
            parameters=parameters,
            approved=specification.get("approved"),
        )
        request.check_folders()
        return request

    def check_folders(self) -> None:
        """Refuse a place in which writing the export would replace something else.

        Raises:
            ParameterError: The export folder is, holds or lies in the run, the base model or the mixture.
        """
        checked_name(self.export_folder.name, "export name")
        place = self.export_folder.resolve()
        if place != self.export_folder.parent.resolve() / self.export_folder.name:
            raise ParameterError(f"the export folder {self.export_folder} is a link; choose another export name")
        for what, folder in (("run", self.run_folder), ("base model", self.base), ("mixture", self.balanced_folder)):
            other = folder.resolve()
            if place.is_relative_to(other) or other.is_relative_to(place):
                raise ParameterError(f"the export folder {place} overlaps the {what} {other}; choose another name")

    @property
    def weight_parameters(self) -> dict[str, Any]:
        """The parameters that decide what the weights are; a group size without bits decides nothing."""
        chosen = self.parameters.model_dump(mode="json", include=WEIGHT_PARAMETERS)
        if self.parameters.quantize == "none":
            chosen.pop("group_size")
        return chosen

    @property
    def gguf_file(self) -> str | None:
        """Name of the GGUF file to write, if any."""
        kind = self.parameters.gguf_kind
        return None if kind == "none" else f"{self.export_folder.name}-{kind}.gguf"

    @property
    def wanted_files(self) -> set[str]:
        """Files of the forms that are asked for beside the MLX folder, by their paths in the export."""
        wanted = {self.gguf_file} if self.gguf_file else set()
        if self.parameters.peft:
            wanted |= {f"{PEFT_FOLDER}/{name}" for name in PEFT_FILES}
        return wanted
