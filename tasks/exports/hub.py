"""Upload an export to the Hugging Face Hub: a dry run says what would be sent, a real one sends it as private."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.addresses import check_hub
from storage.errors import ParameterError, PrerequisiteError, TransientError
from storage.events import Emit
from storage.manifest import digest_of
from tasks.exports.manifest import EXPORT, ExportManifest
from tasks.exports.parameters import ExportParameters

REFUSED = (401, 403, 404)
MAY_PASS = (408, 409, 425, 429)


def check_upload(parameters: ExportParameters) -> None:
    """Refuse an upload that cannot succeed before any work is done.

    Raises:
        PrerequisiteError: There is no token, or the Hub's address is not safe.
        ParameterError: The repository's name is none that the Hub accepts.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    check_hub()
    try:
        validate_repo_id(str(parameters.hub_repository))
    except HFValidationError as error:
        raise ParameterError(f"hub_repository {parameters.hub_repository!r} is no name of the Hub: {error}") from error
    if not parameters.hub_dry_run and get_token() is None:
        raise PrerequisiteError(
            f"uploading to {parameters.hub_repository} needs a token with write access: save it in the block "
            "hugging-face-hub/default, or set HF_TOKEN"
        )


def upload_export(
    folder: Path, manifest: ExportManifest, parameters: ExportParameters, emit: Emit, approved: str | None = None
) -> dict[str, Any]:
    """Send the recorded files of an export, and nothing else that may lie in its folder.

    Args:
        folder: The export's folder.
        manifest: Its record.
        parameters: Where to, and whether this is a dry run.
        emit: Told about progress.
        approved: Digest of the content that a person approved; anything else is not sent. None: nobody was asked.

    Returns:
        repository, files (names), bytes, digest (of what would be sent, and where to), uploaded, address of the commit
        (none if nothing was sent).

    Raises:
        PrerequisiteError: The Hub refuses the token, the repository or the files, or the repository is public.
        TransientError: The Hub cannot be reached.
    """
    repository = str(parameters.hub_repository)
    files = [*(record.file for record in manifest.files), EXPORT]
    size = sum(record.bytes for record in manifest.files)
    digest = digest_of({"repository": repository, "files": [record.model_dump() for record in manifest.files]})
    # Here and not before: whoever asked does not hold the export's lock while a person thinks.
    changed = approved not in (None, digest)
    sends = not (parameters.hub_dry_run or changed)
    message = f"{len(files)} files ({size / 1e6:.1f} MB) to the private repository {repository}"
    message = f"{'uploading' if sends else 'would upload'} {message}"
    if changed:
        message += "; nothing is sent, since the export is another one than was approved"
    emit("progress", stage="hub", done=0, total=1, message=message)
    address = send(folder, repository, files) if sends else None
    told = {"repository": repository, "files": files, "bytes": size, "digest": digest}
    return told | {"uploaded": sends, "address": address}


def send(folder: Path, repository: str, files: list[str]) -> str:
    """Create the repository if it is missing and commit the files; return the commit's address."""
    from httpx2 import HTTPError  # the client of huggingface_hub
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_hub()
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        if not api.model_info(repository).private:  # it was there before
            raise PrerequisiteError(
                f"{repository} exists on the Hub and is public: make it private there, or name another hub_repository"
            )
        commit = api.upload_folder(
            folder_path=folder,
            repo_id=repository,
            allow_patterns=files,
            delete_patterns=["model*.safetensors", "*.gguf", "peft/*"],  # of an earlier upload in other files
            commit_message=f"Export {folder.name}",
        )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in REFUSED:
            raise PrerequisiteError(
                f"the Hub refused {repository} (status {status}): check the name and that the token may write to it"
            ) from error
        if status is not None and 400 <= status < 500 and status not in MAY_PASS:
            raise PrerequisiteError(f"the Hub refused {repository} (status {status}): {str(error)[:300]}") from error
        raise TransientError(f"the Hub failed with status {status} while {repository} was uploaded") from error
    except (HTTPError, OSError) as error:
        raise TransientError(f"the Hub cannot be reached ({type(error).__name__}); export again") from error
    return str(commit.commit_url)
