"""Write the folder that ``mlx_lm.load`` and LM Studio open."""

from __future__ import annotations

import shutil
from pathlib import Path

from storage.atomic import write_text
from storage.errors import PrerequisiteError
from storage.events import Emit
from storage.model_folder import check_model_folder
from storage.untrusted import file_sha256
from tasks.exports.fuse import LazyModel, write_weights
from tasks.exports.manifest import read_object

WEIGHTS = "model*.safetensors"
COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
    "chat_template.*",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
)
"""Files of the base that the export keeps as they are. Python files are never among them."""


TRAINED_LAYOUT = """\
{%- for message in messages -%}
{{ {"user": "User: ", "assistant": "Assistant: "}.get(message["role"], "") + message["content"] + "\\n\\n" }}
{%- endfor -%}
{{ "Assistant:" if add_generation_prompt else "" }}"""
"""Chat template for a base without one: the layout that the adapter was trained on."""


def files_to_copy(base: Path) -> list[Path]:
    """List the tokenizer, template, generation and licence files of a base model."""
    found = {path for pattern in COPIED for path in base.glob(pattern) if path.is_file()}
    return sorted(path for path in found if path.suffix != ".py")


def require_base(base: Path) -> None:
    """Refuse a folder without a base model.

    Raises:
        PrerequisiteError: Its configuration or its weights are missing, or something in it is damaged.
    """
    if not any(base.glob(WEIGHTS)) or not (base / "config.json").is_file():
        raise PrerequisiteError(
            f"{base} holds no model (config.json and {WEIGHTS}); download the base model of the run first"
        )
    check_model_folder(base)


def digest_inputs(base: Path, adapter: Path, emit: Emit) -> dict[str, str]:
    """Hash every file on which the exported files depend.

    Raises:
        PrerequisiteError: The base folder holds no model.
    """
    require_base(base)
    weights = sorted(base.glob(WEIGHTS))
    digests = {}
    for number, path in enumerate(weights, start=1):
        digests[f"base/{path.name}"] = file_sha256(path)
        emit("progress", stage="hash", done=number, total=len(weights), message=f"hashed {path.name}")
    for path in [base / "config.json", *files_to_copy(base)]:
        digests[f"base/{path.name}"] = file_sha256(path)
    for name in ("adapters.safetensors", "adapter_config.json"):
        digests[f"adapter/{name}"] = file_sha256(adapter / name)
    return digests


def check_disk(parent: Path, needed_bytes: int) -> None:
    """Refuse an export for which the disk has no room.

    Raises:
        PrerequisiteError: The free space is too small.
    """
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        raise PrerequisiteError(
            f"the export needs {needed_bytes / 1e9:.1f} GB but {parent} has {free / 1e9:.1f} GB free; "
            "free some space, or quantise to fewer bits"
        )


def write_mlx_folder(folder: Path, base: Path, model: LazyModel, emit: Emit) -> None:
    """Write weights, index, config and the copied files of the base into an empty folder."""
    from mlx_lm.utils import save_config

    check_disk(folder.parent, model.bytes)
    write_weights(folder, model, emit)
    save_config(model.config, folder / "config.json")
    for path in files_to_copy(base):
        shutil.copyfile(path, folder / path.name)
    settings = read_object(base / "tokenizer_config.json")
    if not settings.get("chat_template") and not any(base.glob("chat_template.*")):
        write_text(folder / "chat_template.jinja", TRAINED_LAYOUT)
