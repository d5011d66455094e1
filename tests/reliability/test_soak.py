"""Lab days with random faults, at speed: in the end the manifest is the one made from raw alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from crash_cases import HERE, PYTHONPATH
from lived import FULL

FIRST = int(os.environ.get("SOAK_SEED", "1"))
SEEDS = range(FIRST, FIRST + (6 if FULL else 1))
TURNS = 80 if FULL else 25


@pytest.mark.timeout(7200)
def test_days_of_a_lab_where_everything_goes_wrong(tmp_path: Path, figure: Callable[[str, int], None]) -> None:
    """After every fault a start makes all good; no run is ever lost; the end equals a backfill of the raw files."""

    def lived_through(seed: int) -> subprocess.CompletedProcess[str]:
        (tmp_path / str(seed)).mkdir()
        return subprocess.run(
            [sys.executable, str(HERE / "soak.py"), str(tmp_path / str(seed)), str(seed), str(TURNS)],
            env={"PYTHONPATH": PYTHONPATH},
            capture_output=True,
            text=True,
            check=False,
        )

    with ThreadPoolExecutor(2) as two:
        for seed, done in zip(SEEDS, two.map(lived_through, SEEDS), strict=True):
            assert done.returncode == 0, f"soak.py FOLDER {seed} {TURNS}: {done.stderr[-6000:]}"
            assert json.loads(done.stdout.splitlines()[0])["runs"] > 10
    figure(f"soak, turns of {len(SEEDS)} seeds", len(SEEDS) * TURNS)
