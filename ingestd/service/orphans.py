"""Paths of runs whose raw file was found gone: a known copy takes its place, once it has stayed away."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ingestd.files import Scan
from ingestd.ingest import Ingest
from ingestd.service.waiting import WaitList

PUT_OFF_S = 1.0
"""How soon it is looked again, in seconds, whether a path still waits that is put off: a run may take hours."""


class Orphans:
    """Which paths are gone, and when their copies' turn comes. Only the worker calls it.

    Not at once: a program that saves with care takes the name away for an instant, and of a folder that was renamed the
    old paths are looked at before the new ones.
    """

    def __init__(self, ingest: Ingest, waiting: WaitList) -> None:
        self._ingest = ingest
        self._list = waiting
        self._due: dict[str, float] = {}  # path -> monotonic seconds

    def note(self, paths: Iterable[str]) -> None:
        """Note those of these paths, just found gone, whose run has a known copy."""
        catalog = self._ingest.store.catalog
        self._note(path for path in paths if any(catalog.copies_of_runs_at([path])))

    def note_unseen(self, scan: Scan) -> None:
        """Note the paths that a scan did not see, or that hold another run's bytes, or none."""
        catalog = self._ingest.store.catalog
        for copies in self._ingest.orphaned_copies(scan):
            runs = (catalog.live_with(copy.digest) for copy in copies)
            self._note(run.source_file for run in runs if run is not None)

    def _note(self, paths: Iterable[str]) -> None:
        due = time.monotonic() + self._ingest.settings.settle.settle_s
        for path in paths:
            self._due.setdefault(path, due)

    def next_due(self) -> float | None:
        """Tell when the turn of the next one comes (monotonic seconds)."""
        return min(self._due.values(), default=None)

    def due(self) -> list[str]:
        """List those whose turn has come. Where a file waits that may be the run's, by path or size, it is put off."""
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
        """Forget these: what there was to do for them is done."""
        for path in paths:
            self._due.pop(path, None)
