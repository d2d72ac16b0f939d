"""Where the base model lies on this machine: a folder, a preset or a Hugging Face id, as it is or in 4 bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from storage.atomic import atomic_folder, full_disk_explained, remove_temporaries_of
from storage.errors import PrerequisiteError
from storage.lock import only_writer
from storage.manifest import digest_of
from storage.model_folder import check_model_folder, read_config
from storage.untrusted import file_sha256, read_object
from tasks.lora.architecture import Architecture, architecture_of
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
    local = local_folder(model)
    folder = checked_folder(fetch_model(repository_of(model), log) if local is None else local)
    wanted = local is None if quantise is None else quantise
    if not wanted or _is_quantised(folder):
        return folder
    # A snapshot of the Hub carries its commit in its path; in a folder of one's own, weights are replaced in place.
    weights = _sizes(folder) if local is None else _digests(folder, log)
    return _quantised_copy(folder, model, weights, log)


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


def public_name(model: str) -> str:
    """Name a base model for others: its repository on the Hub, or the last part of a folder's path.

    Raises:
        PrerequisiteError: It is spelt as a path and there is no such folder.
    """
    folder = local_folder(model)
    return repository_of(model) if folder is None else folder.name


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
        found = architecture_of(read_config(checked_folder(folder)), folder)
    else:
        found = architecture_of(preset.config if preset else fetch_config(repository_of(model)))
    wanted = folder is None if quantise is None else quantise
    return found.in_four_bits() if found and wanted else found


def checked_folder(folder: Path) -> Path:
    """Return a model folder if it is whole: `check_model_folder` tells what that means, and its index agrees.

    Raises:
        PrerequisiteError: Something is missing or cut off.
    """
    present = check_model_folder(folder)
    if (folder / WEIGHTS_INDEX).is_file():
        listed = _read_object(folder / WEIGHTS_INDEX).get("weight_map", {})
        if not isinstance(listed, dict):
            raise PrerequisiteError(f"{folder / WEIGHTS_INDEX} maps no weights; fetch or copy the model again")
        if missing := sorted(listed.keys() - present.keys()):
            raise PrerequisiteError(
                f"{folder} lacks {len(missing)} of {len(listed)} tensors, the first is {missing[0]}: a weight file is "
                "missing; fetch the model again"
            )
    return folder


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model's folder.

    Raises:
        PrerequisiteError: It is cut off, or something else.
    """
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise PrerequisiteError(f"{path} is damaged ({error}); fetch or copy the model again") from error


def _is_quantised(folder: Path) -> bool:
    config = read_config(folder)
    return "quantization" in config or "quantization_config" in config


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def _sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in _weight_files(folder)}


def _digests(folder: Path, log: Log) -> dict[str, str]:
    """Read weights whole: samples would miss a change of a few rows, and size and date survive more than that."""
    log(f"Reading {sum(_sizes(folder).values()) / 1e9:.1f} GB of weights to tell which 4-bit copy is theirs")
    return {file.name: file_sha256(file) for file in _weight_files(folder)}


def quantised_folder(folder: Path, model: str, weights: Mapping[str, object]) -> Path:
    """Return where the 4-bit copy of a base is kept: beside the Hugging Face cache, by name and content.

    Args:
        folder: The base model.
        model: What it is called.
        weights: What tells its weight files from others of their names.
    """
    key = digest_of([str(folder), (folder / "config.json").read_text("utf-8"), dict(weights)])
    name = Path(model).name or "base"
    return hub_home() / "distrust-quantised" / f"{name}-4bit-{key[:12]}"


def _quantised_copy(folder: Path, model: str, weights: Mapping[str, object], log: Log) -> Path:
    final = quantised_folder(folder, model, weights)
    if (final / "config.json").is_file():
        return checked_folder(final)
    with only_writer(final, math.inf, log):
        if (final / "config.json").is_file():  # made while this process waited
            return checked_folder(final)
        remove_temporaries_of(final)  # up to 40 GB, if an earlier process was killed over it
        from tasks.lora.quantise import write_quantised

        log(f"Quantising the base model to 4 bits, once, into {final}")
        with full_disk_explained(final), atomic_folder(final) as temporary:
            write_quantised(folder, temporary)
    return final
