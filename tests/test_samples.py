"""The sample data is what data/README.md says, and the script in tools/ makes it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def data_lines(raw: bytes) -> list[str]:
    """Return the lines below the column names."""
    return raw.decode("utf-8").partition("#Data:\n")[2].splitlines()[1:]


@pytest.mark.skipif(importlib.util.find_spec("pymeasure") is None, reason="pymeasure (dev group) is not installed")
def test_the_script_makes_the_sample_data_byte_for_byte(repository: Path, samples: Path, tmp_path: Path) -> None:
    """Running `tools/make_samples.py` gives exactly the files in data/01_raw, and says nothing but how many."""
    script = repository / "tools" / "make_samples.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"22 files in {tmp_path}\n", "")
    assert files_of(tmp_path) == files_of(samples)


def test_sample_data_is_small(samples: Path) -> None:
    """A clone stays light: the sample data is smaller than 600 kB."""
    assert sum(len(raw) for raw in files_of(samples).values()) < 600_000


def test_sample_data_has_one_queued_one_aborted_and_one_broken_run(samples: Path) -> None:
    """One file has no row and no start time, one is short, one has a row of another width than its column line."""
    files = files_of(samples)
    rows = {name: data_lines(raw) for name, raw in files.items()}
    assert [name for name in files if not rows[name]] == ["2026-03-13/It2026-03-13_5.csv"]
    assert [name for name in files if b"Start time" not in files[name]] == ["2026-03-13/It2026-03-13_5.csv"]
    assert [name for name in files if 0 < len(rows[name]) < 50] == ["2026-03-13/It2026-03-13_3.csv"]
    widths = {name: {line.count(",") for line in lines} for name, lines in rows.items()}
    assert [name for name in files if len(widths[name]) > 1] == ["2026-03-12/IV2026-03-12_3.csv"]


def test_sample_data_reads_like_the_lab_s(lab: Path, samples: Path) -> None:
    """For every procedure, header labels, their order and the column line are those of a real file of the lab."""

    def labels(raw: bytes) -> tuple[str, ...]:
        header, _, table = raw.decode("utf-8").replace("\r\n", "\n").partition("#Data:\n")
        lines = header.splitlines()
        return lines[0], *(line.partition(": ")[0] for line in lines[1:]), table.partition("\n")[0]

    real = {labels(raw) for raw in files_of(lab / "01_raw").values()}
    for name, raw in files_of(samples).items():
        assert labels(raw) in real, name
