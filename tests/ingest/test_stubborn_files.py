"""Files that cannot be decided as usual: each is told with its reason, and keeps no other file waiting."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from archive import Archive
from inline import inline
from measurement import Measurement

from ingestd.backfill.run import Options, backfill
from ingestd.cli.report import exit_code
from ingestd.errors import Corrupt, LockHeld, Retry
from ingestd.files import FileStat, Lock, look
from ingestd.ingest.commit import opened
from ingestd.ingest.deciding import Decider
from ingestd.manifest.record import Event
from ingestd.manifest.store import ManifestStore
from ingestd.raw.settling import Observation, State
from ingestd.settings import load_settings
from ingestd.stage import run as stage

RUN = Measurement()
A, B, C = "2025-09-23/It_1.csv", "2025-09-23/It_2.csv", "backup/It_1.csv"
LATER = RUN.but(start=1758700000.5, sample=7)
FAR = 2**63 // 10**9 + 10**9
"""Seconds of an mtime that 64 bits of nanoseconds do not hold: in the year 2293."""


@pytest.mark.parametrize("data", [RUN.data, RUN.but(rows=0).data, b"", b"no measurement\n"])
@pytest.mark.parametrize("first", [False, True])
def test_an_mtime_beyond_all_clocks_is_taken(archive: Archive, data: bytes, first: bool) -> None:
    """A file dated in the year 2293 is decided once, whatever is in it, and the log can be read afterwards."""
    path = archive.put(A, data)
    if not first:
        archive.backfill()
    try:
        os.utime(path, (FAR, FAR))
    except OverflowError:
        pytest.skip("the file system takes no such time")
    if path.stat().st_mtime_ns < 2**63:
        pytest.skip("the file system holds no such time")
    assert archive.backfill() != []
    assert archive.backfill() == []
    assert ManifestStore(archive.layout).catalog.is_current(A, (len(data), 2**63 - 1))
    archive.put(B, LATER.data)
    assert archive.backfill() == [("ingested", B)]


def chipless(archive: Archive) -> str:
    """Stage a run whose chip only its file's name tells; return its id."""
    name = "Alisson67_015.csv"
    lines = RUN.data.split(b"\r\n")
    archive.put(name, b"\r\n".join(line for line in lines if b"Chip" not in line))
    assert archive.backfill() == [("ingested", name)]
    return archive.live()[name].run_id


def test_a_moved_file_that_its_new_name_does_not_allow(archive: Archive) -> None:
    """A run renamed so that its chip is told no more: rejected with the reason, once; the run stays as it was."""
    run_id = chipless(archive)
    archive.move("Alisson67_015.csv", "renamed.csv")
    assert archive.backfill() == [("rejected", "renamed.csv")]
    (rejected,) = archive.report.rejected
    assert (rejected.reason.code, exit_code(archive.report)) == ("missing-chip", 1)
    assert archive.backfill() == []
    assert archive.live()["Alisson67_015.csv"].run_id == run_id
    archive.move("renamed.csv", "Alisson67_016.csv")
    assert archive.backfill() == [("moved", "Alisson67_016.csv")]
    assert archive.live()["Alisson67_016.csv"].run_id == run_id


def test_a_moved_file_that_cannot_be_staged_again(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is among those that failed, with the reason, and is moved when it can be staged."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.move(A, B)

    def refuse(task: stage.StageTask, context: stage.StageContext) -> Any:
        if task.run_id:  # staged once more, under the id it has
            raise MemoryError(task.source_file)
        return (yield from real(task, context))

    real = stage._steps
    monkeypatch.setattr(stage, "_steps", refuse)
    archive.backfill_amid()
    report = archive.report
    (failed,) = report.failed
    assert (failed.source_file, failed.message, exit_code(report)) == (B, "not enough memory to read it", 1)
    assert not report.events
    monkeypatch.undo()
    assert archive.backfill() == [("moved", B)]


def test_a_fault_of_ours_costs_one_file(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen error in one decision leaves the others of the batch as they would be; nothing is put in place."""
    real = Decider._put

    def put(self: Decider, event: Any, outcome: stage.Staged, placing: Any, old: Any = None) -> Any:
        record = real(self, event, outcome, placing, old)
        if record.source_file == A:
            raise ZeroDivisionError("never foreseen")
        return record

    archive.put(A, RUN.data)
    archive.put(B, LATER.data)
    monkeypatch.setattr(Decider, "_put", put)
    archive.backfill_amid()
    report = archive.report
    (failed,) = report.failed
    words = "ingestd itself failed on this file: ZeroDivisionError: never foreseen"
    assert (failed.source_file, failed.message, report.events) == (A, words, {Event.INGESTED: 1})
    monkeypatch.undo()
    assert archive.backfill() == [("ingested", A)]


@pytest.mark.parametrize(
    "error",
    [pa.ArrowException("Unknown error: Failed to launch worker thread: x"), RuntimeError("can't start new thread")],
)
def test_a_thread_that_the_system_refuses_blames_no_file(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What would fail with every file ends the run, and says what to allow."""

    def parse_head(*_: object) -> None:
        raise error

    archive.put(A, RUN.data)
    archive.put(B, LATER.data)
    monkeypatch.setattr("ingestd.raw.run.parse_head", parse_head)
    archive.backfill_amid()
    report = archive.report
    assert report.stopped_by is not None
    assert (report.stopped_by.message, report.failed) == (f"no thread can be started: {error}", [])
    assert "TasksMax" in report.stopped_by.next_step
    monkeypatch.undo()
    assert sorted(archive.backfill()) == [("ingested", A), ("ingested", B)]


def test_a_file_that_cannot_be_looked_at_again_is_told(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was written a moment ago; at the second look the disk does not answer: that is no file that is gone."""
    archive.put(A, RUN.data)

    def refuse(_: Path, __: str) -> FileStat:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(archive.raw / A))

    monkeypatch.setattr("ingestd.backfill.run.state_below", refuse)
    just_now = datetime.fromtimestamp((archive.raw / A).stat().st_mtime, UTC)
    assert archive.backfill_amid(clock=lambda: just_now) == []
    (failed,) = archive.report.failed
    assert (failed.source_file, failed.message, exit_code(archive.report)) == (A, "Input/output error", 1)
    monkeypatch.undo()
    assert archive.backfill() == [("ingested", A)]


def test_a_second_look_follows_no_link(archive: Archive, tmp_path: Path) -> None:
    """The file's folder was moved out of the raw files meanwhile, and linked from there: a scan would not find it."""
    path = archive.put("day/It_1.csv", RUN.data)
    just_now = datetime.fromtimestamp(path.stat().st_mtime, UTC)

    def link(_: object) -> None:
        if not path.parent.is_symlink():
            path.parent.rename(tmp_path / "away")
            path.parent.symlink_to(tmp_path / "away")

    report = backfill(archive.settings, Options(engine=inline, clock=lambda: just_now, on_progress=link))
    assert (path.parent.is_symlink(), report.ended_early) == (True, False)
    assert archive.live() == {}


def test_a_manifest_that_goes_away_amid_a_commit_ends_in_a_report(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stopped the backfill is told, and what is left, though the manifest cannot be read again."""
    archive.put(A, RUN.data)
    archive.put(B, LATER.data)

    def refuse(*_: object) -> None:
        raise Retry("the disk is away")

    def append(*_: object) -> None:
        monkeypatch.setattr("ingestd.manifest.log.replay", refuse)
        refuse()

    monkeypatch.setattr("ingestd.manifest.log.append", append)
    assert archive.backfill_amid() == []
    report = archive.report
    assert report.stopped_by is not None
    assert (report.stopped_by.message, report.failed) == ("the disk is away", [])
    monkeypatch.undo()
    assert sorted(archive.backfill()) == [("ingested", A), ("ingested", B)]


@pytest.mark.parametrize("held", ["lock_path", "histories_lock_path"])
def test_a_process_that_keeps_a_lock_ends_it_in_a_report(tmp_path: Path, held: str) -> None:
    """It is named; what was committed is told and stays, and the next backfill does the rest."""
    archive = Archive(tmp_path, manifest={"lock_timeout_s": 0.01})
    archive.put(A, RUN.data)
    archive.put(B, LATER.data)
    with Lock(getattr(archive.layout, held)).held():
        decided = archive.backfill_amid()
    report = archive.report
    assert isinstance(report.stopped_by, LockHeld)
    assert f"pid {os.getpid()} on " in report.stopped_by.message
    assert (report.staged, report.left, exit_code(report)) == (len(decided), 2 - len(decided), 2)
    archive.backfill()
    assert archive.history(72) == [A, B]


def test_a_damaged_log_is_no_fault_of_a_file(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with the manifest ends the backfill: it is not told of a file."""

    def damaged(*_: object) -> None:
        raise Corrupt("the table is damaged")

    archive.put(A, RUN.data)
    monkeypatch.setattr(Decider, "decide", damaged)
    archive.backfill_amid()
    assert str(archive.report.stopped_by) == "the table is damaged"
    assert (archive.report.left, archive.report.failed) == (1, [])


def test_a_file_of_any_size_keeps_none_waiting(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file too large to be taken is not read for that: not when it is new, nor when it was touched."""
    path = archive.put(A, b"")
    os.truncate(path, 2**40)
    archive.touch(A)
    archive.put(B, LATER.data)
    monkeypatch.setattr(look, "sha256_of", unwanted)
    monkeypatch.setattr("ingestd.files.sha256_of", unwanted)
    archive.backfill_amid()
    report = archive.report
    assert (report.rejected[0].source_file, report.rejected[0].reason.code) == (A, "too-large")
    assert report.events == {Event.INGESTED: 1, Event.REJECTED: 1}
    assert not archive.backfill_amid()
    archive.touch(A)
    assert [event for event, _ in archive.backfill_amid()] == [Event.REJECTED]


def unwanted(path: Path) -> str:
    """Fail, instead of reading a file whole."""
    raise AssertionError(f"{path} is read")


def test_a_run_above_a_lowered_limit_is_known_by_its_bytes(tmp_path: Path) -> None:
    """A run that was staged when larger files were taken is rejected nowhere when it is touched."""
    archive = Archive(tmp_path)
    archive.put(A, RUN.but(rows=40_000).data)
    archive.backfill()
    archive.touch(A)
    small: dict[str, dict[str, Any]] = {
        "paths": {"data_root": archive.root},
        "stage": {"max_file_mib": 0.5, "workers": 1},
    }
    archive.settings = load_settings(tmp_path / "config.toml", small)
    assert archive.backfill() == [("unchanged", A)]


@pytest.mark.parametrize("then", ["another", "gone", "a link"])
def test_a_file_that_changes_while_it_is_read_is_waited_for(archive: Archive, then: str) -> None:
    """It counts as running, with a kind of reason of its own, and nothing of it is staged."""
    path = archive.put(A, RUN.data)
    task = stage.StageTask(A, look.stat_of(path.stat()), Observation(1e6, ""), archive.now())
    archive.put(A, LATER.data)
    if then != "another":
        path.rename(path.with_name("moved.csv"))
    if then == "a link":
        path.symlink_to("moved.csv")
    with opened(archive.settings) as ingest:
        (waiting,) = stage.stage_batch([task], ingest.context)
    assert isinstance(waiting, stage.Waiting)
    assert (waiting.verdict.state, waiting.verdict.code) == (State.RUNNING, "changed")


# ---- another measurement saved over a run's file ---------------------------------------------------------------------


def test_a_copy_counts_when_another_measurement_took_its_originals_place(archive: Archive) -> None:
    """A measurement whose only file is its backup by now is there: in the same backfill, and once."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.copy(A, C)
    archive.copy(A, "backup/It_2.csv")
    archive.backfill()
    archive.put(A, LATER.data)
    events = archive.backfill()
    assert events[0] == ("ingested", A)
    assert sorted(event for event, _ in events[1:]) == ["moved", "unchanged"]
    assert {row.start_time_utc.timestamp() for row in archive.live().values()} == {RUN.start, LATER.start}
    assert archive.backfill() == []


@pytest.mark.parametrize("rows", [3, 5])
def test_a_copy_from_before_a_corrected_start_stays_a_copy(archive: Archive, rows: int) -> None:
    """With the same rows, or more of them, it is the same measurement still: its backup counts nowhere, as told."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.copy(A, C)
    archive.backfill()
    archive.put(A, RUN.but(start=1758632200.5, rows=rows).data)
    assert archive.backfill() == [("superseded", A)]
    assert list(archive.live()) == [A]
    assert archive.backfill() == []
