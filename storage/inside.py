"""File names that manifests and results carry: they lead to a place below their own folder, or nowhere."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator


def checked_file(name: object) -> str:
    """Return a relative path, with forward slashes, that does not leave its folder.

    Raises:
        ValueError: It is empty, absolute, climbs, or is written so that another system may read it otherwise.
    """
    if not isinstance(name, str):
        raise ValueError(f"{name!r} is no file name")
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(mark in name for mark in ("\\", "\0", ":")):
        raise ValueError(f"{name!r} is no path below its own folder")
    return PurePosixPath(name).as_posix()


InsideFile = Annotated[str, AfterValidator(checked_file)]
"""A field of a model that names a file below the folder of the model."""
