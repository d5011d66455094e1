"""The log's warnings about raw files that no longer hold the measurement of their run."""

from __future__ import annotations

from collections.abc import Collection

from structlog.stdlib import BoundLogger

from ingestd.ingest.commit import Ingest
from ingestd.ingest.lost import lost_at
from ingestd.manifest.record import Event, Record
from ingestd.service.waiting import WaitList


class LostLines:
    """Which runs may have lost their raw file by a decision; each is told once. For the worker only.

    Of two files that swapped names, one is decided first. So no warning is written while a waiting file may be the
    run's, as in `ingestd status`, which also lists what a stop leaves untold.
    """

    def __init__(self, ingest: Ingest, waiting: WaitList, log: BoundLogger) -> None:
        self._ingest = ingest
        self._list = waiting
        self._log = log
        self._noted: dict[str, set[str]] = {}  # path -> ids of runs that it may have lost

    def note(self, record: Record, covered: Collection[str]) -> None:
        """Note the runs whose raw file a decision found emptied, or with another run's bytes (`Committed.covered`)."""
        catalog, path = self._ingest.store.catalog, record.source_file
        runs = {run.run_id for run in catalog.live_at(path)} & set(covered)
        if record.event is Event.QUEUED and (emptied := catalog.occupant(path)) is not None:
            runs.add(emptied.run_id)
        if runs:
            self._noted.setdefault(path, set()).update(runs)

    def tell(self) -> None:
        """Warn about the runs noted that are lost; keep those that a waiting file may be, by its size."""
        entries, store = self._list.entries.values(), self._ingest.store
        if not self._noted or any(entry.track is None and not entry.problem for entry in entries):
            return
        sizes = {entry.track.sample.size for entry in entries if entry.track is not None}
        for path, noted in list(self._noted.items()):
            if any(run.source_size in sizes for run in store.catalog.live_at(path) if run.run_id in noted):
                continue
            lost = [file for file in lost_at(store, path) if file.run_id in noted]
            del self._noted[path]
            for file in lost:
                self._log.warning(
                    "raw_file_lost",
                    source_file=file.source_file,
                    run_id=file.run_id,
                    problem=file.message,
                    next_step=file.next_step,
                )
