"""Measure ingestd against floors and peers and print one table: what, floor or peer, ours, ratio, target, met or not.

Every case is a process of its own; compared cases take turns, and the best of several rounds counts, so that whatever
else the machine does disturbs them alike. The default takes about four minutes; `--full` has the real sizes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from cases import FULL, QUICK, Bench
from page import machine, page
from table import Line, rendered

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
CASES = ("start_up", "throughput", "idle", "manifest", "growth", "workers", "live")
"""Start-up comes first: what the kernel caches of the million files of other cases makes every import slower."""


def main() -> None:
    """Run the cases, print the table, draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the real sizes (half an hour, 20 GB of disk)")
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--folder", type=Path, help="where to work (a temporary folder below build/)")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its plots")
    wanted = parser.parse_args()
    size, told = FULL if wanted.full else QUICK, machine()
    place = wanted.folder or ROOT / "build"
    place.mkdir(parents=True, exist_ok=True)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(dir=place, prefix="bench-") as folder:
        bench = Bench(Path(folder), size)
        for name in wanted.only:
            print(f"{name} ...", file=sys.stderr, flush=True)
            lines += getattr(bench, name)()
    table = rendered(lines)
    print(f"{told}\n\n{table}")
    _draw(bench, PAGE.parent / "plots" if wanted.write else ROOT / "build")
    if wanted.write:
        PAGE.write_text(page(told, table, size.rounds), "utf-8")


def _draw(bench: Bench, folder: Path) -> None:
    try:
        from plots import draw  # noqa: PLC0415  # needs the group `bench`
    except ImportError:
        print("no plots: matplotlib is not installed (`make bench` installs it)", file=sys.stderr)
        return
    draw(bench.series, folder)


if __name__ == "__main__":
    main()
