"""Worker processes that cannot be run, from the start or from some moment on: no file is blamed for it."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterator
from concurrent.futures.process import _ExecutorManagerThread
from contextlib import contextmanager
from multiprocessing import resource_tracker, spawn
from pathlib import Path

import pyarrow as pa
import pytest
from archive import Archive
from breaking import Breakable
from measurement import Measurement
from waiting import LIMIT_S

from ingestd.backfill.run import Options, backfill
from ingestd.errors import NoWorkers
from ingestd.files import stat_of
from ingestd.ingest.commit import opened
from ingestd.manifest.record import Event, Record
from ingestd.raw.settling import Observation
from ingestd.stage import engine as engine_module
from ingestd.stage.engine import GivenUp, ProcessEngine
from ingestd.stage.run import ALLOW_MORE, StageTask
from ingestd.upkeep.repair import repair

RUN = Measurement()
SETTLED = Observation(1e6, "")


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Breakable:
    """The interpreter that worker processes are run with in this test."""
    resource_tracker.ensure_running()  # multiprocessing's own helper is no worker
    made = Breakable(tmp_path)
    monkeypatch.setattr(spawn, "_python_exe", os.fsencode(made.path))
    return made


def many(archive: Archive, number: int) -> list[str]:
    """Put so many runs in."""
    names = [f"It_{n:02}.csv" for n in range(number)]
    for n, name in enumerate(names):
        archive.put(name, RUN.but(start=1758632155.25 + n, sample=n).data)
    return names


def test_where_no_process_runs_a_backfill_says_so_once(tmp_path: Path, interpreter: Breakable) -> None:
    """After a handful of processes it ends: no file failed, all are left, and the next run stages them."""
    archive = Archive(tmp_path, stage={"workers": 2})
    names = many(archive, 20)
    interpreter.break_it()
    report = backfill(archive.settings)
    assert isinstance(report.stopped_by, NoWorkers)
    assert "each ended before it did anything" in report.stopped_by.message
    assert "import ingestd.stage.engine" in report.stopped_by.next_step
    assert (report.failed, report.rejected, report.left, dict(report.events)) == ([], [], 20, {})
    assert interpreter.lives() <= 4
    interpreter.mend()
    assert backfill(archive.settings).events == {Event.INGESTED: 20}
    assert sorted(archive.live()) == names


def test_a_process_that_ends_at_its_start_is_begun_again(tmp_path: Path, interpreter: Breakable) -> None:
    """Memory was short for a moment: the third one runs, and nobody has to begin the backfill again."""
    archive = Archive(tmp_path)
    (name,) = many(archive, 1)
    interpreter.break_it(lives=2)
    report = backfill(archive.settings)
    assert (report.stopped_by, report.failed, list(archive.live())) == (None, [], [name])
    assert interpreter.lives() == 3


def test_what_was_staged_before_no_process_ran_any_more_is_all_there(tmp_path: Path, interpreter: Breakable) -> None:
    """What was committed has its histories and its place in the manifest; nothing else is counted, or left behind."""
    archive = Archive(tmp_path, stage={"workers": 2, "batch_files": 2})
    names = many(archive, 30)
    shot: list[int] = []

    def shoot(_: Record) -> None:
        if not shot:
            interpreter.break_it()
            shot.extend(process.pid or 0 for process in multiprocessing.active_children())
            os.kill(shot[0], signal.SIGKILL)

    report = backfill(archive.settings, Options(on_record=shoot))
    assert shot
    assert isinstance(report.stopped_by, NoWorkers)
    done = report.events[Event.INGESTED]
    assert 2 <= done < 30
    assert (report.failed, report.left) == ([], 30 - done)
    assert sorted(archive.live()) == names[:done]
    assert sorted(archive.history(RUN.chip)) == names[:done]
    assert archive.layout.manifest_path.exists()
    assert [path.name for path in archive.layout.temporary_root.iterdir()] == ["sweep.lock"]
    interpreter.mend()
    assert backfill(archive.settings).events == {Event.INGESTED: 30 - done}


def test_a_repair_that_can_run_no_process_says_so(tmp_path: Path, interpreter: Breakable) -> None:
    """It does not end as if it had staged again what is missing."""
    archive = Archive(tmp_path)
    (name,) = many(archive, 1)
    archive.backfill()
    archive.staged(archive.live()[name]).unlink()
    interpreter.break_it()
    stopped = repair(archive.settings, apply=True)
    assert isinstance(stopped.stopped_by, NoWorkers)
    assert [(step.kind, step.paths) for step in stopped.steps] == [("stage-again", [name])]
    interpreter.mend()
    again = repair(archive.settings, apply=True)
    assert (again.left, again.stopped_by) == ([], None)
    assert archive.staged(archive.live()[name]).exists()


def test_about_two_batches_a_worker_are_in_hand(tmp_path: Path) -> None:
    """However many there are, the first is answered, and so decided, before most of them are handed out."""
    archive, taken = Archive(tmp_path), list[str]()
    work = tasks(archive, many(archive, 10))

    def batches() -> Iterator[list[StageTask]]:
        for task in work:
            taken.append(task.source_file)
            yield [task]

    with opened(archive.settings) as ingest, ProcessEngine(ingest.context, workers=1, threads=1) as engine:
        answers = engine.stage(batches(), lambda: False)
        next(answers)
        assert len(taken) == 3
        assert len(list(answers)) == 9


def test_a_pool_without_its_thread_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of a pool may not be able to begin another one, and end: nobody would answer any more."""
    archive = Archive(tmp_path)
    work = [[task] for task in tasks(archive, many(archive, 3))]
    with opened(archive.settings) as ingest:
        monkeypatch.setattr(_ExecutorManagerThread, "run", lambda _: None)
        engine = ProcessEngine(ingest.context, workers=1, threads=1)
        with engine, pytest.raises(NoWorkers, match="no process can be run"):
            list(engine.stage(work, lambda: False))
        assert multiprocessing.active_children() == []
        monkeypatch.undo()
        with engine:
            assert len(list(engine.stage(work, lambda: False))) == 3


def test_what_a_pool_without_its_thread_has_in_hand_is_staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first pool lost its thread: the next one answers for every batch, and none is waited for in vain."""
    archive = Archive(tmp_path)
    names = many(archive, 3)
    run, lost = _ExecutorManagerThread.run, list[_ExecutorManagerThread]()

    def run_unless_first(thread: _ExecutorManagerThread) -> None:
        if lost:
            run(thread)
        lost.append(thread)

    monkeypatch.setattr(_ExecutorManagerThread, "run", run_unless_first)
    late = time.monotonic() + LIMIT_S
    with opened(archive.settings) as ingest:
        engine = ProcessEngine(ingest.context, workers=1, threads=1, give_up=lambda: time.monotonic() > late)
        with engine:
            answers = list(engine.stage([[task] for task in tasks(archive, names)], lambda: False))
    assert [outcome.task.source_file for (outcome,) in answers] == names


def test_a_pool_that_is_given_up_begins_no_more_processes(tmp_path: Path, interpreter: Breakable) -> None:
    """A process dies, and nobody wants the answer any more: no other is begun in its place, and none runs on."""
    archive = Archive(tmp_path)
    work = [tasks(archive, many(archive, 1))]
    interpreter.break_it()
    with opened(archive.settings) as ingest:
        engine = ProcessEngine(ingest.context, workers=1, threads=1, give_up=lambda: True)
        with engine, pytest.raises(GivenUp):
            list(engine.stage(work, lambda: False))
        assert interpreter.lives() == 1
        assert multiprocessing.active_children() == []


def test_a_process_in_hand_is_killed_when_it_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for until it has begun, or staged what it has in hand."""
    archive = Archive(tmp_path)
    work = [tasks(archive, many(archive, 1))]
    with opened(archive.settings) as ingest:
        monkeypatch.setattr(engine_module, "POOL_CHECK_S", 0.0)
        engine = ProcessEngine(ingest.context, workers=1, threads=1, give_up=lambda: True)
        with engine, pytest.raises(GivenUp):
            list(engine.stage(work, lambda: False))
        assert multiprocessing.active_children() == []


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """Allow this process so many more open files for the block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def tasks(archive: Archive, names: list[str]) -> list[StageTask]:
    """Make tasks of settled files."""
    states = {name: stat_of((archive.raw / name).stat()) for name in names}
    return [StageTask(name, status, SETTLED, archive.now()) for name, status in states.items()]


@pytest.mark.parametrize("spare", [1, 16])
def test_a_process_that_the_system_refuses_blames_no_file(tmp_path: Path, spare: int) -> None:
    """With no descriptor left for the first process, or a later one, the error is the system's; none runs on."""
    archive = Archive(tmp_path)
    work = [[task] for task in tasks(archive, many(archive, 20))]
    resource_tracker.ensure_running()
    with opened(archive.settings) as ingest:
        with (
            few_descriptors(spare),
            pytest.raises(NoWorkers, match="Too many open files") as caught,
            ProcessEngine(ingest.context, workers=20, threads=1) as engine,
        ):
            list(engine.stage(work, lambda: False))
        assert caught.value.next_step == ALLOW_MORE
        assert multiprocessing.active_children() == []


def test_a_thread_that_the_system_refuses_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process had begun when the thread that would end it could not: it is ended all the same."""
    archive = Archive(tmp_path)

    def refuse(_: _ExecutorManagerThread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_ExecutorManagerThread, "start", refuse)
    with opened(archive.settings) as ingest:
        engine = ProcessEngine(ingest.context, workers=1, threads=1)
        with engine, pytest.raises(NoWorkers, match="can't start new thread") as caught:
            list(engine.stage([tasks(archive, many(archive, 1))], lambda: False))
    assert caught.value.next_step == ALLOW_MORE
    left = multiprocessing.active_children()
    for process in left:
        process.join(LIMIT_S)
    assert not [process for process in left if process.is_alive()]


class Noted:
    """Notes on the disk that an interpreter was taken apart."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __del__(self) -> None:
        """Write down that the end has come."""
        self.path.touch()


def leave_behind(path: Path) -> None:
    """Have a worker hold until its end what would note that."""
    globals()["left_behind"] = Noted(path)


def test_a_worker_is_not_taken_apart(tmp_path: Path) -> None:
    """It ends as it is, in order: what the libraries' threads are at then can do no harm."""
    archive, noted = Archive(tmp_path), tmp_path / "taken apart"
    with opened(archive.settings) as ingest:
        with ProcessEngine(ingest.context, workers=1, threads=1) as engine:
            engine._result(engine._submit(leave_behind, noted))
            (worker,) = multiprocessing.active_children()
        worker.join(30)
        assert worker.exitcode == 0
    assert not noted.exists()


def test_a_worker_dies_before_its_parent_and_hears_no_ctrl_c(tmp_path: Path) -> None:
    """When memory runs out the kernel takes a worker, whose files are staged again, and not the service."""
    archive = Archive(tmp_path)
    with opened(archive.settings) as ingest, ProcessEngine(ingest.context, workers=1, threads=3) as engine:
        engine._result(engine._submit(os.getpid))
        (worker,) = multiprocessing.active_children()
        of_it = Path(f"/proc/{worker.pid}")
        assert int((of_it / "oom_score_adj").read_text()) == 1000
        (blocked,) = (line for line in (of_it / "status").read_text().splitlines() if line.startswith("SigBlk:"))
        assert int(blocked.split()[1], 16) & 1 << (signal.SIGINT - 1)
        threads = engine._result(engine._submit(os.getenv, "POLARS_MAX_THREADS"))
        assert (threads, engine._result(engine._submit(pa.cpu_count))) == ("3", 3)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
