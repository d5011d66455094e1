"""Copies of runs whose raw file is gone: when their turn comes."""

from __future__ import annotations

import time
from pathlib import Path

from measurement import Measurement
from waiting import wait_until

from ingestd.backfill.run import backfill
from ingestd.ingest.commit import opened
from ingestd.service.orphans import Orphans
from ingestd.service.waiting import WaitList
from ingestd.settings import load_settings


def test_a_path_that_is_measured_into_is_asked_for_now_and_then(tmp_path: Path) -> None:
    """A run may go on for hours where another was: with `settle_s = 0` too its copy costs no turn after turn."""
    paths = {"data_root": str(tmp_path / "data")}
    settings = load_settings(flags={"paths": paths, "settle": {"settle_s": 0.0}})
    settings.layout.raw_root.mkdir(parents=True)
    for name in ("It_1.csv", "It_2.csv"):
        settings.layout.raw_file(name).write_bytes(Measurement().data)
        backfill(settings)
    with opened(settings) as ingest:
        waiting = WaitList(retry_s=1.0, retry_max_s=1.0)
        orphans = Orphans(ingest, waiting)
        waiting.hint("It_1.csv", time.monotonic())
        orphans.note(["It_1.csv"])
        now = time.monotonic()
        assert orphans.due() == []
        assert (orphans.next_due() or 0.0) >= now + 0.5
        waiting.done("It_1.csv")
        wait_until(lambda: orphans.due() == ["It_1.csv"], "its turn, once nothing waits at its path")
