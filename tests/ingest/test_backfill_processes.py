"""Backfills in real processes: any number of workers, workers and parents that are killed, two at once, full disks."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from archive import Archive
from inline import FIND_INLINE, inline
from measurement import BROKEN, Measurement
from mounts import fill
from poison import POISON, PoisonRegistry
from waiting import wait_until

from ingestd.backfill.report import Report
from ingestd.backfill.run import Options, backfill
from ingestd.manifest.record import Event, Record
from ingestd.settings import Settings
from ingestd.stage.engine import ProcessEngine
from ingestd.stage.run import StageContext

RUN = Measurement()
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BACKFILL = (
    FIND_INLINE
    + """
import json, os, sys
from pathlib import Path
from ingestd.backfill.run import Options, backfill
from inline import inline
from ingestd.settings import load_settings

config, root, workers = sys.argv[1:4]
settings = load_settings(
    Path(config), {"paths": {"data_root": Path(root)}, "stage": {"workers": int(workers) or None, "batch_files": 8}}
)
records = []
chosen = {} if int(workers) else {"engine": inline}

def tell(record):
    records.append(record.event.value)

if __name__ == "__main__":
    report = backfill(settings, Options(on_record=tell, **chosen))
    stopped = report.stopped_by
    print(json.dumps({
        "events": dict(report.events), "failed": len(report.failed), "rejected": len(report.rejected),
        "stopped_by": stopped and [stopped.message, stopped.place, stopped.next_step],
    }))
"""
)


def many(archive: Archive, count: int) -> list[str]:
    """Put `count` different runs of three chips in; return their names."""
    names = [f"day{number % 5}/It_{number}.csv" for number in range(count)]
    for number, name in enumerate(names):
        archive.put(name, RUN.but(start=1758632155.25 + number, sample=number, chip=67 + number % 3).data)
    return names


def events_on_disk(archive: Archive) -> Counter[str]:
    """Count the event JSONs by event."""
    found = (json.loads(path.read_text("utf-8"))["event"] for path in archive.layout.events_dir.rglob("*.json"))
    return Counter(found)


def expect_all(archive: Archive, names: list[str]) -> None:
    """Every file has exactly one row, one Parquet, one event and one line in a history; nothing else is there."""
    rows = archive.rows()
    assert sorted(row.source_file for row in rows) == sorted(names)
    assert set(archive.layout.staged_root.rglob("*.parquet")) == {archive.staged(row) for row in rows}
    assert events_on_disk(archive) == {"ingested": len(names)}
    assert sorted(name for chip in (67, 68, 69) for name in archive.history(chip)) == sorted(names)
    assert [path.name for path in archive.layout.temporary_root.iterdir()] == ["sweep.lock"]


def command(archive: Archive, workers: int) -> list[str]:
    """Return the command line of a backfill in a process of its own."""
    return [
        *(sys.executable, "-c", BACKFILL),
        *(str(archive.root.parent / "config.toml"), str(archive.root), str(workers)),
    ]


# ---- how many workers ------------------------------------------------------------------------------------------------


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    """Inline, with 1, 2 and 3 workers: same manifest, same notes, same histories, same Parquet, byte for byte."""
    results = []
    for workers in (0, 1, 2, 3):
        archive = Archive(tmp_path / str(workers), stage={"workers": workers or 1, "batch_files": 4})
        names = many(archive, 40)
        archive.copy(names[0], "copy.csv")
        archive.put("broken.csv", BROKEN)
        archive.put("queued.csv", RUN.but(rows=0).data)
        options: dict[str, Any] = {} if workers else {"engine": inline}
        report = backfill(archive.settings, Options(clock=lambda: NOON, **options))
        assert report.events == {"ingested": 40, "duplicate": 1, "rejected": 1, "queued": 1}
        kept = [archive.layout.manifest_path, archive.layout.known_files_path]
        kept += sorted([*archive.layout.staged_root.rglob("*.parquet"), *archive.layout.histories_dir.iterdir()])
        results.append({path.relative_to(archive.root): path.read_bytes() for path in kept})
    assert results[0] == results[1] == results[2] == results[3]
    assert len(results[0]) == 2 + 40 + 3


# ---- killed ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    """One worker shot in the middle: every file is staged, none is reported as failed, and two work on as before."""
    archive = Archive(tmp_path, stage={"workers": 2, "batch_files": 2})
    names = many(archive, 40)
    shot: list[int] = []
    alive: list[int] = []

    def shoot(_: Record) -> None:
        if not shot:
            shot.append(multiprocessing.active_children()[0].pid or 0)
            os.kill(shot[0], signal.SIGKILL)
        alive.append(len(multiprocessing.active_children()))

    report = backfill(archive.settings, Options(on_record=shoot))
    assert shot
    assert report.failed == []
    assert alive[-1] == 2
    expect_all(archive, names)


def test_a_file_that_kills_its_worker_is_reported_and_the_others_are_staged(tmp_path: Path) -> None:
    """Its worker dies, then a process of its own: it is a failed file, no reject, and tried again next time.

    Those that come before and after it in its batch are staged.
    """
    archive = Archive(tmp_path, stage={"workers": 2, "batch_files": 3})
    names = many(archive, 12)
    archive.put("day2/It_5_poison.csv", RUN.data.replace(b"It.It", f"It.{POISON}".encode(), 1))

    def poisoned(context: StageContext, settings: Settings) -> ProcessEngine:
        registry = PoisonRegistry(list(context.registry.procedures.values()))
        return ProcessEngine(replace(context, registry=registry), workers=2, threads=1)

    for _ in range(2):
        report = backfill(archive.settings, Options(engine=poisoned))
        (failed,) = report.failed
        assert failed.source_file == "day2/It_5_poison.csv"
        assert "died" in failed.message
        assert failed.next_step
        assert report.rejected == []
    expect_all(archive, names)


ORPHANS = """
import multiprocessing, os, signal
from pathlib import Path

def shoot_myself(record):
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

from ingestd.backfill.run import Options, backfill
from ingestd.settings import load_settings
import sys

if __name__ == "__main__":
    flags = {"paths": {"data_root": Path(sys.argv[2])}, "stage": {"workers": 2, "batch_files": 4}}
    backfill(load_settings(Path(sys.argv[1]), flags), Options(on_record=shoot_myself))
"""


def test_workers_end_with_their_parent_and_the_next_run_goes_on(archive: Archive) -> None:
    """The parent shot after its first commit: its workers end by themselves, the next run completes and sweeps."""
    names = many(archive, 40)
    command = [sys.executable, "-c", ORPHANS, str(archive.root.parent / "config.toml"), str(archive.root)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2
    wait_until(lambda: not any(_runs(pid) for pid in workers), "the workers of a dead backfill end")
    assert len(archive.rows()) == 4
    assert len(list(archive.layout.temporary_root.iterdir())) == 2  # the sweep's lock and the dead process's folder
    report = backfill(archive.settings, Options(engine=inline))
    assert report.events == {"ingested": 36}
    expect_all(archive, names)


def _runs(pid: int) -> bool:
    """Whether the process is alive; one that ended and waits to be collected is not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


# ---- two at once -----------------------------------------------------------------------------------------------------


def test_two_backfills_at_once_stage_every_file_once(archive: Archive) -> None:
    """Both run over the same 300 files: each file is one row and one decision, whichever of the two made it."""
    names = many(archive, 300)
    running = [
        subprocess.Popen(command(archive, 0), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=100) for process in running]
    reports = [json.loads(out) if out else pytest.fail(problem) for out, problem in answers]
    assert sum((Counter(report["events"]) for report in reports), Counter()) == {"ingested": 300}
    assert [report["failed"] for report in reports] == [0, 0]
    expect_all(archive, names)


# ---- full disks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1_000, 9_500, 20_000])
def test_a_write_the_disk_refuses_stops_the_run_and_nothing_is_blamed_on_a_file(archive: Archive, limit: int) -> None:
    """Wherever the writing fails (Parquet, log, event, history): no reject, a clean end, and the next run completes."""
    names = many(archive, 30)
    done = subprocess.run(
        command(archive, 0),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["rejected"], report["failed"]) == (0, 0)
    assert report["stopped_by"]
    assert report["stopped_by"][2]
    _complete(archive, names)


def test_a_full_disk_stops_the_run_and_the_next_one_goes_on_when_there_is_room(small_disk: Path) -> None:
    """No space left: no reject, a clean end that says so; with room again every run is there once."""
    archive = Archive(small_disk)
    names = many(archive, 30)
    filler = fill(small_disk, leave=150_000)
    report: Report = backfill(archive.settings, Options(engine=inline))
    assert report.stopped_by is not None
    assert "No space left" in report.stopped_by.message
    assert "free some space" in report.stopped_by.next_step
    assert (report.rejected, report.failed) == ([], [])
    assert report.events[Event.INGESTED] < 30
    filler.unlink()
    _complete(archive, names)


def _complete(archive: Archive, names: list[str]) -> None:
    backfill(archive.settings, Options(engine=inline))
    expect_all(archive, names)


def test_a_history_that_cannot_be_written_is_written_by_the_next_run(archive: Archive) -> None:
    """The log takes the new runs, their chip's long history does not fit: nothing is lost, the next run writes it."""
    names = many(archive, 150)
    backfill(archive.settings, Options(engine=inline))
    late = "late/It_999.csv"
    archive.put(late, RUN.but(start=1758700000.0, sample=999, chip=67).data)
    done = subprocess.run(
        command(archive, 0),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_500, 10_500)),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stopped_by"]
    assert late in archive.live()
    assert late not in archive.history(67)
    _complete(archive, [*names, late])
