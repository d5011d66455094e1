"""A manifest of many runs, and what is done with one: each case prints the seconds it took, imports aside.

`make FOLDER ROWS RECORDS` writes one; the other cases measure ingestd's way and the bare way of the same work.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

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
APPENDS = 300
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
    layout = layout_of(folder)

    def work() -> None:
        view = read_view(layout, [CHIP])
        write_histories(view, [CHIP], folder / "fresh", "America/Santiago", parquet_path=lambda *parts: str(parts))

    return _timed(work)


def bare_history(folder: Path) -> float:
    """Filter the table for one chip with polars alone."""
    path = layout_of(folder).manifest_path
    return _timed(lambda: pl.scan_parquet(path).filter(pl.col("chip_name") == CHIP).collect())


def append(folder: Path) -> float:
    """Append records one by one, each durable: lock, look for what others wrote, write, flush; seconds for one.

    The first is not counted, here and with SQLite: with it a process makes itself ready.
    """
    store = ManifestStore(layout_of(folder))
    with store.transaction():
        first = store.next_seq
    records = [record(first + n, 5_000_000 + first + n) for n in range(APPENDS + 1)]

    def work(some: list[Record]) -> None:
        for one in some:
            with store.transaction():
                store.append([one])

    work(records[:1])
    return _timed(lambda: work(records[1:])) / APPENDS


def sqlite_append(folder: Path, before: int = 1) -> float:
    """Insert the same records into SQLite (WAL, synchronous=FULL), after `before` others; seconds for one."""
    database = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE IF NOT EXISTS log (seq INTEGER PRIMARY KEY, record BLOB)")
    (first,) = database.execute("SELECT coalesce(max(seq), 0) + 1 FROM log").fetchone()
    records = [record(first + n, 5_000_000 + first + n) for n in range(before + APPENDS)]

    def work(some: list[Record]) -> None:
        for one in some:
            database.execute("INSERT INTO log VALUES (?, ?)", (one.seq, encode(one)))

    work(records[:before])
    return _timed(lambda: work(records[before:])) / APPENDS


def sqlite_overwrite(folder: Path) -> float:
    """Insert them when SQLite's log has its full size and is written over, so that no flush has to note a new size."""
    return sqlite_append(folder, before=1500)


def same(one: Path, other: Path) -> bool:
    """Tell whether two data roots have the same bytes of `manifest.parquet`, the time of ingest aside."""
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
    "append": append,
    "sqlite-append": sqlite_append,
    "sqlite-overwrite": sqlite_overwrite,
}


def main() -> None:
    """Run one case and print its seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["make", "same", *CASES])
    parser.add_argument("folder", type=Path)
    parser.add_argument("more", nargs="*")
    wanted = parser.parse_args()
    if wanted.case == "make":
        print(make(wanted.folder, *map(int, wanted.more)))
    elif wanted.case == "same":
        print(same(wanted.folder, Path(wanted.more[0])))
    else:
        print(CASES[wanted.case](wanted.folder))


if __name__ == "__main__":
    main()
