"""`docs/performance.md`: the table of a full run, the machine it ran on, and what was compared with what."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from manifest import TURN

LIBRARIES = ("pyarrow", "polars", "pydantic", "watchdog")


def machine() -> str:
    """Describe the machine, the versions and the date in a paragraph."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())  # fmt: skip
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    kernel = ".".join(platform.release().split(".")[:2])  # the rest names a build, or the machine
    busy = f"{os.getloadavg()[0]:.1f}"
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} CPUs ({model}), {platform.system()} {kernel}; "
        f"Python {platform.python_version()}, {libraries}; load average at the start {busy}."
    )


def page(told: str, table: str, rounds: int) -> str:
    """Return the page's text."""
    return f"""\
# Performance

Measured by `make bench BENCH="--full --write"`, which wrote this page. {told}

{table}

![Throughput over workers](plots/throughput.png)

![Cost of a run over the archive's size](plots/growth.png)

Compared cases ran in turns, each in a process of its own, files in the page cache; the best of {rounds} rounds
counts. Appends to the log and to SQLite ran in one process, in turns of {TURN}; the median counts.
The archive is synthetic (`bench/corpus.py`): IVg, ITS and IV runs, median 26 kB, mean 125 kB; where only the number of
files matters they are a fiftieth of that size.

- *The floor* (`bench/floor.py`): two processes that only read, parse with `pyarrow.csv`, write zstd Parquet and rename,
  with pyarrow's defaults. No check, no hash, no flush, no log. *Without dictionaries* it leaves out what pyarrow does
  by default and floats gain nothing from.
- *The obvious script* (`bench/obvious.py`): `polars.read_csv(comment_prefix="#")`, `write_parquet`, one JSON a run, one
  manifest at the end, two processes. It parses and writes the same data as the floor; how far the floor, which does
  nothing else, is ahead of it is as far as any program gets with these parsers.
- *SQLite* appends to a log that grows, as ingestd's does, until it has its full size; then it writes over it, and a
  flush has no new size to note. ingestd's log stays a text that `tail -f` follows, which a file of fixed size is not;
  the disk for its first MiB is kept when it begins, so that its appends need not find room, as SQLite's must.
- *A bare callback* (`bench/watcher.py`): watchdog, `pyarrow.csv`, one flushed Parquet a file; it sees the same files in
  the same run.
- ingestd does all it does always: every check, SHA-256, staged Parquet flushed before it is renamed, folders flushed
  before the log record, the log record flushed before the event JSON, histories, compaction.
"""
