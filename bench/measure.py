"""Run one case as a process of its own: its time, and the peak memory of it and of each process it started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

SAMPLE_S = 0.05
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run cost: wall and processor seconds, and peak MB of the process and of its largest child.

    `said` is the last line it printed.
    """

    wall_s: float
    cpu_s: float
    parent_mb: float
    child_mb: float
    said: str


def python(*arguments: object) -> list[str]:
    """Return the command that runs this Python with `arguments`."""
    return [sys.executable, *map(str, arguments)]


def ingestd(*arguments: object) -> list[str]:
    """Return the command that runs ingestd with `arguments`."""
    return python("-m", "ingestd", *arguments)


def script(name: str, *arguments: object) -> list[str]:
    """Return the command that runs a script of this folder."""
    return python(HERE / name, *arguments)


def environment() -> dict[str, str]:
    """Return the environment of what is measured: this checkout, its modules compiled once, as in an installation."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": str(HERE.parent)}


def run(command: list[str], accepted: frozenset[int] = frozenset({0})) -> Ran:
    """Run a command to its end; SystemExit with its output if it fails."""
    with tempfile.TemporaryFile() as said:  # a pipe that nobody empties would block a process that prints much
        before, begun = os.times(), time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=HERE.parent, env=environment())
        peaks: dict[int, float] = {}
        while process.poll() is None:
            _note_peaks(process.pid, peaks)
            time.sleep(SAMPLE_S if peaks and time.perf_counter() - begun > 1 else 0.002)
        wall_s, after = time.perf_counter() - begun, os.times()
        said.seek(0)
        output = said.read().decode("utf-8", "replace")
    if process.returncode not in accepted:
        raise SystemExit(f"{' '.join(command)}\n{output}\nended with {process.returncode}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    children = [peak for pid, peak in peaks.items() if pid != process.pid]
    lines = output.strip().splitlines()
    return Ran(wall_s, cpu_s, peaks.get(process.pid, 0.0), max(children, default=0.0), lines[-1] if lines else "")


def _note_peaks(pid: int, peaks: dict[int, float]) -> None:
    """Note the peak resident memory (MB) of a process and of its children; the kernel keeps the peak itself."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    except OSError:
        return  # it ended
    if found := re.search(r"VmHWM:\s+(\d+) kB", status):
        peaks[pid] = max(peaks.get(pid, 0.0), int(found[1]) / 1024)
    for child in children:
        _note_peaks(int(child), peaks)


def alternate(cases: Mapping[str, Callable[[int], float]], rounds: int) -> dict[str, list[float]]:
    """Run the cases in turn, `rounds` times, every other round in reverse; return the figure of each run.

    A case is given the round's number. Whatever else the machine does then affects all of them alike.
    """
    figures: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds):
        order = list(cases.items())
        for name, case in reversed(order) if number % 2 else order:
            figures[name].append(case(number))
    return figures


def best(figures: list[float]) -> float:
    """Return the least disturbed of several runs: the shortest."""
    return min(figures)
