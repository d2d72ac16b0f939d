"""What an export may become besides an MLX folder: a PEFT adapter, a model of LM Studio or Ollama, an upload."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storage.addresses import check_hub
from storage.atomic import atomic_folder, write_json
from storage.errors import ParameterError, PrerequisiteError, TransientError
from storage.events import Emit
from storage.layout import checked_name
from storage.manifest import digest_of
from storage.model_folder import ADAPTERS, read_adapter
from tasks.exports.export_manifest import EXPORT, MODELFILE, ExportManifest, Upload
from tasks.exports.parameters import PEFT_FILES, ExportParameters, ExportRequest

LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)$")
PEFT_PARTS = {"lora_a": "lora_A", "lora_b": "lora_B"}
MAY_PASS = (408, 409, 425, 429)


def write_peft(export: Path, adapter: Path, base: str) -> None:
    """Write an adapter of the base model of that name into a folder of its own below the export.

    MLX multiplies the input from the left, ``x A B * scale`` with A of shape (in, rank) and B of shape (rank, out);
    PEFT holds both transposed and scales by ``lora_alpha / r``.
    """
    import mlx.core as mx

    rank, scale = read_lora(adapter)
    weights: Any = mx.load(str(adapter / ADAPTERS))
    transposed = {}
    for name, value in weights.items():
        module, part = name.rsplit(".", 1)
        transposed[f"base_model.model.{module}.{PEFT_PARTS[part]}.weight"] = mx.contiguous(value.T)
    target, config = (export / name for name in PEFT_FILES)
    target.parent.mkdir(exist_ok=True)
    mx.save_safetensors(str(target), transposed, metadata={"format": "pt"})
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": target_modules({name.rsplit(".", 1)[0] for name in weights}),
    }
    write_json(config, content)


def read_lora(adapter: Path) -> tuple[int, float]:
    """Read rank and scale of an adapter; ParameterError for one that is not a LoRA adapter."""
    config = read_adapter(adapter)
    if (kind := config.get("fine_tune_type", "lora")) != "lora":
        raise ParameterError(f"only a LoRA adapter has a PEFT form, this one is {kind!r}; use peft=false")
    parameters: Any = config["lora_parameters"]
    return parameters["rank"], parameters["scale"]


def target_modules(modules: Iterable[str]) -> str:
    """Name the modules by a regular expression: a list of suffixes would reach layers that have no adapter."""
    layers: dict[str, set[int]] = {}
    for module in modules:
        found = LAYER.match(module)
        if found is None:
            raise ParameterError(f"the adapter changes {module}, which is not in a layer; use peft=false")
        layers.setdefault(found.group(2), set()).add(int(found.group(1)))
    return "|".join(
        rf"model\.layers\.({'|'.join(map(str, sorted(numbers)))})\.{re.escape(suffix)}"
        for suffix, numbers in sorted(layers.items())
    )


def lm_studio_folder(parameters: ExportParameters, model: str) -> Path | None:
    """Return the folder of a model in LM Studio, ``<models folder>/<publisher>/<model>``; none if not asked for."""
    if not parameters.lm_studio_folder:
        return None
    models = Path(parameters.lm_studio_folder).expanduser()
    if not models.is_dir():
        raise PrerequisiteError(
            f"lm_studio_folder {parameters.lm_studio_folder!r} is not a folder; start LM Studio once or name its "
            "models folder"
        )
    models = models.resolve()
    folder = models / checked_name(parameters.lm_studio_publisher, "publisher") / checked_name(model, "model")
    if folder.resolve() != folder:
        raise ParameterError(f"{folder} leads out of {models} through a link; choose another publisher or export name")
    if (existing := ExportManifest.read(folder)) is not None:
        existing.require_replaceable(folder)
    return folder


def install_in_lm_studio(export: Path, manifest: ExportManifest, folder: Path) -> None:
    """Place the MLX folder of an export at `folder`, by hard links where the file system allows it, else by copies.

    GGUF file, Modelfile and PEFT adapter are left out: LM Studio would list the model twice.
    """
    records = [
        record
        for record in manifest.files
        if "/" not in record.file and not record.file.endswith(".gguf") and record.file != MODELFILE
    ]
    manifest = manifest.model_copy(update={"files": records})
    if ExportManifest.read(folder) == manifest and manifest.is_whole(folder):
        return
    with atomic_folder(folder) as temporary:
        manifest.link_files(export, temporary)
        manifest.write(temporary)


def register_with_ollama(folder: Path, emit: Emit) -> str | None:
    """Register an export under its name; return the name, or none where Ollama is not installed.

    It is done every time: Ollama cannot say whether it holds these weights or those of an earlier export of the name.
    """
    name = folder.name.lower()
    command = ["ollama", "create", name, "-f", MODELFILE]
    if shutil.which("ollama") is None:
        message = f"ollama is not installed; once it is, run: cd {folder} && {' '.join(command)}"
        emit("progress", stage="ollama", done=0, total=1, message=message)
        return None
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise PrerequisiteError(
            f"`{' '.join(command)}` in {folder} ended with status {done.returncode} ({done.stderr.strip()[-300:]}); "
            "start Ollama and export again, the finished files are kept"
        )
    emit("progress", stage="ollama", done=1, total=1, message=f"registered with Ollama: ollama run {name}")
    return name


def check_upload(parameters: ExportParameters) -> None:
    """Raise UserError before any work for an upload without token, safe address, or name that the Hub accepts."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    check_hub()
    try:
        validate_repo_id(str(parameters.hub_repository))
    except HFValidationError as error:
        raise ParameterError(
            f"hub_repository {parameters.hub_repository!r} is not a name that the Hub accepts: {error}"
        ) from error
    if not parameters.hub_dry_run and get_token() is None:
        raise PrerequisiteError(
            f"uploading to {parameters.hub_repository} needs a token with write access: save it in the block "
            "hugging-face-hub/default, or set HF_TOKEN"
        )


def upload(request: ExportRequest, manifest: ExportManifest, emit: Emit) -> Upload:
    """Send the recorded files of an export, and nothing else that its folder may hold, to a private repository.

    A dry run, and an export that is not the one that was approved, send nothing.

    Raises:
        PrerequisiteError: The Hub refuses the token, the repository or the files, or the repository is public.
        TransientError: The Hub cannot be reached.
    """
    repository = str(request.parameters.hub_repository)
    files = [*(record.file for record in manifest.files), EXPORT]
    size = sum(record.bytes for record in manifest.files)
    digest = digest_of({"repository": repository, "files": [record.model_dump() for record in manifest.files]})
    # Checked here and not before: approval may take days, and the export's lock is free meanwhile.
    changed = request.approved not in (None, digest)
    sends = not (request.parameters.hub_dry_run or changed)
    what = f"{len(files)} files ({size / 1e6:.1f} MB) to the private repository {repository}"
    reason = "; nothing is sent, because the export has changed since it was approved" if changed else ""
    said = f"{'uploading' if sends else 'would upload'} {what}{reason}"
    emit("progress", stage="hub", done=0, total=1, message=said)
    address = _send(request.export_folder, repository, files) if sends else None
    return Upload(repository=repository, files=files, bytes=size, digest=digest, uploaded=sends, address=address)


def _send(folder: Path, repository: str, files: list[str]) -> str:
    """Create the repository if it is missing and commit the files; return the commit's address."""
    from httpx2 import HTTPError  # the client of huggingface_hub
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_hub()
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        if not api.model_info(repository).private:  # it was there before
            raise PrerequisiteError(
                f"{repository} exists on the Hub and is public: make it private there, or name another hub_repository"
            )
        commit = api.upload_folder(
            folder_path=folder,
            repo_id=repository,
            allow_patterns=files,
            delete_patterns=["model*.safetensors", "*.gguf", "peft/*"],  # of an earlier upload in other files
            commit_message=f"Export {folder.name}",
        )
    except (HTTPError, OSError) as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        if 400 <= status < 500 and status not in MAY_PASS:
            advice = "check the name, and that the token may write to it"
            raise PrerequisiteError(
                f"the Hub refused {repository} (status {status}): {advice} ({str(error)[:300]})"
            ) from error
        reason = f"failed with status {status}" if status else f"cannot be reached ({type(error).__name__})"
        raise TransientError(f"the Hub {reason}; export again, and only the upload is repeated") from error
    return str(commit.commit_url)
