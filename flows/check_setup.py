"""Check the setup (the guide's phase 5): check every component of this machine before the long run."""

from __future__ import annotations

import sys
from importlib.metadata import version

from prefect import flow

from flows.forms import CheckSetupParameters
from flows.names import named
from flows.parameters import takes
from storage.errors import PrerequisiteError
from tasks import archives, rebalancing, scoring, training
from tasks.checks import SetupReport, check_environment
from tasks.policies import Check, run_logger

PACKAGES = ("prefect", "fastapi", "mlx", "mlx-lm", "datasets", "aiohttp", "pyarrow", "polars", "safetensors")


@flow(name="check-setup", flow_run_name=named("check-setup"))
@takes(CheckSetupParameters)
async def check_setup(parameters: CheckSetupParameters) -> SetupReport:
    """Try out every component for a minute before a run of hours."""
    layout = await parameters.open_store()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    report = SetupReport(
        checks=(
            Check("versions", sys.version_info >= (3, 11), f"Python {sys.version.split()[0]}, {versions}"),
            await archives.check_catalogue(parameters.catalogue),
            await scoring.check_scoring(),
            await rebalancing.check_data_preparation(),
            *await training.check_training(layout, parameters.load_model),
            *await check_environment(layout, parameters.silent_minutes, fix=parameters.fix),
        )
    )
    for check in report.checks:
        run_logger().info("%s: %s %s", check.component, "ok" if check.ok else "FAILED", check.detail)
    if report.failed:
        table = "\n".join(report.summary())
        raise PrerequisiteError(f"{len(report.failed)} of {len(report.checks)} components failed:\n{table}")
    return report
