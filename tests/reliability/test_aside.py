"""What a repair or rebuild sets aside: all of it is kept, below one folder, durably."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import lived
import pytest
from archive import Archive
from lived import rebuild
from measurement import BROKEN

from ingestd.files import durable
from ingestd.upkeep.aside import Aside


def test_nothing_is_set_aside_over_what_was(archive: Archive) -> None:
    """A repair that moves a second file away from the same path keeps both."""
    path, aside = archive.layout.rejects_dir / "stray.json", Aside(archive.layout, archive.now())
    moved = []
    for content in ("one", "two"):
        path.write_text(content)
        moved += aside.move(path)
    path.write_text("three")
    assert [kept.read_text() for kept in (*moved, *aside.keep([path]))] == ["one", "two", "three"]


def test_what_is_not_below_the_data_root_is_set_aside_too(archive: Archive) -> None:
    """A stage of its own (`paths.stage_root`) is no reason to leave things where they do no good."""
    path, aside = archive.root.parent / "stage" / "stray.json", Aside(archive.layout, archive.now())
    path.parent.mkdir()
    path.write_text("stray")
    (kept,) = aside.move(path)
    assert (kept.is_relative_to(aside.folder), kept.read_text(), path.exists()) == (True, "stray", False)


def test_what_is_set_aside_is_durable_on_both_disks(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the manifest is on a disk of its own, what is moved there from the stage is flushed as a whole."""
    elsewhere, flushed = Path("/dev/shm"), set()
    if not os.access(elsewhere, os.W_OK) or elsewhere.stat().st_dev == archive.root.stat().st_dev:
        pytest.skip("there is no second file system here that may be written to")

    def syncfs(descriptor: int) -> int:
        flushed.add(os.fstat(descriptor).st_dev)
        return 0

    monkeypatch.setattr(durable, "_syncfs", syncfs)
    with tempfile.TemporaryDirectory(dir=elsewhere) as folder:
        path = archive.layout.rejects_dir / "stray.json"
        path.write_text("stray")
        layout = replace(archive.layout, manifest_path=Path(folder) / "manifest.parquet")
        (kept,) = Aside(layout, archive.now()).move(path)
        assert kept.read_text() == "stray"
    assert flushed == {archive.root.stat().st_dev, elsewhere.stat().st_dev}


@pytest.mark.parametrize("source", ["stage", "raw"])
def test_no_reject_outlives_the_manifest_that_knew_it(source: str, archive: Archive) -> None:
    """The JSON of a rejected file that was deleted is kept aside, as nothing in the new manifest stands for it."""
    archive.put("2025-09-25/Gone_1.csv", BROKEN)
    archive.backfill()
    archive.delete("2025-09-25/Gone_1.csv")
    told = archive.layout.reject_file("2025-09-25/Gone_1.csv")
    data = told.read_bytes()
    shutil.rmtree(archive.layout.manifest_path.parent)
    rebuild(archive, source)
    lived.plain_start(archive)
    lived.check_sound(archive)
    assert [path.read_bytes() for path in archive.layout.aside_root.rglob(told.name)] == [data]
