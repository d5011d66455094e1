"""Where a run's raw file is now: at its path, edited there, overwritten by another file, or gone."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from math import inf

from ingestd import files
from ingestd.errors import Reject
from ingestd.files import FileStat
from ingestd.ingest.comparing import has_other_rows
from ingestd.lookup import raw_file_is_gone
from ingestd.manifest.catalog import KnownRun
from ingestd.manifest.record import FileNote
from ingestd.manifest.store import ManifestStore
from ingestd.raw.header import MAX_HEADER_BYTES, glance, parse_header
from ingestd.raw.settling import Observation
from ingestd.raw.start_time import start_time
from ingestd.stage.run import Failed, Same, StageContext, Staged, StageTask, discard, stage_batch


class Originals:
    """Finds what became of the raw files that runs were made from, where a copy raises the question."""

    def __init__(self, store: ManifestStore, context: StageContext) -> None:
        self._store = store
        self._layout = store.layout
        self._context = context

    def orphaned(self, notes: Iterable[FileNote], saw: Callable[[str], bool], now: datetime) -> Iterator[Same]:
        """Find the known copies in `notes` whose original is gone: each may take its place. Open no file.

        `saw` tells what is there, as a scan sees it. Decisions may be made between one copy and the next.
        """
        over = Observation(inf, "")  # as each was when it was noted
        for note in notes:
            run = self._store.catalog.live_with(note.source_sha256)
            if run is None or not saw(note.source_file):
                continue
            there = saw(run.source_file)
            if not (self._covered(run) if there else raw_file_is_gone(self._layout, run.source_file)):
                continue
            with contextlib.suppress(OSError):  # a copy out of reach stays a copy
                status = self._state(note.source_file)
                if status and status.stamp == note.stamp:
                    yield Same(StageTask(note.source_file, status, over, now), note.source_sha256)

    def sees(self, source_file: str) -> bool:
        """Tell whether a scan would find this raw file now."""
        try:
            return self._state(source_file) is not None
        except OSError:
            return False

    def has_copy(self, run: KnownRun) -> bool:
        """Tell whether a known copy of a run is there unchanged; one that is out of reach counts as there."""
        for note in self._store.catalog.copies(run):
            try:
                status = self._state(note.source_file)
            except OSError:
                return True
            if status is not None and status.stamp == note.stamp:
                return True
        return False

    def _state(self, source_file: str) -> FileStat | None:
        return files.state_below(self._context.raw_root, source_file)

    def holds(self, run: KnownRun, copy: StageTask) -> bool:
        """Tell whether the raw file of a run still holds its measurement: unchanged, with more rows, or edited.

        It is read only when its state changed. If it does not hold it, another run's bytes or another measurement took
        the path, or nothing is left there, and the run is where its bytes are: in the `copy`.

        Raises:
            OutOfReach: the run's Parquet, which tells an edited start from another measurement, cannot be read now.
        """
        path, catalog = self._context.raw_root / run.source_file, self._store.catalog
        try:
            status = self._state(run.source_file)
            if status is None or self._is_renamed(run.source_file, copy.source_file):
                return False
            if status.stamp == run.stamp:
                return True
            if catalog.is_current(run.source_file, status.stamp) and self._covered(run):
                return False
            others = catalog.digests_of_size(status.size) - {run.source_sha256}
            if others and files.sha256_of(path) in others:
                return False
            if status.size >= run.source_size and files.sha256_of(path, run.source_size) == run.source_sha256:
                return True
            return self._tells_start(run, status, copy.now) or self._has_its_rows(run, status, copy.now)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # what cannot be looked at is not known to be gone

    def _covered(self, run: KnownRun) -> bool:
        """Tell whether the raw file of a run was overwritten with another run's bytes, or has no row left."""
        catalog = self._store.catalog
        note = catalog.notes.get(run.source_file)
        return note is not None and (note.outcome == "queued" or run in catalog.overwritten_at(run.source_file))

    def _is_renamed(self, before: str, now: str) -> bool:
        """Tell whether a file only got another spelling of its name, and is still found by the one before."""
        if _any_spelling(before) != _any_spelling(now):
            return False
        return not files.is_spelt_so(self._context.raw_root, before)

    def _tells_start(self, run: KnownRun, status: FileStat, now: datetime) -> bool:
        """Tell whether a raw file has rows below a header that gives the run's start."""
        read = files.read_raw(self._context.raw_root / run.source_file, MAX_HEADER_BYTES)
        if read is None or not glance(read.data).rows:
            return False
        try:
            text = parse_header(read.data).start_text
            start = start_time(text, run.source_file, status.mtime_ns, self._context.zone, now)
        except Reject:
            return False
        return (start.utc, start.origin) == (run.start_time_utc, "header")

    def _has_its_rows(self, run: KnownRun, status: FileStat, now: datetime) -> bool:
        """Tell whether a raw file with another start has the rows of a run: then it was edited."""
        over = Observation(inf, "")
        (staged,) = stage_batch([StageTask(run.source_file, status, over, now)], self._context)
        try:
            if isinstance(staged, Failed):
                return True  # what cannot be read is not known to be another measurement
            return isinstance(staged, Staged) and not has_other_rows(self._layout, run, staged)
        finally:
            discard([staged])


def _any_spelling(name: str) -> str:
    """Return what the spellings share by which a file system may find one file: upper and lower case, NFC and NFD."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
