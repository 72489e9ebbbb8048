from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from openmsistream.config.models import ProgramConfig, load

Write = Callable[..., ProgramConfig]


@pytest.fixture
def config(tmp_path: Path) -> Write:
    """Write a text to ``xrd.config`` and load it; keyword arguments are the environment."""

    def write(text: str | bytes, **env: str) -> ProgramConfig:
        path = tmp_path / "xrd.config"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, env=env, search=[])

    return write
