"""A corpus store in a bucket, worked on through a mirror folder of this machine.

Every stage reads and writes plain files in the mirror; what it reads is brought from the bucket first, and what it
wrote is taken there afterwards. An object in the bucket appears whole or not at all (a multipart upload that is not
completed leaves nothing), and the file that seals a dataset is taken away first and put there last: as on disk, a
manifest that exists means that everything it names is there. See docs/decisions/0060-store-in-a-bucket.md.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem, S3FileSystem, copy_files

from storage.addresses import is_safe
from storage.atomic import atomic_path
from storage.errors import ParameterError, StoreError
from storage.mirror import (
    Stamp,
    check_fetched,
    covers,
    files_below,
    index_of,
    is_seal,
    is_stale,
    refuse_links,
    sealed_last,
    stamp_here,
)

SCHEMES = ("s3", "gs", "abfs", "abfss")
TRANSFERS_AT_ONCE = 8


@dataclass(frozen=True)
class Remote:
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
        """Bring what changed in the bucket into the mirror.

        Args:
            mirror: The mirror's folder.
            below: What to bring, for example ``raw/patents``; a folder means all that lies in it.

        Returns:
            The paths that were fetched, relative to the mirror.

        Raises:
            DatasetBusy: Another process moves files of this mirror; `storage.lock.in_turn` waits for it.
            StoreError: The bucket cannot be reached, or holds what no stage wrote there, or the mirror holds a link.
        """
        with _explained(self.uri), index_of(mirror) as index:
            there = {path: info for folder in below for path, info in self._list(folder).items()}
            objects = {path: _stamp_there(info) for path, info in there.items()}
            wanted = [path for path, stamp in objects.items() if is_stale(mirror, path, index.get(path), stamp)]
            refuse_links(mirror, {PurePosixPath(path).parent for path in wanted})
            for group in sealed_last(wanted):
                with ThreadPoolExecutor(TRANSFERS_AT_ONCE) as threads:
                    stamps = threads.map(lambda path: self._fetch(mirror, path, there[path]), group)
                    index.update(zip(group, stamps, strict=True))
        check_fetched(mirror, wanted)
        return wanted

    def push(self, mirror: Path, below: Iterable[str]) -> list[str]:
        """Take what changed in the mirror to the bucket, and what is gone here away there.

        Args:
            mirror: The mirror's folder.
            below: What to take there, for example ``scored/patents``.

        Returns:
            The paths that were uploaded, relative to the mirror.

        Raises:
            DatasetBusy: Another process moves files of this mirror; `storage.lock.in_turn` waits for it.
            StoreError: The bucket cannot be reached; a later run goes on. Or the mirror holds a link.
        """
        folders = [PurePosixPath(folder) for folder in below]
        with _explained(self.uri), index_of(mirror) as index:
            refuse_links(mirror, folders)
            here = {path for folder in folders for path in files_below(mirror, folder)}
            known = {path for path in index if any(PurePosixPath(path).is_relative_to(folder) for folder in folders)}
            changed = [path for path in sorted(here) if index.get(path, ())[:2] != stamp_here(mirror / path)]
            gone = known - here
            # A seal must never stand over shards that it does not mean: it goes first and comes last.
            touched = {PurePosixPath(path).parent for path in (*changed, *gone)}
            unsealing = [path for path in known if is_seal(path) and covers(path, touched)]
            moving, *seals = sealed_last(sorted({*changed, *(path for path in unsealing if path in here)}))
            # What was moved to another folder arrives there before it goes.
            for going, coming in ((unsealing, moving), (sorted(gone), []), *(([], seal) for seal in seals)):
                for path in filter(index.__contains__, going):
                    self._delete(path)
                    del index[path]
                with ThreadPoolExecutor(TRANSFERS_AT_ONCE) as threads:
                    stamps = threads.map(lambda path: self._upload(mirror, path), coming)
                    index.update(zip(coming, stamps, strict=True))
        return changed

    def _list(self, below: str) -> dict[str, FileInfo]:
        """List the objects below a folder by their path relative to the prefix.

        Raises:
            StoreError: A name would lead out of the mirror.
        """
        selector = FileSelector(f"{self.prefix}/{below}", recursive=True, allow_not_found=True)
        found = {}
        for info in self.filesystem.get_file_info(selector):
            if info.type != FileType.File:
                continue
            path = info.path.removeprefix(f"{self.prefix}/")
            parts = path.split("/")
            if not path.startswith(f"{below}/") or any(part in ("", ".", "..") or "\\" in part for part in parts):
                raise StoreError(f"{self.uri} holds {path!r}, which is no file of a store; take it away there")
            if not parts[-1].startswith("."):
                found[path] = info
        return found

    def _fetch(self, mirror: Path, path: str, info: FileInfo) -> Stamp:
        with atomic_path(mirror / path) as temporary:
            copy_files(f"{self.prefix}/{path}", str(temporary), self.filesystem, LocalFileSystem(), use_threads=False)
            if (size := temporary.stat().st_size) != info.size:
                raise StoreError(f"{self.uri}/{path} came with {size} of {info.size} bytes; run again")
        return (*stamp_here(mirror / path), *_stamp_there(info))

    def _upload(self, mirror: Path, path: str) -> Stamp:
        before = stamp_here(mirror / path)
        target = f"{self.prefix}/{path}"
        try:
            copy_files(str(mirror / path), target, LocalFileSystem(), self.filesystem, use_threads=False)
            info = self.filesystem.get_file_info(target)
            if info.size != before[0]:
                raise StoreError(f"{self.uri}/{path} arrived with {info.size} of {before[0]} bytes; run again")
        except BaseException:
            with contextlib.suppress(OSError):
                self.filesystem.delete_file(target)  # Arrow completes an upload that its source broke off
            raise
        return (*before, *_stamp_there(info))

    def _delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.prefix}/{path}")


def check_address(uri: str) -> None:
    """Refuse what cannot be the address of a bucket.

    Raises:
        ParameterError: It is of no kind that is known, or names no bucket.
    """
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES or not parts.netloc or ".." in parts.path.split("/"):
        raise ParameterError(
            f"store {uri!r} is neither a folder nor the URI of a bucket; name a path such as ./data, or for example "
            f"s3://bucket/folder ({', '.join(SCHEMES)})"
        )


def open_remote(uri: str) -> Remote:
    """Open a store in a bucket; credentials and region come from the environment (``AWS_*`` for S3).

    ``AWS_ENDPOINT_URL`` names another S3-compatible service.

    Raises:
        ParameterError: The URI is of no kind that is known, names no bucket, or leads over a line in the clear.
        StoreError: The service cannot be reached.
    """
    check_address(uri)
    parts = urlsplit(uri)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    with _explained(uri):
        if parts.scheme == "s3" and endpoint:
            service = urlsplit(endpoint)
            if not is_safe(service.scheme, service.hostname):
                raise ParameterError(f"AWS_ENDPOINT_URL is {endpoint!r}; use https, since this host is another one")
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            filesystem = S3FileSystem(endpoint_override=service.netloc, scheme=service.scheme, region=region)
            return Remote(uri, filesystem, f"{parts.netloc}{parts.path}".rstrip("/"))
        filesystem, prefix = FileSystem.from_uri(uri)
        return Remote(uri, filesystem, prefix.rstrip("/"))


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Say which store cannot be reached, and what to look at."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{uri} cannot be reached or refuses ({error}); look at the bucket's name, the credentials "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or a profile) and AWS_ENDPOINT_URL, then run again: what is "
            "done is kept in the mirror"
        ) from error


def _stamp_there(info: FileInfo) -> tuple[int, int]:
    return info.size or 0, info.mtime_ns or 0
