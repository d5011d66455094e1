"""An instrument program as the lab has it: queues runs with PyMeasure's `Results`, measures them with its `Worker`.

Usage: python acquisition.py FOLDER PLAN     (PLAN: JSON, a list of runs)

A run: `name`, `chip`, `gaps` (seconds before each row); `abort_after` so many rows; `torn`: half a row after the last
but one; `again`: measure into a file that is there. All are queued first; a line on stdin lets them begin. What happens
is told on stdout, one JSON a line: `queued`, `starting`, `started`, `rows`, `torn`, `ending`, `closed`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from pymeasure.experiment import FloatParameter, IntegerParameter, Metadata, Parameter, Procedure, Results, Worker

RUN_LIMIT_S = 4000.0


def tell(what: str, run: str, at: float | None = None) -> None:
    """Tell what happened to a run, and when."""
    print(json.dumps({"what": what, "run": run, "at": time.time() if at is None else at}), flush=True)


class It(Procedure):  # type: ignore[misc]  # PyMeasure ships no types
    """Current over time."""

    __module__ = "laser_setup.procedures.It"
    DATA_COLUMNS: ClassVar[list[str]] = ["t (s)", "I (A)", "VL (V)", "Plate T (degC)", "Ambient T (degC)", "Clock (ms)"]

    chip_group = Parameter("Chip group name", default="Alisson")
    chip_number = IntegerParameter("Chip number", default=1)
    laser_v = FloatParameter("Laser voltage", units="V", default=0.0)
    vg = FloatParameter("VG", units="V", default=-5.19)
    start_time = Metadata("Start time", fget=time.time)

    plan: dict[str, Any]
    press_abort: Callable[[], None]

    def execute(self) -> None:
        """Emit the planned rows; the recorder has the file open by now."""
        tell("started", self.plan["name"])
        for count, gap in enumerate(self.plan["gaps"], start=1):
            if self.plan.get("torn") and count == len(self.plan["gaps"]):
                with Path(self.plan["path"]).open("ab", buffering=0) as file:
                    file.write(b"99.0,1.5e-0")
                tell("torn", self.plan["name"])
            time.sleep(gap)
            self.emit("results", {"t (s)": 0.5 * count, "I (A)": 1e-6 * count, "VL (V)": 0.0})
            tell("rows", self.plan["name"], count)
            if count == self.plan.get("abort_after"):
                self.press_abort()
            if self.should_stop():
                break
        tell("ending", self.plan["name"])


def queued(folder: Path, plan: dict[str, Any]) -> Results:
    """Queue a run: PyMeasure writes its header."""
    path = folder / plan["name"]
    procedure = It(chip_number=plan["chip"])
    procedure.plan = plan | {"path": str(path)}
    results = Results(procedure, str(path))
    tell("queued", plan["name"])
    return results


def measure(results: Results) -> None:
    """Run one queued run to its end."""
    name = results.procedure.plan["name"]
    worker = Worker(results)
    results.procedure.press_abort = worker.stop
    tell("starting", name)
    worker.start()
    threading.Thread.join(worker, RUN_LIMIT_S)  # the worker's own join() does not wait for the file to be closed
    tell("closed", name)


def main(folder: Path, plans: list[dict[str, Any]]) -> None:
    """Queue all, wait for the word, measure one after another."""
    waiting = [queued(folder, plan) for plan in plans]
    sys.stdin.readline()
    for results in waiting:
        measure(results)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
