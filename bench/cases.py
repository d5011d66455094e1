"""The cases: ingestd beside floors and peers, each a process of its own, on archives below one temporary folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import corpus
import service
from measure import Ran, alternate, best, ingestd, python, run, script
from table import Line, at_most, duration


@dataclass(frozen=True, slots=True)
class Size:
    """How large the cases are.

    Files of the realistic archive; files of one with nothing to do; manifest rows; archive sizes of `growth`; files for
    1, 2 and 6 workers; rounds of compared cases; runs recorded live; seconds of idling; runs moved in at once.
    """

    archive: int
    idle: int
    rows: int
    growth: tuple[int, ...]
    workers: int
    rounds: int
    live: int
    idle_s: float
    arrivals: int


QUICK = Size(
    archive=1500, idle=5000, rows=100_000, growth=(500, 1500, 5000), workers=1000, rounds=3, live=100, idle_s=20,
    arrivals=1000,
)  # fmt: skip
FULL = Size(
    archive=10_000, idle=100_000, rows=1_000_000, growth=(1000, 10_000, 100_000), workers=5000, rounds=3, live=500,
    idle_s=120, arrivals=20_000,
)  # fmt: skip

SMALL_FILES = 0.02
"""Size of the files, as a fraction of real ones, where only their number matters."""

BEGUN = 128
"""Enough files to give each of two workers a batch, so that the backfill and its workers have started up."""

MANY, OFTEN = 5000, 9
"""With `MANY` files or more, a backfill is long enough to be timed only twice; a shorter one is timed `OFTEN` times."""


class Bench:
    """All cases, on archives below one temporary folder. Nothing is deleted before the end.

    Some file systems (ext4 without a journal among them) do not reuse a deleted file's inode for minutes and
    search for another one, so deleting between rounds would make the next round slower.
    """

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder = folder
        self.size = size
        self.series: dict[str, list[tuple[float, float]]] = {}
        """Points for the plots, by name: files/s against workers, ms per run against the archive's size."""
        self._roots = 0

    def archive(self, count: int, scale: float = 1.0) -> Path:
        """Return the raw root of an archive of `count` files, written at the first call."""
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
        bound = rate["floor"] / rate["obvious"]
        said = (f"{rate['obvious']:.0f} files/s", f"floor: {rate['floor']:.0f} files/s", f"{bound:.2f}")
        return [*lines, Line("- what the floor itself reaches against it", *said)]

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
            at_most(f"second backfill of {count:,} files, nothing to do", scan, ours, 3.0),
            Line("- beyond what a backfill of an empty archive takes", duration(scan), duration(max(ours - start, 0.0)),
                 f"{max(ours - start, 0.0) / scan:.2f}"),
            Line(f"memory of a backfill of {count:,} small files", "", memory, "", "<= 250 MB a worker",
                 first.child_mb <= 250),
            Line(f"the service idling over the same {count:,} runs", "",
                 service.idle(root, raw, self.size.idle_s)),
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
        durable = json.loads(run(script("manifest.py", "appends", self.fresh())).said)
        return [
            at_most(f"compaction: {rows:,} rows, 1,000 new records", *_bests(compaction), 1.5),
            at_most(f"one chip's history out of {rows:,} rows", *_bests(history), 2.0),
            at_most("log append, one record, durable (peer: SQLite)", durable["peer"], durable["ours"], 1.0),
            Line("- against SQLite writing over its log, not growing it", duration(durable["full"]),
                 duration(durable["ours"]), f"{durable['ours'] / durable['full']:.2f}"),
        ]  # fmt: skip

    def _copy(self, made: Path) -> Path:
        return Path(shutil.copytree(made, self.fresh()))

    def start_up(self) -> list[Line]:
        """`--help`, and `status` of a data root with runs, against an interpreter that does nothing.

        And what of `status` is loading the libraries that every program with its command line, settings and table has.
        """
        raw, root = self.archive(BEGUN, SMALL_FILES), self.fresh()
        self.backfill(raw, root)
        status = ingestd("status", "--data-root", root, "--raw-root", raw)
        libraries = "import gc, os; gc.disable(); import typer, pydantic_settings, polars; os._exit(0)"
        seconds = alternate(
            {
                "pass": lambda _: run(python("-c", "pass")).wall_s,
                "help": lambda _: run(ingestd("--help")).wall_s,
                "status": lambda _: run(status, frozenset(range(8))).wall_s,
                "libraries": lambda _: run(python("-c", libraries)).wall_s,
            },
            self.size.rounds + 4,
        )
        bare = best(seconds["pass"])
        lines = [
            Line(f"start-up: ingestd {words}", duration(bare), duration(best(seconds[name])),
                 f"+{(best(seconds[name]) - bare) * 1e3:.0f} ms", "<= 250 ms more", best(seconds[name]) - bare <= 0.25)
            for name, words in (("help", "--help"), ("status", "status"))
        ]  # fmt: skip
        loading = best(seconds["libraries"])
        lines.append(
            Line("- what loading typer, pydantic-settings and polars takes", duration(bare), duration(loading),
                 f"+{(loading - bare) * 1e3:.0f} ms")
        )  # fmt: skip
        probe = (
            "import contextlib, io, sys; sys.argv = ['ingestd', '--help']\n"
            "from ingestd.cli import main\n"
            "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n    main()\n"
            "print(*sorted({'polars', 'pyarrow', 'watchdog', 'pint'} & set(sys.modules)) or ['none'])"
        )
        found = run(python("-c", probe)).said
        return [*lines, Line("- heavy libraries that --help loads", "none", found, "", "none", found == "none")]

    def growth(self) -> list[Line]:
        """Time per run in archives of growing size (small files), without the first runs and the start-up."""
        costs = []
        first = best([self.backfill(self.archive(BEGUN, SMALL_FILES), self.fresh()).wall_s for _ in range(OFTEN)])
        for count in self.size.growth:
            raw = self.archive(count, SMALL_FILES)
            wall = best([self.backfill(raw, self.fresh()).wall_s for _ in range(OFTEN if count < MANY else 2)])
            costs.append((wall - first) / (count - BEGUN) * 1e3)
        self.series["growth"] = list(zip(map(float, self.size.growth), costs, strict=True))
        spread = max(costs) / min(costs) - 1
        sizes = ", ".join(f"{count:,}" for count in self.size.growth)
        return [
            Line(f"time a run beyond the first {BEGUN}, for {sizes} small files", "",
                 ", ".join(f"{cost:.2f}" for cost in costs) + " ms", f"+{spread:.0%}", "within 10 %", spread <= 0.10)
        ]  # fmt: skip

    def workers(self) -> list[Line]:
        """The same archive with 1 to 6 workers: the same manifest, files/s, peak memory."""
        count, lines = self.size.workers, []
        raw, roots = self.archive(self.size.workers), {}
        for workers in (1, 2, 3, 4, 6):
            roots[workers] = self.fresh()
            ran = self.backfill(raw, roots[workers], workers)
            self.series.setdefault("workers", []).append((workers, count / ran.wall_s))
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

    def live(self) -> list[Line]:
        """Runs recorded while the service watches: close to durable record, beside a bare watcher's durable Parquet."""
        ours, bare, floor = service.latency(self.fresh(), self.size.live, rate=10)
        lines = [
            Line(f"close to durable record, {self.size.live} runs at 10/s, {name}",
                 f"{duration(service.SETTLE_S)} + {duration(floor[name])}", duration(ours[name]))
            for name in ("p50", "p99")
        ] + [
            at_most(f"- beyond settle_s, against a bare callback, parse, durable write, {name}", bare[name],
                    ours[name] - service.SETTLE_S, most)
            for name, most in (("p50", 1.5), ("p99", 3.0))
        ]  # fmt: skip
        return [*lines, Line(f"{self.size.arrivals:,} runs moved in at once", "",
                             service.arrivals(self.fresh(), self.size.arrivals))]  # fmt: skip


def _bests(figures: dict[str, list[float]]) -> tuple[float, float]:
    return best(figures["bare"]), best(figures["ours"])
