"""The running service, measured: how soon a closed file is durable, what idling costs, whether memory grows.

Latency counts from the recorder's close to the moment the run's record is seen in the write-ahead log, which is written
and flushed in one step. In the same run a bare watcher (`watcher.py`) sees the same files: its inotify latency is the
floor, and the time until it has parsed a file and written durable Parquet is the peer.
"""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import corpus
from measure import environment, ingestd, script

SETTLE_S = 0.5
WAIT_S = 600
TICK = os.sysconf("SC_CLK_TCK")
SHARES = ("p50", "p99")

Shares = dict[str, float]
"""Seconds by percentile: `p50`, `p99`."""


class Service:
    """`ingestd run` on a data root, as a process that is up."""

    def __init__(self, root: Path, raw: Path) -> None:
        self.stage = root / "02_stage"
        self.process = _start(ingestd("run", "--data-root", root, "--raw-root", raw))
        state = self.stage / "_manifest" / "service.json"
        wait_until(lambda: f'"pid":{self.process.pid}' in (text := _read(state)) and '"phase":"running"' in text)

    def stop(self) -> None:
        """End it as systemd does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def cpu_s(self) -> float:
        """Return the processor time it has taken, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory_mb(self) -> float:
        """Return its resident memory, in MiB."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").replace(" ", "")
    except FileNotFoundError:
        return ""


def wait_until(found: Callable[[], bool], pause_s: float = 0.05) -> None:
    """Wait for a condition; SystemExit after ten minutes."""
    until = time.monotonic() + WAIT_S
    while not found():
        if time.monotonic() > until:
            sys.exit("the service did not get there in time")
        time.sleep(pause_s)


class LogWatch(threading.Thread):
    """Notes when each raw file's `ingested` record is first seen in the log, checked every 0.2 ms."""

    def __init__(self, wal: Path) -> None:
        super().__init__(daemon=True)
        self.wal = wal
        self.seen: dict[str, float] = {}
        self.over = threading.Event()

    def run(self) -> None:
        """Read on until told that it is over."""
        segments: dict[Path, BinaryIO] = {}
        begun: dict[BinaryIO, bytes] = {}  # a line that is being written
        looks = itertools.count()
        while not self.over.wait(0.0002):
            if next(looks) % 100 == 0:
                new = (path for path in sorted(self.wal.glob("*.log")) if path not in segments)
                segments |= {path: path.open("rb", buffering=0) for path in new}
            for file in segments.values():
                if data := file.read():
                    now = time.monotonic()
                    whole, _, begun[file] = (begun.get(file, b"") + data).rpartition(b"\n")
                    self._note(whole, now)

    def _note(self, lines: bytes, now: float) -> None:
        for line in lines.splitlines():
            if b'"event":"ingested"' in line:
                name = line.partition(b'"source_file":"')[2].partition(b'"')[0].decode()
                self.seen.setdefault(Path(name).name, now)


def record(source: Path, target: Path) -> float:
    """Write a run as a recorder does, in two steps on one handle; return when it was closed."""
    data = source.read_bytes()
    with target.open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        file.write(data[len(data) // 2 :])
    return time.monotonic()


def latency(folder: Path, runs: int, rate: float) -> tuple[Shares, Shares, Shares]:
    """Record `runs` runs at `rate` per second; return close to record, close to bare Parquet, and close to inotify."""
    archive, root, bare = folder / "archive", folder / "root", folder / "bare"
    raw = root / "01_raw" / "2026-01-01"
    raw.mkdir(parents=True)
    corpus.write(archive, runs, scale=0.2)
    told = folder / "told"
    service = Service(root, raw.parent)
    watcher = _start(script("watcher.py", raw.parent, bare, told))
    wait_until(told.exists)
    log = LogWatch(service.stage / "_manifest" / "wal")
    log.start()
    closed: dict[str, float] = {}
    begun = time.monotonic()
    for number, source in enumerate(sorted(archive.rglob("*.csv"))):
        time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        name = f"{source.stem}_{number}.csv"
        closed[name] = record(source, raw / name)
    wait_until(lambda: len(log.seen) >= runs and told.read_text().count("\n") >= runs)
    service.stop()
    watcher.send_signal(signal.SIGTERM)
    watcher.wait(60)
    log.over.set()
    by_name = {name: (float(seen), float(done)) for name, seen, done in map(str.split, told.read_text().splitlines())}
    return (
        _shares([log.seen[name] - at for name, at in closed.items()]),
        _shares([by_name[name][1] - at for name, at in closed.items()]),
        _shares([by_name[name][0] - at for name, at in closed.items()]),
    )


def _shares(values: list[float]) -> Shares:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {name: cuts[int(name[1:]) - 1] for name in SHARES}


def idle(root: Path, raw: Path, seconds: float) -> str:
    """Let the service idle over a staged archive; return what that costs per hour, and its memory."""
    service = Service(root, raw)
    time.sleep(5)
    before = service.cpu_s()
    time.sleep(seconds)
    spent, memory = service.cpu_s() - before, service.memory_mb()
    service.stop()
    return f"{spent * 3600 / seconds:.0f} CPU s an hour, {memory:.0f} MB"


def arrivals(root: Path, count: int) -> str:
    """Move `count` runs in at once; return how fast the service ingests them, and its memory before and after."""
    raw, archive = root / "01_raw", root / "archive"
    raw.mkdir(parents=True)
    corpus.write(archive, count, scale=0.05)
    service = Service(root, raw)
    before, begun = service.memory_mb(), time.monotonic()
    archive.rename(raw / "archive")
    staged = service.stage / "raw_measurements"
    wait_until(lambda: sum(1 for _ in staged.glob("proc=*/date=*/run_id=*")) >= count, 1.0)
    took, after = time.monotonic() - begun, service.memory_mb()
    service.stop()
    return f"{count / took:.0f} runs/s; {before:.0f} MB before, {after:.0f} MB after"
