"""What a person may choose about how the work is spread; imports no Prefect, so that a form costs nothing to read."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import BaseModel, Field


class RunnerParameters(BaseModel):
    """Where shards are processed; the result is the same everywhere."""

    runner: Literal["local", "processes", "dask"] = Field(
        "local",
        title="Runner",
        description="Where shards are processed: local (in the flow's process), processes (a pool on this machine), "
        "dask (a cluster whose machines see the store under the same path; needs the extra dask).",
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        title="Workers",
        description="Processes of the pool, or of a Dask cluster on this machine. Empty: one for each core.",
    )
    dask_address: str = Field(
        "",
        title="Dask address",
        description="Scheduler of a cluster that runs already, such as tls://10.0.0.5:8786 or tcp://127.0.0.1:8786; "
        "empty: a cluster on this machine for the time of the run.",
    )

    @property
    def worker_count(self) -> int:
        """Workers that are known of; the machines of a cluster elsewhere count as one each core of this one."""
        return self.workers or os.cpu_count() or 1
