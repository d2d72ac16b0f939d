"""Export a run: fuse, verify, describe, and only then let the folder appear under its name."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.atomic import atomic_folder, full_disk_explained, remove_temporaries_of, write_text
from storage.chat_layout import ChatLayout
from storage.errors import UserError
from storage.events import Emit
from storage.model_folder import WEIGHTS, check_model_folder, read_adapter
from storage.safe_paths import is_own_file
from tasks.exports.chat import layout_of, modelfile, read_passages, require_served_as_trained, write_layout
from tasks.exports.export_manifest import CARD, EXPORT, MODELFILE, TEXTS, Agreement, ExportManifest, ExportResult
from tasks.exports.forms import (
    check_upload,
    install_in_lm_studio,
    lm_studio_folder,
    read_lora,
    register_with_ollama,
    upload,
    write_peft,
)
from tasks.exports.fuse import check_disk, digest_inputs, fuse_lazily, open_with_adapter, write_mlx_folder
from tasks.exports.gguf_file import check_gguf, gguf_bytes, write_gguf
from tasks.exports.model_card import base_name, write_card
from tasks.exports.parameters import BITS, PEFT_FILES, ExportRequest

MEMORY_FRACTION = 0.8
"""Models larger than this fraction of the memory are not opened for a comparison."""
MAX_TOKENS = 96


def export_model(request: ExportRequest, emit: Emit) -> ExportResult:
    """Export a model as requested; files that an export of the same inputs already holds are kept.

    Raises:
        UserError: A person can mend it. Before the export is whole, nothing new appears under its name; if LM Studio's
            folder, Ollama or the Hub refuse, the export is kept.
        TransientError: The Hub cannot be reached; the export is kept, and exporting again only uploads it.
    """
    started = time.monotonic()
    request.check_place()
    parameters, folder = request.parameters, request.export_folder
    check_model_folder(request.model_path)
    read_adapter(request.adapter)
    if parameters.gguf_kind != "none":
        check_gguf(parameters.gguf_kind, request.model_path)
    if parameters.peft:
        read_lora(request.adapter)
    if parameters.hub_repository:
        check_upload(parameters)
    lm_studio = lm_studio_folder(parameters, folder.name)
    existing = ExportManifest.read(folder)
    layout = layout_of(request.model_path, request.adapter)
    inputs = digest_inputs(request.model_path, request.adapter, emit)
    held = existing and existing.layout == layout.name and existing.holds(folder, inputs, request.weight_parameters)
    same = existing if held else None
    if same and request.wanted_files <= same.names:
        manifest = refresh_texts(request, same, layout)
    else:
        if existing:
            existing.require_replaceable(folder)
        manifest = make_export(request, inputs, same, layout, emit)
    if lm_studio is not None:
        install_in_lm_studio(folder, manifest, lm_studio)
    measured = manifest.verification
    return ExportResult(
        folder=str(folder),
        files=manifest.files,
        precision=manifest.precision,
        max_logit_difference=measured.max_logit_difference if measured else None,
        top1_agreement=measured.top1_agreement if measured else None,
        reused=same is not None and request.wanted_files <= same.names,
        gguf=str(folder / request.gguf_file) if request.gguf_file else None,
        lm_studio_folder=str(lm_studio) if lm_studio else None,
        hub=upload(request, manifest, emit) if parameters.hub_repository else None,
        ollama=register_with_ollama(folder, emit) if parameters.ollama else None,
        seconds=round(time.monotonic() - started, 3),
    )


def make_export(
    request: ExportRequest, inputs: dict[str, str], same: ExportManifest | None, layout: ChatLayout, emit: Emit
) -> ExportManifest:
    """Write what is missing into a temporary folder that gets the export's name when it is whole.

    The files of `same`, an export of the same weights, are kept. The GGUF file is written from base plus adapter as
    floats, not from the MLX weights: it is rounded only once.
    """
    remove_temporaries_of(request.export_folder)
    with full_disk_explained(request.export_folder.parent), atomic_folder(request.export_folder) as folder:
        if same is not None:
            same.link_files(request.export_folder, folder)
        manifest = same or fuse_and_verify(request, folder, inputs, layout, emit)
        missing = request.wanted_files - manifest.names
        if request.gguf_file in missing:
            kind = request.parameters.gguf_kind
            model = fuse_lazily(request.model_path, request.adapter, dequantize=True)
            check_disk(folder.parent, gguf_bytes(model, kind))
            write_gguf(folder / str(request.gguf_file), folder, model, kind, emit)
        if missing & set(PEFT_FILES):
            write_peft(folder, request.adapter, base_name(request.run_folder))
        write_texts(request, folder, manifest, layout)
        paths = [path for path in folder.rglob("*") if path.is_file() and path != folder / EXPORT]
        manifest = manifest.with_files(folder, [path.relative_to(folder).as_posix() for path in paths])
        manifest.write(folder)
    return manifest


def fuse_and_verify(
    request: ExportRequest, folder: Path, inputs: dict[str, str], layout: ChatLayout, emit: Emit
) -> ExportManifest:
    """Write the MLX folder and compare it with base and adapter; return its record, without files yet."""
    parameters = request.parameters
    model = fuse_lazily(
        request.model_path,
        request.adapter,
        dequantize=parameters.dequantize,
        bits=BITS[parameters.quantize],
        group_size=parameters.group_size,
    )
    size, rounded = model.bytes, model.quantized or model.base_quantized
    emit("progress", stage="fuse", done=0, total=1, message=model.precision)
    write_mlx_folder(folder, request.model_path, model, emit)
    write_layout(folder, layout)
    require_served_as_trained(folder, layout)
    agreement = verify(request, folder, size, rounded, emit)
    versions = {name: version(name) for name in ("mlx", "mlx-lm", "transformers", "gguf")}
    return ExportManifest(
        name=request.export_folder.name,
        inputs=inputs,
        parameters=request.weight_parameters,
        quantized=model.quantized,
        precision=model.precision,
        layout=layout.name,
        verification=agreement,
        files=[],
        versions={"python": platform.python_version(), **versions},
    )


def write_texts(request: ExportRequest, folder: Path, manifest: ExportManifest, layout: ChatLayout) -> None:
    """Write card and Modelfile where they differ from the files that are there."""
    texts = {CARD: write_card(request, manifest)}
    if request.parameters.ollama:
        texts[MODELFILE] = modelfile(str(request.gguf_file), layout)
    for name, text in texts.items():
        if not (folder / name).is_file() or (folder / name).read_bytes() != text.encode():
            write_text(folder / name, text)


def refresh_texts(request: ExportRequest, existing: ExportManifest, layout: ChatLayout) -> ExportManifest:
    """Bring card and Modelfile up to date, for example after an evaluation; change nothing otherwise."""
    folder = request.export_folder
    write_texts(request, folder, existing, layout)
    manifest = existing.with_files(folder, [name for name in TEXTS if is_own_file(folder, name)])
    if manifest != existing:
        manifest.write(folder)
    return manifest


def verify(request: ExportRequest, folder: Path, fused_bytes: int, rounded: bool, emit: Emit) -> Agreement | None:
    """Compare the written model with base and adapter, unless one of the two is too large to be opened here.

    A `rounded` model, where base or export is quantised, has a bound of its own. Raises as `require_agreement` does.
    """
    largest = max(fused_bytes, sum(path.stat().st_size for path in request.model_path.glob(WEIGHTS)))
    if not fits_memory(largest):
        emit("progress", stage="verify", done=0, total=1, message=f"{largest / 1e9:.1f} GB: too large to be compared")
        return None
    agreement = measure_agreement(request.model_path, request.adapter, folder)
    message = (
        f"same first token on {agreement.top1_agreement:.3f} of {agreement.tokens} tokens, "
        f"logits differ by at most {agreement.max_logit_difference:.3g}"
    )
    emit("progress", stage="verify", done=1, total=1, message=message)
    bound = "minimum_top1_agreement_quantised" if rounded else "minimum_top1_agreement"
    require_agreement(agreement, bound, getattr(request.parameters, bound))
    return agreement


def fits_memory(model_bytes: int) -> bool:
    """Tell whether a model of this size can be opened on this machine without swapping."""
    import mlx.core as mx

    device = mx.device_info()
    names = ("max_recommended_working_set_size", "memory_size", "total_memory")  # Metal, Metal, CUDA
    memory = next((device[name] for name in names if device.get(name)), None)
    return model_bytes <= MEMORY_FRACTION * float(memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def measure_agreement(base: Path, adapter: Path, fused: Path) -> Agreement:
    """Compare the logits of base and adapter with those of the fused model on fixed passages.

    The two models are open one after the other, never together; between them only logits are kept
    (float32, tokens x vocabulary).
    """
    import mlx.core as mx
    from mlx_lm.utils import load_model, load_tokenizer

    tokenizer = load_tokenizer(base)
    rows = [tokenizer.encode(passage)[:MAX_TOKENS] for passage in read_passages()]
    model, _ = open_with_adapter(base, adapter, lazy=False)
    expected = list(_logits(model, rows))
    del model
    mx.clear_cache()
    model, _ = load_model(fused)
    return compare(expected, _logits(model, rows))


def _logits(model: Any, rows: list[list[int]]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the logits of each row of token ids, shape (tokens, vocabulary)."""
    import mlx.core as mx

    for row in rows:
        yield np.array(model(mx.array([row]))[0].astype(mx.float32))


def compare(expected: list[npt.NDArray[np.float32]], found: Iterator[npt.NDArray[np.float32]]) -> Agreement:
    """Compare two sequences of logits, row by row; a value that is not a number makes the difference infinite."""
    tokens = same = 0
    largest = total = 0.0
    for left, right in zip(expected, found, strict=True):
        difference = np.abs(left - right)
        tokens += len(left)
        same += int((left.argmax(-1) == right.argmax(-1)).sum())
        largest = max(largest, float(difference.max()) if np.isfinite(difference).all() else math.inf)
        total += float(difference.mean(-1).sum())
    mean = total / tokens if math.isfinite(largest) else math.inf
    return Agreement(
        tokens=tokens, max_logit_difference=largest, mean_logit_difference=mean, top1_agreement=same / tokens
    )


def require_agreement(agreement: Agreement, bound: str, minimum_top1: float) -> None:
    """Refuse a fused model that is not the model that was trained; `bound` names the parameter with the minimum."""
    if not math.isfinite(agreement.max_logit_difference):
        raise UserError(
            "the fused model yields logits that are not numbers, so nothing was exported; "
            "export another checkpoint of the run"
        )
    if agreement.top1_agreement < minimum_top1:
        advice = (
            "Choose dequantize or 8bit, which keep more of the adapter"
            if bound.endswith("quantised")
            else "Check that the base model is the one the run was trained on"
        )
        raise UserError(
            f"the fused model agrees with base and adapter on {agreement.top1_agreement:.3f} of {agreement.tokens} "
            f"tokens (logits differ by at most {agreement.max_logit_difference:.3g}), the bound is {minimum_top1}; "
            f"nothing was exported. {advice}, or lower {bound}"
        )
