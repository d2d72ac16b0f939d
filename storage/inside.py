"""File names that manifests and results carry: they lead to a place below their own folder, or nowhere."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_PART = r"\.*[^./\\:\0][^/\\:\0]*"
"""One name on the way: not empty and not of dots alone."""
_INSIDE = re.compile(rf"{_PART}(?:/{_PART})*")


def checked_file(name: object) -> str:
    """Return a relative path, with forward slashes, that does not leave its folder.

    Raises:
        ValueError: It is empty, absolute, climbs, or is written so that another system may read it otherwise.
    """
    if not isinstance(name, str):
        raise ValueError(f"{name!r} is no file name")
    if not _INSIDE.fullmatch(name):
        raise ValueError(f"{name!r} is no path below its own folder")
    return name


InsideFile = Annotated[str, AfterValidator(checked_file)]
"""A field of a model that names a file below the folder of the model."""
