"""Where the base model lies on this machine: a folder, a preset or a Hugging Face id, as it is or in 4 bits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.atomic import atomic_folder
from storage.errors import PrerequisiteError
from storage.manifest import digest_of
from tasks.lora.presets import repository_of

WANTED_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model")
UNWANTED_FILES = ("original/*", "consolidated*", "onnx/*", "*.gguf")
QUANTISED_BITS = 4
QUANTISED_GROUP = 64


def resolve_base(model: str, *, quantise: bool = False, log: Callable[[str], None] = print) -> Path:
    """Return a local folder with the base model, downloading and quantising it if need be.

    Args:
        model: A folder, a preset's name or a Hugging Face id.
        quantise: Return a 4-bit copy; made once and kept. A base that is quantised already stays as it is.
        log: Receives a line for each long step.

    Raises:
        PrerequisiteError: The model is not there and cannot be fetched.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        folder = _checked_folder(folder.resolve())
    elif model.startswith((".", "/", "~")):
        raise PrerequisiteError(
            f"base model folder {model} does not exist; name an existing folder or a Hugging Face id"
        )
    else:
        folder = _checked_folder(_download(repository_of(model), log))
    return _quantised_copy(folder, model, log) if quantise and not _is_quantised(folder) else folder


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise PrerequisiteError(f"{folder} holds no config.json; name a model folder in the Hugging Face layout")
    if not any(folder.glob("model*.safetensors")):
        raise PrerequisiteError(
            f"{folder} holds no model*.safetensors; only safetensors weights are read, convert it first"
        )
    return folder


def _download(repository: str, log: Callable[[str], None]) -> Path:
    from httpx2 import HTTPError  # the client of huggingface_hub
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    log(f"Fetching {repository} unless it is in the local cache")
    try:
        return Path(
            snapshot_download(repository, allow_patterns=list(WANTED_FILES), ignore_patterns=list(UNWANTED_FILES))
        )
    except GatedRepoError as error:
        raise PrerequisiteError(
            f"base model {repository} is gated: accept its licence at https://huggingface.co/{repository} "
            "and set HF_TOKEN"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise PrerequisiteError(
            f"base model {repository} does not exist or is private: check the name, or set HF_TOKEN, "
            "or name a local folder"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise PrerequisiteError(
            f"base model {repository} is not in the local cache and the Hub cannot be reached: connect once, "
            "or name a local folder with model=PATH"
        ) from error
    except (HTTPError, OSError) as error:
        raise PrerequisiteError(
            f"base model {repository} could not be fetched ({error}): check the connection and the free disk space, "
            "then run again; what was fetched is kept"
        ) from error


def _is_quantised(folder: Path) -> bool:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return "quantization" in config or "quantization_config" in config


def quantised_folder(folder: Path, model: str) -> Path:
    """Return where the 4-bit copy of a base is kept: beside the Hugging Face cache, by name and content.

    The key holds the sizes of the weights and the whole configuration, so that a new revision gets a new copy.
    """
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    weights = {file.name: file.stat().st_size for file in sorted(folder.glob("model*.safetensors"))}
    key = digest_of([str(folder), (folder / "config.json").read_text("utf-8"), weights])
    name = Path(model).name or "base"
    return home / "distrust-quantised" / f"{name}-{QUANTISED_BITS}bit-{key[:12]}"


def _quantised_copy(folder: Path, model: str, log: Callable[[str], None]) -> Path:
    final = quantised_folder(folder, model)
    if (final / "config.json").is_file():
        return final
    from mlx_lm import convert

    log(f"Quantising the base model to {QUANTISED_BITS} bits, once, into {final}")
    with atomic_folder(final) as temporary:
        temporary.rmdir()  # the converter insists on making its folder itself
        convert(
            str(folder),
            mlx_path=str(temporary),
            quantize=True,
            q_bits=QUANTISED_BITS,
            q_group_size=QUANTISED_GROUP,
        )
    return final
