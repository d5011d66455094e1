"""Write a seeded archive of raw CSVs as an instrument PC leaves them: IVg, ITS and IV runs in day folders.

Sizes are log-normal with median 26 kB and mean 125 kB (times `--scale`), drawn as quantiles, so that archives of any
size are alike. A few bodies are made once; each file has a header of its own and a stretch of one body, so that no two
files are equal. File names, headers, columns, number spellings and line ends are PyMeasure's.
"""

from __future__ import annotations

import argparse
import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

MEDIAN_BYTES = 26_000
MEAN_BYTES = 125_000
LARGEST_BYTES = 24_000_000
RUNS_A_DAY = 60
CHIPS = 40
BODY_ROWS = 40_000
FIRST_START = 1_700_000_000.0

IVG_HEADER = """\
#Procedure: <laser_setup.procedures.IVg.IVg>
#Parameters:
#\tIrange: 0.001 A
#\tNPLC: 1
#\tBurn-in time: 60 s
#\tChip group name: Benchmark
#\tChip number: {chip}
#\tInformation: run {number} of the archive
#\tLaser voltage: 0 V
#\tLaser wavelength: 455
#\tProcedure version: 2.1.0
#\tSample: A
#\tStep time: 0 s
#\tVDS: 0.1 V
#\tVG end: 5 V
#\tVG start: -5 V
#\tVG step: 0.05 V
#Metadata:
#\tStart time: {start}
#Data:
Vg (V),I (A),Plate T (degC),Ambient T (degC),Clock (ms)
"""
ITS_HEADER = """\
#Procedure: <laser_setup.procedures.It.It>
#Parameters:
#\tIrange: 0.0001 A
#\tNPLC: 1
#\tT step start time: 120 s
#\tChip group name: Benchmark
#\tChip number: {chip}
#\tInformation: run {number} of the archive
#\tInitial (current) T: 0 C
#\tLaser ON+OFF period: 120 s
#\tLaser voltage: 1.4 V
#\tLaser wavelength: 365
#\tProcedure version: 2.2.0
#\tSample: A
#\tSampling time (excluding Keithley): 0 s
#\tTarget T: 25 C
#\tVDS: 0.1 V
#\tVG: -0.4 V
#Metadata:
#\tStart time: {start}
#Data:
t (s),I (A),VL (V),Plate T (degC),Ambient T (degC),Clock (ms)
"""
IV_HEADER = """\
#Procedure: <laser_setup.procedures.IV.IV>
#Parameters:
#\tIrange: 0.0001 A
#\tNPLC: 1
#\tBurn-in time: 600 s
#\tChip group name: Benchmark
#\tChip number: {chip}
#\tInformation: run {number} of the archive
#\tLaser voltage: 0 V
#\tLaser wavelength: 0
#\tProcedure version: 2.0.1
#\tSample: A
#\tStep time: 0 s
#\tVG: 0 V
#\tVSD end: 0.1 V
#\tVSD start: -0.1 V
#\tVSD step: 0.01 V
#Metadata:
#\tStart time: {start}
#Data:
Vsd (V),I (A),Plate T (degC),Ambient T (degC),Clock (ms)
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """One procedure of the archive: its share of the runs, header and ready bodies (rows joined, their line starts)."""

    prefix: str
    share: float
    header: str
    bodies: list[tuple[bytes, list[int]]]


def kinds(seed: int) -> list[Kind]:
    """Make the bodies: for each procedure one without temperature readings (`nan`) and one with them."""
    rng = random.Random(seed)
    made = []
    for prefix, share, header, lead in (
        ("IVg", 0.3, IVG_HEADER, _gate_sweep),
        ("It", 0.5, ITS_HEADER, _time_trace),
        ("IV", 0.2, IV_HEADER, _bias_sweep),
    ):
        bodies = [_joined([lead(rng, n) + _surroundings(rng, n, read) for n in range(BODY_ROWS)]) for read in (0, 1)]
        made.append(Kind(prefix, share, header.replace("\n", "\r\n"), bodies))
    return made


def _gate_sweep(rng: random.Random, n: int) -> str:
    vg = (-0.05 * n) % 10.0 - 5.0
    return f"{vg!r},{8e-6 + 2e-6 * vg + rng.gauss(0, 3e-8):.6e}"


def _time_trace(rng: random.Random, n: int) -> str:
    lit = n // 720 % 2
    return f"{n * 0.0834 + rng.random() * 1e-3:.7g},{1.38e-5 + 4e-7 * lit + rng.gauss(0, 3e-9):.6e},{1.4 * lit!r}"


def _bias_sweep(rng: random.Random, n: int) -> str:
    vsd = (-0.01 * n) % 0.2 - 0.1
    return f"{vsd!r},{vsd * 6.7e-5 + rng.gauss(0, 4e-9):.6e}"


def _surroundings(rng: random.Random, n: int, read: int) -> str:
    if not read:
        return ",nan,nan,nan"
    return f",{25 + rng.gauss(0, 0.05):.2f},{22 + rng.gauss(0, 0.1):.2f},{n * 83.4:.1f}"


def _joined(rows: list[str]) -> tuple[bytes, list[int]]:
    starts, offset = [], 0
    for row in rows:
        starts.append(offset)
        offset += len(row) + 2
    return ("\r\n".join(rows) + "\r\n").encode("ascii"), starts


def sizes(count: int, scale: float, rng: random.Random) -> list[int]:
    """Draw file sizes in bytes: the quantiles of the log-normal distribution, shuffled."""
    spread = math.sqrt(2 * math.log(MEAN_BYTES / MEDIAN_BYTES))
    normal = NormalDist(math.log(MEDIAN_BYTES * scale), spread)
    drawn = [min(int(math.exp(normal.inv_cdf((n + 0.5) / count))), LARGEST_BYTES) for n in range(count)]
    rng.shuffle(drawn)
    return drawn


def files(count: int, scale: float = 1.0, seed: int = 1) -> Iterator[tuple[str, bytes, float]]:
    """Yield relative path, bytes and mtime (seconds) of each file of the archive."""
    rng = random.Random(seed)
    found = kinds(seed)
    clock = FIRST_START
    for number, size in enumerate(sizes(count, scale, rng)):
        day = f"2024-{1 + number // RUNS_A_DAY // 28 % 12:02d}-{1 + number // RUNS_A_DAY % 28:02d}"
        kind = rng.choices(found, [kind.share for kind in found])[0]
        clock += rng.uniform(60, 600)
        header = kind.header.format(chip=1 + rng.randrange(CHIPS), number=number, start=repr(clock + rng.random()))
        rows = max(size - len(header), 200)
        path = f"block-{number // RUNS_A_DAY // 336:02d}/{day}/{kind.prefix}{day}_{number % RUNS_A_DAY + 1}.csv"
        yield path, header.encode("ascii") + _stretch(*rng.choice(kind.bodies), rows, rng), clock + 60


def _stretch(body: bytes, starts: list[int], size: int, rng: random.Random) -> bytes:
    """Cut about `size` bytes of whole rows out of an endless repetition of `body`."""
    begin = rng.choice(starts)
    data = body[begin : begin + size]
    while len(data) < size:
        data += body[: size - len(data)]
    return data[: data.rfind(b"\n") + 1] or body[: starts[1]]


def write(root: Path, count: int, scale: float = 1.0, seed: int = 1) -> tuple[int, int]:
    """Write the archive below `root`; return its bytes and the median file size."""
    written = []
    folder = None
    for name, data, mtime in files(count, scale, seed):
        path = root / name
        if path.parent != folder:
            folder = path.parent
            folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (mtime, mtime))
        written.append(len(data))
    return sum(written), sorted(written)[count // 2]


def main() -> None:
    """Write an archive from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--scale", type=float, default=1.0, help="file sizes as a share of the real ones (1)")
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    total, median = write(wanted.root, wanted.count, wanted.scale, wanted.seed)
    print(
        f"{wanted.count} files, {total / 1e6:.0f} MB, median {median / 1e3:.1f} kB, "
        f"mean {total / wanted.count / 1e3:.1f} kB"
    )


if __name__ == "__main__":
    main()
