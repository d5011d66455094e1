"""Copies of runs whose raw file is gone: when their turn comes."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from measurement import Measurement
from turning import until_turned
from waiting import wait_until

from ingestd.backfill.run import backfill
from ingestd.ingest.commit import Ingest, opened
from ingestd.service.messages import Hint
from ingestd.service.orphans import Orphans
from ingestd.service.waiting import WaitList
from ingestd.service.worker import Worker
from ingestd.settings import load_settings


def is_known(ingest: Ingest, name: str) -> bool:
    """Tell whether a file was decided."""
    return ingest.store.catalog.is_known(name)


def test_a_copy_s_turn_comes_settle_s_after_the_file_was_first_missed(ingest: Ingest) -> None:
    """A program that saves a file may remove its name for that long; scans in between put nothing off."""
    files = {"It_1.csv": Measurement(), "It_2.csv": Measurement(), "It_3.csv": Measurement(chip=67, start=1758700000.5)}
    worker = Worker(ingest)
    for name, measurement in files.items():
        ingest.layout.raw_file(name).write_bytes(measurement.data)
        worker.inbox.put(Hint(name))
        until_turned(worker, partial(is_known, ingest, name), name)
    before = time.monotonic()
    orphans = Orphans(ingest, WaitList(retry_s=1.0, retry_max_s=1.0))
    orphans.note(["It_3.csv"])
    assert orphans.next_due() is None, "no copy of it is known"
    orphans.note(["It_1.csv"])
    due = orphans.next_due()
    assert due is not None
    assert before + ingest.settings.settle.settle_s <= due <= time.monotonic() + ingest.settings.settle.settle_s
    orphans.note(["It_1.csv"])
    assert orphans.next_due() == due
    wait_until(lambda: orphans.due() == ["It_1.csv"], "its turn")
    assert time.monotonic() >= due


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
