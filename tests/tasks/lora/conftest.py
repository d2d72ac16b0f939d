from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tasks.lora.tiny_model import write_base

    return write_base(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tasks.lora.tiny_model import write_mixture

    return write_mixture(tmp_path_factory.mktemp("store") / "tiny")


@pytest.fixture(scope="session")
def taught_mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same mixture with lessons about sources."""
    from tests.tasks.lora.tiny_model import write_mixture

    return write_mixture(tmp_path_factory.mktemp("store") / "taught", lessons=10)
