"""What the event JSONs say about files and runs: a second record, for when the manifest is damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from ingestd import files
from ingestd.ingest.traces import parse_trace
from ingestd.layout import Layout
from ingestd.manifest.record import FILE_NOTES, FileNote
from ingestd.manifest.row import Int64, ManifestRow
from ingestd.upkeep.packed import PackedRows


class RunEvent(NamedTuple):
    """What the last event of a run says: the record's number, the bytes, their mtime, and what superseded it."""

    seq: int
    source_sha256: str
    source_mtime_ns: Int64
    superseded_by: str | None

    def applied(self, row: ManifestRow) -> ManifestRow:
        """Bring a row up to date with what its Parquet does not show: touches, and that a later run superseded it."""
        if row.source_sha256 != self.source_sha256:
            return row
        return row.model_copy(
            update={"source_mtime_ns": self.source_mtime_ns, "superseded_by": self.superseded_by or row.superseded_by}
        )


_RUN_EVENT = TypeAdapter(RunEvent)


@dataclass(slots=True)
class Events:
    """The last note of each path, with its record's number, and the last event of each run."""

    notes: dict[str, tuple[int, FileNote]] = field(default_factory=dict)
    runs: dict[str, RunEvent] = field(default_factory=dict)

    def bring_up_to_date(self, rows: PackedRows, decided_by: Mapping[str, int] | None = None) -> None:
        """Apply to rows what events say later than the records of `decided_by` (run id -> record number)."""
        for run_id, last in self.runs.items():
            if run_id in rows and (decided_by is None or last.seq > decided_by.get(run_id, 0)):
                row = rows[run_id]
                if (new := last.applied(row)) != row:
                    rows.put(new)


def read_events(layout: Layout) -> Events:
    """Read every event JSON there is; one that is torn, damaged or of another kind is skipped.

    Raises:
        Retry: one of the folders or files cannot be read: to skip it would lose what it says.
    """
    events = Events()
    for event in _event_files(layout):
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError):
            seq = int(event["seq"])
            for note in FILE_NOTES.validate_python(event.get("files", [])):
                if seq > events.notes.get(note.source_file, (0, note))[0]:
                    events.notes[note.source_file] = (seq, note)
            for row in event["rows"]:
                told = (seq, row["source_sha256"], row["source_mtime_ns"], row.get("superseded_by"))
                last = _RUN_EVENT.validate_python(told)
                if row["run_id"] not in events.runs or seq > events.runs[row["run_id"]].seq:
                    events.runs[row["run_id"]] = last
    return events


def _event_files(layout: Layout) -> Iterator[dict[str, Any]]:
    for path in files.all_below(layout.events_dir, ".json"):
        with files.as_retry(path), contextlib.suppress(ValueError, FileNotFoundError):  # torn; deleted as old meanwhile
            yield parse_trace(path.read_bytes())
