"""Raw files that hold the measurement of their run no more: emptied, or overwritten with another run's bytes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from ingestd.manifest.catalog import KnownRun
from ingestd.manifest.record import FileNote
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.store import ManifestStore
from ingestd.raw.settling import RESTORE, RESTORE_EMPTIED, emptied, kept_run, queued


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
            file = LostFile(run.source_file, run.run_id, overwritten(row, why), RESTORE)
        else:
            file = LostFile(run.source_file, run.run_id, emptied(run.run_id, row.rows, why), RESTORE_EMPTIED)
        lost.append((file, run))
    return sorted(lost)


def overwritten(row: ManifestRow, note: FileNote) -> str:
    """Say of a raw file that has another run's bytes now which run it was; `note` is the file's."""
    return f"it was {kept_run(row.run_id, row.rows)}, and has the bytes of run {note.run_id} now"
