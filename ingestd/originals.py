"""Where a run's raw file is now: at its path, edited there, covered by another file, or gone."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from ingestd import files
from ingestd.files import FileStat
from ingestd.layout import Layout
from ingestd.manifest.catalog import Catalog, KnownRun
from ingestd.manifest.record import FileNote
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.store import ManifestStore
from ingestd.raw.settling import RESTORE, Observation, emptied, kept_run, queued
from ingestd.stage.run import Same, StageContext, StageTask, discard, stage_one


class Originals:
    """Looks after the raw files that runs were made from, as far as copies of them raise the question."""

    def __init__(self, layout: Layout, context: StageContext) -> None:
        self._layout = layout
        self._context = context

    def orphaned(
        self, catalog: Catalog, notes: Iterable[FileNote], saw: Callable[[str], bool], now: datetime
    ) -> Iterator[Same]:
        """Find those of these known copies whose original is gone: each may take its place. Opens nothing.

        `saw` tells what is there, as a scan sees it. Decisions may be made in between.
        """
        for note in notes:
            run = catalog.live_with(note.source_sha256)
            if run is None:
                continue
            if not (_covered(catalog, run) if saw(run.source_file) else self._gone(run)):
                continue
            if not saw(note.source_file):
                continue
            with contextlib.suppress(OSError):  # a copy that went out of reach stays one
                status = self._state(note.source_file)
                if status and (status.size, status.mtime_ns) == (note.source_size, note.source_mtime_ns):
                    yield Same(self._task(note.source_file, status, now), note.source_sha256)

    def sees(self, source_file: str) -> bool:
        """Tell whether a scan would find this raw file now."""
        try:
            return self._state(source_file) is not None
        except OSError:
            return False

    def _gone(self, run: KnownRun) -> bool:
        """Tell whether a raw file that was not seen is gone for sure: its folder may only be out of reach."""
        try:
            return self._state(run.source_file) is None
        except OSError:
            return False

    def _state(self, source_file: str) -> FileStat | None:
        """Look at a raw file; None when there is no regular file, or a link leads to it, which no scan follows."""
        path = self._layout.raw_file(source_file)
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        straight = path.parent.resolve() == (self._layout.raw_root.resolve() / source_file).parent
        return files.stat_of(status) if stat.S_ISREG(status.st_mode) and straight else None

    def holds(self, catalog: Catalog, run: KnownRun, now: datetime) -> bool:
        """Tell whether the raw file of a run is still there, as it was or edited; read only when its state changed."""
        path = self._layout.raw_file(run.source_file)
        try:
            status = self._state(run.source_file)
            if status is None:
                return False
            if (status.size, status.mtime_ns) == (run.source_size, run.source_mtime_ns):
                return True
            return files.sha256_of(path) == run.source_sha256 or self._edited(catalog, run, status, now)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # what cannot be looked at is not known to be gone

    def _edited(self, catalog: Catalog, run: KnownRun, status: FileStat, now: datetime) -> bool:
        """Tell whether a run's path holds the same measurement with other bytes: its header tells the same start.

        Otherwise another measurement took the path, and the run is where its bytes are.
        """
        known = catalog.digests_of_size(status.size)
        staged = stage_one(self._task(run.source_file, status, now, known), self._context)
        if staged is None:
            return False
        discard([staged])
        return (staged.row.start_time_utc, staged.row.start_time_origin) == (run.start_time_utc, "header")

    def _task(
        self, source_file: str, status: FileStat, now: datetime, known: frozenset[str] = frozenset()
    ) -> StageTask:
        """Make a task for a file that is taken to be over."""
        return StageTask(source_file, status, Observation(self._context.patience.quiet_s, ""), now, known)


class LostFile(NamedTuple):
    """A raw file that holds the measurement of its run no more; only the stage has it."""

    source_file: str
    run_id: str
    message: str
    next_step: str


def lost_files(
    store: ManifestStore, rowless: Mapping[str, str], saw: Callable[[str], bool], moving: Collection[int] = ()
) -> list[LostFile]:
    """List the live runs whose raw file is there and was emptied, or overwritten with another run's bytes, by path.

    `rowless` are the files without a complete row: path -> kind of reason (a key of `QUEUED_REASONS`); `saw` tells what
    is there. A run with as many bytes as one of `moving`, the sizes of files not decided yet, may only have been moved:
    it is left out.
    """
    catalog = store.catalog
    found: dict[KnownRun, str | FileNote] = {run: rowless[name] for name in rowless if (run := catalog.occupant(name))}
    there = {run: note for run, note in catalog.overwritten().items() if saw(run.source_file)}
    return [file for file, run in _lost(store, found | there) if run.source_size not in moving]


def lost_at(store: ManifestStore, source_file: str) -> list[LostFile]:
    """List what `lost_files` tells of one path whose last state was decided."""
    catalog, note = store.catalog, store.catalog.notes.get(source_file)
    run = catalog.occupant(source_file)
    if note is not None and note.outcome == "queued" and run is not None:
        return [file for file, _ in _lost(store, {run: queued(note.code).code})]
    return [file for file, _ in _lost(store, dict(catalog.overwritten_at(source_file)))]


def _lost(store: ManifestStore, found: Mapping[KnownRun, str | FileNote]) -> list[tuple[LostFile, KnownRun]]:
    """Word what became of runs' raw files: emptied (the kind of reason), or overwritten (the note that says so)."""
    rows, lost = store.full_rows([run.run_id for run in found]), []
    for run in sorted(found):
        if (row := rows.get(run.run_id)) is None:
            continue
        why = found[run]
        if isinstance(why, FileNote):
            file = LostFile(run.source_file, run.run_id, overwritten(row, why), "restore it from a backup")
        else:
            file = LostFile(run.source_file, run.run_id, emptied(run.run_id, row.rows, why), RESTORE)
        lost.append((file, run))
    return sorted(lost)


def overwritten(row: ManifestRow, note: FileNote) -> str:
    """Say of a raw file that has another run's bytes now which run it was; `note` is the file's."""
    return f"it was {kept_run(row.run_id, row.rows)}, and has the bytes of run {note.run_id} now"


def _covered(catalog: Catalog, run: KnownRun) -> bool:
    """Tell whether another run's bytes were put over the raw file of a run, or no row is left in it."""
    note = catalog.notes.get(run.source_file)
    if note is None:
        return False
    return note.outcome == "queued" or (note.outcome in {"duplicate", "occupied"} and note.run_id != run.run_id)
