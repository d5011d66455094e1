"""Paths of runs whose raw file was found gone or overwritten: a known copy takes its place if that stays so."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ingestd.files import Scan
from ingestd.ingest.commit import Ingest
from ingestd.service.waiting import PUT_OFF_S, WaitList


class Orphans:
    """Which paths are gone or overwritten, and when their copies' turn comes. Only the worker calls it.

    A copy's turn does not come at once: programs that save a file may remove its name for an instant, and when a folder
    was renamed, its old paths are looked at before the new ones.
    """

    def __init__(self, ingest: Ingest, waiting: WaitList) -> None:
        self._ingest = ingest
        self._list = waiting
        self._due: dict[str, float] = {}  # path -> monotonic seconds

    def note(self, paths: Iterable[str]) -> None:
        """Note which of these paths, just found gone or overwritten, belong to a run with a known copy."""
        catalog = self._ingest.store.catalog
        self._note(path for path in paths if any(catalog.copies_of_runs_at([path])))

    def note_unseen(self, scan: Scan) -> None:
        """Note the paths that a scan did not see, or that hold another run's bytes or no complete row."""
        catalog = self._ingest.store.catalog
        for copies in self._ingest.orphaned_copies(scan):
            runs = (catalog.live_with(copy.digest) for copy in copies)
            self._note(run.source_file for run in runs if run is not None)

    def _note(self, paths: Iterable[str]) -> None:
        due = time.monotonic() + self._ingest.settings.settle.settle_s
        for path in paths:
            self._due.setdefault(path, due)

    def next_due(self) -> float | None:
        """Return when the next one's turn comes, in monotonic seconds."""
        return min(self._due.values(), default=None)

    def due(self) -> list[str]:
        """List those whose turn has come; put off those for which a waiting file may be the run's, by path or size."""
        now, catalog = time.monotonic(), self._ingest.store.catalog
        sizes = {entry.track.sample.size for entry in self._list.entries.values() if entry.track is not None}
        ready = []
        for path in [path for path, due in self._due.items() if due <= now]:
            if path in self._list.entries or any(run.source_size in sizes for run in catalog.live_at(path)):
                self._due[path] = now + PUT_OFF_S
            else:
                ready.append(path)
        return ready

    def done(self, paths: Iterable[str]) -> None:
        """Forget these paths: nothing more is to be done for them."""
        for path in paths:
            self._due.pop(path, None)
