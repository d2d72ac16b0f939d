"""Make an export appear in LM Studio, which lists ``<models folder>/<publisher>/<model>``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from storage.atomic import atomic_folder
from storage.errors import ParameterError, PrerequisiteError
from storage.layout import checked_name
from tasks.exports.manifest import EXPORT, read_export, require_replaceable


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
    """Place an export at `folder`, by hard links where the file system allows it, else by copies.

    Raises:
        StoreError: The place holds something that is no export.
    """
    if (there := read_export(folder)) is not None:
        if (folder / EXPORT).read_bytes() == (export / EXPORT).read_bytes():
            return
        require_replaceable(folder, there)
    with atomic_folder(folder) as temporary:
        for path in sorted(export.iterdir()):
            try:
                os.link(path, temporary / path.name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(path, temporary / path.name)
