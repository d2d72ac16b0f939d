"""A source made of a folder alone: documents of the user's own, without an entry in a catalogue."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from storage.errors import ParameterError
from tasks.sources.catalogue import SourceSpec
from tasks.sources.files.walk import listing_of

LONGEST_NAME = 40
NOT_IN_A_NAME = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class OwnDocuments:
    """What a person says about a folder of documents.

    Args:
        path: The folder, or one file.
        source_type: What kind of documents they are; "unknown" is a good answer.
        name: The name of the source; empty: that of the folder.
        text_column: The column of tables that holds the text; empty: the one whose name says so.
    """

    path: str
    source_type: str = "unknown"
    name: str = ""
    text_column: str = ""

    def spec(self, taken: Collection[str]) -> SourceSpec:
        """Return the entry of a catalogue for them, under none of the `taken` names; it changes with the files.

        Raises:
            ParameterError: The folder cannot be read.
        """
        path = Path(self.path).expanduser()
        try:
            listing = listing_of(path)
        except OSError as error:
            raise ParameterError(
                f"path {self.path!r} cannot be read ({error.strerror}); name a folder or file"
            ) from error
        return SourceSpec.model_validate(
            {
                "name": self.name or source_name(path, taken),
                "archive": "local_files",
                "path": str(path.absolute()),
                "source_type": self.source_type,
                "trivium": None,
                "target": 1_000_000,
                "snapshot": listing,
                **({"text_column": self.text_column} if self.text_column else {}),
            }
        )


def source_name(path: Path, taken: Collection[str]) -> str:
    """Make the name of a source out of that of its folder."""
    stem = path.absolute().name if path.is_dir() else path.name.split(".")[0]
    plain = NOT_IN_A_NAME.sub("_", stem.lower()).strip("_")[:LONGEST_NAME]
    name = plain or "documents"
    return f"{name}_documents" if name in taken else name
