"""What a check finds about raw files: gone, out of reach, changed, overwritten, not decided, copies, rejects."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

import polars as pl

from ingestd.files import Scan, to_see, why_passed_over
from ingestd.ingest.lost import LostFile, emptied, overwritten
from ingestd.manifest.record import FileNote
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.store import ManifestStore
from ingestd.manifest.table import rows_of
from ingestd.raw.settling import queued
from ingestd.upkeep.findings import Finding, fate_of_copy
from ingestd.words import count, quoted


def to_read(why: str) -> str:
    """Say what to do about what cannot be read; `why` is the system's text for what hinders it."""
    return f"{to_see(why, 'give the user of this command read access')}, then run `ingestd verify` again"


def raw_findings(store: ManifestStore, runs: pl.DataFrame, scan: Scan) -> Iterator[Finding]:
    """Compare the raw files that a scan saw with what was decided and with the live rows `runs`: notes, no damage."""
    catalog, found = store.catalog, scan.files
    closed = {name: 0 for name, _ in scan.unreadable}  # -> the number of runs whose raw file may be there
    for run_id, name in runs.select("run_id", "source_file").iter_rows():
        if name in found:
            continue
        above = next((above for above in _upwards(name) if above in closed), None) if closed else None
        if above is None:
            yield Finding("raw-missing", name, f"{_unseen(store, scan, name)}; the run stays", run_id)
        else:
            closed[above] += 1
    for name, why in scan.unreadable:
        hidden = count(closed[name], "run")
        unseen = f"; it may hold the raw files of {hidden}" if closed[name] else ""
        message = f"cannot be read ({why}){unseen}: {to_read(why)}"
        yield Finding("raw-unreadable", name or ".", message)
    notes = {run.run_id: note for run, note in catalog.overwritten().items() if run.source_file in found}
    for row in _rows(runs, notes.keys()):
        yield _lost("raw-overwritten", overwritten(store, row, notes[row.run_id]))
    yield from _same_starts(runs)
    for name, status in found.items():
        note = catalog.notes.get(name)
        if not catalog.is_current(name, status.stamp):
            known = catalog.is_known(name)
            what = "changed since it was decided" if known else "not decided yet"
            message = f"{what}: `ingestd status` tells what it waits for"
            yield Finding("raw-changed" if known else "raw-undecided", name, message)
        elif note is not None:
            yield from _noted(store, runs, note)


def _unseen(store: ManifestStore, scan: Scan, name: str) -> str:
    """Say why a scan did not see a run's raw file: gone, or replaced by a link or by what is no file."""
    why = why_passed_over(store.layout.raw_root, name) if scan.links else ""
    why = why or ("no regular file" if name in scan.specials else "")
    return f"its raw file is passed over ({why})" if why else "its raw file is gone"


def _lost(kind: Literal["raw-emptied", "raw-overwritten"], file: LostFile) -> Finding:
    return Finding(kind, file.source_file, f"{file.message}: {file.next_step}", file.run_id)


def _rows(runs: pl.DataFrame, run_ids: Collection[str]) -> Iterator[ManifestRow]:
    return rows_of(runs.filter(pl.col("run_id").is_in(list(run_ids))))


def _upwards(name: str) -> Iterator[str]:
    """Yield a raw file's path and the folders it is in, up to the root, which is "" here."""
    yield name
    while name:
        name = name.rpartition("/")[0]
        yield name


def _same_starts(runs: pl.DataFrame) -> Iterator[Finding]:
    """Find runs that by their headers started when an earlier one did: mostly copies whose bytes were changed."""
    first = pl.col("run_id", "source_file").first().over("proc", "start_time_utc").name.prefix("first_")
    twins = runs.lazy().select("run_id", "source_file", "start_time_origin", first)
    twins = twins.filter(pl.col("run_id") != pl.col("first_run_id"), pl.col("start_time_origin") == "header")
    for run_id, name, twin in twins.select("run_id", "source_file", "first_source_file").collect().iter_rows():
        yield Finding("same-start", name, f"started at the same microsecond as {twin}", run_id)


def _noted(store: ManifestStore, runs: pl.DataFrame, note: FileNote) -> Iterator[Finding]:
    """Report what is noted of a file."""
    run = store.catalog.occupant(note.source_file)
    before = next(_rows(runs, [run.run_id]), None) if run else None
    match note.outcome:
        case "duplicate":
            message = fate_of_copy(store.catalog, note)
            yield Finding("duplicate", note.source_file, message, note.run_id)
        case "rejected":
            show = f"`ingestd rejects show {quoted(note.source_file)}`"
            message = f"it cannot be staged ({note.code}): {show} tells why"
            if before is not None:
                message += f"; run {before.run_id}, staged from its earlier bytes, stays live"
            yield Finding("rejected", note.source_file, message, note.run_id)
        case "queued" if before is not None:
            yield _lost("raw-emptied", emptied(store, before, note.code))
        case "queued":
            message = queued(note.code).reason
            yield Finding("queued", note.source_file, message, note.run_id)
