"""The log's warnings about raw files that no longer hold the measurement of their run."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import NamedTuple

from structlog.stdlib import BoundLogger

from ingestd.ingest.commit import Ingest
from ingestd.ingest.lost import lost_at
from ingestd.manifest.record import Event, Record
from ingestd.service.waiting import PUT_OFF_S, WaitList


class _Noted(NamedTuple):
    """When to look again at a path, in monotonic seconds, and the ids of the runs that it may have lost."""

    due: float
    runs: set[str]


class LostLines:
    """Which runs may have lost their raw file by a decision; each is told once. For the worker only.

    Of two files that swap names, one may be decided before the other has its new name, or is settled; and a copy may
    take the file's place. So a warning is written `settle_s` after the decision, and not while a waiting file may be
    the run's.
    """

    def __init__(self, ingest: Ingest, waiting: WaitList, log: BoundLogger) -> None:
        self._ingest = ingest
        self._list = waiting
        self._log = log
        self._noted: dict[str, _Noted] = {}  # by path

    def note(self, record: Record, covered: Collection[str]) -> None:
        """Note the runs whose raw file a decision found emptied, or with another run's bytes (`Committed.covered`)."""
        catalog, path = self._ingest.store.catalog, record.source_file
        runs = {run.run_id for run in catalog.live_at(path)} & set(covered)
        if record.event is Event.QUEUED and (emptied := catalog.occupant(path)) is not None:
            runs.add(emptied.run_id)
        if runs:
            before = self._noted[path].runs if path in self._noted else set()
            self._noted[path] = _Noted(time.monotonic() + self._ingest.settings.settle.settle_s, before | runs)

    def next_due(self) -> float | None:
        """Return when `tell` has something to do next, in monotonic seconds."""
        return min((noted.due for noted in self._noted.values()), default=None)

    def tell(self, *, stopping: bool = False) -> None:
        """Warn about the runs noted that are lost, at each path that is due; at all if the service is `stopping`."""
        now, entries, store = time.monotonic(), self._list.entries.values(), self._ingest.store
        unseen = any(entry.track is None and not entry.problem for entry in entries)
        sizes = {entry.track.sample.size for entry in entries if entry.track is not None}
        for path, (_, ids) in [item for item in self._noted.items() if stopping or item[1].due <= now]:
            runs = [run for run in store.catalog.live_at(path) if run.run_id in ids]
            if not stopping and (unseen or any(run.source_size in sizes for run in runs)):
                self._noted[path] = _Noted(now + PUT_OFF_S, ids)
                continue
            lost = [file for file in lost_at(store, path) if file.run_id in ids]
            del self._noted[path]
            for file in lost:
                self._log.warning(
                    "raw_file_lost",
                    source_file=file.source_file,
                    run_id=file.run_id,
                    problem=file.message,
                    next_step=file.next_step,
                )
