"""Make an export appear in LM Studio, which lists ``<models folder>/<publisher>/<model>``."""

from __future__ import annotations

from pathlib import Path

from storage.atomic import atomic_folder
from storage.errors import ParameterError, PrerequisiteError
from storage.layout import checked_name
from tasks.exports.manifest import EXPORT, MODELFILE, is_whole, link_files, read_export, require_replaceable


def installed_folder(models_folder: str, publisher: str, model: str) -> Path:
    """Return the folder of a model below LM Studio's models folder.

    Raises:
        PrerequisiteError: The models folder does not exist.
        ParameterError: A name is not plain, or a link leads out of the models folder.
    """
    models = Path(models_folder).expanduser()
    if not models.is_dir():
        raise PrerequisiteError(
            f"lm_studio_folder {models_folder!r} is no folder; start LM Studio once or name its models folder"
        )
    models = models.resolve()
    folder = models / checked_name(publisher, "publisher") / checked_name(model, "model")
    if folder.resolve() != folder:
        raise ParameterError(f"{folder} leads out of {models} through a link; choose another publisher or export name")
    return folder


def install_export(export: Path, folder: Path) -> None:
    """Place the MLX folder of an export at `folder`, by hard links where the file system allows it, else by copies.

    GGUF file, Modelfile and PEFT adapter stay away: LM Studio would list the model twice.

    Raises:
        StoreError: The place holds something that is no export.
    """
    manifest = read_export(export)
    assert manifest is not None
    records = [record for record in manifest.files if not is_other_form(record.file)]
    manifest = manifest.model_copy(update={"files": records})
    text = manifest.model_dump_json(indent=2) + "\n"
    if (there := read_export(folder)) is not None:
        if (folder / EXPORT).read_text("utf-8") == text and is_whole(folder, manifest):
            return
        require_replaceable(folder, there)
    with atomic_folder(folder) as temporary:
        link_files(export, temporary, manifest)
        (temporary / EXPORT).write_text(text, "utf-8")


def is_other_form(file: str) -> bool:
    """Tell whether a file of an export belongs to another form than the MLX folder."""
    return "/" in file or file.endswith(".gguf") or file == MODELFILE
