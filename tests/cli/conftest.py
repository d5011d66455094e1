"""Folders to run commands in: empty, with the sample runs, and with these backfilled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty folder; raw files go to its data/01_raw."""
    return Folder(tmp_path)


@pytest.fixture
def raw(folder: Folder, samples: Path) -> Folder:
    """A folder whose data root holds the sample runs, nothing staged."""
    return folder.take(samples)


@pytest.fixture(scope="session")
def _backfilled(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("backfilled")).take(samples)
    assert folder.run("backfill", "--workers", "1").code == 1
    return folder


@pytest.fixture
def staged(_backfilled: Folder, tmp_path: Path) -> Folder:
    """A folder whose sample runs are backfilled: 20 staged, one queued, one rejected."""
    shutil.copytree(_backfilled.path, tmp_path / "lab", copy_function=shutil.copy2)
    return Folder(tmp_path / "lab")
