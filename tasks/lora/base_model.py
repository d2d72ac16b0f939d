"""Where the base model lies on this machine: a folder, a preset or a Hugging Face id, as it is or in 4 bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.atomic import atomic_folder, full_disk_explained
from storage.errors import PrerequisiteError
from storage.manifest import digest_of
from tasks.lora.architecture import Architecture, architecture_of, read_header
from tasks.lora.fetch import fetch_config, fetch_model, hub_home
from tasks.lora.presets import preset_of, repository_of

Log = Callable[[str], None]
WEIGHTS_INDEX = "model.safetensors.index.json"


def resolve_base(model: str, *, quantise: bool | None = None, log: Log = print) -> Path:
    """Return a local folder with the base model, downloading and quantising it if need be.

    Args:
        model: A folder, a preset's name or a Hugging Face id.
        quantise: Return a 4-bit copy; made once and kept. None: yes for a model of the Hub, no for a folder. A base
            that is quantised already stays as it is.
        log: Receives a line for each long step.

    Raises:
        PrerequisiteError: The model is not there, cannot be fetched, or is damaged.
    """
    folder = local_folder(model)
    of_the_hub = folder is None
    folder = checked_folder(fetch_model(repository_of(model), log) if folder is None else folder)
    wanted = of_the_hub if quantise is None else quantise
    return _quantised_copy(folder, model, log) if wanted and not _is_quantised(folder) else folder


def local_folder(model: str) -> Path | None:
    """Return the folder that a model names; none if it names a preset or a model of the Hub.

    Raises:
        PrerequisiteError: It is spelt as a path and there is no such folder.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if model.startswith((".", "/", "~")):
        raise PrerequisiteError(
            f"base model folder {model} does not exist; name an existing folder or a Hugging Face id"
        )
    return None


def architecture_of_base(model: str, *, quantise: bool | None = None) -> Architecture | None:
    """Return the sizes of the model that would be trained; of a model of the Hub, at most its configuration is fetched.

    Returns:
        The sizes; none if the configuration does not tell those of a transformer.

    Raises:
        PrerequisiteError: There is no configuration, or it cannot be had.
    """
    folder = local_folder(model)
    preset = preset_of(model)
    if folder is not None:
        found = architecture_of(_config(checked_folder(folder)), folder)
    else:
        found = architecture_of(preset.config if preset else fetch_config(repository_of(model)))
    wanted = folder is None if quantise is None else quantise
    return found.in_four_bits() if found and wanted else found


def checked_folder(folder: Path) -> Path:
    """Return a model folder if it is whole: a configuration, and every weight file as long as its header says.

    Raises:
        PrerequisiteError: Something is missing or cut off.
    """
    if not (folder / "config.json").is_file():
        raise PrerequisiteError(f"{folder} holds no config.json; name a model folder in the Hugging Face layout")
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise PrerequisiteError(
            f"{folder} holds no model*.safetensors; only safetensors weights are read, convert it first"
        )
    present = {name for file in files for name in read_header(file)}
    if (folder / WEIGHTS_INDEX).is_file():
        listed = json.loads((folder / WEIGHTS_INDEX).read_text("utf-8")).get("weight_map", {})
        if missing := sorted(set(listed) - present):
            raise PrerequisiteError(
                f"{folder} lacks {len(missing)} of {len(listed)} tensors, the first is {missing[0]}: a weight file is "
                "missing; fetch the model again"
            )
    return folder


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return config


def _is_quantised(folder: Path) -> bool:
    config = _config(folder)
    return "quantization" in config or "quantization_config" in config


def quantised_folder(folder: Path, model: str) -> Path:
    """Return where the 4-bit copy of a base is kept: beside the Hugging Face cache, by name and content.

    The key holds the sizes of the weights and the whole configuration, so that a new revision gets a new copy.
    """
    weights = {file.name: file.stat().st_size for file in sorted(folder.glob("model*.safetensors"))}
    key = digest_of([str(folder), (folder / "config.json").read_text("utf-8"), weights])
    name = Path(model).name or "base"
    return hub_home() / "distrust-quantised" / f"{name}-4bit-{key[:12]}"


def _quantised_copy(folder: Path, model: str, log: Log) -> Path:
    final = quantised_folder(folder, model)
    if (final / "config.json").is_file():
        return checked_folder(final)
    from tasks.lora.quantise import write_quantised

    log(f"Quantising the base model to 4 bits, once, into {final}")
    with full_disk_explained(final), atomic_folder(final) as temporary:
        write_quantised(folder, temporary)
    return final
