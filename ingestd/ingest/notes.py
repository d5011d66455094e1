"""What is noted about paths that are not the source of a live row of their own, as a decision changes it.

Pure: from what the catalog knows to the notes that a record carries.
"""

from __future__ import annotations

from collections.abc import Iterable

from ingestd.files import FileStat
from ingestd.manifest.catalog import Catalog, KnownRun
from ingestd.manifest.record import Event, FileNote, Record
from ingestd.manifest.row import ManifestRow


def stamped(status: FileStat) -> dict[str, int]:
    """Return the fields of a note or row that hold a file's state."""
    return {"source_size": status.size, "source_mtime_ns": status.mtime_ns}


def copy(run: KnownRun, digest: str, source_file: str, status: FileStat) -> FileNote:
    """Note a file as a copy of a run; its bytes have this SHA-256."""
    return FileNote(
        source_file=source_file,
        source_sha256=digest,
        outcome="duplicate",
        run_id=run.run_id,
        **stamped(status),
    )


def forgotten(note: FileNote) -> FileNote:
    """Return the note that takes a note back."""
    return note.model_copy(update={"outcome": "forgotten", "run_id": None, "code": None})


def forgotten_by(record: Record) -> list[str]:
    """List the other files whose notes a decision takes back, so that they must be looked at again."""
    if record.event is not Event.EDITED:
        return []
    return [n.source_file for n in record.files if n.outcome == "forgotten" and n.source_file != record.source_file]


def of_run(run_id: str, note: FileNote) -> FileNote:
    """Return the note of a copy as one of this run."""
    return note.model_copy(update={"run_id": run_id})


def copies_of(catalog: Catalog, runs: Iterable[KnownRun]) -> list[FileNote]:
    """List the files that are known as copies of these runs, whichever version of them."""
    ids = {run.run_id for run in runs}
    return [note for note in catalog.noted_as("duplicate") if note.run_id in ids]


def joined(catalog: Catalog, row: ManifestRow) -> list[FileNote]:
    """Note known copies of a run's new bytes as its copies: the run they were copies of has other bytes now."""
    others = (note for note in catalog.copies_of_bytes(row.source_sha256) if note.run_id != row.run_id)
    return [of_run(row.run_id, note) for note in others if note.source_file != row.source_file]


def cleared(catalog: Catalog, row: ManifestRow, old: KnownRun | None) -> list[FileNote]:
    """Update the notes on the path that a run is now made from, and on the one it was made from before.

    If other live rows were made from the same path (files that were overwritten by a rename), note that this run
    occupies it; otherwise it needs no note.
    """
    known, path = catalog.notes, row.source_file
    changed = []
    own = {row.run_id, old.run_id if old else ""}
    if any(run.run_id not in own for run in catalog.live_at(path)):
        changed.append(
            FileNote(
                source_file=path,
                source_size=row.source_size,
                source_mtime_ns=row.source_mtime_ns,
                source_sha256=row.source_sha256,
                outcome="occupied",
                run_id=row.run_id,
            )
        )
    elif path in known:
        changed.append(forgotten(known[path]))
    left = known.get(old.source_file) if old and old.source_file != path else None
    if left is not None and (left.outcome, left.run_id) == ("occupied", row.run_id):
        changed.append(forgotten(left))
    return changed
