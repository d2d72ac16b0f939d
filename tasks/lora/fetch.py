"""A base model of the Hub on this machine's disk: fetched once, resumed after an interruption, verified."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from storage.addresses import check_hub
from storage.atomic import write_json
from storage.errors import DistrustError, PrerequisiteError
from storage.hub_errors import HubRepository, hub_error
from storage.model_folder import CONFIG
from storage.untrusted import file_sha256

Log = Callable[[str], None]

NEEDED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model")
PAPERS = ("README.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""Card and licence, to be named and enclosed when the model is passed on; a training does not need them."""
UNWANTED = ("consolidated*", "*.py")
MOST_PAPER_BYTES = 4 << 20
"""A longer file is not a card or a licence."""
MOST_GB = 400
"""No base model that a Mac can train is larger; a larger repository is a mistake."""


def hub_home() -> Path:
    """Return the folder of the Hugging Face cache, beside which this project keeps its own."""
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()


def fetch_model(repository: str, log: Log, *, again: bool = True) -> Path:
    """Return the folder of a model; files that are missing are fetched.

    Only files at the top of the repository are fetched, weights only as safetensors, and never code. Where the
    repository is changed meanwhile, it is fetched once more. PrerequisiteError if it is gated, missing, too large or
    damaged, ArchiveBusy if the Hub does not answer and the model is not in the local cache.
    """
    from httpx2 import HTTPError  # the client of huggingface_hub
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    check_hub()
    with _explained(repository):
        try:
            info = HfApi().model_info(repository, files_metadata=True)
        except (HTTPError, OfflineModeIsEnabled) as error:
            refused = isinstance(error, HfHubHTTPError) and error.response.status_code < 500
            if refused or (cached := _cached(repository)) is None:
                raise
            log(f"The Hub does not answer; taking {repository} from the local cache")
            return cached
        if not re.fullmatch("[0-9a-f]{40}", str(info.sha)):
            raise ValueError(f"the commit is called {info.sha!r}")  # the library would make a folder of that name
        listed = {file.rfilename: int(file.size or 0) for file in info.siblings or []}
        sizes = {name: size for name, size in listed.items() if is_wanted(name, size)}
        _check_sizes(repository, sizes)
        _check_room(repository, info.sha, sizes)
        log(f"Fetching {repository} unless it is in the local cache ({sum(sizes.values()) / 1e9:.1f} GB)")
        # By name, not by commit: the cache then knows what to take when the Hub does not answer.
        folder = Path(snapshot_download(repository, allow_patterns=sorted(sizes)))
    if folder.name != info.sha:  # the repository was changed in between
        if not again:
            raise PrerequisiteError(f"base model {repository} is being changed on the Hub just now: run again later")
        return fetch_model(repository, log, again=False)
    digests = {file.rfilename: file.lfs.sha256 for file in info.siblings or [] if file.lfs and file.rfilename in sizes}
    verify(folder, digests, hub_home() / "distrust-verified" / f"{repository.replace('/', '--')}-{info.sha}.json", log)
    return folder


def fetch_config(repository: str) -> Path:
    """Return a folder with the ``config.json`` of a model, fetching no more than that; raises as `fetch_model` does."""
    from huggingface_hub import hf_hub_download

    check_hub()
    with _explained(repository):
        return Path(hf_hub_download(repository, CONFIG)).parent


def is_wanted(name: str, size: int = 0) -> bool:
    """Return whether a file of a repository is needed; `size` in bytes."""

    def matches(patterns: tuple[str, ...]) -> bool:
        return any(fnmatch(name, pattern) for pattern in patterns)

    too_long = size > MOST_PAPER_BYTES and matches(PAPERS)
    return "/" not in name and matches(NEEDED + PAPERS) and not matches(UNWANTED) and not too_long


def _check_sizes(repository: str, sizes: Mapping[str, int]) -> None:
    total_gb = sum(sizes.values()) / 1e9
    if not any(name.endswith(".safetensors") for name in sizes):
        raise PrerequisiteError(
            f"base model {repository} holds no safetensors weights, and only these are read: name a converted copy, "
            "for example one of mlx-community"
        )
    if total_gb > MOST_GB:
        raise PrerequisiteError(
            f"base model {repository} has {total_gb:.0f} GB, more than the {MOST_GB} GB that are fetched at most: name "
            "a smaller model, or fetch it yourself and name its folder"
        )


def _check_room(repository: str, revision: str | None, sizes: Mapping[str, int]) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    cached = {name for name in sizes if isinstance(try_to_load_from_cache(repository, name, revision=revision), str)}
    missing = sum(size for name, size in sizes.items() if name not in cached)
    cache = Path(constants.HF_HUB_CACHE)
    disk = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if missing > (free := shutil.disk_usage(disk).free):
        raise PrerequisiteError(
            f"base model {repository} needs {missing / 1e9:.1f} GB and {disk} has {free / 1e9:.1f} GB left: "
            "make room, or set HF_HOME to a larger disk"
        )


def verify(folder: Path, digests: Mapping[str, str], receipt: Path, log: Log) -> None:
    """Compare files with the SHA-256 that the Hub keeps of them, once; a file that differs is deleted and named."""
    if not digests or receipt.is_file():
        return
    log(f"Verifying {len(digests)} files, once")
    for name, expected in sorted(digests.items()):
        path = folder / name
        if file_sha256(path) != expected:
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise PrerequisiteError(f"{path} was damaged in transit and has been deleted; run again to fetch it again")
    write_json(receipt, dict(digests))


def _cached(repository: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted, ignored = list(NEEDED), [*UNWANTED, *PAPERS, "*/*"]
    try:
        return Path(
            snapshot_download(repository, local_files_only=True, allow_patterns=wanted, ignore_patterns=ignored)
        )
    except LocalEntryNotFoundError:
        return None


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turn what the Hub's client raises into what a person can do about it."""
    page = f"https://huggingface.co/{repository}"
    check, instead = "check the name, or name a local folder", "name another model"
    asked = HubRepository(f"base model {repository}", page, check, instead)
    try:
        yield
    except DistrustError:
        raise
    except Exception as error:
        raise hub_error(error, asked, first_contact=True) from error
