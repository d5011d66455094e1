"""Measure the running service: how soon a closed file is durable in the log, what idling costs, whether memory grows.

Latency counts from the recorder's close to the moment the run's record stands in the write-ahead log (it is written and
flushed in one step). The floor of the same run is `settle_s` and the bare latency of an inotify event. Defaults take
about three minutes; `--full` has the sizes docs/performance.md is about.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import corpus
from watchdog.events import FileClosedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

SETTLE_S = 0.5
WAIT_S = 600
TICK = os.sysconf("SC_CLK_TCK")


class Service:
    """`ingestd run` on a data root, as a process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.wal = root / "02_stage" / "_manifest" / "wal"
        command = [sys.executable, "-m", "ingestd", "run", "--data-root", str(root)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: '"running"' in read(root / "02_stage" / "_manifest" / "service.json"))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory_mb(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""


def wait_until(found: Callable[[], bool], pause_s: float = 0.05) -> None:
    until = time.monotonic() + WAIT_S
    while not found():
        if time.monotonic() > until:
            sys.exit("the service did not get there in time")
        time.sleep(pause_s)


class LogWatch(threading.Thread):
    """Notes when each raw file's `ingested` record is first seen in the log: read on every millisecond."""

    def __init__(self, wal: Path) -> None:
        super().__init__(daemon=True)
        self.wal = wal
        self.seen: dict[str, float] = {}
        self.over = threading.Event()

    def run(self) -> None:
        offsets: dict[Path, int] = {}
        while not self.over.wait(0.001):
            for path in sorted(self.wal.glob("*.log")):
                self._read_on(path, offsets)

    def _read_on(self, path: Path, offsets: dict[Path, int]) -> None:
        try:
            with path.open("rb") as file:
                file.seek(offsets.get(path, 0))
                data = file.read()
        except FileNotFoundError:
            return
        now = time.monotonic()
        offsets[path] = offsets.get(path, 0) + len(data)
        for line in data.splitlines():
            if b'"event":"ingested"' in line:
                name = line.partition(b'"source_file":"')[2].partition(b'"')[0].decode()
                self.seen.setdefault(name, now)


class Closes(FileSystemEventHandler):
    """Notes when inotify tells of each file's close."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def on_any_event(self, event: FileSystemEvent) -> None:
        self.seen.setdefault(Path(os.fsdecode(event.src_path)).name, time.monotonic())


def record(source: Path, target: Path) -> float:
    """Write a run as a recorder does, in two steps on one handle; return when it was closed."""
    data = source.read_bytes()
    with target.open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        file.write(data[len(data) // 2 :])
    return time.monotonic()


@contextmanager
def data_root(folder: Path) -> Iterator[Path]:
    (folder / "01_raw" / "2026-01-01").mkdir(parents=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def latency(work: Path, runs: int, rate: float) -> str:
    """Record `runs` runs at `rate` a second; say p50 and p99 of close to durable record, beside the floor."""
    archive = work / "archive"
    corpus.write(archive, runs, scale=0.2)
    sources = sorted(archive.rglob("*.csv"))
    with data_root(work / "live") as root:
        service, closes, observer = Service(root), Closes(), Observer()
        watch = LogWatch(service.wal)
        watch.start()
        observer.schedule(closes, str(root / "01_raw"), recursive=True, event_filter=[FileClosedEvent])
        observer.start()
        closed: dict[str, float] = {}
        begun = time.monotonic()
        for number, source in enumerate(sources):
            time.sleep(max(0.0, begun + number / rate - time.monotonic()))
            name = f"2026-01-01/{source.stem}_{number}.csv"
            closed[name] = record(source, root / "01_raw" / name)
        wait_until(lambda: len(watch.seen) >= len(closed))
        service.stop()
        observer.stop()
        watch.over.set()
    ours = sorted(watch.seen[name] - at for name, at in closed.items())
    bare = sorted(closes.seen[Path(name).name] - at for name, at in closed.items() if Path(name).name in closes.seen)
    floor = [SETTLE_S + value for value in bare]
    found = ", ".join(f"p{which} {percent(ours, which):.3f} s" for which in (50, 99))
    least = ", ".join(f"p{which} {percent(floor, which):.3f} s" for which in (50, 99))
    return f"close to durable record, {runs} runs at {rate:g}/s: {found}; floor (settle_s + inotify): {least}"


def percent(values: list[float], which: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[which - 1]


def idle(work: Path, files: int, seconds: float) -> str:
    """Let the service idle over `files` staged runs; say what that costs in an hour, and its memory."""
    root = work / "idle"
    corpus.write(root / "01_raw", files, scale=0.05)
    command = [sys.executable, "-m", "ingestd", "backfill", "--data-root", str(root), "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    service = Service(root)
    time.sleep(5)
    before = service.cpu_s()
    time.sleep(seconds)
    spent, memory = service.cpu_s() - before, service.memory_mb()
    service.stop()
    shutil.rmtree(root)
    return f"idle over {files} staged runs: {spent * 3600 / seconds:.0f} CPU s an hour, {memory:.0f} MiB"


def growth(work: Path, files: int) -> str:
    """Let the service ingest `files` runs; say its memory before and after."""
    root, archive = work / "growth", work / "more"
    (root / "01_raw").mkdir(parents=True)
    corpus.write(archive, files, scale=0.05)
    service = Service(root)
    time.sleep(2)
    before, begun = service.memory_mb(), time.monotonic()
    archive.rename(root / "01_raw" / "archive")
    table = root / "02_stage" / "raw_measurements"
    wait_until(lambda: sum(1 for _ in table.glob("proc=*/date=*/run_id=*")) >= files, 1.0)
    took, after = time.monotonic() - begun, service.memory_mb()
    service.stop()
    shutil.rmtree(root)
    return f"{files} runs moved in: {files / took:.0f} runs/s, memory {before:.0f} MiB before, {after:.0f} MiB after"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="500 runs, 100,000 staged files, 20,000 ingested files")
    full = parser.parse_args().full
    with tempfile.TemporaryDirectory(prefix="ingestd-bench-") as name:
        work = Path(name)
        print(latency(work, 500 if full else 100, 10), flush=True)
        print(idle(work, 100_000 if full else 2_000, 120 if full else 20), flush=True)
        print(growth(work, 20_000 if full else 1_000), flush=True)


if __name__ == "__main__":
    main()
