"""SIGKILL at every change of the disk that one cycle of ingest, histories and compaction makes; then a plain start."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from crash_cases import PYTHONPATH, chosen, crash
from lived import FULL

DEFAULT_CASES = 30


@pytest.mark.timeout(7200)
def test_a_kill_at_any_change_costs_nothing(template: Path, tmp_path: Path, figure: Callable[[str, int], None]) -> None:
    """Killed just before any change of the disk or in the middle of a write, a plain start makes all good."""
    (undisturbed,) = crash(template, tmp_path, [str(10**9)])
    assert (undisturbed["ended"], undisturbed["well"]) == ([0], 0)
    count = undisturbed["calls"]
    assert count > 100
    cases = [str(number) for number in chosen(count, DEFAULT_CASES)]
    found = crash(template, tmp_path, cases)
    assert [one for one in found if one["ended"] != [-9]] == []
    assert [one for one in found if one["well"] != 0] == []
    figure(f"kill (of {count})", len(found))


@pytest.mark.timeout(7200)
def test_a_kill_of_the_start_after_a_kill_costs_nothing(
    template: Path, tmp_path: Path, figure: Callable[[str, int], None]
) -> None:
    """The start that follows a kill may be killed anywhere as well."""
    seeds = random.Random(5)  # any seed does; this one makes the cases the same every time
    cases = [f"{seeds.randrange(1, 180)},{seeds.randrange(1, 180)}" for _ in range(100 if FULL else 6)]
    found = crash(template, tmp_path, cases)
    assert [one for one in found if one["well"] != 0] == []
    figure("kill, and the start after it", len(found))


@pytest.mark.timeout(7200)
def test_a_kill_before_all_changes_are_taken_back_costs_nothing(
    template: Path, tmp_path: Path, figure: Callable[[str, int], None]
) -> None:
    """Killed anywhere, then every new file is gone and every edit taken back: no Parquet is left without its row."""
    (undisturbed,) = crash(template, tmp_path, [str(10**9)])
    cases = [str(number) for number in chosen(undisturbed["calls"], DEFAULT_CASES)]
    found = crash(template, tmp_path, cases, raw=template.parent / "before")
    assert [one for one in found if one["ended"] != [-9]] == []
    assert [one for one in found if one["well"] != 0] == []
    figure("kill, and all taken back", len(found))


# ---- the same at system calls, with strace ---------------------------------------------------------------------------

CALLS = (
    "write,writev,pwrite64,pwritev,fsync,fdatasync,syncfs,sync_file_range,ftruncate,rename,renameat,renameat2,mkdir,"
    "mkdirat,unlink,unlinkat,rmdir,link,linkat,symlink,symlinkat,open,openat,utimensat,fallocate,copy_file_range"
)
CYCLE = """
import os, sys
from pathlib import Path
import lived
archive = lived.reopened(Path(sys.argv[1]))
os.mkdir(sys.argv[2])
lived.plain_start(archive)
os.mkdir(sys.argv[2] + "-done")
"""
START = """
import sys
from pathlib import Path
import crash
crash.starts_well(Path(sys.argv[1]), Path(sys.argv[2]))()
"""
DEFAULT_STRACED = 4


def traced(root: Path, work: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run one cycle under strace; folders in `work` mark where it begins and ends."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    command = ["strace", "-f", "-o", str(work / "log"), "-e", f"trace={CALLS}", *options]
    return subprocess.run(
        [*command, sys.executable, "-c", CYCLE, str(root), str(work / "begin")],
        env={"PYTHONPATH": PYTHONPATH, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def calls_of(log: Path) -> list[tuple[str, int]]:
    """List the changing system calls of the first thread within the cycle, each with its number among its name."""
    counts: Counter[str] = Counter()
    found, main, within = [], "", False
    for line in log.read_text(errors="replace").splitlines():
        if (match := re.match(r"(\d+) +(\w+)\((.*)", line)) is None:
            continue
        thread, name, given = match.groups()
        main = main or thread
        if thread != main:
            continue
        counts[name] += 1
        if "/begin" in given:
            within = "-done" not in given
        elif within and (name not in {"open", "openat"} or re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", given)):
            found.append((name, counts[name]))
    return found


@pytest.fixture(scope="module")
def strace() -> None:
    """Skip where strace is not installed or may not trace."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (Debian: apt-get install strace)")
    tried = subprocess.run(
        ["strace", "-f", "-e", "inject=getppid:signal=KILL", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"strace may not trace here: {tried.stderr.strip().splitlines()[-1:]}")


@pytest.mark.timeout(14400)
@pytest.mark.usefixtures("strace")
def test_a_kill_at_any_system_call_costs_nothing(
    template: Path, tmp_path: Path, figure: Callable[[str, int], None]
) -> None:
    """Killed by the kernel at the entry of any system call that changes the disk, a plain start makes all good."""
    work = tmp_path / "work"
    first = tmp_path / "first"
    subprocess.run(["cp", "-a", template, first], check=True)
    assert traced(first, work).returncode == 0
    calls = calls_of(work / "log")
    assert {"write", "fsync", "syncfs", "rename", "mkdir", "unlink", "pwrite64", "openat"} <= {
        name for name, _ in calls
    }
    expected = template.parent / "expected"
    wanted = chosen(len(calls), DEFAULT_STRACED)

    def killed(case: int) -> tuple[str, bool, str]:
        name, number = calls[case - 1]
        root, place = tmp_path / f"case-{case}", tmp_path / f"work-{case}"
        subprocess.run(["cp", "-a", template, root], check=True)
        traced(root, place, "-e", f"inject={name}:signal=KILL:when={number}")
        started = subprocess.run(
            [sys.executable, "-c", START, str(root), str(expected)],
            env={"PYTHONPATH": PYTHONPATH, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if started.returncode == 0:
            shutil.rmtree(root)
        return f"{name} {number}", not (place / "begin-done").exists(), started.stderr[-2000:]

    with ThreadPoolExecutor(2) as two:
        found = list(two.map(killed, wanted))
    assert [(name, errors) for name, _, errors in found if errors] == []
    # Looking at /proc opens another number of files each time, so the last openat may lie behind the cycle.
    assert [name for name, reached, _ in found if not reached and not name.startswith("openat")] == []
    figure(f"kill by the kernel (of {len(calls)})", sum(reached for _, reached, _ in found))
