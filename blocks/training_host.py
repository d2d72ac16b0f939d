"""The machine that trains: its memory, its model cache and its usual preset."""

from __future__ import annotations

from pydantic import Field, HttpUrl

from blocks.defaults import SettingsBlock


class TrainingHost(SettingsBlock):
    """The machine that holds the accelerator."""

    _block_type_name = "Training Host"
    _block_type_slug = "training-host"
    _description = "The machine that trains: memory that a run may use, folder of base models, usual preset."
    _documentation_url = HttpUrl("https://ml-explore.github.io/mlx/")
    _variables = (
        ("memory_gb", "DISTRUST_MEMORY_GB"),
        ("preset", "DISTRUST_PRESET"),
        ("model_cache", "HF_HOME"),
    )

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
