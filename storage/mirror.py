"""The mirror folder of a store in a bucket: what is known of each file, and which of them say that others are whole.

What moves between mirror and bucket is in `storage.remote`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from storage.atomic import write_json
from storage.errors import StoreError
from storage.lock import only_writer
from storage.manifest import MANIFEST, read_manifest
from storage.untrusted import file_sha256

SEALS = frozenset({MANIFEST, "state.json", "result.json", "run.json", "export.json"})
"""Files that say that others are whole: put into the bucket after them, fetched after them."""
INDEX = ".mirror.json"

Stamp = tuple[int, int, int, int]
"""Size and modification time in nanoseconds of the file here, then of the object there."""


@contextmanager
def index_of(mirror: Path) -> Iterator[dict[str, Stamp]]:
    """Hold the mirror's index; what was transferred before a failure is kept."""
    file = mirror / INDEX
    mirror.mkdir(parents=True, exist_ok=True)
    with only_writer(file, patience_seconds=0.0):  # whoever waits does so where it can be cancelled; a thread cannot
        content: dict[str, list[int]] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        index: dict[str, Stamp] = {path: (s[0], s[1], s[2], s[3]) for path, s in content.items()}
        before = dict(index)
        try:
            yield index
        finally:
            if index != before:
                write_json(file, index)


def files_below(mirror: Path, folder: PurePosixPath) -> Iterator[str]:
    """Name the files of the mirror below a folder; hidden and temporary ones belong to this machine.

    Raises:
        StoreError: There is a link among them.
    """
    root = mirror / folder
    for path in [root] if root.is_file() else root.rglob("*"):
        below = path.relative_to(mirror)
        if any(part.startswith(".") for part in below.parts):
            continue
        refuse_links(mirror, [PurePosixPath(below)])
        if path.is_file():
            yield below.as_posix()


def refuse_links(mirror: Path, paths: Iterable[PurePosixPath]) -> None:
    """Look for links in the mirror's own entries, from its root down to some paths.

    Raises:
        StoreError: There is one: what it leads to belongs neither into the bucket nor under what comes from there.
    """
    for place in {place for path in paths for place in (path, *path.parents) if place.parts}:
        if (mirror / place).is_symlink():
            raise StoreError(f"{mirror / place} is a link, which a store in a bucket cannot hold; take it away")


def is_seal(path: str) -> bool:
    """Tell whether a file says of others that they are whole."""
    return PurePosixPath(path).name in SEALS


def covers(seal: str, touched: Iterable[PurePosixPath]) -> bool:
    """Tell whether a seal stands over one of the folders."""
    folder = PurePosixPath(seal).parent
    return any(changed.is_relative_to(folder) for changed in touched)


def sealed_last(paths: Sequence[str]) -> list[list[str]]:
    """Split paths into those that may be moved in any order and the seals, inner ones before outer ones."""
    seals = sorted((path for path in paths if is_seal(path)), key=lambda path: (-path.count("/"), path))
    return [[path for path in paths if not is_seal(path)], *([seal] for seal in seals)]


def is_stale(mirror: Path, path: str, stamp: Stamp | None, there: tuple[int, int]) -> bool:
    """Tell whether the object changed since the mirror saw it, or the mirror lost or damaged its copy.

    A copy that was written to since is newer, and stays.

    Args:
        mirror: The mirror's folder.
        path: The file, relative to it.
        stamp: What the index knows of it.
        there: Size and modification time of the object.
    """
    if stamp is None or stamp[2:] != there:
        return True
    file = mirror / path
    if not file.is_file():
        return True
    size, moment = stamp_here(file)
    if size == stamp[0]:
        return False
    # What was written here since waits to be taken there, after a push that failed; below a manifest nothing may be.
    return moment == stamp[1] or _seal_over(file) is not None


def stamp_here(file: Path) -> tuple[int, int]:
    """Return size and modification time of a file in the mirror, in bytes and nanoseconds."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def check_fetched(mirror: Path, fetched: Iterable[str]) -> None:
    """Check fetched shards against the manifests over them.

    Raises:
        StoreError: A shard is not what its manifest means.
    """
    by_folder: dict[Path, set[str]] = {}
    for path in fetched:
        if folder := _seal_over(mirror / path):
            by_folder.setdefault(folder, set()).add((mirror / path).relative_to(folder).as_posix())
    for folder, files in by_folder.items():
        manifest = read_manifest(folder)
        for shard in manifest.shards if manifest else []:
            file = folder / shard.file
            # A new manifest is held against all that is here: an earlier pull may have ended before it was checked.
            concerned = shard.file in files or MANIFEST in files
            if concerned and not (file.is_file() and file_sha256(file) == shard.sha256):
                (folder / MANIFEST).unlink()
                file.unlink(missing_ok=True)
                raise StoreError(
                    f"{file} is not what its manifest in the bucket means; run the stage that made it "
                    "again on the machine that has it"
                )


def _seal_over(file: Path) -> Path | None:
    """Return the folder whose manifest stands over a file, if there is one."""
    return next((folder for folder in list(file.parents)[:3] if (folder / MANIFEST).is_file()), None)
