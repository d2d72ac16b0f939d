"""Export a run: fuse, verify, describe, and only then let the folder appear under its name."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from storage.atomic import atomic_folder, full_disk_explained, remove_temporaries_of, write_text
from storage.events import Emit
from storage.safe_paths import is_own_file
from tasks.exports.fuse import fuse_lazily, read_adapter_config
from tasks.exports.gguf_file import check_gguf, gguf_bytes, write_gguf
from tasks.exports.hub import check_upload, upload_export
from tasks.exports.lm_studio import install_export, installed_folder
from tasks.exports.manifest import (
    CARD,
    EXPORT,
    MODELFILE,
    TEXTS,
    ExportManifest,
    is_whole,
    link_files,
    read_export,
    read_object,
    record_file,
    record_files,
    require_replaceable,
)
from tasks.exports.mlx_folder import check_disk, digest_inputs, require_base, write_mlx_folder
from tasks.exports.model_card import CardContent, licence_of_base, write_card
from tasks.exports.ollama import register, write_modelfile
from tasks.exports.parameters import BITS
from tasks.exports.peft import require_plain_lora, write_peft
from tasks.exports.request import PEFT_FOLDER, ExportRequest
from tasks.exports.training_data import count_training_data
from tasks.exports.verify import Agreement, fits_memory, measure_agreement, require_agreement


def export_model(specification: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Export a model as a specification asks; what an export of the same inputs already holds is not made twice.

    Returns:
        folder, files (file, bytes, sha256), precision (what was rounded, in words), max_logit_difference and
        top1_agreement (none if not measured), seconds, reused, and, none if not asked for: gguf, lm_studio_folder,
        ollama (name of the registered model), hub (what was or would be uploaded).

    Raises:
        UserError: Something that a person can mend. Refused before the export is whole, nothing new lies under its
            name; refused by LM Studio's folder, Ollama or the Hub, the export is kept.
        TransientError: The Hub cannot be reached; the export is kept, and exporting again only uploads it.
    """
    started = time.monotonic()
    request = ExportRequest.of(specification)
    adapter_config = read_adapter_config(request.adapter)
    parameters = request.parameters
    require_base(request.base)
    lm_studio = check_destinations(request, adapter_config)
    existing = read_export(request.export_folder)
    inputs = digest_inputs(request.base, request.adapter, emit)
    same = existing if existing is not None and is_same(existing, request, inputs) else None
    if reused := same is not None and request.wanted_files <= {record.file for record in same.files}:
        assert same is not None
        manifest = refresh_texts(request, adapter_config, same)
    else:
        if existing is not None:
            require_replaceable(request.export_folder, existing)
        manifest = make_export(request, adapter_config, inputs, same, emit)
    if lm_studio is not None:
        install_export(request.export_folder, lm_studio)
    measured = manifest.verification or {}
    hub = None
    if parameters.hub_repository:
        hub = upload_export(request.export_folder, manifest, parameters, emit, request.approved)
    return {
        "folder": str(request.export_folder),
        "files": [record.model_dump() for record in manifest.files],
        "precision": manifest.precision,
        "max_logit_difference": measured.get("max_logit_difference"),
        "top1_agreement": measured.get("top1_agreement"),
        "reused": reused,
        "gguf": str(request.export_folder / request.gguf_file) if request.gguf_file else None,
        "lm_studio_folder": str(lm_studio) if lm_studio else None,
        "ollama": register(request.export_folder, emit) if parameters.ollama else None,
        "hub": hub,
        "seconds": round(time.monotonic() - started, 3),
    }


def check_destinations(request: ExportRequest, adapter_config: dict[str, Any]) -> Path | None:
    """Refuse what cannot be written or sent before any work is done; return the folder for LM Studio, if asked for.

    Raises:
        UserError: A form is not supported for this model, or a program, folder or token is missing.
    """
    parameters = request.parameters
    if parameters.gguf_kind != "none":
        check_gguf(parameters.gguf_kind, request.base)
    if parameters.peft:
        require_plain_lora(adapter_config)
    if parameters.hub_repository:
        check_upload(parameters)
    if not parameters.lm_studio_folder:
        return None
    folder = installed_folder(parameters.lm_studio_folder, parameters.lm_studio_publisher, request.export_folder.name)
    if (there := read_export(folder)) is not None:
        require_replaceable(folder, there)
    return folder


def is_same(existing: ExportManifest, request: ExportRequest, inputs: dict[str, str]) -> bool:
    """Tell whether an export holds exactly the weights that are asked for."""
    return (
        existing.inputs == inputs
        and existing.parameters == request.weight_parameters
        and is_whole(request.export_folder, existing)
    )


def make_export(
    request: ExportRequest,
    adapter_config: dict[str, Any],
    inputs: dict[str, str],
    same: ExportManifest | None,
    emit: Emit,
) -> ExportManifest:
    """Write what is missing into a temporary folder that gets the export's name when it is whole.

    Args:
        request: What to export.
        adapter_config: ``adapter_config.json``.
        inputs: Hashes of the files that the weights depend on.
        same: The record of an export of the same weights, whose files are kept; none: fuse and verify.
        emit: Told about progress.
    """
    remove_temporaries_of(request.export_folder)
    with full_disk_explained(request.export_folder.parent), atomic_folder(request.export_folder) as folder:
        if same is not None:
            link_files(request.export_folder, folder, same)
            manifest = same
        else:
            manifest = fuse_and_verify(request, folder, inputs, emit)
        write_forms(request, folder, adapter_config, same, emit)
        write_texts(request, folder, adapter_config, manifest)
        manifest = manifest.model_copy(update={"files": record_files(folder)})
        write_text(folder / EXPORT, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def fuse_and_verify(request: ExportRequest, folder: Path, inputs: dict[str, str], emit: Emit) -> ExportManifest:
    """Write the MLX folder and compare it with base and adapter; return its record, without files yet."""
    parameters = request.parameters
    model = fuse_lazily(
        request.base,
        request.adapter,
        dequantize=parameters.dequantize,
        bits=BITS[parameters.quantize],
        group_size=parameters.group_size,
    )
    size, quantized, rounded = model.bytes, model.quantized, model.quantized or model.base_quantized
    emit("progress", stage="fuse", done=0, total=1, message=model.precision)
    write_mlx_folder(folder, request.base, model, emit)
    precision = model.precision
    del model
    agreement = verify(request, folder, size, emit)
    if agreement is not None:
        name = "minimum_top1_agreement_quantised" if rounded else "minimum_top1_agreement"
        require_agreement(agreement, name, getattr(parameters, name))
    return ExportManifest(
        name=request.export_folder.name,
        inputs=inputs,
        parameters=request.weight_parameters,
        quantized=quantized,
        precision=precision,
        verification=agreement.as_record() if agreement else None,
        files=[],
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("mlx", "mlx-lm", "transformers", "gguf")},
        },
    )


def write_forms(
    request: ExportRequest, folder: Path, adapter_config: dict[str, Any], same: ExportManifest | None, emit: Emit
) -> None:
    """Add the GGUF file and the PEFT adapter, if they are asked for and not there yet.

    The GGUF file is written from base plus adapter as floats, not from the MLX weights: it is rounded only once.
    """
    there = {record.file for record in same.files} if same else set()
    missing = request.wanted_files - there
    if request.gguf_file in missing:
        model = fuse_lazily(request.base, request.adapter, dequantize=True)
        check_disk(folder.parent, gguf_bytes(model, request.parameters.gguf_kind))
        write_gguf(folder / str(request.gguf_file), folder, model, request.parameters.gguf_kind, emit)
    if any(name.startswith(f"{PEFT_FOLDER}/") for name in missing):
        run = read_object(request.run_folder / "run.json")
        write_peft(folder / PEFT_FOLDER, request.adapter, adapter_config, run)


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
    run = read_object(request.run_folder / "run.json")
    return write_card(
        CardContent(
            run=run,
            result=read_object(request.run_folder / "result.json"),
            checkpoint=request.adapter.name,
            adapter=adapter_config,
            evaluation=read_object(request.reports_folder / "evaluation_results.json"),
            data=count_training_data(request.balanced_folder, run.get("mixture_digest")),
            base_licence=licence_of_base(request.base),
            manifest=manifest,
        )
    )


def write_texts(
    request: ExportRequest, folder: Path, adapter_config: dict[str, Any], manifest: ExportManifest
) -> list[str]:
    """Write card and Modelfile where they differ from what is there; return the names of those that changed."""
    texts = {CARD: card_of(request, adapter_config, manifest)}
    if request.parameters.ollama:
        texts[MODELFILE] = write_modelfile(str(request.gguf_file))
    changed = [name for name, text in texts.items() if not holds(folder / name, text)]
    for name in changed:
        write_text(folder / name, texts[name])
    return changed


def holds(path: Path, text: str) -> bool:
    """Tell whether a file is there with exactly this text."""
    return path.is_file() and path.read_bytes() == text.encode()


def refresh_texts(request: ExportRequest, adapter_config: dict[str, Any], existing: ExportManifest) -> ExportManifest:
    """Bring card and Modelfile up to date, for example after an evaluation; change nothing otherwise."""
    recorded = {record.file: record for record in existing.files}
    write_texts(request, request.export_folder, adapter_config, existing)
    present = [name for name in TEXTS if is_own_file(request.export_folder, name)]
    current = recorded | {name: record_file(request.export_folder / name, request.export_folder) for name in present}
    if current == recorded:
        return existing
    manifest = existing.model_copy(update={"files": sorted(current.values(), key=lambda record: record.file)})
    write_text(request.export_folder / EXPORT, manifest.model_dump_json(indent=2) + "\n")
    return manifest
