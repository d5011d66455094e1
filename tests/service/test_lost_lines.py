"""The log's warnings about raw files that no longer hold their run's measurement."""

from __future__ import annotations

import io
import json
import time
from functools import partial
from typing import Any

import pytest
from logged import Start
from measurement import Measurement
from turning import until_turned

from ingestd.files import stat_of
from ingestd.ingest.commit import Ingest
from ingestd.service.messages import Hint
from ingestd.service.worker import Worker

FILES = {"It_1.csv": Measurement(), "It_2.csv": Measurement(chip=67, start=1758700000.5, sample=7)}


def is_known(ingest: Ingest, name: str) -> bool:
    """Tell whether a file was decided."""
    return ingest.store.catalog.is_known(name)


def is_current(ingest: Ingest, name: str) -> bool:
    """Tell whether a file is decided in the state it is in."""
    return ingest.store.catalog.is_current(name, stat_of(ingest.layout.raw_file(name).lstat()).stamp)


def ingested(ingest: Ingest) -> Worker:
    """Return a worker that has staged both files."""
    worker = Worker(ingest)
    for name, measurement in FILES.items():
        ingest.layout.raw_file(name).write_bytes(measurement.data)
        worker.inbox.put(Hint(name))
        until_turned(worker, partial(is_known, ingest, name), name)
    return worker


def events(text: str, event: str) -> list[dict[str, Any]]:
    """Return the lines of one event."""
    return [line for line in map(json.loads, text.splitlines()) if line["event"] == event]


def check_no_loss(worker: Worker, stream: io.StringIO) -> None:
    """Check that both files are found to have moved, and that no loss was told and none is to be."""
    until_turned(worker, lambda: len(events(stream.getvalue(), "moved")) == 2, "both moves")
    until_turned(worker, lambda: worker._lost.next_due() is None, "nothing more to tell")
    assert "raw_file_lost" not in stream.getvalue()


def test_of_two_files_that_swapped_names_none_is_lost(ingest: Ingest, start: Start) -> None:
    """The first one decided has the bytes of the other, whose own new path still waits: no warning, then no loss."""
    _, stream, _ = start()
    worker = ingested(ingest)
    one, two = (ingest.layout.raw_file(name) for name in FILES)
    one.rename(one.with_suffix(".x"))
    two.rename(one)
    one.with_suffix(".x").rename(two)
    worker.inbox.put(Hint("It_1.csv"))
    worker._list.hint("It_2.csv", time.monotonic() + 0.5)  # it settles later
    check_no_loss(worker, stream)


def test_a_name_that_comes_back_in_an_instant_was_not_lost(ingest: Ingest, start: Start) -> None:
    """A swap takes three renames: one file may be decided while the other has no name that counts."""
    _, stream, _ = start()
    worker = ingested(ingest)
    one, two = (ingest.layout.raw_file(name) for name in FILES)
    one.rename(one.with_suffix(".x"))
    two.rename(one)
    worker.inbox.put(Hint("It_1.csv"))
    until_turned(worker, lambda: events(stream.getvalue(), "moved"), "the first one")
    one.with_suffix(".x").rename(two)
    worker.inbox.put(Hint("It_2.csv"))
    check_no_loss(worker, stream)


def test_a_loss_is_told_once_no_waiting_file_may_be_the_run_s(ingest: Ingest, start: Start) -> None:
    """A file that was not looked at yet may be the one that was overwritten; when it is not, the log says so, once."""
    _, stream, _ = start()
    worker = ingested(ingest)
    worker._list.hint("It_3.csv", time.monotonic() + 3600.0)
    ingest.layout.raw_file("It_1.csv").write_bytes(FILES["It_2.csv"].data)
    worker.inbox.put(Hint("It_1.csv"))
    until_turned(worker, lambda: '"duplicate"' in stream.getvalue(), "the copy")
    due = worker._lost.next_due()
    until_turned(worker, lambda: worker._lost.next_due() != due, "it is put off")
    assert "raw_file_lost" not in stream.getvalue()
    worker._list.done("It_3.csv")
    until_turned(worker, lambda: worker._lost.next_due() is None, "it is told")
    (told,) = events(stream.getvalue(), "raw_file_lost")
    assert told["source_file"] == "It_1.csv"
    assert told["next_step"] == "restore it from a backup"


@pytest.mark.parametrize("waits", ["nothing", "a file that cannot be looked at", "any file, and the service stops"])
def test_a_loss_is_told_though_another_file_waits(ingest: Ingest, start: Start, waits: str) -> None:
    """A file in retry may be so for days, and after a stop nobody would tell."""
    _, stream, _ = start()
    worker = ingested(ingest)
    if waits == "a file that cannot be looked at":
        worker.inbox.put(Hint(f"{'x' * 300}.csv"))
        until_turned(worker, lambda: worker.view.retrying, "it is tried again")
    elif waits == "any file, and the service stops":
        worker._list.hint("It_3.csv", time.monotonic() + 3600.0)
    ingest.layout.raw_file("It_1.csv").write_bytes(FILES["It_2.csv"].data)
    worker.inbox.put(Hint("It_1.csv"))
    until_turned(worker, lambda: '"duplicate"' in stream.getvalue(), "the copy")
    if "stops" in waits:
        assert "raw_file_lost" not in stream.getvalue()
        worker.stop()
        worker.run()
    else:
        until_turned(worker, lambda: worker._lost.next_due() is None, "it is told")
    (told,) = events(stream.getvalue(), "raw_file_lost")
    assert told["source_file"] == "It_1.csv"


def test_two_runs_that_lost_one_path_are_both_told(ingest: Ingest, start: Start) -> None:
    """A second measurement began there and was overwritten before the loss of the first one was told."""
    _, stream, _ = start()
    worker = ingested(ingest)
    worker._list.hint("It_3.csv", time.monotonic() + 3600.0)
    path = ingest.layout.raw_file("It_1.csv")
    for data in (FILES["It_2.csv"].data, Measurement(start=1758800000.5).data, FILES["It_2.csv"].data):
        path.write_bytes(data)
        worker.inbox.put(Hint("It_1.csv"))
        until_turned(worker, partial(is_current, ingest, "It_1.csv"), "it is decided")
    assert "raw_file_lost" not in stream.getvalue()
    worker._list.done("It_3.csv")
    until_turned(worker, lambda: worker._lost.next_due() is None, "both are told")
    told = events(stream.getvalue(), "raw_file_lost")
    assert [line["source_file"] for line in told] == ["It_1.csv", "It_1.csv"]
    assert len({line["run_id"] for line in told}) == 2
