"""The worker's turns in this process: no file is forgotten, whatever comes between looking, staging and deciding."""

from __future__ import annotations

import errno
import os
from functools import partial

import pytest
from measurement import Measurement
from turning import until_turned

from ingestd import files
from ingestd.ingest import Ingest
from ingestd.service.messages import Hint
from ingestd.service.worker import Worker

ONE = Measurement()
OTHER = ONE.but(start=1758700000.5, chip=61, sample=7)


def live(ingest: Ingest) -> set[str]:
    """Return the source files of the live runs."""
    return {run.source_file for run in ingest.store.catalog.rows.values() if run.live}


def refuse(*given: object) -> None:
    """Fail as a disk does; a text that is given first is the system's reason."""
    reason = given[0] if given and isinstance(given[0], str) else "Input/output error"
    raise OSError(errno.EIO, reason, "/somewhere")


def write(ingest: Ingest, name: str, data: bytes) -> None:
    """Write a raw file that has long been over."""
    path = ingest.layout.raw_file(name)
    path.write_bytes(data)
    os.utime(path, (1758700000, 1758700000))


def is_decided(ingest: Ingest, name: str) -> bool:
    """Tell whether a file is decided in the state it is in."""
    return ingest.store.catalog.is_current(name, files.stat_of(ingest.layout.raw_file(name).lstat()).stamp)


def a_run_and_its_copy(ingest: Ingest, worker: Worker) -> None:
    """Have one run, and then a copy of it that is known as such."""
    for name in ("It_1.csv", "copy.csv"):
        write(ingest, name, ONE.data)
        worker.inbox.put(Hint(name))
        until_turned(worker, partial(is_decided, ingest, name), name)
    assert live(ingest) == {"It_1.csv"}


@pytest.mark.parametrize("refused", ["nothing", "the batch", "the copy"])
def test_a_copy_takes_the_place_of_a_deleted_file_at_once(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """No scan is needed, though the disk refuses the batch in which the file was found gone, or the copy's record."""
    worker = Worker(ingest)
    a_run_and_its_copy(ingest, worker)
    ingest.layout.raw_file("It_1.csv").unlink()
    if refused == "the batch":
        write(ingest, "It_2.csv", OTHER.data)
        worker.inbox.put(Hint("It_2.csv"))
    worker.inbox.put(Hint("It_1.csv"))
    with monkeypatch.context() as patch:
        if refused != "nothing":
            patch.setattr(ingest, "commit", refuse)
            until_turned(worker, lambda: worker.view.troubles, "the disk refuses")
    expected = {"copy.csv", "It_2.csv"} if refused == "the batch" else {"copy.csv"}
    until_turned(worker, lambda: live(ingest) == expected, "the copy takes the place")
    assert len(ingest.store.catalog.rows) == len(expected)
    until_turned(worker, lambda: not worker.view.troubles, "no trouble is left")
    assert worker._orphans.next_due() is None, "nothing more is to be done"
