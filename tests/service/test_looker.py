"""A look at all processes is dear: it is taken when it can change what becomes of a file."""

from __future__ import annotations

import time
from typing import Any

import pytest
from measurement import Measurement
from turning import until_turned

from ingestd.ingest.commit import Ingest, opened
from ingestd.service import looker as looks
from ingestd.service.messages import Hint
from ingestd.service.worker import Worker
from ingestd.settings import Settings
from ingestd.writers import Writers, read_writers

ROW = b"0.5,3.1e-05,1.4,nan,nan,nan\r\n"


def settling_in(settings: Settings, settle_s: float) -> Settings:
    """Return settings with which a file settles in so many seconds."""
    return settings.model_copy(update={"settle": settings.settle.model_copy(update={"settle_s": settle_s})})


def add_row(ingest: Ingest, worker: Worker) -> None:
    """Open a file, add a row and close it; the kernel hints at it."""
    with ingest.layout.raw_file("It_1.csv").open("ab") as file:
        file.write(ROW)
    worker.inbox.put(Hint("It_1.csv"))


def rows(ingest: Ingest) -> list[int]:
    """Return the number of rows of each run."""
    return [row.rows for row in ingest.store.full_rows(list(ingest.store.catalog.rows)).values()]


def test_a_file_that_is_closed_after_every_row_costs_few_looks_at_all_processes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it can have settled, who has it open changes nothing: the processor is left to the measurement."""
    looked = 0

    def counted(*asked: Any, **options: Any) -> Writers:
        nonlocal looked
        looked += 1
        return read_writers(*asked, **options)

    monkeypatch.setattr(looks, "read_writers", counted)
    with opened(settling_in(settings, 3600.0)) as ingest:
        worker = Worker(ingest)
        ingest.layout.raw_file("It_1.csv").write_bytes(Measurement(rows=1).data)
        for _ in range(20):
            add_row(ingest, worker)
            worker.turn(0.0)
        (entry,) = worker._list.entries.values()
        assert looked == 1
        assert entry.due > time.monotonic() + 3500
        assert entry.track is not None
        assert entry.track.sample.size == ingest.layout.raw_file("It_1.csv").stat().st_size


def test_it_is_staged_once_it_has_stood_still(settings: Settings) -> None:
    """Hints within `settle_s` of the last look neither forget a file nor let it count as over too early."""
    with opened(settling_in(settings, 0.4)) as ingest:
        worker, path = Worker(ingest), ingest.layout.raw_file("It_1.csv")
        path.write_bytes(Measurement(rows=1).data)
        for _ in range(5):
            add_row(ingest, worker)
            worker.turn(0.0)
        until_turned(worker, lambda: rows(ingest) == [6], "all rows")
        assert time.time() - path.stat().st_mtime >= 0.4
        assert not worker._list.entries
