"""A corpus store in a bucket, worked on through a mirror folder of this machine.

Every stage reads and writes plain files in the mirror; its inputs are fetched from the bucket first, and its outputs
are uploaded afterwards. An object in the bucket appears whole or not at all (an incomplete multipart upload leaves
nothing), and the marker of a dataset is deleted first and uploaded last: as on disk, a manifest that exists means that
everything it names exists. See docs/decisions/0060-store-in-a-bucket.md.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem, S3FileSystem, copy_files

from storage.addresses import is_safe
from storage.atomic import atomic_path, write_json
from storage.errors import ParameterError, StoreError
from storage.lock import only_writer
from storage.manifest import MANIFEST, read_manifest
from storage.untrusted import file_sha256

SCHEMES = ("s3", "gs", "abfs", "abfss")
TRANSFERS_AT_ONCE = 8
MARKERS = frozenset({MANIFEST, "state.json", "result.json", "run.json", "export.json"})
"""Files that mark others as complete; uploaded and fetched after them."""
INDEX = ".mirror.json"

Stamp = tuple[int, int, int, int]
"""Size and modification time in nanoseconds of the file here, then of the object in the bucket."""


@dataclass(frozen=True)
class Bucket:
    """A prefix of a bucket.

    Attributes:
        uri: How the user names it.
        filesystem: The Arrow file system that reaches it.
        prefix: Bucket and prefix, without a slash at the end.
    """

    uri: str
    filesystem: FileSystem
    prefix: str

    def pull(self, mirror: Path, below: Iterable[str]) -> list[str]:
        """Fetch what changed in the bucket `below` some folders into the mirror; return the paths, relative to it.

        Raises:
            DatasetBusy: Another process moves files of this mirror; `storage.lock.in_turn` waits for it.
            StoreError: The bucket cannot be reached or holds foreign files, or the mirror holds a link.
        """
        with _explained(self.uri), _index_of(mirror) as index:
            there = {path: info for folder in below for path, info in self._list(folder).items()}
            wanted = [path for path, info in there.items() if _is_stale(mirror, path, index.get(path), info)]
            _refuse_links(mirror, {PurePosixPath(path).parent for path in wanted})
            for group in _markers_last(wanted):
                with ThreadPoolExecutor(TRANSFERS_AT_ONCE) as threads:
                    stamps = threads.map(lambda path: self._fetch(mirror, path, there[path]), group)
                    index.update(zip(group, stamps, strict=True))
        _check_fetched(mirror, wanted)
        return wanted

    def push(self, mirror: Path, below: Iterable[str]) -> list[str]:
        """Upload what changed in the mirror, and delete in the bucket what is gone here; return the changed paths.

        Raises:
            DatasetBusy: Another process moves files of this mirror; `storage.lock.in_turn` waits for it.
            StoreError: The bucket cannot be reached; a later run goes on. Or the mirror holds a link.
        """
        folders = [PurePosixPath(folder) for folder in below]
        with _explained(self.uri), _index_of(mirror) as index:
            _refuse_links(mirror, folders)
            here = {path for folder in folders for path in _files_below(mirror, folder)}
            known = {path for path in index if any(PurePosixPath(path).is_relative_to(folder) for folder in folders)}
            changed = [path for path in sorted(here) if index.get(path, ())[:2] != _stamp_here(mirror / path)]
            gone = known - here
            # A marker must never stand over shards of another version: it goes first and comes last.
            touched = {PurePosixPath(path).parent for path in (*changed, *gone)}
            outdated = [path for path in known if _is_marker(path) and _stands_over(path, touched)]
            moving, *markers = _markers_last(sorted({*changed, *here.intersection(outdated)}))
            # What was moved to another folder arrives there before it goes.
            for going, coming in ((outdated, moving), (sorted(gone), []), *(([], marker) for marker in markers)):
                for path in filter(index.__contains__, going):
                    with contextlib.suppress(FileNotFoundError):
                        self._delete(path)
                    del index[path]
                with ThreadPoolExecutor(TRANSFERS_AT_ONCE) as threads:
                    stamps = threads.map(lambda path: self._upload(mirror, path), coming)
                    index.update(zip(coming, stamps, strict=True))
        return changed

    def _list(self, below: str) -> dict[str, FileInfo]:
        """List the objects below a folder by their path relative to the prefix."""
        selector = FileSelector(f"{self.prefix}/{below}", recursive=True, allow_not_found=True)
        found = {}
        for info in self.filesystem.get_file_info(selector):
            path = info.path.removeprefix(f"{self.prefix}/")
            parts = path.split("/")
            if info.type != FileType.File:
                continue
            if not path.startswith(f"{below}/") or any(part in ("", ".", "..") or "\\" in part for part in parts):
                raise StoreError(f"{self.uri} holds {path!r}, which is not a file of a store; delete it there")
            if not parts[-1].startswith("."):
                found[path] = info
        return found

    def _fetch(self, mirror: Path, path: str, info: FileInfo) -> Stamp:
        with atomic_path(mirror / path) as temporary:
            copy_files(f"{self.prefix}/{path}", str(temporary), self.filesystem, LocalFileSystem(), use_threads=False)
            if (size := temporary.stat().st_size) != info.size:
                raise StoreError(f"{self.uri}/{path} was sent with {size} of {info.size} bytes; run again")
        return (*_stamp_here(mirror / path), *_stamp_there(info))

    def _upload(self, mirror: Path, path: str) -> Stamp:
        before, target = _stamp_here(mirror / path), f"{self.prefix}/{path}"
        try:
            copy_files(str(mirror / path), target, LocalFileSystem(), self.filesystem, use_threads=False)
            info = self.filesystem.get_file_info(target)
            if info.size != before[0]:
                raise StoreError(f"{self.uri}/{path} arrived with {info.size} of {before[0]} bytes; run again")
        except BaseException:
            with contextlib.suppress(OSError):
                self._delete(path)  # Arrow completes an upload that its source broke off
            raise
        return (*before, *_stamp_there(info))

    def _delete(self, path: str) -> None:
        self.filesystem.delete_file(f"{self.prefix}/{path}")


def check_address(uri: str) -> None:
    """Refuse what cannot be the address of a bucket; ParameterError if its scheme is unknown, or it names no bucket."""
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES or not parts.netloc or ".." in parts.path.split("/"):
        raise ParameterError(
            f"store {uri!r} is neither a folder nor the URI of a bucket; name a path such as ./data, or for example "
            f"s3://bucket/folder ({', '.join(SCHEMES)})"
        )


def open_bucket(uri: str) -> Bucket:
    """Open a store in a bucket; credentials and region come from the environment (``AWS_*`` for S3).

    ``AWS_ENDPOINT_URL`` names another S3-compatible service.

    Raises:
        ParameterError: The URI's scheme is unknown, it names no bucket, or the connection would not be encrypted.
        StoreError: The service cannot be reached.
    """
    check_address(uri)
    parts = urlsplit(uri)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    with _explained(uri):
        if parts.scheme == "s3" and endpoint:
            service = urlsplit(endpoint)
            if not is_safe(service.scheme, service.hostname):
                raise ParameterError(f"AWS_ENDPOINT_URL is {endpoint!r}; use https, since the host is not this machine")
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            filesystem = S3FileSystem(endpoint_override=service.netloc, scheme=service.scheme, region=region)
            return Bucket(uri, filesystem, f"{parts.netloc}{parts.path}".rstrip("/"))
        filesystem, prefix = FileSystem.from_uri(uri)
        return Bucket(uri, filesystem, prefix.rstrip("/"))


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Say which store cannot be reached, and what to look at."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{uri} cannot be reached or refuses access ({error}); check the bucket's name, the credentials "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or a profile) and AWS_ENDPOINT_URL, then run again: what is "
            "done is kept in the mirror"
        ) from error


@contextmanager
def _index_of(mirror: Path) -> Iterator[dict[str, Stamp]]:
    """Hold the mirror's index; what was transferred before a failure is kept."""
    file = mirror / INDEX
    mirror.mkdir(parents=True, exist_ok=True)
    with only_writer(file, patience_seconds=0.0):  # waiting is for the caller, who can be cancelled; a thread cannot
        content: dict[str, list[int]] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        index: dict[str, Stamp] = {path: (s[0], s[1], s[2], s[3]) for path, s in content.items()}
        before = dict(index)
        try:
            yield index
        finally:
            if index != before:
                write_json(file, index)


def _files_below(mirror: Path, folder: PurePosixPath) -> Iterator[str]:
    """Name the files of the mirror below a folder; hidden and temporary ones belong to this machine."""
    root = mirror / folder
    for path in [root] if root.is_file() else root.rglob("*"):
        below = PurePosixPath(path.relative_to(mirror))
        if not any(part.startswith(".") for part in below.parts):
            _refuse_links(mirror, [below])
            if path.is_file():
                yield str(below)


def _refuse_links(mirror: Path, paths: Iterable[PurePosixPath]) -> None:
    """Refuse links on the way to some paths: their targets belong neither into the bucket nor under its files."""
    for place in {place for path in paths for place in (path, *path.parents) if place.parts}:
        if (mirror / place).is_symlink():
            raise StoreError(f"{mirror / place} is a link, which a store in a bucket cannot hold; remove it")


def _is_marker(path: str) -> bool:
    return PurePosixPath(path).name in MARKERS


def _stands_over(marker: str, folders: Iterable[PurePosixPath]) -> bool:
    return any(folder.is_relative_to(PurePosixPath(marker).parent) for folder in folders)


def _markers_last(paths: Sequence[str]) -> list[list[str]]:
    """Split paths into those that may be moved in any order and the markers, inner ones before outer ones."""
    markers = sorted(filter(_is_marker, paths), key=lambda path: (-path.count("/"), path))
    return [[path for path in paths if not _is_marker(path)], *([marker] for marker in markers)]


def _is_stale(mirror: Path, path: str, stamp: Stamp | None, info: FileInfo) -> bool:
    """Tell whether an object changed since the mirror saw it, or the mirror lost or damaged its copy."""
    file = mirror / path
    if stamp is None or stamp[2:] != _stamp_there(info) or not file.is_file():
        return True
    size, moment = _stamp_here(file)
    # After a failed push, a copy that was written to since is newer, and stays; below a manifest none may be.
    return size != stamp[0] and (moment == stamp[1] or _dataset_of(file) is not None)


def _stamp_here(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _stamp_there(info: FileInfo) -> tuple[int, int]:
    return info.size or 0, info.mtime_ns or 0


def _check_fetched(mirror: Path, fetched: Iterable[str]) -> None:
    """Refuse fetched shards that are not those of their manifest."""
    by_folder: dict[Path, set[str]] = {}
    for path in fetched:
        if folder := _dataset_of(mirror / path):
            by_folder.setdefault(folder, set()).add((mirror / path).relative_to(folder).as_posix())
    for folder, files in by_folder.items():
        manifest = read_manifest(folder)
        for shard in manifest.shards if manifest else []:
            file = folder / shard.file
            # A new manifest concerns all shards here: an earlier pull may have ended before they were checked.
            concerned = shard.file in files or MANIFEST in files
            if concerned and not (file.is_file() and file_sha256(file) == shard.sha256):
                (folder / MANIFEST).unlink()
                file.unlink(missing_ok=True)
                raise StoreError(
                    f"{file} does not match its manifest in the bucket; run the stage that made it "
                    "again on the machine that has it"
                )


def _dataset_of(file: Path) -> Path | None:
    """Return the folder whose manifest stands over a file, if there is one."""
    return next((folder for folder in list(file.parents)[:3] if (folder / MANIFEST).is_file()), None)
