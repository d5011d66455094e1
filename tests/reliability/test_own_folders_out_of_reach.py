"""Folders of ingestd's own that cannot be read: none is taken for empty."""

from __future__ import annotations

import shutil

import lived
import pytest
from archive import Archive
from lived import RUN, refused_powerless, run_powerless


def test_no_manifest_is_begun_where_staged_runs_may_be(empty: Archive) -> None:
    """The manifest is gone and the stage is closed: that a run is there is found out once it can be looked into."""
    empty.put("It_1.csv", RUN.data)
    empty.backfill()
    shutil.rmtree(empty.layout.manifest_path.parent)
    empty.layout.staged_root.chmod(0)
    told = run_powerless(empty, "backfill", "--workers", "1")
    empty.layout.staged_root.chmod(0o755)
    assert (told["stopped_by"] or told)["message"] == "Permission denied"
    assert not empty.layout.wal_dir.exists()


@pytest.mark.parametrize("mode", [0, 0o111])
def test_a_closed_folder_of_histories_is_named(empty: Archive, mode: int) -> None:
    """Nobody can tell which histories it lacks, or has too many."""
    empty.put("It_1.csv", RUN.data)
    empty.backfill()
    empty.layout.histories_dir.chmod(mode)
    told = refused_powerless(empty, "verify")
    empty.layout.histories_dir.chmod(0o755)
    assert told.startswith(f"error: {empty.layout.histories_dir}")
    assert "Permission denied" in told
    assert lived.damages(empty) == set()
