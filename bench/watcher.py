"""The bare peer of the service: a watchdog callback that parses a closed CSV and writes it as durable Parquet.

`watcher.py RAW OUT TOLD` appends a line to TOLD for each file: its name, when inotify reported its close, and when its
Parquet was durable (monotonic seconds). No settling, no check, no hash, no log.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from watchdog.events import FileClosedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer


class Writer(FileSystemEventHandler):
    """Turns each closed CSV into Parquet: written, flushed, renamed, its folder flushed."""

    def __init__(self, out: Path, told: Path) -> None:
        self.out = out
        self.told = told
        self.folder = os.open(out, os.O_RDONLY)

    def on_closed(self, event: FileSystemEvent) -> None:
        """Stage one file."""
        seen = time.monotonic()
        path = Path(os.fsdecode(event.src_path))
        data = path.read_bytes()
        at = data.index(b"\n#Data:")
        rows = pa.py_buffer(memoryview(data)[data.index(b"\n", at + 1) + 1 :])
        table = csv.read_csv(rows, read_options=csv.ReadOptions(use_threads=False))
        target = self.out / f"{path.stem}.parquet"
        temporary = target.with_suffix(".tmp")
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
        os.fsync(self.folder)
        durable = time.monotonic()
        with self.told.open("a") as told:
            told.write(f"{path.name} {seen!r} {durable!r}\n")


def main() -> None:
    """Watch until SIGTERM."""
    raw, out, told = map(Path, sys.argv[1:])
    out.mkdir(parents=True)
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    observer = Observer()
    observer.schedule(Writer(out, told), str(raw), recursive=True, event_filter=[FileClosedEvent])
    observer.start()
    told.touch()  # from now on closes are seen
    over.wait()
    observer.stop()


if __name__ == "__main__":
    main()
