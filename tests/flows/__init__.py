from __future__ import annotations

from typing import Any


def summarise(result: Any) -> str:
    """What a person reads of the result of a flow."""
    return "\n".join(result.summary())


async def newest_artifact(key: str) -> Any:
    """What the UI shows last under a key."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    of_key = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    async with get_client() as client:
        (found,) = await client.read_artifacts(artifact_filter=of_key, sort=ArtifactSort.CREATED_DESC, limit=1)
    return found
