"""The only module that spells a path of the store."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import ParameterError

if TYPE_CHECKING:
    from storage.bucket import Bucket

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
CHECKPOINT_PREFIX = "checkpoint-"
ASIDE = "aside"
SET_ASIDE = "set-aside"


def checked_name(name: str, what: str) -> str:
    """Return `name` if it is safe as a folder name.

    Raises:
        ParameterError: It is empty, too long, or holds anything but letters, digits, ``.``, ``_`` and ``-``.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ParameterError(f"{what} {name!r} is not a plain name; use 1 to 100 letters, digits, '.', '_' or '-'")
    return name


@dataclass(frozen=True)
class Layout:
    """The folders of one corpus store.

    Attributes:
        root: Their folder on this machine.
        bucket: The bucket that `root` mirrors; None if the store is a folder.
    """

    root: Path
    bucket: Bucket | None = None

    @classmethod
    def of(cls, store: str | None = None) -> Layout:
        """Open the named store, else ``DISTRUST_STORE``, else ``./data``.

        The URI of a bucket is worked on through a mirror below ``DISTRUST_MIRROR`` (``~/.cache/distrust``).

        Raises:
            ParameterError: The store is a URI of an unknown scheme, or a path that cannot exist.
            StoreError: The bucket cannot be reached.
        """
        named = store or os.environ.get("DISTRUST_STORE") or "data"
        if "://" not in named:
            try:
                return cls(Path(named).expanduser().resolve())
            except (OSError, RuntimeError, ValueError) as error:  # too long, in a circle, of an unknown user
                raise ParameterError(f"store {named!r} cannot be a folder ({error}); name another path") from error
        from storage.bucket import open_bucket  # loads Arrow, which a store in a folder need not wait for

        bucket = open_bucket(named)
        mirrors = Path(os.environ.get("DISTRUST_MIRROR") or "~/.cache/distrust").expanduser().resolve()
        # The digest tells s3://a/b-c from s3://a-b/c.
        readable = re.sub(r"[^A-Za-z0-9.-]+", "-", bucket.uri).strip("-.")
        return cls(mirrors / f"{readable}-{sha256(bucket.uri.encode()).hexdigest()[:8]}", bucket)

    def pull(self, *below: str) -> None:
        """Fetch what changed in the bucket, see `Bucket.pull`; a store in a folder needs nothing."""
        if self.bucket:
            self.bucket.pull(self.root, below)

    def push(self, *below: str) -> None:
        """Upload what changed here, see `Bucket.push`; a store in a folder needs nothing.

        What was set aside is uploaded first: its former place in the bucket is emptied afterwards.
        """
        if self.bucket:
            self.bucket.push(self.root, [SET_ASIDE])
            self.bucket.push(self.root, below)

    def raw(self, source: str) -> Path:
        """Downloaded documents of a source."""
        return self.root / "raw" / checked_name(source, "source")

    def unfinished(self, source: str) -> Path:
        """Where an interrupted download of a source keeps its position; not needed once the source is complete."""
        return self.root / "unfinished" / checked_name(source, "source")

    def scored(self, source: str) -> Path:
        """Scores of a source's documents, shard by shard."""
        return self.root / "scored" / checked_name(source, "source")

    def coordination(self, source: str = "") -> Path:
        """Fingerprints of all documents and what was counted of their copies; those of one source, if it is named."""
        folder = self.root / "coordination"
        return folder / checked_name(source, "source") if source else folder

    def balanced(self, name: str) -> Path:
        """A balanced mixture with its ``train`` and ``valid`` folders."""
        return self.root / "balanced" / checked_name(name, "mixture name")

    def run(self, name: str) -> Path:
        """A training run."""
        return self.root / "runs" / checked_name(name, "run name")

    def reports(self, run: str) -> Path:
        """Evaluation results and report of a run."""
        return self.run(run) / "reports"

    def comparison(self, name: str) -> Path:
        """Table and pictures of several runs side by side."""
        return self.root / "comparisons" / checked_name(name, "comparison name")

    def export(self, name: str) -> Path:
        """An exported model."""
        return self.root / "exports" / checked_name(name, "export name")

    def set_aside(self, stage: str, name: str, key: str) -> Path:
        """Where a dataset goes that a new request would otherwise overwrite."""
        return self.root / SET_ASIDE / stage / f"{checked_name(name, 'name')}-{key[:12]}"

    def completed(self, stage: str) -> list[str]:
        """Names of the finished datasets of a stage (``raw``, ``scored`` or ``balanced``), sorted."""
        folders = (path.parent.name for path in (self.root / stage).glob("*/manifest.json"))
        return sorted(name for name in folders if not name.startswith("."))


def checkpoint_folder(run: Path, step: int) -> Path:
    """The checkpoint of a run after `step` optimiser steps."""
    return run / f"{CHECKPOINT_PREFIX}{step}"


def aside_folder(run: Path) -> Path:
    """Where checkpoints go that another course of the run would mix with; ``aside-2`` the next time."""
    return run / ASIDE


def is_aside(folder: Path) -> bool:
    """Tell whether a folder of a run holds checkpoints that were set aside."""
    return folder.name == ASIDE or folder.name.startswith(f"{ASIDE}-")
