"""Rows, notes and records of the manifest: fixed ones, and strategies for any."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from ingestd.layout import Layout
from ingestd.manifest.record import Event, FileNote, Reason, Record
from ingestd.manifest.row import PARAMETER_FIELDS, ManifestRow
from ingestd.manifest.store import ManifestStore
from ingestd.manifest.view import read_view

NOON = datetime(2025, 9, 23, 12, tzinfo=UTC)


def a_row(number: int, **changes: Any) -> ManifestRow:
    """Make the row of run `number`; the same number gives the same row."""
    fields: dict[str, Any] = {
        "run_id": f"{number:020x}",
        "source_file": f"day/IV_{number}.csv",
        "proc": "IV",
        "date_local": date(2025, 9, 23),
        "start_time_utc": NOON + timedelta(seconds=number),
        "chip_group": "Alisson",
        "chip_number": 67,
        "chip_name": "Alisson67",
        "rows": 10,
        "summary": f"IV Alisson67 #{number}",
        "start_time_origin": "header",
        "parameters": "{}",
        "source_size": 1000 + number,
        "source_mtime_ns": number,
        "source_sha256": f"{number:064x}",
        "ingested_at_utc": NOON,
    }
    return ManifestRow(**fields | changes)


def a_note(path: str, **changes: Any) -> FileNote:
    """Make a note that the file at `path` was rejected."""
    fields = {
        "source_size": 1,
        "source_mtime_ns": 1,
        "source_sha256": "c" * 64,
        "outcome": "rejected",
        "code": "bad-cell",
    }
    return FileNote(source_file=path, **fields | changes)


def a_record(seq: int, *rows: ManifestRow, **changes: Any) -> Record:
    """Make record `seq`: the ingestion of `rows`, or of run `seq`."""
    return Record(**{"seq": seq, "at": NOON, "event": Event.INGESTED, "rows": list(rows) or [a_row(seq)]} | changes)


def append_runs(store: ManifestStore, *numbers: int, **changes: Any) -> None:
    """Append the rows of these runs in one transaction."""
    with store.transaction():
        store.append([a_record(store.next_seq + n, a_row(number), **changes) for n, number in enumerate(numbers)])


def runs_in(layout: Layout) -> list[int]:
    """List the numbers of the runs that a reader sees."""
    return sorted(int(run_id, 16) for run_id in read_view(layout).get_column("run_id"))


def knows(store: ManifestStore, *numbers: int) -> bool:
    """Tell whether the store takes the raw files of these runs for current."""
    rows = map(a_row, numbers)
    return all(store.catalog.is_current(row.source_file, row.stamp) for row in rows)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
SIZES = st.integers(0, 2**63 - 1)
TIMES = st.datetimes(timezones=st.just(UTC)).map(lambda time: time.replace(fold=0))
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
RUN_IDS = st.text("0123456789abcdef", min_size=20, max_size=20)

ROWS = st.builds(
    ManifestRow,
    run_id=RUN_IDS,
    source_file=TEXTS,
    proc=TEXTS,
    date_local=st.dates(),
    start_time_utc=TIMES,
    file_idx=st.none() | INTEGERS,
    chip_group=st.none() | TEXTS,
    chip_number=st.none() | INTEGERS,
    chip_name=st.none() | TEXTS,
    has_light=st.none() | st.booleans(),
    duration_s=st.none() | st.floats(),
    rows=SIZES,
    summary=TEXTS,
    start_time_origin=st.sampled_from(["header", "path", "mtime"]),
    procedure_version=st.none() | TEXTS,
    parameters=TEXTS,
    source_size=SIZES,
    source_mtime_ns=INTEGERS,
    source_sha256=HASHES,
    superseded_by=st.none() | RUN_IDS,
    warnings=st.lists(TEXTS, max_size=2),
    ingested_at_utc=TIMES,
    **{name: st.none() | st.floats() for name in PARAMETER_FIELDS},
)

NOTES = st.builds(
    FileNote,
    source_file=TEXTS,
    source_size=SIZES,
    source_mtime_ns=INTEGERS,
    source_sha256=HASHES,
    outcome=st.sampled_from(["rejected", "queued", "duplicate", "occupied", "forgotten"]),
    run_id=st.none() | RUN_IDS,
    code=st.none() | TEXTS,
)

RECORDS = st.builds(
    Record,
    seq=st.integers(1, 2**53),
    at=TIMES,
    event=st.sampled_from(Event),
    source_file=TEXTS,
    run_id=st.none() | RUN_IDS,
    rows=st.lists(ROWS, max_size=2),
    files=st.lists(NOTES, max_size=2),
    reason=st.none() | st.builds(Reason, code=TEXTS, message=TEXTS, line=st.none() | SIZES, found=TEXTS),
    note=TEXTS,
    superseded_parquet=st.lists(TEXTS, max_size=2),
    chips=st.lists(TEXTS, max_size=2),
    through=st.integers(0, 2**53),
)
