"""Read what is sound in a damaged manifest: the table, the log's intact records, the numbers in use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ingestd import files
from ingestd.errors import Damaged
from ingestd.layout import Layout
from ingestd.manifest import log, table
from ingestd.manifest.record import FILE_NOTES, FileNote, Record, decode_records, split
from ingestd.upkeep.packed import PackedRows

_EVENT_NAME = re.compile(r"(\d{9,})-")


@dataclass(slots=True)
class Salvage:
    """What could be read, and what could not (`damages`).

    `noted_by` maps a path, and `decided_by` a run id, to the number of the log record that last named it.
    """

    rows: PackedRows = field(default_factory=PackedRows)
    notes: dict[str, FileNote] = field(default_factory=dict)
    noted_by: dict[str, int] = field(default_factory=dict)
    decided_by: dict[str, int] = field(default_factory=dict)
    damages: list[Damaged] = field(default_factory=list)
    last_segment: int = 0
    last_seq: int = 0


def salvage(layout: Layout) -> Salvage:
    """Read table and log as far as their checks pass; damage is noted in `damages`.

    Raises:
        NewerVersion: a file was written by a newer ingestd.
    """
    found = Salvage()
    table.look_anew(layout.manifest_path, layout.known_files_path)
    try:
        found.rows = PackedRows(table.rows_of(table.read_manifest(layout.manifest_path)))
    except Damaged as error:
        found.damages.append(error)
    try:
        notes = FILE_NOTES.validate_python(table.read_notes(layout.known_files_path).to_dicts())
        found.notes = {note.source_file: note for note in notes}
    except Damaged as error:
        found.damages.append(error)
    for record in _records(layout.wal_dir, found):
        found.last_seq = max(found.last_seq, record.seq)
        found.rows.update((row.run_id, row) for row in record.rows)
        found.decided_by |= {row.run_id: record.seq for row in record.rows}
        for note in record.files:
            found.notes[note.source_file] = note
            found.noted_by[note.source_file] = record.seq
    if (
        not found.last_segment
        and not files.exists(layout.manifest_path)
        and files.any_below(layout.staged_root, ".parquet")
    ):
        found.damages.append(log.damaged(layout.manifest_path, "table and log are missing beside staged runs"))
    found.last_seq = max(found.last_seq, _last_event(layout.events_dir))
    return found


def sound_records(directory: Path) -> Iterator[Record]:
    """Yield every record of the log whose check passes, in order."""
    return _records(directory, Salvage())


def _records(directory: Path, found: Salvage) -> Iterator[Record]:
    for number in log.segments_there(directory):
        path = log.segment_path(directory, number)
        found.last_segment = number
        with files.as_retry(path):
            frames = split(path.read_bytes())
        found.damages += [log.damaged(path, f"@{damage.offset}: {damage.cause}") for damage in frames.damages]
        for offset, payload in frames.payloads:
            try:
                if offset == 0:
                    found.last_seq = max(found.last_seq, log.check_head(path, payload, number, None).next_seq - 1)
                else:
                    yield from decode_records([payload])
            except Damaged as error:
                found.damages.append(error)
            except ValueError:
                found.damages.append(log.damaged(path, f"@{offset}: a record that cannot be understood"))


def _last_event(events_dir: Path) -> int:
    """Find the highest record number among the event files: a number is never used twice."""
    names = (path.name for path in files.all_below(events_dir, ".json"))
    return max((int(found[1]) for name in names if (found := _EVENT_NAME.match(name))), default=0)
