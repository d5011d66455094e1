"""The obvious script: what a lab writes in an afternoon with polars. Two processes, nothing durable, nothing checked.

Each CSV through `polars.read_csv(comment_prefix="#")` and `write_parquet`, its header as one JSON, and one manifest of
all runs at the end.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from pathlib import Path
from typing import Any

import polars as pl


def stage(path: Path, raw: Path, out: Path) -> dict[str, Any]:
    """Stage one file; return its line of the manifest."""
    header = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("#"):
                break
            name, _, value = line[1:].strip().partition(": ")
            header[name] = value
    frame = pl.read_csv(path, comment_prefix="#")
    name = path.relative_to(raw).as_posix()
    target = out / Path(name).with_suffix(".parquet")
    target.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(target)
    run = {"source_file": name, "rows": frame.height, "header": header}
    target.with_suffix(".json").write_text(json.dumps(run, indent=2))
    return {"source_file": name, "rows": frame.height, "start_time": float(header["Start time"])}


def stage_one(work: tuple[Path, Path, Path]) -> dict[str, Any]:
    """Stage one file, its arguments in one value."""
    return stage(*work)


def main() -> None:
    """Stage a folder of raw CSVs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    wanted = parser.parse_args()
    wanted.out.mkdir(parents=True)
    work = [(path, wanted.raw, wanted.out) for path in sorted(wanted.raw.rglob("*.csv"))]
    with multiprocessing.get_context("spawn").Pool(wanted.workers) as pool:
        runs = pool.map(stage_one, work)
    pl.DataFrame(runs).write_parquet(wanted.out / "manifest.parquet")


if __name__ == "__main__":
    main()
