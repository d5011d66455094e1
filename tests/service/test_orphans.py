"""Copies of runs whose raw file is gone: when their turn comes."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
from measurement import Measurement
from turning import until_turned
from waiting import wait_until

from ingestd.backfill.run import backfill
from ingestd.files import retry_from
from ingestd.ingest.commit import Committed, Ingest, opened
from ingestd.service.messages import Hint
from ingestd.service.orphans import Orphans
from ingestd.service.waiting import WaitList
from ingestd.service.worker import Worker
from ingestd.settings import Settings, load_settings
from ingestd.stage.run import Failed, Outcome, StageTask


def is_known(ingest: Ingest, name: str) -> bool:
    """Tell whether a file was decided."""
    return ingest.store.catalog.is_known(name)


def take_in(ingest: Ingest, worker: Worker, files: Mapping[str, Measurement]) -> None:
    """Have these files decided, one after the other."""
    for name, measurement in files.items():
        ingest.layout.raw_file(name).write_bytes(measurement.data)
        worker.inbox.put(Hint(name))
        until_turned(worker, partial(is_known, ingest, name), name)


def live(ingest: Ingest) -> set[str]:
    """Return the source files of the live runs."""
    return {run.source_file for run in ingest.store.catalog.rows.values() if run.live}


def test_a_copy_s_turn_comes_settle_s_after_the_file_was_first_missed(ingest: Ingest) -> None:
    """A program that saves a file may remove its name for that long; scans in between put nothing off."""
    files = {"It_1.csv": Measurement(), "It_2.csv": Measurement(), "It_3.csv": Measurement(chip=67, start=1758700000.5)}
    worker = Worker(ingest)
    take_in(ingest, worker, files)
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


def test_a_copy_that_a_full_disk_keeps_from_its_place_is_not_blamed(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is staged once more in its new place: what the disk refuses is one trouble, and its turn comes again."""
    worker = Worker(ingest)
    take_in(ingest, worker, {"It_1.csv": Measurement(), "copy.csv": Measurement()})

    def refused(tasks: Sequence[StageTask], _context: object) -> list[Failed]:
        full = retry_from(OSError(errno.ENOSPC, "No space left on device"), ingest.layout.stage_root)
        return [Failed(task, full, ours=True) for task in tasks]

    ingest.layout.raw_file("It_1.csv").unlink()
    worker.inbox.put(Hint("It_1.csv"))
    with monkeypatch.context() as patch:
        patch.setattr("ingestd.stage.run.stage_batch", refused)
        until_turned(worker, lambda: any(one.tries >= 2 for one in worker.view.troubles), "it is tried again")
        assert not worker.view.retrying
    until_turned(worker, lambda: live(ingest) == {"copy.csv"}, "the copy takes the place")


def test_the_copy_that_an_edit_leaves_alone_is_looked_at_again(ingest: Ingest) -> None:
    """No header tells the start of what took the path: the copy, a run of its own now, needs no scan."""
    worker = Worker(ingest)
    take_in(ingest, worker, {"It_1.csv": Measurement(), "copy.csv": Measurement()})
    ingest.layout.raw_file("It_1.csv").write_bytes(Measurement(start=None, chip=67, sample=7).data)
    worker.inbox.put(Hint("It_1.csv"))
    until_turned(worker, lambda: live(ingest) == {"It_1.csv", "copy.csv"}, "both measurements")


def test_a_stop_waits_for_one_batch_of_copies(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The originals of a whole folder are gone: the copies that are left have their turn after the next start."""
    stage = settings.stage.model_copy(update={"batch_files": 1})
    with opened(settings.model_copy(update={"stage": stage})) as ingest:
        worker, commit = Worker(ingest), ingest.commit
        one, other = Measurement(), Measurement(chip=67, start=1758700000.5)
        take_in(ingest, worker, {"It_1.csv": one, "copy_1.csv": one, "It_2.csv": other, "copy_2.csv": other})
        for name in ("It_1.csv", "It_2.csv"):
            ingest.layout.raw_file(name).unlink()
        worker._orphans.note(["It_1.csv", "It_2.csv"])
        wait_until(lambda: len(worker._orphans.due()) == 2, "the turn of both")

        def stopped(outcomes: Sequence[Outcome]) -> Committed:
            worker.stop()
            return commit(outcomes)

        with monkeypatch.context() as patch:
            patch.setattr(ingest, "commit", stopped)
            worker.turn(0.0)
        assert live(ingest) == {"copy_1.csv", "It_2.csv"}
