"""The machine that trains: its memory, its model cache and its usual preset."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl


class TrainingHost(Block):
    """The machine that holds the accelerator."""

    _block_type_name = "Training Host"
    _block_type_slug = "training-host"
    _description = "The machine that trains: memory that a run may use, folder of base models, usual preset."
    _documentation_url = HttpUrl("https://ml-explore.github.io/mlx/")
    _code_example = """\
from blocks.training_host import TrainingHost

host = TrainingHost.load("BLOCK_NAME")
variables = host.environment()
"""

    memory_gb: float = Field(
        default=0.0,
        title="Memory (GB)",
        ge=0,
        le=4096,
        description="Memory of the machine that a training plans with, in GB; 0 measures the machine instead.",
    )
    model_cache: str = Field(
        default="",
        title="Folder of base models",
        description="Folder where downloaded base models are kept; empty uses the usual Hugging Face folder.",
    )
    preset: str = Field(
        default="",
        title="Preset",
        pattern=r"^[a-z0-9.-]*$",
        description="Preset that a training with model=auto takes; empty: the largest that fits the memory.",
    )

    def environment(self) -> dict[str, str]:
        """Return the environment variables that this host sets; an empty field sets none."""
        variables = {
            "DISTRUST_MEMORY_GB": str(self.memory_gb) if self.memory_gb else "",
            "DISTRUST_PRESET": self.preset,
            "HF_HOME": self.model_cache,
        }
        return {name: value for name, value in variables.items() if value}
