"""Ctrl-C and SIGTERM on a running backfill: what was staged is in the manifest, and the next run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from commands import REPOSITORY, Folder
from measurement import Measurement
from waiting import wait_until

import ingestd
from ingestd.errors import UsageError

FILES = 2000


@pytest.fixture(scope="session")
def _many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Folder(tmp_path_factory.mktemp("many"))
    for number in range(FILES):
        start = 1758632155.25 + number
        folder.put(f"day/It_{number}.csv", Measurement(start=start, chip=number % 5, sample=number).data)
    return folder.raw


@pytest.fixture
def many(folder: Folder, _many: Path) -> Folder:
    """A folder with some thousand raw files, too many to be staged before a signal arrives."""
    folder.raw.parent.mkdir()
    folder.raw.symlink_to(_many)
    return folder


def staged(folder: Folder) -> int:
    """Count the runs in the manifest, 0 before there is one."""
    try:
        return ingestd.load_manifest(folder.path / "data").height
    except UsageError:
        return 0


def stopped(folder: Folder, number: signal.Signals, *, times: int, group: bool = False) -> tuple[int, str, str]:
    """Start a backfill, signal it as soon as something is staged, and return exit code, stdout and stderr."""
    with folder.start("backfill", "--workers", "2") as process:
        try:
            wait_until(lambda: staged(folder) > 0, "something is staged", every_s=0.01)
            for _ in range(times):
                (os.killpg if group else os.kill)(process.pid, number)
                if times > 1:
                    _wait_for_answer(process)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, out, err


def _wait_for_answer(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    process.stderr.readline()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_stops_after_the_files_in_hand(many: Folder, number: signal.Signals, code: int) -> None:
    """A signal to the whole group, as a terminal sends it, leaves manifest, histories and report whole."""
    ended, out, err = stopped(many, number, times=1, group=number == signal.SIGINT)
    assert ended == code
    assert "Traceback" not in err, err
    assert err.startswith("stopping: finishing the current files")
    assert err.endswith("stopped before the end; the same command goes on from there\n")
    done = staged(many)
    assert 0 < done < FILES
    assert f"{done:>8,}  staged ({done:,} new)\n" in out
    assert "5 histories written in data/histories\n" in out
    assert (many.path / "data" / "02_stage" / "_manifest" / "manifest.parquet").exists()
    report = many.run("backfill", "--json").json
    assert (report["exit_code"], report["staged"], report["known"]) == (0, FILES - done, done)


def test_a_second_signal_stops_at_once(many: Folder) -> None:
    """The second Ctrl-C ends the process without a report; what was committed counts, the next run stages the rest."""
    ended, out, err = stopped(many, signal.SIGINT, times=2)
    assert (ended, out) == (130, "")
    assert "Traceback" not in err
    done = staged(many)
    assert 0 < done < FILES
    report = many.run("backfill", "--json").json
    assert (report["exit_code"], report["staged"] + report["known"]) == (0, FILES)
    assert staged(many) == FILES


def test_a_signal_while_the_command_is_loaded_ends_it_quietly(folder: Folder, tmp_path: Path) -> None:
    """Ctrl-C in the first moments, before any command has begun, says nothing either."""
    module = tmp_path / "early" / "typer.py"
    module.parent.mkdir()
    module.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n", "utf-8")
    done = folder.run("status", environment={"PYTHONPATH": f"{module.parent}:{REPOSITORY}"})
    assert (done.code, done.out, done.err) == (130, "", "")
