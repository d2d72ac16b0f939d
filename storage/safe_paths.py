"""Paths that stay in their own folder, whatever a manifest names and wherever links lead."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from storage.errors import StoreError

_PART = r"\.*[^./\\:\0][^/\\:\0]*"
"""One name on the way: not empty and not only dots."""
_INSIDE = re.compile(rf"{_PART}(?:/{_PART})*")


def checked_file(name: object) -> str:
    """Return a relative path, with forward slashes, that does not leave its folder.

    Raises:
        ValueError: It is empty, absolute, climbs, or is written so that another system may read it otherwise.
    """
    if not isinstance(name, str) or not _INSIDE.fullmatch(name):
        raise ValueError(f"{name!r} is not the path of a file below its own folder")
    return name


InsideFile = Annotated[str, AfterValidator(checked_file)]
"""A field of a model that names a file below the folder of the model."""


def open_no_link(path: str, flags: int) -> int:
    """Open a file that is written in place, not renamed into it; for the `opener` of `open`.

    Raises:
        StoreError: The path is a link, which would lead the writing elsewhere.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StoreError(f"{path} is a link, and nothing is written through links; remove the link") from error


def is_own_file(folder: Path, name: str) -> bool:
    """Tell whether a folder itself holds a file: it exists, and neither it nor a folder on the way to it is a link."""
    path = folder / name
    return path.is_file() and path.resolve() == folder.resolve() / name
