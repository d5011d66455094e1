"""Bytes chosen by coverage: atheris feeds the readers, in a process of its own, and keeps what a reader fails on."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from lived import FULL

FUZZ = Path(__file__).parent / "fuzz"
SECONDS = 300 if FULL else 5
READERS = ["header", "run", "table", "parameters", "segment", "record", "config", "history", "parquet", "logline"]

needs_atheris = pytest.mark.skipif(
    find_spec("atheris") is None, reason="atheris is not installed: it has wheels for CPython on 64-bit x86 Linux only"
)


def fuzz(target: str, place: Path, *options: str) -> tuple[int, str]:
    """Fuzz a target, or feed it a file again; return the exit code and what was printed.

    A shell starts it: the kernel counts the peak memory of whoever starts a process as that process's own, and the
    tests before this one may have needed more than the fuzzer allows.
    """
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    command = [*shell, sys.executable, str(FUZZ), target, str(place), *options]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS + 120, check=False)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def told(output: str, place: Path, target: str) -> str:
    """Say what a fuzzer found and how to see it again."""
    cause = output.partition("=== Uncaught Python exception: ===")[2].partition("\n\n")[0] or output[-3000:]
    files = [path for path in place.iterdir() if re.match("(crash|timeout|oom|slow-unit)-", path.name)]
    again = "\n".join(f"{sys.executable} {FUZZ} {target} {path}" for path in files)
    return f"{cause}\n{[path.read_bytes()[:300] for path in files]}\nagain:\n{again}"


@needs_atheris
@pytest.mark.timeout(SECONDS + 180)
@pytest.mark.parametrize("target", READERS)
def test_only_documented_errors_come_out(target: str, tmp_path: Path) -> None:
    """Bytes that reach ever more of a reader bring out values and documented errors, in bounded time and memory."""
    code, output = fuzz(target, tmp_path, "-seed=1", f"-max_total_time={SECONDS}")
    assert code == 0, told(output, tmp_path, target)
    runs = re.search(r"number_of_executed_units: (\d+)", output)
    covered = re.findall(r" cov: (\d+) ", output)
    assert runs is not None, output[-3000:]
    assert int(runs[1]) > 100, "so few inputs prove nothing"
    assert covered, output[-3000:]
    memory = re.search(r"peak_rss_mb: *(\d+)", output)
    print(f"fuzz {target}: {runs[1]} runs in {SECONDS} s, {covered[-1]} edges, {memory and memory[1]} MB")


@needs_atheris
def test_the_fuzzer_finds_what_only_coverage_leads_to(tmp_path: Path) -> None:
    """A fault behind four bytes, each of which opens a branch, is found, told and repeated from its file."""
    code, output = fuzz("planted", tmp_path, "-seed=1", "-runs=5000000", "-max_total_time=60")
    assert code != 0
    assert "KeyError: 'planted'" in told(output, tmp_path, "planted")
    (found,) = tmp_path.glob("crash-*")
    code, output = fuzz("planted", found)
    assert code == 1
    assert "KeyError: 'planted'" in output


def test_every_target_is_run() -> None:
    """The targets that stand in the folder are those that the test starts."""
    names = "import targets; print(*targets.TARGETS)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(FUZZ), *map(str, FUZZ.parents[:2])]}; {names}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == READERS
