"""Check the setup (the guide's phase 5): prove every component on this machine before the long run."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any

from prefect import flow

from flows.forms import CheckSetupParameters
from flows.names import named
from flows.parameters import takes
from flows.summaries import describe_check
from storage.errors import PrerequisiteError
from tasks import archives, doctor, rebalancing, scoring, surroundings, training
from tasks.policies import Check, run_logger

PACKAGES = ("prefect", "fastapi", "mlx", "mlx-lm", "datasets", "aiohttp", "pyarrow", "polars", "safetensors")


@flow(name="check-setup", flow_run_name=named("check-setup"))
@takes(CheckSetupParameters)
async def check_setup(parameters: CheckSetupParameters) -> dict[str, Any]:
    """Try out every component for a minute before a run of hours."""
    layout = await parameters.open_store()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    checks = [
        Check("versions", sys.version_info >= (3, 11), f"Python {sys.version.split()[0]}, {versions}"),
        await archives.check_catalogue(parameters.catalogue),
        await scoring.check_scoring(),
        await rebalancing.check_data_preparation(),
        *await training.check_training(layout, parameters.load_model),
        await surroundings.check_disk(layout),
        *await surroundings.check_server(),
        *await doctor.examine(parameters.silent_minutes, fix=parameters.fix),
    ]
    for check in checks:
        run_logger().info("%s: %s %s", check.component, "ok" if check.ok else "FAILED", check.detail)
    failed = [check.component for check in checks if not check.ok]
    if failed:
        table = "\n".join(describe_check({"checks": [vars(check) for check in checks]}))
        raise PrerequisiteError(f"{len(failed)} of {len(checks)} components failed:\n{table}")
    return {"checks": [vars(check) for check in checks]}
