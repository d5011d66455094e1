"""Raw files that no longer hold the measurement of their run: emptied, or overwritten with another run's bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from ingestd.files import is_gone, state_below
from ingestd.manifest.catalog import KnownRun
from ingestd.manifest.record import FileNote
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.store import ManifestStore
from ingestd.raw.settling import queued
from ingestd.stage.identity import compute_run_id
from ingestd.words import count

EMPTIED = {
    "empty": "is empty now",
    "cut": "no longer has a complete row",
    "no-rows": "has only its header now",
}
"""What became of a run's raw file that counts as queued again, by the kind of reason."""

RESTORE = "restore it from a backup"

RESTORE_RENAMED = f"{RESTORE} under another name, unless it is kept elsewhere"

RESTORE_EMPTIED = f"{RESTORE}, unless a new measurement begins under its name"


class LostFile(NamedTuple):
    """A raw file that no longer holds the measurement of its run; only the stage has it, and the `copy`, if any.

    The copy takes its place at the next scan.
    """

    source_file: str
    run_id: str
    message: str
    next_step: str
    copy: str | None


def lost_files(
    store: ManifestStore,
    rowless: Mapping[str, str],
    saw: Callable[[str], bool],
    moving: Collection[int] = (),
    covered: Collection[str] = (),
) -> list[LostFile]:
    """List the live runs whose raw file is there and was emptied, or overwritten with another run's bytes, by path.

    `rowless` are the files without a complete row: path -> kind of reason (a key of `QUEUED_REASONS`); `saw` tells
    whether a path is there. A run with as many bytes as one of `moving`, the sizes of files not decided yet, may only
    have been moved and is left out. If a new measurement was made under its name, perhaps after the file was stored
    elsewhere, it is listed only if its id is among those just found `covered` (`Committed`).
    """
    catalog = store.catalog
    found: dict[KnownRun, str | FileNote | None] = {
        run: code for name, code in rowless.items() if (run := catalog.occupant(name))
    }
    there = {
        run: note
        for run, note in catalog.overwritten().items()
        if saw(run.source_file) and (run.run_id in covered or not _began_there(store, note))
    }
    return _lost(store, {run: why for run, why in (found | there).items() if run.source_size not in moving})


def lost_at(store: ManifestStore, source_file: str) -> list[LostFile]:
    """List what `lost_files` lists for one path whose last state was decided."""
    catalog, note = store.catalog, store.catalog.notes.get(source_file)
    run = catalog.occupant(source_file)
    if note is not None and note.outcome == "queued" and run is not None:
        return _lost(store, {run: note.code})
    return _lost(store, catalog.overwritten_at(source_file))


def _lost(store: ManifestStore, found: Mapping[KnownRun, str | FileNote | None]) -> list[LostFile]:
    """Word what became of runs' raw files: emptied (the kind of reason), or overwritten (the note that says so)."""
    rows = store.full_rows([run.run_id for run in found])
    told = ((row, why) for run, why in found.items() if (row := rows.get(run.run_id)) is not None)
    return sorted(
        overwritten(store, row, why) if isinstance(why, FileNote) else emptied(store, row, why) for row, why in told
    )


def emptied(store: ManifestStore, row: ManifestRow, code: str | None) -> LostFile:
    """Say which run a raw file without a complete row was; `code` is the kind of reason why, as in `queued`."""
    return _told(store, row, EMPTIED[queued(code).code], RESTORE_EMPTIED)


def overwritten(store: ManifestStore, row: ManifestRow, note: FileNote) -> LostFile:
    """Say which run a raw file was that now has another run's bytes; `note` is the file's."""
    next_step = RESTORE_RENAMED if _began_there(store, note) else RESTORE
    return _told(store, row, f"has the bytes of run {note.run_id} now", next_step)


def _began_there(store: ManifestStore, note: FileNote) -> bool:
    """Tell whether the run that a file is now was measured under this name, not moved or copied to it."""
    run = store.catalog.run(note.run_id or "")
    return run is not None and run.run_id == compute_run_id(note.source_file, run.start_time_utc)


def _told(store: ManifestStore, row: ManifestRow, now: str, next_step: str) -> LostFile:
    parquet = store.layout.staged_file(row)
    kept = "whose Parquet is gone too" if is_gone(parquet) else "kept staged"
    copy = copy_of(store, row)
    if copy is not None:
        next_step = f"its copy {copy} takes its place at the next scan, or with `ingestd backfill`"
    message = f"it was run {row.run_id} ({count(row.rows, 'row')}, {kept}), and {now}"
    return LostFile(row.source_file, row.run_id, message, next_step, copy)


def copy_of(store: ManifestStore, run: KnownRun | ManifestRow) -> str | None:
    """Find a raw file with the bytes of a live run that is known as a copy and has not changed."""
    for note in store.catalog.copies(run):
        with contextlib.suppress(OSError):
            status = state_below(store.layout.raw_root, note.source_file)
            if status and store.catalog.is_current(note.source_file, status.stamp):
                return note.source_file
    return None
