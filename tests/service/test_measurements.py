"""Ten runs recorded by the real PyMeasure: queued at once, run one after another, one aborted, one killed.

`INGESTD_TEST_FULL_GAPS=1` takes gaps between rows as long as in the lab (up to 5 s instead of 1.5 s).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from running import Service
from waiting import wait_until

pytest.importorskip("pymeasure", reason="pymeasure (dev group) is not installed")

FULL = bool(os.environ.get("INGESTD_TEST_FULL_GAPS"))
GAP_S = 5.0 if FULL else 1.5
QUIET_S = 3.0
PROMISED_S = 2.0
"""From the recorder's close to manifest and history, in seconds."""

SLACK_S = 8.0
"""Seconds more than promised that a machine busy with other tests may take."""

PROGRAM = Path(__file__).with_name("acquisition.py")

pytestmark = pytest.mark.timeout(400)


class Acquisition:
    """The instrument program: a process of its own that queues runs and measures them one after another."""

    def __init__(self, folder: Path, plan: list[dict[str, Any]]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, folder, json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._heard = b""

    def of(self, what: str) -> dict[str, float]:
        """Return when (epoch seconds) each run was told to be `queued`, `starting`, `started`, `ending` or `closed`.

        A run that is `started` has its file open for writing, one that is `ending` has its last row out. All that was
        told by now is among them: no thread has to take it from the pipe first.
        """
        assert self.process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.process.stdout.fileno(), 2**16):
                self._heard += data
        told = [json.loads(line) for line in self._heard.split(b"\n")[:-1]]
        return {entry["run"]: entry["at"] for entry in told if entry["what"] == what}

    def go(self) -> None:
        """Let the queued runs begin."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """Kill it in the middle of a run."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service that waits `QUIET_S` for incomplete lines; everything else as a lab has it."""
    with Service(tmp_path, settle={"quiet_s": QUIET_S}, limit_s=120.0) as service:
        yield service


def plan_of(rows: list[list[float]]) -> list[dict[str, Any]]:
    """Plan runs of one chip each; `rows` are the gaps before each row of each run, in seconds."""
    return [{"name": f"It2025-09-23_{n}.csv", "chip": 60 + n, "gaps": gaps} for n, gaps in enumerate(rows, 1)]


def gaps() -> list[list[float]]:
    """Return gaps of ten runs: none, short ones, and some longer than `settle_s` and than a second."""
    return [
        [0.0, 0.1, 0.1],
        [0.0, GAP_S, 0.05],
        [0.2, 0.6, 0.6, 0.6],
        [0.0] * 20,
        [GAP_S],
        [0.05] * 60,  # aborted after some rows
        [0.0, 0.55, 0.0],
        [0.0, 0.0, GAP_S],
        [0.3, 0.3],
        [0.0, 0.1, 3600.0],  # killed in this gap
    ]


def chip_of(name: str, names: list[str]) -> str:
    """Name the chip of a run, by its place in the plan."""
    return f"Alisson{61 + names.index(name)}"


ABORTED, KILLED = "It2025-09-23_6.csv", "It2025-09-23_10.csv"

ROUNDING_S = 0.05
"""Seconds by which two clocks of one machine, and the texts they are written in, may differ."""


def durable_at(service: Service, name: str) -> float:
    """Tell when (epoch seconds) the service had a run in the manifest, by the log line it writes then."""
    (line,) = [line for line in service.lines("ingested") if line["source_file"] == name]
    return _moment(line)


def changed_at(service: Service, name: str) -> float:
    """Tell when (epoch seconds) a file was last changed before it was staged."""
    return service.live()[name].source_mtime_ns / 1e9


def history_at(service: Service, chip: str) -> float:
    """Tell when (epoch seconds) the service had written a chip's history, by the log line it writes then."""
    return min(_moment(line) for line in service.lines("histories") if chip in line["chips"])


def _moment(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()


def test_ten_queued_runs(service: Service) -> None:
    """No run is taken early, each is taken when its recorder closes; queued and running ones are shown as such."""
    plan = plan_of(gaps())
    plan[5]["abort_after"] = 12
    acquisition = Acquisition(service.raw, plan)
    try:
        _follow(service, acquisition, [run["name"] for run in plan])
    finally:
        acquisition.close()
    assert service.stop() == 0
    assert len(service.rows()) == 10
    assert service.live()[ABORTED].rows == 12
    assert service.live()[KILLED].rows == 2
    service.check_whole()


def _follow(service: Service, acquisition: Acquisition, names: list[str]) -> None:
    wait_until(lambda: len(acquisition.of("queued")) == 10, "ten queued files")
    service.until(lambda: service.waiting() == dict.fromkeys(names, "queued"), "ten files shown as queued")
    acquisition.go()
    rows_seen: set[int] = set()
    done: set[str] = set()
    killed_at = 0.0
    end = time.monotonic() + service.limit_s + 10 * GAP_S
    while len(done) < 10:
        assert time.monotonic() < end, f"only {sorted(done)} came to an end"
        _check_shown(service, acquisition, names, rows_seen)
        done = {name for name in names if service.history(chip_of(name, names)) == [name]}
        running_last = KILLED in acquisition.of("started") and (acquisition.of("rows").get(KILLED, 0) == 2)
        if running_last and not killed_at:
            acquisition.kill()
            killed_at = time.time()
        threading.Event().wait(0.05)
    assert rows_seen - {0}, "a running measurement was never shown with its rows so far"
    closed = acquisition.of("closed") | {KILLED: killed_at}
    _check_times(service, closed, {name: history_at(service, chip_of(name, names)) for name in names})


def _check_shown(service: Service, acquisition: Acquisition, names: list[str], rows_seen: set[int]) -> None:
    """Compare one look at the status with what the instrument program told before and after it."""
    started_before = set(acquisition.of("started"))
    report = service.status()
    starting, ending = set(acquisition.of("starting")), set(acquisition.of("ending"))
    shown = {file.source_file: file for file in report.waiting}
    for name in names:
        if name not in starting:
            assert shown[name].state == "queued", shown[name]
        elif name in started_before and name not in ending and acquisition.process.poll() is None:
            assert shown[name].state == "running", shown[name]
            assert "open for writing" in shown[name].reason
            assert not report.safe_to_power_off
            rows_seen.add(shown[name].rows or 0)
    early = service.live_names() - set(acquisition.of("ending")) - {KILLED}
    assert not early, f"staged while it was measured: {early}"
    assert not service.lines("rejected")


def _check_times(service: Service, closed: dict[str, float], histories: dict[str, float]) -> None:
    took = {name: durable_at(service, name) - at for name, at in closed.items()}
    to_history = {name: histories[name] - at for name, at in closed.items()}
    print("manifest after s:", {name: round(s, 2) for name, s in took.items()})
    print("history after s:", {name: round(s, 2) for name, s in to_history.items()})
    still = {name: durable_at(service, name) - changed_at(service, name) for name in closed if name != KILLED}
    assert min(still.values()) >= service.settings.settle.settle_s - ROUNDING_S
    assert max(to_history.values()) < PROMISED_S + SLACK_S
    told = service.lines("waiting")
    assert all("open for writing" in line["reason"] for line in told)
    # While a run is queued its file is open for a moment as well, which may be seen and told.
    queued = {line["source_file"]: line["time"] for line in service.lines("queued")}
    running = [line["source_file"] for line in told if line["time"] >= queued.get(line["source_file"], "")]
    assert max(running.count(name) for name in closed) == 1, "told more than once"


def test_a_run_killed_within_a_row(service: Service) -> None:
    """A writer killed in the middle of a line: `quiet_s` later its complete rows are staged, with a warning."""
    plan = plan_of([[0.0, 0.0, 0.0, 3600.0]])
    plan[0]["torn"] = True
    acquisition = Acquisition(service.raw, plan)
    try:
        name = plan[0]["name"]
        acquisition.go()
        wait_until(lambda: acquisition.of("rows").get(name) == 3 and acquisition.of("torn"), "half a row written")
        service.until(lambda: service.waiting().get(name) == "running", "the run shown as running")
        acquisition.kill()
        killed_at = time.time()
        service.until(lambda: service.live_names() == {name}, "its complete rows")
        still_s = durable_at(service, name) - changed_at(service, name)
        assert still_s >= QUIET_S - ROUNDING_S, "too early after the last change"
        assert durable_at(service, name) - killed_at < QUIET_S + PROMISED_S + SLACK_S
        row = service.live()[name]
        assert row.rows == 3
        assert any("incomplete" in warning for warning in row.warnings), row.warnings
        assert "incomplete" in service.lines("waiting")[-1]["reason"]
        assert not service.lines("rejected")
    finally:
        acquisition.close()
    assert service.stop() == 0


def test_a_run_that_goes_on_after_the_service_took_it(service: Service) -> None:
    """PyMeasure appends to a file when it is run again: the run is staged again under its id, with all rows."""
    first = Acquisition(service.raw, plan_of([[0.0, 0.0]]))
    try:
        first.go()
        service.until(lambda: [row.rows for row in service.rows()] == [2], "the first part")
    finally:
        first.close()
    (row,) = service.rows()
    again = plan_of([[0.0, 0.0, 0.0]])
    again[0]["again"] = True
    second = Acquisition(service.raw, again)
    try:
        second.go()
        service.until(lambda: [row.rows for row in service.rows()] == [5], "the rows appended")
    finally:
        second.close()
    assert service.rows()[0].run_id == row.run_id
    assert service.lines("updated") or service.lines("edited")
    assert service.stop() == 0
    service.check_whole()
