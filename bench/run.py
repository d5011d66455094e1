"""Measure ingestd against floors and peers and print one table: what, floor or peer, ours, ratio, target, met or not.

Every case is a process of its own; compared cases take turns, and the best of several rounds counts, so that whatever
else the machine does disturbs them alike. The default takes about three minutes; `--full` has the real sizes.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import corpus
from measure import Ran, alternate, best, ingestd, python, run, script

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
LIBRARIES = ("pyarrow", "polars", "pydantic")


@dataclass(frozen=True, slots=True)
class Size:
    """How large the cases are: files of the realistic archive, files without work, manifest rows, and so on."""

    archive: int
    idle: int
    rows: int
    growth: tuple[int, ...]
    workers: int
    rounds: int


QUICK = Size(archive=1500, idle=5000, rows=100_000, growth=(500, 1500, 5000), workers=1000, rounds=3)
FULL = Size(archive=10_000, idle=100_000, rows=1_000_000, growth=(1000, 10_000, 100_000), workers=5000, rounds=5)

SMALL_FILES = 0.02
"""Size of the files, as a share of real ones, where only their number matters."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table. `met` is None where a line is for information."""

    what: str
    floor: str
    ours: str
    ratio: str = ""
    target: str = ""
    met: bool | None = None

    def cells(self) -> list[str]:
        """Return the line's cells as texts."""
        told = {True: "met", False: "NOT MET", None: ""}[self.met]
        return [self.what, self.floor, self.ours, self.ratio, self.target, told]


class Bench:
    """All cases, on archives below one temporary folder. Nothing is deleted before the end.

    Some file systems (ext4 without a journal among them) do not hand out a deleted file's inode for minutes and
    search for another one: deleting between rounds would make the next round slower.
    """

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder = folder
        self.size = size
        self._roots = 0

    def archive(self, count: int, scale: float = 1.0) -> Path:
        """Return the raw root of an archive of `count` files, written at the first call and read once."""
        root = self.folder / f"archive-{count}-{scale}"
        if not root.exists():
            corpus.write(root, count, scale)
            os.sync()
        return root

    def fresh(self) -> Path:
        """Return a path that does not exist yet."""
        self._roots += 1
        return self.folder / f"root-{self._roots}"

    def backfill(self, raw: Path, root: Path, workers: int = 2) -> Ran:
        """Backfill an archive into a data root."""
        root.mkdir(exist_ok=True)
        return run(ingestd("backfill", "--data-root", root, "--raw-root", raw, "--workers", workers))

    # ---- cases ------------------------------------------------------------------------------------------------------

    def throughput(self) -> list[Line]:
        """Backfill of a realistic archive against the floor and the obvious script."""
        count, raw = self.size.archive, self.archive(self.size.archive)
        costs: dict[str, list[Ran]] = {"floor": [], "tuned": [], "obvious": [], "ours": []}

        def noted(name: str, command: Callable[[], Ran]) -> Callable[[int], float]:
            def case(_: int) -> float:
                costs[name].append(command())
                return costs[name][-1].wall_s

            return case

        seconds = alternate(
            {
                "floor": noted("floor", lambda: run(script("floor.py", raw, self.fresh()))),
                "ours": noted("ours", lambda: self.backfill(raw, self.fresh())),
                "tuned": noted("tuned", lambda: run(script("floor.py", raw, self.fresh(), "--tuned"))),
                "obvious": noted("obvious", lambda: run(script("obvious.py", raw, self.fresh()))),
            },
            self.size.rounds,
        )
        rate = {name: count / best(found) for name, found in seconds.items()}
        cpu = {name: min(ran.cpu_s for ran in found) / count * 1e3 for name, found in costs.items()}
        peers = (
            ("floor", "the floor", 0.85, "0.85"),
            ("tuned", "the floor without dictionaries", None, ""),
            ("obvious", "the obvious script", 4.5, "4.5"),
        )
        lines = []
        for name, words, least, shown in peers:
            ratio = rate["ours"] / rate[name]
            target, met = (f">= {shown}", ratio >= least) if least else ("", None)
            lines.append(
                Line(f"backfill of {count:,} files, 2 workers, against {words}", f"{rate[name]:.0f} files/s",
                     f"{rate['ours']:.0f} files/s", f"{ratio:.2f}", target, met)
            )  # fmt: skip
            lines.append(
                Line("- processor time of the same", f"{cpu[name]:.2f} ms a file", f"{cpu['ours']:.2f} ms a file",
                     f"{cpu[name] / cpu['ours']:.2f}")
            )  # fmt: skip
        return lines

    def idle(self) -> list[Line]:
        """Second backfill, nothing to do, against a bare scan."""
        count, root = self.size.idle, self.fresh()
        raw = self.archive(count, SMALL_FILES)
        first = self.backfill(raw, root)
        seconds = alternate(
            {
                "scan": lambda _: run(script("scan.py", raw)).wall_s,
                "ours": lambda _: self.backfill(raw, root).wall_s,
                "start": lambda _: run(ingestd("backfill", "--data-root", self._empty())).wall_s,
            },
            self.size.rounds,
        )
        scan, ours, start = (best(seconds[name]) for name in ("scan", "ours", "start"))
        memory = f"{first.child_mb:.0f} MB a worker, {first.parent_mb:.0f} MB the parent"
        return [
            _ratio(f"second backfill of {count:,} files, nothing to do", scan, ours, 3.0),
            Line("- beyond what a backfill of an empty archive takes", _time(scan), _time(max(ours - start, 0.0)),
                 f"{max(ours - start, 0.0) / scan:.2f}"),
            Line(f"memory of a backfill of {count:,} small files", "", memory, "", "<= 250 MB a worker",
                 first.child_mb <= 250),
        ]  # fmt: skip

    def _empty(self) -> Path:
        root = self.folder / "empty"
        (root / "01_raw").mkdir(parents=True, exist_ok=True)
        return root

    def manifest(self) -> list[Line]:
        """Compaction, one chip's history and appends of a large manifest."""
        rows, made = self.size.rows, self.folder / "manifest"
        run(script("manifest.py", "make", made, rows, 1000))
        copies = {(name, number): self._copy(made) for number in range(self.size.rounds) for name in ("ours", "bare")}

        def case(name: str, folder: Path) -> float:
            return float(run(script("manifest.py", name, folder)).said)

        compaction = alternate(
            {
                "bare": lambda number: case("bare-compaction", copies["bare", number]),
                "ours": lambda number: case("compaction", copies["ours", number]),
            },
            self.size.rounds,
        )
        whole = copies["ours", 0]
        history = alternate(
            {"bare": lambda _: case("bare-history", whole), "ours": lambda _: case("history", whole)}, self.size.rounds
        )
        small = self.fresh()
        run(script("manifest.py", "make", small, 1000, 0))
        append = alternate(
            {"bare": lambda _: case("sqlite-append", small), "ours": lambda _: case("append", small)}, self.size.rounds
        )
        return [
            _ratio(f"compaction: {rows:,} rows, 1,000 new records", *_bests(compaction), 1.5),
            _ratio(f"one chip's history out of {rows:,} rows", *_bests(history), 2.0),
            _ratio("log append, one record, durable (peer: SQLite)", *_bests(append), 1.0),
        ]  # fmt: skip

    def _copy(self, made: Path) -> Path:
        return Path(shutil.copytree(made, self.fresh()))

    def start_up(self) -> list[Line]:
        """`--help` and `status` against an interpreter that does nothing."""
        empty = self._empty()
        seconds = alternate(
            {
                "pass": lambda _: run(python("-c", "pass")).wall_s,
                "help": lambda _: run(ingestd("--help")).wall_s,
                "status": lambda _: run(ingestd("status", "--data-root", empty), frozenset(range(8))).wall_s,
            },
            self.size.rounds + 4,
        )
        bare = best(seconds["pass"])
        lines = [
            Line(f"start-up: ingestd {words}", _time(bare), _time(best(seconds[name])),
                 f"+{(best(seconds[name]) - bare) * 1e3:.0f} ms", "<= 250 ms more", best(seconds[name]) - bare <= 0.25)
            for name, words in (("help", "--help"), ("status", "status"))
        ]  # fmt: skip
        probe = (
            "import contextlib, io, sys; sys.argv = ['ingestd', '--help']\n"
            "from ingestd.cli import main\n"
            "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n    main()\n"
            "print(*sorted({'polars', 'pyarrow', 'watchdog', 'pint'} & set(sys.modules)) or ['none'])"
        )
        found = run(python("-c", probe)).said
        return [*lines, Line("- heavy libraries that --help loads", "none", found, "", "none", found == "none")]

    def growth(self) -> list[Line]:
        """Time a run, beyond the start-up, over archives of growing size (small files)."""
        costs = []
        start = best([run(ingestd("backfill", "--data-root", self._empty())).wall_s for _ in range(3)])
        for count in self.size.growth:
            raw = self.archive(count, SMALL_FILES)
            wall = best([self.backfill(raw, self.fresh()).wall_s for _ in range(2)])
            costs.append((wall - start) / count * 1e3)
        spread = max(costs) / min(costs) - 1
        return [
            Line("time a run for " + ", ".join(f"{count:,}" for count in self.size.growth) + " small files", "",
                 ", ".join(f"{cost:.2f}" for cost in costs) + " ms", f"+{spread:.0%}", "within 10 %", spread <= 0.10)
        ]  # fmt: skip

    def workers(self) -> list[Line]:
        """The same archive with 1, 2 and 6 workers: the same manifest, files/s, peak memory."""
        count, lines = self.size.workers, []
        raw, roots = self.archive(self.size.workers), {}
        for workers in (1, 2, 6):
            roots[workers] = self.fresh()
            ran = self.backfill(raw, roots[workers], workers)
            memory = f"{ran.child_mb:.0f} MB a worker, {ran.parent_mb:.0f} MB the parent"
            lines.append(
                Line(f"backfill of {count:,} files, {workers} worker{'s' if workers > 1 else ''}", "",
                     f"{count / ran.wall_s:.0f} files/s; {memory}", "", "<= 250 MB a worker", ran.child_mb <= 250)
            )  # fmt: skip
        for workers in (2, 6):
            equal = run(script("manifest.py", "same", roots[1], roots[workers])).said == "True"
            lines.append(
                Line(f"- manifest bytes of {workers} workers, ingest time aside", "those of 1 worker",
                     "the same" if equal else "different", "", "the same", equal)
            )  # fmt: skip
        return lines


def _ratio(what: str, floor: float, ours: float, most: float) -> Line:
    return Line(what, _time(floor), _time(ours), f"{ours / floor:.2f}", f"<= {most:g}", ours / floor <= most)


def _bests(figures: dict[str, list[float]]) -> tuple[float, float]:
    return best(figures["bare"]), best(figures["ours"])


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


HEADINGS = ["what", "floor or peer", "ours", "ratio", "target", ""]


def rendered(lines: list[Line]) -> str:
    """Return the table as Markdown, padded so that it reads as text too."""
    table = [HEADINGS, *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    return "\n".join([padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]])


def machine() -> str:
    """Describe the machine, the versions and the date in a paragraph."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())  # fmt: skip
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    busy = f"{os.getloadavg()[0]:.1f}"
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} CPUs ({model}), {platform.system()} {platform.release()}; "
        f"Python {platform.python_version()}, {libraries}; load average at the start {busy}."
    )


def page(told: str, table: str, size: Size) -> str:
    """Return `docs/performance.md`."""
    return f"""\
# Performance

Measured by `make bench` (`bench/run.py`), which this page was written by: `python bench/run.py --full --write`.
{told}

{table}

Compared cases ran in turns, each in a process of its own, files in the page cache; the best of {size.rounds} rounds
counts. The archive is synthetic (`bench/corpus.py`): IVg, ITS and IV runs, median 26 kB, mean 125 kB.

- *The floor* (`bench/floor.py`): two processes that only read, parse with `pyarrow.csv`, write zstd Parquet and rename,
  with pyarrow's defaults. No check, no hash, no flush, no log.
- *The obvious script* (`bench/obvious.py`): `polars.read_csv(comment_prefix="#")`, `write_parquet`, one JSON a run, one
  manifest at the end, two processes.
- ingestd does all it does always: every check, SHA-256, staged Parquet flushed before it is renamed, folders flushed
  before the log record, the log record flushed before the event JSON, histories, compaction.
"""


CASES = ("throughput", "idle", "manifest", "start_up", "growth", "workers")


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the real sizes (an hour, 30 GB of disk)")
    parser.add_argument("--quick", action="store_true", help="small sizes (the default)")
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--folder", type=Path, help="where to work (a temporary folder below build/)")
    parser.add_argument("--write", action="store_true", help=f"write the table to {PAGE.name}")
    wanted = parser.parse_args()
    size, told = FULL if wanted.full else QUICK, machine()
    place = wanted.folder or PAGE.parents[1] / "build"
    place.mkdir(parents=True, exist_ok=True)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(dir=place, prefix="bench-") as folder:
        bench = Bench(Path(folder), size)
        for name in wanted.only:
            print(f"{name} ...", file=sys.stderr, flush=True)
            lines += getattr(bench, name)()
    table = rendered(lines)
    print(f"{told}\n\n{table}")
    if wanted.write:
        PAGE.write_text(page(told, table, size), "utf-8")


if __name__ == "__main__":
    main()
