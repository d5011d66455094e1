"""The floor of a backfill: processes that read, parse, write zstd Parquet and rename, and nothing else.

No check, no hash, no flush, no log, no header: what the disk, pyarrow's parser and its writer cost by themselves.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv


def stage(names: list[str], raw: str, out: str, tuned: bool) -> None:
    """Stage files one by one. `tuned` leaves out the dictionaries, which cost time and save nothing on floats."""
    pa.set_cpu_count(1)
    read = csv.ReadOptions(use_threads=False)
    for name in names:
        with open(f"{raw}/{name}", "rb") as file:  # noqa: PTH123  # a floor has no Path to pay for
            data = file.read()
        at = data.index(b"\n#Data:")
        table = csv.read_csv(pa.py_buffer(memoryview(data)[data.index(b"\n", at + 1) + 1 :]), read_options=read)
        path = f"{out}/{name.replace('/', '_')}.parquet"
        pq.write_table(table, path + ".tmp", compression="zstd", use_dictionary=not tuned)
        os.rename(path + ".tmp", path)  # noqa: PTH104


def main() -> None:
    """Stage a folder of raw CSVs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tuned", action="store_true", help="without dictionaries")
    wanted = parser.parse_args()
    names = sorted(path.relative_to(wanted.raw).as_posix() for path in wanted.raw.rglob("*.csv"))
    wanted.out.mkdir(parents=True)
    spawn = multiprocessing.get_context("spawn")
    shares = [names[start :: wanted.workers] for start in range(wanted.workers)]
    workers = [
        spawn.Process(target=stage, args=(share, str(wanted.raw), str(wanted.out), wanted.tuned)) for share in shares
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit(worker.exitcode)


if __name__ == "__main__":
    main()
