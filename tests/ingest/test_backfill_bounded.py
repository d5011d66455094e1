"""A long backfill compacts on its way, so that its memory does not grow with the archive."""

from __future__ import annotations

from pathlib import Path

import pytest
from archive import Archive
from measurement import Measurement

from ingestd import backfill as module
from ingestd.manifest.store import ManifestStore


def fill(archive: Archive) -> None:
    """Put eight runs of two chips in, and a copy that is decided after a compaction forgot its original's row."""
    for number in range(8):
        run = Measurement(start=1758632155.25 + 60 * number, chip=67 + number % 2, sample=number)
        archive.put(f"2025-09-23/It_{number}.csv", run.data)
    archive.copy("2025-09-23/It_0.csv", "copies/It_0.csv")


def test_a_backfill_that_compacts_on_its_way_comes_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log never grows beyond its bound and a batch; manifest, notes and histories have the same bytes."""
    roots = [tmp_path / "bounded", tmp_path / "whole"]
    for root in roots:
        root.mkdir()
    bounded, whole = (Archive(root, stage={"batch_files": 1}) for root in roots)
    fill(bounded)
    fill(whole)
    pending: list[int] = []
    events = whole.backfill()
    monkeypatch.setattr(module, "COMPACT_FROM", 3)
    look = lambda _: pending.append(ManifestStore(bounded.layout).pending)  # noqa: E731  # asked at every file
    assert bounded.backfill(on_progress=look) == events
    assert len(events) == 9
    assert max(pending) == 2
    for name in ("manifest_path", "known_files_path"):
        assert getattr(bounded.layout, name).read_bytes() == getattr(whole.layout, name).read_bytes()
    for chip in (67, 68):
        assert bounded.history(chip) == whole.history(chip)
        assert len(bounded.history(chip)) == 4
