"""Write the sample data in `data/01_raw`: simulated runs, recorded by the real PyMeasure library.

Usage: python tools/make_samples.py [FOLDER]      (default: data/01_raw beside this script's folder)

The procedures below carry the parameters, units and columns of the lab's instrument program, and PyMeasure's own
`Results` and `Worker` write every file, so that queued, aborted and finished runs look as they do on the acquisition
computer. What they measure is simulated. Every run seeds its noise with its file name and has a fixed start time: the
same PyMeasure gives the same bytes. Only the files of the plan are replaced; nothing else in FOLDER is touched.
"""

from __future__ import annotations

import math
import random
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import ClassVar
from zoneinfo import ZoneInfo

from pymeasure.experiment import FloatParameter, IntegerParameter, Metadata, Parameter, Procedure, Results, Worker

ELEMENTARY_CHARGE_C = 1.602176634e-19
LAB_TZ = ZoneInfo("America/Santiago")
RUN_LIMIT_S = 60.0
REST_S = 240.0  # between two runs a chip rests in the dark with its gate grounded

Row = dict[str, float]


# --- The device under test -------------------------------------------------------------------------------------------


@dataclass
class Channel:
    """A graphene channel with contacts, charge traps under the gate and a photogating response.

    Conductivity is `e * mu * sqrt(n0^2 + n^2)` with the gate-induced density `n = C * (Vg - V_Dirac) / e` and the
    residual density `n0`; the contacts add a constant resistance. Traps follow the gate with time constant `trap_s`
    and shift the Dirac point by up to `trap_share` of the gate voltage: an up and a down sweep see different shifts,
    which is the hysteresis. Light shifts the Dirac point further, half of it fast and half slowly, and the shift decays
    more slowly than it rises.
    """

    dirac_v: float
    mobility_m2_vs: float
    residual_per_m2: float
    contact_ohm: float
    length_over_width: float
    gate_f_m2: float
    light_shift_v: float  # Dirac shift at 10 µW of light
    trap_share: float = 0.12
    trap_s: float = 18.0
    trapped_v: float = 0.0
    fast_v: float = 0.0
    slow_v: float = 0.0

    def wait(self, seconds: float, vg: float, light_uw: float = 0.0) -> None:
        """Let traps and photogating relax for `seconds` at gate voltage `vg` (V) under `light_uw` (µW)."""
        self.trapped_v = _relaxed(self.trapped_v, self.trap_share * vg, seconds, self.trap_s)
        shift = self.light_shift_v * (light_uw / 10.0) ** 0.6
        rising = shift > self.fast_v + self.slow_v
        self.fast_v = _relaxed(self.fast_v, 0.5 * shift, seconds, 2.5 if rising else 4.5)
        self.slow_v = _relaxed(self.slow_v, 0.5 * shift, seconds, 22.0 if rising else 38.0)

    def current(self, vds: float, vg: float) -> float:
        """Return the drain current (A) right now; the field-dependent mobility makes it sub-linear in `vds` (V)."""
        overdrive = vg - self.dirac_v - self.trapped_v + self.fast_v + self.slow_v
        density = math.hypot(self.residual_per_m2, self.gate_f_m2 * overdrive / ELEMENTARY_CHARGE_C)
        mobility = self.mobility_m2_vs / (1.0 + abs(vds) / 1.5)
        sheet_ohm = 1.0 / (ELEMENTARY_CHARGE_C * mobility * density)
        return vds / (self.contact_ohm + self.length_over_width * sheet_ohm)


def _relaxed(value: float, target: float, seconds: float, time_constant_s: float) -> float:
    return target + (value - target) * math.exp(-seconds / time_constant_s)


def laser_power_uw(laser_v: float, wavelength_nm: float) -> float:
    """Return the optical power (µW) at the fibre's end: linear above a threshold of 0.12 V, with a soft knee."""
    slope_uw_per_v = {455.0: 3.6, 850.0: 8.2}[wavelength_nm]
    knee_v = 0.015
    return slope_uw_per_v * knee_v * math.log1p(math.exp(min((laser_v - 0.12) / knee_v, 700.0)))


@dataclass
class Meter:
    """A source meter's reading: white noise, slow drift and seven significant digits."""

    random: random.Random
    noise: float = 2.0e-4
    floor_a: float = 4.0e-11
    drift: float = 0.0

    def read(self, value: float) -> float:
        self.drift += self.random.gauss(0.0, 0.1 * self.noise) - 0.01 * self.drift
        return seven_digits(
            value * (1.0 + self.drift + self.random.gauss(0.0, self.noise)) + self.random.gauss(0.0, self.floor_a)
        )


def seven_digits(value: float) -> float:
    return float(f"{value:.6e}")


def sweep(start: float, end: float, step: float) -> Iterator[float]:
    """Yield a closed sweep: from zero to `start`, on to `end`, back to zero."""
    down, span, up = (round(abs(width) / step) for width in (start, end - start, end))
    yield from (-k * step if k else 0.0 for k in range(down + 1))
    yield from (start + k * step for k in range(1, span + 1))
    yield from (end - k * step for k in range(1, up + 1))


# --- The lab's procedures ---------------------------------------------------------------------------------------------
# PyMeasure writes parameters in the order of their attribute names and the class by its module and name; both follow
# the lab's package, so that the headers read like the lab's.


class Simulated(Procedure):  # type: ignore[misc]  # PyMeasure ships no types
    """A procedure that emits the rows of a simulation and obeys the abort button."""

    noise: random.Random
    abort_after: int | None = None
    press_abort: Callable[[], None]

    def rows(self) -> Iterator[Row]:
        raise NotImplementedError

    def execute(self) -> None:
        for count, row in enumerate(self.rows(), start=1):
            self.emit("results", row)
            if count == self.abort_after:
                self.press_abort()
            if self.should_stop():
                return


class OnChip(Simulated):
    """A procedure measured on a chip."""

    IRANGE = FloatParameter("Irange", units="A", default=1e-4)
    NPLC = IntegerParameter("NPLC", default=1)
    chip_group = Parameter("Chip group name", default="Biotite")
    chip_number = IntegerParameter("Chip number", default=1)
    info = Parameter("Information", default="")
    laser_v = FloatParameter("Laser voltage", units="V", default=0.0)
    laser_wl = FloatParameter("Laser wavelength", default=0.0)
    sample = Parameter("Sample", default="A")
    start_time = Metadata("Start time")
    channel: Channel


class IVg(OnChip):
    """Transfer curve: the gate is swept at constant drain-source voltage."""

    __module__ = "laser_setup.procedures.IVg"
    DATA_COLUMNS: ClassVar[list[str]] = ["Vg (V)", "I (A)", "Plate T (degC)", "Ambient T (degC)", "Clock (ms)"]

    burn_in_t = FloatParameter("Burn-in time", units="s", default=60.0)
    procedure_version = Parameter("Procedure version", default="2.1.0")
    step_time = FloatParameter("Step time", units="s", default=0.0)
    vds = FloatParameter("VDS", units="V", default=0.1)
    vg_end = FloatParameter("VG end", units="V", default=5.0)
    vg_start = FloatParameter("VG start", units="V", default=-5.0)
    vg_step = FloatParameter("VG step", units="V", default=0.05)

    def rows(self) -> Iterator[Row]:
        meter = Meter(self.noise)
        self.channel.wait(self.burn_in_t, 0.0)
        for vg in sweep(self.vg_start, self.vg_end, self.vg_step):
            self.channel.wait(0.16, vg)
            yield {"Vg (V)": vg, "I (A)": meter.read(self.channel.current(self.vds, vg))}


class IV(OnChip):
    """Output curve: the drain-source voltage is swept at constant gate voltage."""

    __module__ = "laser_setup.procedures.IV"
    DATA_COLUMNS: ClassVar[list[str]] = ["Vsd (V)", "I (A)", "Plate T (degC)", "Ambient T (degC)", "Clock (ms)"]

    burn_in_t = FloatParameter("Burn-in time", units="s", default=60.0)
    procedure_version = Parameter("Procedure version", default="2.0.1")
    step_time = FloatParameter("Step time", units="s", default=0.0)
    vg = FloatParameter("VG", units="V", default=0.0)
    vsd_end = FloatParameter("VSD end", units="V", default=1.0)
    vsd_start = FloatParameter("VSD start", units="V", default=-1.0)
    vsd_step = FloatParameter("VSD step", units="V", default=0.02)

    def rows(self) -> Iterator[Row]:
        meter = Meter(self.noise)
        self.channel.wait(self.burn_in_t, self.vg)
        for vsd in sweep(self.vsd_start, self.vsd_end, self.vsd_step):
            self.channel.wait(0.16, self.vg)
            yield {"Vsd (V)": vsd, "I (A)": meter.read(self.channel.current(vsd, self.vg))}


class It(OnChip):
    """Current over time: laser off for half a period, on for half, off again."""

    __module__ = "laser_setup.procedures.It"
    DATA_COLUMNS: ClassVar[list[str]] = ["t (s)", "I (A)", "VL (V)", "Plate T (degC)", "Ambient T (degC)", "Clock (ms)"]

    T_START = FloatParameter("T step start time", units="s", default=120.0)
    initial_t = FloatParameter("Initial (current) T", units="C", default=0.0)
    laser_period = FloatParameter("Laser ON+OFF period", units="s", default=120.0)
    procedure_version = Parameter("Procedure version", default="2.2.0")
    sampling_t = FloatParameter("Sampling time (excluding Keithley)", units="s", default=0.4)
    target_t = FloatParameter("Target T", units="C", default=25.0)
    vds = FloatParameter("VDS", units="V", default=0.1)
    vg = FloatParameter("VG", units="V", default=0.0)
    plate_sensor = False

    def rows(self) -> Iterator[Row]:
        meter = Meter(self.noise)
        seconds, plate_degc = 0.0, 24.6 + self.noise.gauss(0.0, 0.2)
        while seconds <= 1.5 * self.laser_period:
            lit = self.laser_period / 2 <= seconds < self.laser_period
            laser_v = self.laser_v if lit else 0.0
            row = {
                "t (s)": float(f"{seconds:.7g}"),
                "I (A)": meter.read(self.channel.current(self.vds, self.vg)),
                "VL (V)": laser_v,
            }
            if self.plate_sensor:
                plate_degc += self.noise.gauss(0.0, 0.01) + 0.002 * (self.target_t - plate_degc)
                row |= {
                    "Plate T (degC)": round(plate_degc, 2),
                    "Ambient T (degC)": 22.5,
                    "Clock (ms)": int(1000 * seconds),
                }
            yield row
            pause = self.sampling_t + 0.0834 + self.noise.gauss(0.0, 0.0002)
            self.channel.wait(pause, self.vg, laser_power_uw(laser_v, self.laser_wl) if laser_v else 0.0)
            seconds += pause


class LaserCalibration(Simulated):
    """Optical power of a laser over its control voltage; no chip."""

    __module__ = "laser_setup.procedures.LaserCalibration"
    DATA_COLUMNS: ClassVar[list[str]] = ["VL (V)", "Power (W)"]

    N_AVG = IntegerParameter("N_avg", default=2)
    fiber = Parameter("Optical fiber", default="F1 (M92L02)")
    info = Parameter("Information", default="before the day's runs")
    laser_wl = FloatParameter("Laser wavelength", default=455.0)
    procedure_version = Parameter("Procedure version", default="1.1.1")
    step_time = FloatParameter("Step time", units="s", default=0.2)
    vl_end = FloatParameter("Laser voltage end", units="V", default=5.0)
    vl_start = FloatParameter("Laser voltage start", units="V", default=0.0)
    vl_step = FloatParameter("Laser voltage step", units="V", default=0.1)
    sensor = Metadata("Sensor model", default="S120VC")
    start_time = Metadata("Start time")

    def rows(self) -> Iterator[Row]:
        for k in range(round((self.vl_end - self.vl_start) / self.vl_step) + 1):
            laser_v = self.vl_start + k * self.vl_step
            power_w = 1e-6 * laser_power_uw(laser_v, self.laser_wl)
            reading = power_w * (1.0 + self.noise.gauss(0.0, 2e-3)) + 3e-9 * self.noise.uniform(0.8, 1.2)
            yield {"VL (V)": laser_v, "Power (W)": seven_digits(reading)}


# --- The plan ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """One file: its path, when its run started (local time; None: queued and never run) and what was set."""

    file: str
    procedure: type[Simulated]
    started: str | None
    settings: dict[str, object] = field(default_factory=dict)
    chip: str | None = None
    abort_after: int | None = None


CHIPS = {
    "Biotite3": Channel(0.9, 0.22, 5.5e15, 1800.0, 2.1, 9.0e-4, 0.55),
    "Biotite5": Channel(-1.4, 0.16, 8.0e15, 2600.0, 2.8, 9.0e-4, 0.40, trap_share=0.2),
    "Alisson72": Channel(-0.3, 0.48, 3.2e15, 950.0, 1.6, 1.25e-3, 0.30, trap_share=0.06),
}

DAY_1, DAY_2 = "2026-03-12", "2026-03-13"
LIT_455 = {"laser_wl": 455.0, "info": "light response"}
LIT_850 = {"laser_wl": 850.0, "info": "light response, plate sensor on"}

PLAN = [
    Planned(
        f"{DAY_1}/LaserCalibration{DAY_1}_1.csv", LaserCalibration, f"{DAY_1} 09:41:07.318204", {"laser_wl": 455.0}
    ),
    Planned(f"{DAY_1}/IVg{DAY_1}_1.csv", IVg, f"{DAY_1} 10:02:44.905117", {"info": "as made"}, "Biotite3"),
    Planned(f"{DAY_1}/IV{DAY_1}_1.csv", IV, f"{DAY_1} 10:09:12.440931", {"info": "as made"}, "Biotite3"),
    Planned(f"{DAY_1}/It{DAY_1}_1.csv", It, f"{DAY_1} 10:21:30.087425", {"vg": -2.5, "info": "dark"}, "Biotite3"),
    Planned(
        f"{DAY_1}/It{DAY_1}_2.csv", It, f"{DAY_1} 10:27:58.661243", LIT_455 | {"vg": -2.5, "laser_v": 1.2}, "Biotite3"
    ),
    Planned(
        f"{DAY_1}/It{DAY_1}_3.csv", It, f"{DAY_1} 10:34:19.250886", LIT_455 | {"vg": -2.5, "laser_v": 2.4}, "Biotite3"
    ),
    Planned(f"{DAY_1}/IVg{DAY_1}_2.csv", IVg, f"{DAY_1} 10:43:02.513370", {"info": "after light"}, "Biotite3"),
    Planned(
        f"{DAY_1}/IVg{DAY_1}_3.csv", IVg, f"{DAY_1} 11:30:15.774608", {"info": "as made", "sample": "B"}, "Biotite5"
    ),
    Planned(f"{DAY_1}/IV{DAY_1}_2.csv", IV, f"{DAY_1} 11:37:40.129954", {"info": "as made", "sample": "B"}, "Biotite5"),
    Planned(f"{DAY_1}/IV{DAY_1}_3.csv", IV, f"{DAY_1} 11:44:26.598312", {"vg": -4.0, "sample": "B"}, "Biotite5"),
    Planned(
        f"{DAY_1}/It{DAY_1}_4.csv",
        It,
        f"{DAY_1} 11:58:03.002718",
        {"vg": 1.5, "info": "dark", "sample": "B"},
        "Biotite5",
    ),
    Planned(
        f"{DAY_1}/It{DAY_1}_5.csv",
        It,
        f"{DAY_1} 12:05:51.346099",
        LIT_455 | {"vg": 1.5, "laser_v": 2.4, "sample": "B"},
        "Biotite5",
    ),
    Planned(
        f"{DAY_2}/LaserCalibration{DAY_2}_1.csv", LaserCalibration, f"{DAY_2} 09:18:33.871460", {"laser_wl": 850.0}
    ),
    Planned(
        f"{DAY_2}/IVg{DAY_2}_1.csv", IVg, f"{DAY_2} 09:50:20.115093", {"info": "second day", "sample": "B"}, "Biotite5"
    ),
    Planned(
        f"{DAY_2}/IVg{DAY_2}_2.csv", IVg, f"{DAY_2} 10:31:09.429685", {"IRANGE": 1e-3, "info": "as made"}, "Alisson72"
    ),
    Planned(
        f"{DAY_2}/IV{DAY_2}_1.csv", IV, f"{DAY_2} 10:38:47.906221", {"IRANGE": 1e-3, "info": "as made"}, "Alisson72"
    ),
    Planned(
        f"{DAY_2}/It{DAY_2}_1.csv",
        It,
        f"{DAY_2} 10:52:14.582037",
        {"vg": -3.2, "info": "dark, plate sensor on"},
        "Alisson72",
    ),
    Planned(
        f"{DAY_2}/It{DAY_2}_2.csv", It, f"{DAY_2} 10:58:36.070549", LIT_850 | {"vg": -3.2, "laser_v": 0.8}, "Alisson72"
    ),
    Planned(
        f"{DAY_2}/It{DAY_2}_3.csv",
        It,
        f"{DAY_2} 11:05:02.937716",
        LIT_850 | {"vg": -3.2, "laser_v": 1.4},
        "Alisson72",
        47,
    ),
    Planned(
        f"{DAY_2}/It{DAY_2}_4.csv", It, f"{DAY_2} 11:07:21.254801", LIT_850 | {"vg": -3.2, "laser_v": 1.4}, "Alisson72"
    ),
    Planned(
        f"{DAY_2}/IVg{DAY_2}_3.csv",
        IVg,
        f"{DAY_2} 11:15:48.691175",
        {"IRANGE": 1e-3, "info": "after light"},
        "Alisson72",
    ),
    Planned(f"{DAY_2}/It{DAY_2}_5.csv", It, None, LIT_850 | {"vg": -3.2, "laser_v": 2.0}, "Alisson72"),
]

HAND_EDITED = f"{DAY_1}/IV{DAY_1}_3.csv"


def record(plan: Planned, folder: Path, chips: dict[str, Channel]) -> None:
    """Queue one planned run into `folder` and, if it has a start time, let PyMeasure run it to its end."""
    path = folder / plan.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    procedure = plan.procedure(**plan.settings)
    procedure.noise = random.Random(plan.file)
    if isinstance(procedure, OnChip):
        assert plan.chip is not None
        procedure.channel = chips[plan.chip]
        procedure.channel.wait(REST_S, 0.0)
        procedure.chip_group = plan.chip.rstrip("0123456789")
        procedure.chip_number = int(plan.chip.removeprefix(procedure.chip_group))
        procedure.plate_sensor = "plate sensor" in procedure.info
    results = Results(procedure, str(path))
    if plan.started is None:
        return
    procedure.start_time = datetime.fromisoformat(plan.started).replace(tzinfo=LAB_TZ).timestamp()
    worker = Worker(results)
    procedure.abort_after, procedure.press_abort = plan.abort_after, worker.stop
    worker.start()
    threading.Thread.join(worker, RUN_LIMIT_S)  # the worker's own join() does not wait for the file to be closed
    expected = Procedure.FINISHED if plan.abort_after is None else Procedure.ABORTED
    if worker.is_alive() or procedure.status != expected:
        raise SystemExit(f"{plan.file}: the run ended as {Procedure.STATUS_STRINGS[procedure.status]}")


def edit_by_hand(path: Path) -> None:
    """Fill in a missing plate temperature as one does in Chile, `24,8`: the row has one cell too many from then on."""
    lines = path.read_text(encoding="utf-8").split("\n")
    row = lines.index("#Data:") + 42
    assert ",nan,nan,nan" in lines[row]
    lines[row] = lines[row].replace(",nan,nan,nan", ",24,8,nan,nan")
    path.write_text("\n".join(lines), encoding="utf-8")


def main(folder: Path) -> None:
    chips = {name: Channel(**vars(channel)) for name, channel in CHIPS.items()}
    for plan in PLAN:
        record(plan, folder, chips)
    edit_by_hand(folder / HAND_EDITED)
    print(f"{len(PLAN)} files in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "data" / "01_raw")
