"""`docs/performance.md`: the table of a full run, the machine it ran on, and what was compared with what."""

from __future__ import annotations

import os
import platform
import textwrap
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
    measured = f'Measured by `make bench BENCH="--full --write"`, which wrote this page. {told}'
    return f"""\
# Performance

{textwrap.fill(measured, 120, break_on_hyphens=False)}

{table}

![Throughput over workers](plots/throughput.png)

![Cost of a run over the archive's size](plots/growth.png)

Compared cases ran in alternation, each in a process of its own, with the files in the page cache; the best of {rounds}
rounds counts. Appends to the log and to SQLite ran in one process, in turns of {TURN}; the median counts.
The archive is synthetic (`bench/corpus.py`): IVg, ITS and IV runs, median 26 kB, mean 125 kB. Where only the number of
files matters, the files are a fiftieth of that size.

- *The floor* (`bench/floor.py`): two processes that only read, parse with `pyarrow.csv`, write zstd Parquet and rename,
  with pyarrow's defaults. No check, no hash, no flush, no log. *Without dictionaries*, it omits the dictionary encoding
  that pyarrow applies by default and that floats do not benefit from.
- *The obvious script* (`bench/obvious.py`): two processes, `polars.read_csv(comment_prefix="#")`, `write_parquet`, one
  JSON per run, one manifest at the end. It parses and writes the same data as the floor. The floor does nothing else,
  so no program with these parsers gets further ahead of the script than the floor does.
- *SQLite* appends to a growing log, as ingestd does. Once its log has the full size, SQLite overwrites it, and a flush
  has no new size to record. ingestd's log stays a text that `tail -f` can follow, which a file of fixed size is not.
  ingestd reserves the disk space of the log's first MiB in advance, so its appends need not find room; SQLite's must.
- *A bare callback* (`bench/watcher.py`): watchdog, `pyarrow.csv`, one flushed Parquet per file. It sees the same files
  in the same run.
- ingestd does everything it always does: every check, SHA-256, staged Parquet flushed before it is renamed, folders
  flushed before the log record, the log record flushed before the event JSON, histories, compaction.
"""
