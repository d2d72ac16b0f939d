"""What a run finds around it: room on the disk, the Prefect server, its workers."""

from __future__ import annotations

import shutil

from prefect import task
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from storage.layout import Layout
from tasks.policies import LOCAL_WORK, Check, try_component

LEAST_FREE_GB = 10
"""The guide's smallest tier; the others need 25 and 50."""


@task(task_run_name="check-disk", **LOCAL_WORK)
async def check_disk(layout: Layout) -> Check:
    """See how much room is left where the corpus store lies."""

    async def work() -> str:
        folder = next(path for path in (layout.root, *layout.root.parents) if path.exists())
        free_gb = shutil.disk_usage(folder).free / 1e9
        if free_gb < LEAST_FREE_GB:
            raise OSError(
                f"{free_gb:.1f} GB are free below {layout.root}, at least {LEAST_FREE_GB} are needed; free some or "
                "name another store (DISTRUST_STORE)"
            )
        needs = "8B models need 10, 32B 25, 70B 50; weights that the Hub holds in 16 bits 16, 65 and 141 more"
        return f"{free_gb:.0f} GB free below {layout.root} ({needs})"

    return await try_component("disk", work)


@task(task_run_name="check-server", **LOCAL_WORK)
async def check_server() -> list[Check]:
    """See whether the Prefect server answers, and whether workers wait for its work pools."""

    async def reach() -> str:
        async with get_client() as client:
            if (problem := await client.api_healthcheck()) is not None:
                raise ConnectionError(f"the server at {client.api_url} does not answer ({problem}); start it: make up")
            return f"{client.api_url} answers" + ("" if PREFECT_API_URL.value() else "; it is a temporary one: make up")

    async def count_workers() -> str:
        async with get_client() as client:
            waiting = []
            for pool in await client.read_work_pools():
                workers = await client.read_workers_for_work_pool(pool.name)
                online = sum(str(getattr(worker.status, "value", worker.status)) == "ONLINE" for worker in workers)
                waiting.append(f"{pool.name} {online}")
            if not waiting:
                return "no work pools: commands run here; make up starts pools and workers for scheduled runs"
            if all(entry.endswith(" 0") for entry in waiting):
                raise ConnectionError(f"no worker is online ({', '.join(waiting)}); start them: make up")
            return f"online by pool: {', '.join(waiting)}"

    return [await try_component("Prefect server", reach), await try_component("workers", count_workers)]
