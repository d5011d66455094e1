"""A data root of its own for every test."""

from __future__ import annotations

from pathlib import Path

import pytest
from archive import Archive
from measurement import Measurement


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An empty data root."""
    return Archive(tmp_path)


@pytest.fixture
def copied(archive: Archive) -> Archive:
    """A run at `2025-09-23/It_1.csv`, and a copy of it, `It_2.csv`, that is known."""
    run, copy = "2025-09-23/It_1.csv", "2025-09-23/It_2.csv"
    archive.put(run, Measurement().data)
    archive.copy(run, copy)
    assert archive.backfill() == [("ingested", run), ("duplicate", copy)]
    return archive
