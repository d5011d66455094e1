"""A manifest of many runs, and what is done with one: each case prints the seconds it took, without imports.

`make FOLDER ROWS RECORDS` writes one; the other cases measure ingestd's way and the bare way of the same work.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import polars as pl
from measure import alternate

from ingestd import files
from ingestd.histories.chip import write_histories
from ingestd.layout import Layout
from ingestd.manifest import log, table
from ingestd.manifest.record import Event, Record, SegmentHead, encode
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.store import ManifestStore
from ingestd.manifest.view import read_view
from ingestd.settings import load_settings

CHIP = "Benchmark7"
CHIPS = 1000
APPENDS, TURN, ROUNDS = 300, 10, 5
"""Records appended in a round of the log's case, records in a turn, and rounds."""
SQLITE_LOG_FULL = 1500
"""Inserts after which SQLite's log has its full size; from then on it is overwritten."""
FIRST = datetime(2015, 1, 1, tzinfo=UTC)
PARAMETERS = json.dumps(
    {
        "procedure": "laser_setup.procedures.It.It",
        "parameters": {"Chip group name": "Benchmark", "Chip number": "7", "VG": "-0.4 V", "Irange": "0.0001 A"},
        "metadata": {"Start time": "1700000000.25"},
    }
)


def layout_of(folder: Path) -> Layout:
    """Return the layout of a data root with every path at its default."""
    (folder / "01_raw").mkdir(parents=True, exist_ok=True)
    return load_settings(flags={"paths": {"data_root": str(folder)}}).layout


def row(number: int) -> ManifestRow:
    """Make the row of run `number`, one every three minutes."""
    start = FIRST + timedelta(minutes=3 * number, microseconds=number)
    chip = number * 7919 % CHIPS
    return ManifestRow(
        run_id=f"{number:020x}",
        source_file=f"{start:%Y-%m-%d}/It{start:%Y-%m-%d}_{number}.csv",
        proc="ITS",
        date_local=start.date(),
        start_time_utc=start,
        file_idx=number,
        chip_group="Benchmark",
        chip_number=chip,
        chip_name=f"Benchmark{chip}",
        has_light=bool(number % 2),
        laser_voltage_v=number % 14 / 10,
        vg_v=-0.4,
        vds_v=0.1,
        duration_s=360.0,
        rows=4000,
        summary=f"ITS Benchmark{chip}  VG=-0.4 V  VDS=0.1 V  #{number}",
        start_time_origin="header",
        parameters=PARAMETERS.replace('"7"', f'"{chip}"'),
        source_size=125_000 + number % 1000,
        source_mtime_ns=int(start.timestamp()) * 10**9,
        source_sha256=f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**256:064x}",
        ingested_at_utc=start,
    )


def record(seq: int, number: int) -> Record:
    """Make the record that puts run `number` into the manifest."""
    run = row(number)
    return Record(
        seq=seq,
        at=run.ingested_at_utc,
        event=Event.INGESTED,
        source_file=run.source_file,
        run_id=run.run_id,
        rows=[run],
    )


def make(folder: Path, rows: int, records: int) -> float:
    """Write a table of `rows` runs and a log of `records` further ones."""
    begun = time.perf_counter()
    layout = layout_of(folder)
    parts = [table.rows_frame([row(n) for n in range(at, min(at + 50_000, rows))]) for at in range(0, rows, 50_000)]
    table.write_table(layout.manifest_path, pl.concat(parts).sort("start_time_utc", "run_id"))
    table.write_table(layout.known_files_path, table.notes_frame([]))
    log.create(layout.wal_dir, SegmentHead(segment=1, next_seq=1, compacted_rows=rows))
    store = ManifestStore(layout)
    if records:
        with store.transaction():
            store.append([record(seq, rows + seq) for seq in range(1, records + 1)])
    return time.perf_counter() - begun


def compaction(folder: Path) -> float:
    """Compact the log into the table, as the service does: the store is open already."""
    store = ManifestStore(layout_of(folder))
    return _timed(store.compact)


def bare_compaction(folder: Path) -> float:
    """Read, concat, write with polars alone: the same table, the same compression, nothing flushed."""
    layout = layout_of(folder)
    found = log.replay(layout.wal_dir)
    new = table.rows_frame([run for one in (found.records if found else []) for run in one.rows])

    def work() -> None:
        whole = pl.concat([pl.read_parquet(layout.manifest_path), new])
        whole.write_parquet(folder / "bare.parquet", compression="zstd", compression_level=3)

    return _timed(work)


def history(folder: Path) -> float:
    """Bring the history of one chip up to date."""
    layout = replace(layout_of(folder), histories_dir=folder / "fresh")

    def work() -> None:
        write_histories(read_view(layout, [CHIP]), [CHIP], "America/Santiago", layout)

    return _timed(work)


def bare_history(folder: Path) -> float:
    """Filter the table for one chip with polars alone."""
    path = layout_of(folder).manifest_path
    return _timed(lambda: pl.scan_parquet(path).filter(pl.col("chip_name") == CHIP).collect())


def appends(folder: Path) -> dict[str, float]:
    """Append records one by one, each durable, with ingestd and with SQLite; return the median seconds for one.

    ingestd locks, looks for what others wrote, writes and flushes. A disk's speed varies from second to second, so the
    two take turns of a few records and meet the same disk. The first write to a block takes longer where disk space is
    allocated only when used, so each round has new files, and none is deleted before the end.
    """
    databases: list[sqlite3.Connection] = []  # closing one deletes its log
    rounds = [_append_round(folder / f"round{number}", databases) for number in range(ROUNDS)]
    return {name: median(figures[name] for figures in rounds) for name in rounds[0]}


def _append_round(folder: Path, databases: list[sqlite3.Connection]) -> dict[str, float]:
    make(folder, 1000, 0)
    store = ManifestStore(layout_of(folder))
    growing, full = _sqlite(folder / "growing.sqlite"), _sqlite(folder / "full.sqlite")
    databases += [growing, full]
    records = [record(seq, 5_000_000 + seq) for seq in range(store.next_seq, store.next_seq + APPENDS)]
    _insert(full, records[:1] * SQLITE_LOG_FULL)
    turns = [records[begin : begin + TURN] for begin in range(0, APPENDS, TURN)]
    figures = alternate(
        {
            "ours": lambda turn: _timed(lambda: _append(store, turns[turn])),
            "peer": lambda turn: _timed(lambda: _insert(growing, turns[turn])),
            "full": lambda turn: _timed(lambda: _insert(full, turns[turn])),
        },
        len(turns),
    )
    return {name: median(seconds) / TURN for name, seconds in figures.items()}


def _append(store: ManifestStore, records: list[Record]) -> None:
    for one in records:
        with store.transaction():
            store.append([one])


def _insert(database: sqlite3.Connection, records: list[Record]) -> None:
    for one in records:
        database.execute("INSERT INTO log (record) VALUES (?)", (encode(one),))


def _sqlite(path: Path) -> sqlite3.Connection:
    """Open a new database as durable as ingestd's log: write-ahead log, flushed at each commit."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE log (seq INTEGER PRIMARY KEY, record BLOB)")
    return database


def same(one: Path, other: Path) -> bool:
    """Tell whether two data roots have the same `manifest.parquet`, byte for byte, except for the time of ingest."""
    found = []
    for folder in (one, other):
        rows = table.read_manifest(layout_of(folder).manifest_path)
        again = folder / "without-ingest-time.parquet"
        table.write_table(again, rows.with_columns(ingested_at_utc=pl.lit(FIRST, rows.schema["ingested_at_utc"])))
        found.append(files.sha256_of(again))
    return found[0] == found[1]


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


CASES: dict[str, Callable[[Path], float]] = {
    "compaction": compaction,
    "bare-compaction": bare_compaction,
    "history": history,
    "bare-history": bare_history,
}


def main() -> None:
    """Run one case and print its seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["make", "same", "appends", *CASES])
    parser.add_argument("folder", type=Path)
    parser.add_argument("more", nargs="*")
    wanted = parser.parse_args()
    if wanted.case == "make":
        print(make(wanted.folder, *map(int, wanted.more)))
    elif wanted.case == "same":
        print(same(wanted.folder, Path(wanted.more[0])))
    elif wanted.case == "appends":
        print(json.dumps(appends(wanted.folder)))
    else:
        print(CASES[wanted.case](wanted.folder))


if __name__ == "__main__":
    main()
