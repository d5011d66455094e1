"""Lab days with random faults, at speed: in the end the manifest is the one made from raw alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from crash_cases import HERE, PYTHONPATH
from lived import FULL

SEEDS = range(int(os.environ.get("SOAK_SEED", "1")), int(os.environ.get("SOAK_SEED", "1")) + (8 if FULL else 1))
TURNS = 400 if FULL else 25


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", SEEDS)
def test_days_of_a_lab_where_everything_goes_wrong(seed: int, tmp_path: Path) -> None:
    """After every fault a start makes all good; no run is ever lost; the end equals a backfill of the raw files."""
    done = subprocess.run(
        [sys.executable, str(HERE / "soak.py"), str(tmp_path), str(seed), str(TURNS)],
        env={"PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert ends[0]["runs"] > 10
    print(ends)
