"""Export a run: fuse, verify, describe, and only then let the folder appear under its name."""

from __future__ import annotations

import platform
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from storage.atomic import TEMPORARY_PREFIX, atomic_folder, write_text
from storage.errors import ParameterError
from storage.events import Emit
from storage.layout import checked_name
from tasks.exports.fuse import fuse_lazily, read_adapter_config
from tasks.exports.lm_studio import install_export, installed_folder
from tasks.exports.manifest import (
    CARD,
    EXPORT,
    ExportManifest,
    is_whole,
    read_export,
    read_object,
    record_file,
    record_files,
    require_replaceable,
)
from tasks.exports.mlx_folder import digest_inputs, write_mlx_folder
from tasks.exports.model_card import CardContent, licence_of_base, write_card
from tasks.exports.parameters import BITS, ExportParameters
from tasks.exports.training_data import count_training_data
from tasks.exports.verify import Agreement, fits_memory, measure_agreement, require_agreement

WEIGHT_PARAMETERS = {"quantize", "group_size", "dequantize"}
"""Parameters that change the exported weights; the others only change where they go."""


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


def export_model(specification: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Export a model as a specification asks; an export of the same inputs is not made twice.

    Returns:
        folder, files (file, bytes, sha256), max_logit_difference and top1_agreement (none if not measured),
        seconds, reused, lm_studio_folder (none if not asked for).

    Raises:
        UserError: Something that a person can mend; nothing is left under the export's name.
    """
    started = time.monotonic()
    request = ExportRequest.of(specification)
    adapter_config = read_adapter_config(request.adapter)
    parameters = request.parameters
    lm_studio = (
        installed_folder(parameters.lm_studio_folder, parameters.lm_studio_publisher, request.export_folder.name)
        if parameters.lm_studio_folder
        else None
    )
    existing = read_export(request.export_folder)
    inputs = digest_inputs(request.base, request.adapter, emit)
    if existing is not None and is_same(existing, request, inputs):
        manifest = refresh_card(request, adapter_config, existing)
        reused = True
    else:
        if existing is not None:
            require_replaceable(request.export_folder, existing)
        manifest = make_export(request, adapter_config, inputs, emit)
        reused = False
    if lm_studio is not None:
        install_export(request.export_folder, lm_studio)
    measured = manifest.verification or {}
    return {
        "folder": str(request.export_folder),
        "files": [record.model_dump() for record in manifest.files],
        "max_logit_difference": measured.get("max_logit_difference"),
        "top1_agreement": measured.get("top1_agreement"),
        "seconds": round(time.monotonic() - started, 3),
        "reused": reused,
        "lm_studio_folder": str(lm_studio) if lm_studio else None,
    }


def is_same(existing: ExportManifest, request: ExportRequest, inputs: dict[str, str]) -> bool:
    """Tell whether an export holds exactly the weights that are asked for."""
    return (
        existing.inputs == inputs
        and existing.parameters == request.weight_parameters
        and is_whole(request.export_folder, existing)
    )


def make_export(
    request: ExportRequest, adapter_config: dict[str, Any], inputs: dict[str, str], emit: Emit
) -> ExportManifest:
    """Fuse, verify and describe in a temporary folder that gets the export's name when it is whole."""
    parameters = request.parameters
    sweep(request.export_folder)
    with atomic_folder(request.export_folder) as folder:
        model = fuse_lazily(
            request.base,
            request.adapter,
            dequantize=parameters.dequantize,
            bits=BITS[parameters.quantize],
            group_size=parameters.group_size,
        )
        size, quantized, gated = model.bytes, model.quantized, not (model.quantized or model.base_quantized)
        write_mlx_folder(folder, request.base, model, emit)
        del model
        agreement = verify(request, folder, size, emit)
        if agreement is not None:
            require_agreement(agreement, parameters.minimum_top1_agreement if gated else None)
        manifest = ExportManifest(
            name=request.export_folder.name,
            inputs=inputs,
            parameters=request.weight_parameters,
            quantized=quantized,
            verification=agreement.as_record() if agreement else None,
            files=[],
            versions={
                "python": platform.python_version(),
                **{name: version(name) for name in ("mlx", "mlx-lm", "transformers")},
            },
        )
        write_text(folder / CARD, card_of(request, adapter_config, manifest))
        manifest = manifest.model_copy(update={"files": record_files(folder)})
        write_text(folder / EXPORT, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def verify(request: ExportRequest, folder: Path, fused_bytes: int, emit: Emit) -> Agreement | None:
    """Compare the written model with base and adapter, unless one of the two is too large to be opened."""
    base_bytes = sum(path.stat().st_size for path in request.base.glob("model*.safetensors"))
    largest = max(base_bytes, fused_bytes)
    if not fits_memory(largest):
        emit("progress", stage="verify", done=0, total=1, message=f"{largest / 1e9:.1f} GB: too large to be compared")
        return None
    agreement = measure_agreement(request.base, request.adapter, folder)
    emit(
        "progress",
        stage="verify",
        done=1,
        total=1,
        message=f"same first token on {agreement.top1_agreement:.3f} of {agreement.tokens} tokens, "
        f"logits differ by at most {agreement.max_logit_difference:.3g}",
    )
    return agreement


def card_of(request: ExportRequest, adapter_config: dict[str, Any], manifest: ExportManifest) -> str:
    """Write the model card from what the run has recorded so far."""
    return write_card(
        CardContent(
            run=read_object(request.run_folder / "run.json"),
            result=read_object(request.run_folder / "result.json"),
            checkpoint=request.adapter.name,
            adapter=adapter_config,
            evaluation=read_object(request.reports_folder / "evaluation_results.json"),
            data=count_training_data(request.balanced_folder),
            base_licence=licence_of_base(request.base),
            manifest=manifest,
        )
    )


def refresh_card(request: ExportRequest, adapter_config: dict[str, Any], existing: ExportManifest) -> ExportManifest:
    """Bring the card of an export up to date, for example after an evaluation; change nothing otherwise."""
    path = request.export_folder / CARD
    text = card_of(request, adapter_config, existing)
    recorded = {record.file: record for record in existing.files}
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
    if (card := record_file(path)) == recorded.get(CARD):
        return existing
    manifest = existing.model_copy(update={"files": sorted((recorded | {CARD: card}).values(), key=lambda r: r.file)})
    write_text(request.export_folder / EXPORT, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def sweep(export_folder: Path) -> None:
    """Delete what a killed export of the same name left behind."""
    for entry in export_folder.parent.glob(f"{TEMPORARY_PREFIX}????????-{export_folder.name}"):
        shutil.rmtree(entry, ignore_errors=True)
