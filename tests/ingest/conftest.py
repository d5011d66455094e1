"""A data root of its own for every test."""

from __future__ import annotations

from pathlib import Path

import pytest
from archive import Archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An empty data root."""
    return Archive(tmp_path)
