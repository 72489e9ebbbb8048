"""What several integration tests need."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty output folder."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"
