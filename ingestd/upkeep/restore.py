"""Restore a manifest from what is left of it, from the stage and from the events, and write it anew."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Container, Sequence
from pathlib import Path

import polars as pl

from ingestd import files
from ingestd.errors import Damaged
from ingestd.ingest.traces import write_traces
from ingestd.layout import Layout
from ingestd.manifest import log, table
from ingestd.manifest.record import FILE_NOTES, FileNote, SegmentHead
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.store import ManifestStore
from ingestd.manifest.view import read_view
from ingestd.settings import Settings
from ingestd.stage.parquet import read_row
from ingestd.upkeep.aside import Aside
from ingestd.upkeep.events import Events
from ingestd.upkeep.packed import PackedRows
from ingestd.upkeep.salvage import Salvage, sound_records
from ingestd.upkeep.staged import StageContent, rows_of_stage


def restored_rows(found: Salvage, stage: StageContent, events: Events) -> PackedRows:
    """Merge what was salvaged with what stage and events say, which brings back what the manifest lost.

    That may be a run's row, the record of its last edit or touch, or the mark that a later run superseded it.
    """
    rows = rows_of_stage(stage, events)
    kept_aside = {(row.run_id, row.source_sha256) for row in stage.retired}
    for run_id, known in found.rows.items():
        staged = rows.get(run_id)
        if staged is None:
            rows.put(known)
        elif known.live and not staged.live and (run_id, known.source_sha256) in kept_aside:
            rows.put(known.model_copy(update={"superseded_by": staged.superseded_by}))
        elif not staged.live or staged.ingested_at_utc <= known.ingested_at_utc:
            rows.put(known)
    events.bring_up_to_date(rows, found.decided_by)
    return rows


def restored_notes(found: Salvage, events: Events) -> list[FileNote]:
    """Complete the notes from the event JSONs: if a note were lost, a copy would count as a run."""
    notes = dict(found.notes)
    notes.update((path, note) for path, (seq, note) in events.notes.items() if seq > found.noted_by.get(path, 0))
    return [note for note in notes.values() if note.outcome != "forgotten"]


def keep_unstaged(rows: PackedRows, found: Salvage, events: Events) -> None:
    """Add what a sound manifest knows and the stage does not: runs whose Parquet is gone, and superseded ones.

    That an older version of a run was kept does not show that the run was superseded; an event does.
    """
    for run_id, known in found.rows.items():
        staged = rows.get(run_id)
        if staged is None or not staged.live:
            rows.put(known)
    events.bring_up_to_date(rows, found.decided_by)


def lost_rows(store: ManifestStore, stage: StageContent, half_done: Collection[Path] = ()) -> PackedRows:
    """Find staged rows that the manifest should have but lacks: an older copy of it was put back, say.

    What is in a `half_done` place is left to the next start. A row counts if it was staged later than the manifest's
    row of the same run, or, if the manifest does not have the run, when no live run has its raw file's path or bytes.
    """
    catalog, lost = store.catalog, PackedRows()
    times = read_view(store.layout, columns=["run_id", "ingested_at_utc"])
    ingested = dict(zip(times["run_id"].to_list(), times["ingested_at_utc"].to_list(), strict=True))
    for run_id, row in stage.live.items():
        if run_id in ingested:
            newer = row.ingested_at_utc > ingested[run_id]
        else:
            newer = not catalog.live_at(row.source_file) and catalog.live_with(row.source_sha256) is None
        if newer and store.layout.staged_file(row) not in half_done:
            lost.put(row)
    return lost


def recorded_rows(layout: Layout, found: Salvage, events: Events) -> Callable[[Sequence[str]], dict[str, ManifestRow]]:
    """Return a function that finds recorded rows by run id, as far as the manifest's rest and the events know them.

    If the manifest lost a run, its row is that of the Parquet named by an event, which may be kept aside for the batch
    that was broken off.
    """

    def recorded(run_ids: Sequence[str]) -> dict[str, ManifestRow]:
        rows = {run_id: found.rows[run_id] for run_id in run_ids if run_id in found.rows}
        for run_id in (set(run_ids) - rows.keys()) & events.runs.keys():
            last, own = events.runs[run_id], f"*/*/run_id={run_id}/*.parquet"
            kept = [*layout.superseded_root.glob(own), *layout.temporary_root.glob("*/*.replaced")]
            for path in [*layout.staged_root.glob(own), *kept]:
                with contextlib.suppress(Damaged):
                    row = read_row(path)
                    if (row.run_id, row.source_sha256) == (run_id, last.source_sha256):
                        rows[run_id] = last.applied(row)
        return rows

    return recorded


def checked_state(layout: Layout, row: ManifestRow) -> ManifestRow:
    """Return the row with its raw file's present mtime if the bytes are the same: the stage does not record a touch."""
    if not row.live:
        return row
    path = layout.raw_file(row.source_file)
    try:
        status = files.stat_of(path.lstat())
        if status.mtime_ns == row.source_mtime_ns or status.size != row.source_size:
            return row
        if files.sha256_of(path) != row.source_sha256:
            return row
    except OSError:  # out of reach: the next start tells so
        return row
    return row.model_copy(update={"source_mtime_ns": status.mtime_ns})


def write_manifest(settings: Settings, found: Salvage, events: Events, rows: PackedRows, aside: Aside) -> None:
    """Replace table and log by these rows, with the notes of `found` (what was left of them) and of the `events`.

    Call it under the manifest's lock. The old files are kept aside first, and the old log is deleted last: wherever it
    is killed, the next start finds either the old damage or the new manifest. Every chip is marked stale, so that all
    histories are written again. The traces of the old log's decisions, which a kill may have prevented, are written
    first.
    """
    layout = settings.layout
    if files.is_file(layout.wal_dir):
        aside.move(layout.wal_dir)
    old_numbers = log.segments_there(layout.wal_dir)
    old_segments = [log.segment_path(layout.wal_dir, number) for number in old_numbers]
    aside.keep([*old_segments, layout.manifest_path, layout.known_files_path])
    notes = restored_notes(found, events)
    known = {note.source_file: note for note in notes}
    write_traces(layout, settings.zone, list(sound_records(layout.wal_dir)), known, durable=True)
    frame = table.rows_frame(checked_state(layout, row) for row in rows.values()).sort(table.SORTED_BY)
    noted = table.overlay_notes(table.notes_frame([]), [*notes, *_occupants(frame, known)])
    table.write_table(layout.known_files_path, noted)
    table.write_table(layout.manifest_path, frame)
    log.create(
        layout.wal_dir,
        SegmentHead(
            segment=_free_segment(found.last_segment, old_numbers),
            next_seq=found.last_seq + 1,
            compacted_rows=frame.height,
            compacted_files=noted.height,
            stale_chips=dict.fromkeys(frame["chip_name"].drop_nulls().unique().sort(), found.last_seq),
        ),
    )
    with files.as_retry(layout.wal_dir):
        for path in old_segments:
            path.unlink()
        files.flush_path(layout.wal_dir)


def _occupants(rows: pl.DataFrame, known: Container[str]) -> list[FileNote]:
    """Note the run measured last as the one at each path of several live runs, unless a note says what is there.

    If another of them is there, the file is in another state than the note's, and the next start looks at it.
    """
    shared = rows.filter(table.LIVE).filter(pl.len().over("source_file") > 1)
    last = shared.unique("source_file", keep="last", maintain_order=True).select(
        "source_file", "source_size", "source_mtime_ns", "source_sha256", "run_id", outcome=pl.lit("occupied")
    )
    return FILE_NOTES.validate_python([note for note in last.to_dicts() if note["source_file"] not in known])


def _free_segment(last: int, old: Sequence[int]) -> int:
    """Number the new segment: one after the last, or the first free one if a stray file has the greatest number."""
    if last < log.LAST_SEGMENT:
        return last + 1
    used = set(old)
    return next(number for number in range(1, log.LAST_SEGMENT) if number not in used)
