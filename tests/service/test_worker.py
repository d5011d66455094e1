"""The worker's turns in this process: no file is forgotten, whatever comes between looking, staging and deciding."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from logged import Start, entries
from measurement import Measurement
from running import put
from turning import until_turned
from waiting import wait_until

from ingestd import files
from ingestd.backfill.run import backfill
from ingestd.histories.chip import read_history
from ingestd.ingest.commit import Ingest, opened
from ingestd.service import worker as turns
from ingestd.service.messages import Hint, ScanAsked
from ingestd.service.worker import SHOWN_RETRYING, Worker
from ingestd.settings import Settings
from ingestd.stage.placing import Placing
from ingestd.stage.run import Failed, Outcome, StageContext, StageTask, discard, stage_batch

ONE = Measurement()
OTHER = ONE.but(start=1758700000.5, chip=61, sample=7)


def live(ingest: Ingest) -> set[str]:
    """Return the source files of the live runs."""
    return {run.source_file for run in ingest.store.catalog.rows.values() if run.live}


def refuse(*given: object) -> None:
    """Fail as a disk does; a text that is given first is the system's reason."""
    reason = given[0] if given and isinstance(given[0], str) else "Input/output error"
    raise OSError(errno.EIO, reason, "/somewhere")


def write(ingest: Ingest, name: str, data: bytes) -> None:
    """Write a raw file that has long been over."""
    path = ingest.layout.raw_file(name)
    path.write_bytes(data)
    os.utime(path, (1758700000, 1758700000))


def is_decided(ingest: Ingest, name: str) -> bool:
    """Tell whether a file is decided in the state it is in."""
    return ingest.store.catalog.is_current(name, files.stat_of(ingest.layout.raw_file(name).lstat()).stamp)


def patient(settings: Settings, *, retry_s: float) -> Settings:
    """Return settings with which what the disk refused is tried again only after so many seconds."""
    service = settings.service.model_copy(update={"retry_s": retry_s, "retry_max_s": 3600.0})
    return settings.model_copy(update={"service": service})


def a_run_and_its_copy(ingest: Ingest, worker: Worker) -> None:
    """Have one run, and then a copy of it that is known as such."""
    for name in ("It_1.csv", "copy.csv"):
        write(ingest, name, ONE.data)
        worker.inbox.put(Hint(name))
        until_turned(worker, partial(is_decided, ingest, name), name)
    assert live(ingest) == {"It_1.csv"}


@pytest.mark.parametrize("refused", ["nothing", "the batch", "the copy"])
def test_a_copy_takes_the_place_of_a_deleted_file_at_once(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """No scan is needed, though the disk refuses the batch in which the file was found gone, or the copy's record."""
    worker = Worker(ingest)
    a_run_and_its_copy(ingest, worker)
    ingest.layout.raw_file("It_1.csv").unlink()
    if refused == "the batch":
        write(ingest, "It_2.csv", OTHER.data)
        worker.inbox.put(Hint("It_2.csv"))
    worker.inbox.put(Hint("It_1.csv"))
    with monkeypatch.context() as patch:
        if refused != "nothing":
            patch.setattr(ingest, "commit", refuse)
            until_turned(worker, lambda: worker.view.troubles, "the disk refuses")
    expected = {"copy.csv", "It_2.csv"} if refused == "the batch" else {"copy.csv"}
    until_turned(worker, lambda: live(ingest) == expected, "the copy takes the place")
    assert len(ingest.store.catalog.rows) == len(expected)
    until_turned(worker, lambda: not worker.view.troubles, "no trouble is left")
    assert worker._orphans.next_due() is None, "nothing more is to be done"


def test_a_copy_waits_for_a_file_that_may_be_the_run(ingest: Ingest) -> None:
    """A renamed file that somebody has open cannot be staged yet; its copy does not become the run meanwhile."""
    worker, raw = Worker(ingest), ingest.layout.raw_root
    a_run_and_its_copy(ingest, worker)
    with (raw / "It_1.csv").open("ab"):
        (raw / "It_1.csv").rename(raw / "renamed.csv")
        worker.inbox.put(Hint("renamed.csv"))
        worker.inbox.put(Hint("It_1.csv"))
        until_turned(worker, lambda: (worker._orphans.next_due() or 0.0) > time.monotonic() + 0.5, "it is put off")
        assert live(ingest) == {"It_1.csv"}
        assert worker.view.doing == "watching; 1 file not over yet"
    worker.inbox.put(Hint("renamed.csv"))
    until_turned(worker, lambda: live(ingest) == {"renamed.csv"}, "it has moved")
    until_turned(worker, lambda: worker._orphans.next_due() is None, "the copy's turn is over")
    assert live(ingest) == {"renamed.csv"}


def test_the_copy_of_an_overwritten_file_is_looked_at_again(ingest: Ingest) -> None:
    """Another measurement took the file's path: the copy holds what is left of the first, and needs no scan."""
    worker = Worker(ingest)
    a_run_and_its_copy(ingest, worker)
    write(ingest, "It_1.csv", OTHER.data)
    worker.inbox.put(Hint("It_1.csv"))
    until_turned(worker, lambda: live(ingest) == {"It_1.csv", "copy.csv"}, "both measurements")


def test_a_file_that_another_process_decided_first_is_looked_at_again(
    settings: Settings, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backfill comes between staging and deciding: its record stands, and what has changed since is staged."""
    worker = Worker(ingest)
    write(ingest, "It_1.csv", ONE.data)

    def stage_slowly(batch: Sequence[StageTask], context: StageContext) -> list[Outcome]:
        outcomes = stage_batch(batch, context)
        backfill(settings)
        write(ingest, "It_1.csv", ONE.but(rows=5).data)
        return outcomes

    with monkeypatch.context() as patch:
        patch.setattr(turns, "stage_batch", stage_slowly)
        worker.inbox.put(Hint("It_1.csv"))
        worker.turn(0.0)
    until_turned(worker, partial(is_decided, ingest, "It_1.csv"), "the rows that were added meanwhile")
    assert [run.rows for run in ingest.store.full_rows(list(ingest.store.catalog.rows)).values()] == [5]


def test_a_decided_file_is_not_opened_whatever_hints_at_it(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints that come for no reason cost a look from outside: nothing is read, nothing is on the list afterwards."""
    worker = Worker(ingest)
    a_run_and_its_copy(ingest, worker)
    before = ingest.store.pending
    os.mkfifo(ingest.layout.raw_file("pipe.csv"))
    with monkeypatch.context() as patch:
        patch.setattr(turns, "stage_batch", lambda *_: pytest.fail("it is staged"))
        for name in ("It_1.csv", "copy.csv", "pipe.csv", "gone.csv"):
            worker.inbox.put(Hint(name))
        worker.turn(0.0)
    assert not worker._list.entries
    assert ingest.store.pending == before


@pytest.mark.parametrize(("age_s", "quiet_s", "least_s"), [(3600.0, 0.4, 0.4), (2 * 86400.0, 3600.0, 0.0)])
def test_where_writers_are_unseen_the_clock_of_a_share_is_not_believed(
    settings: Settings, age_s: float, quiet_s: float, least_s: float
) -> None:
    """A file first seen must stand still for `quiet_s` under our eyes, unless it is days old."""
    settle = settings.settle.model_copy(update={"writers_visible": False, "quiet_s": quiet_s})
    with opened(settings.model_copy(update={"settle": settle})) as ingest:
        worker, path = Worker(ingest), ingest.layout.raw_file("It_1.csv")
        path.write_bytes(ONE.data)
        os.utime(path, (time.time() - age_s,) * 2)
        worker.inbox.put(Hint("It_1.csv"))
        began = time.monotonic()
        until_turned(worker, lambda: live(ingest), "the run")
        assert time.monotonic() - began >= least_s


def test_why_a_file_waits_is_told_once_and_that_it_went(settings: Settings, start: Start) -> None:
    """A last line that is cut is waited for; when its end came it is staged, and that another is gone is told."""
    _, stream, _ = start()
    settle = settings.settle.model_copy(update={"quiet_s": 3600.0})
    with opened(settings.model_copy(update={"settle": settle})) as ingest:
        worker = Worker(ingest)
        for name in ("It_1.csv", "It_2.csv", "It_3.csv"):
            ingest.layout.raw_file(name).write_bytes(ONE.data[:-3])
            worker.inbox.put(Hint(name))
        os.utime(ingest.layout.raw_file("It_3.csv"), (time.time() - 10,) * 2)  # it is read at the first look
        until_turned(worker, lambda: stream.getvalue().count('"waiting"') == 3, "they wait")
        assert worker.view.doing == "watching; 3 files not over yet"
        for name in ("It_1.csv", "It_2.csv", "It_3.csv"):
            worker.inbox.put(Hint(name))
        write(ingest, "It_1.csv", ONE.data)
        ingest.layout.raw_file("It_2.csv").unlink()
        until_turned(worker, lambda: live(ingest) == {"It_1.csv"}, "the whole one")
        until_turned(worker, lambda: worker.view.doing == "watching; 1 file not over yet", "one is left")
    told = [(line["event"], line["source_file"]) for line in entries(stream.getvalue()) if "source_file" in line]
    waiting = [("waiting", f"It_{n}.csv") for n in (1, 2, 3)]
    assert sorted(told) == [("gone", "It_2.csv"), ("ingested", "It_1.csv"), *waiting]


# ---- refused --------------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_keeps_up_no_other(
    ingest: Ingest, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown and told once, tried again and again, and staged when it can be read; hints do not hurry it."""
    _, stream, _ = start()
    worker, bad, open_raw = Worker(ingest), ingest.layout.raw_file("It_1.csv"), files.open_raw

    def open_unless_bad(path: Path) -> int:
        if path == bad:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return open_raw(path)

    with monkeypatch.context() as patch:
        patch.setattr("ingestd.files.look.open_raw", open_unless_bad)
        for name, data in (("It_1.csv", ONE.data), ("It_2.csv", OTHER.data)):
            write(ingest, name, data)
            worker.inbox.put(Hint(name))
        until_turned(worker, lambda: live(ingest) == {"It_2.csv"}, "the other")
        until_turned(worker, lambda: worker.view.retrying and worker.view.retrying[0].tries >= 3, "it is tried again")
        (shown,) = worker.view.retrying
        assert (shown.source_file, shown.message) == ("It_1.csv", "Input/output error")
        assert shown.next_step.endswith("the service goes on by itself")
        assert worker.view.doing == "watching; 1 file tried again: It_1.csv: Input/output error"
        assert (worker.view.backlog, worker.view.troubles) == (0, ())
    until_turned(worker, lambda: live(ingest) == {"It_1.csv", "It_2.csv"}, "both")
    assert (worker.view.retrying, worker.view.doing) == ((), "watching")
    told = [line for line in entries(stream.getvalue()) if line["event"] == "retrying"]
    assert [(line["source_file"], line["problem"]) for line in told] == [("It_1.csv", "Input/output error")]


@pytest.mark.parametrize("bad", ["It_2.csv", "copy.csv"])
def test_an_error_in_deciding_costs_one_file(ingest: Ingest, monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    """A new file, or a copy that is to take a deleted file's place: it is shown, the worker and the others go on."""
    worker, decide = Worker(ingest), ingest._decider.decide
    a_run_and_its_copy(ingest, worker)

    def decide_unless_bad(outcome: Outcome, placing: Placing) -> Any:
        return 1 // 0 if outcome.task.source_file == bad else decide(outcome, placing)

    with monkeypatch.context() as patch:
        patch.setattr(ingest._decider, "decide", decide_unless_bad)
        ingest.layout.raw_file("It_1.csv").unlink()
        for n, name in enumerate(("It_2.csv", "It_3.csv")):
            write(ingest, name, OTHER.but(start=1758700000.5 + 60 * n).data)
        for name in ("It_1.csv", "It_2.csv", "It_3.csv"):
            worker.inbox.put(Hint(name))
        until_turned(worker, lambda: [file.source_file for file in worker.view.retrying] == [bad], "it is shown")
        until_turned(worker, lambda: "It_3.csv" in live(ingest), "another file")
    worker.inbox.put(ScanAsked("start"))
    until_turned(worker, lambda: live(ingest) == {"copy.csv", "It_2.csv", "It_3.csv"}, "all")
    assert not worker.view.retrying


def test_a_file_that_cannot_be_looked_at_is_tried_again(ingest: Ingest, start: Start) -> None:
    """The system refuses to say whether it is there: it is neither forgotten nor taken for deleted, and logged once."""
    _, stream, _ = start()
    worker, name = Worker(ingest), f"{'x' * 300}.csv"
    worker.inbox.put(Hint(name))
    until_turned(worker, lambda: worker.view.retrying and worker.view.retrying[0].tries >= 2, "it is tried again")
    (shown,) = worker.view.retrying
    assert (shown.source_file, shown.message) == (name, "File name too long")
    assert "the service" in shown.next_step
    (line,) = entries(stream.getvalue())
    assert (line["event"], line["source_file"], line["problem"]) == ("retrying", name, "File name too long")


def test_a_stage_that_takes_nothing_is_one_trouble(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing failed, which is no file's fault: no file is blamed, nothing is decided, and none is forgotten."""
    worker, names = Worker(ingest), put(ingest.layout.raw_root, 0, 3)

    def refused(tasks: Sequence[StageTask], context: StageContext) -> list[Outcome]:
        first, *others = stage_batch(tasks, context)
        discard([first])
        full = files.retry_from(OSError(errno.ENOSPC, "No space left on device"), ingest.layout.stage_root)
        return [*others, Failed(first.task, full, ours=True)]

    with monkeypatch.context() as patch:
        patch.setattr(turns, "stage_batch", refused)
        for name in names:
            worker.inbox.put(Hint(name))
        until_turned(worker, lambda: any(one.tries >= 3 for one in worker.view.troubles), "it is tried again")
        assert worker.view.doing.startswith("waiting: No space left on device")
        assert (worker.view.retrying, ingest.store.pending) == ((), 0)
        assert not list(ingest.workspace.folder.glob("*.parquet")), "what was staged is thrown away"
    until_turned(worker, lambda: live(ingest) == names, "the runs")
    assert (worker.view.troubles, worker.view.doing) == ((), "watching")


def test_what_the_disk_refused_waits_and_each_cause_is_told(
    settings: Settings, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until its time has come nothing is staged, whatever hints come, and the worker rests; another cause is news."""
    _, stream, _ = start()
    with opened(patient(settings, retry_s=60.0)) as ingest:
        worker = Worker(ingest)
        monkeypatch.setattr(ingest, "commit", refuse)
        for tries in (1, 2):
            for name in ("It_1.csv", "It_2.csv"):
                write(ingest, name, ONE.data)
                worker.inbox.put(Hint(name))
                worker.turn(0.0)
            assert [trouble.tries for trouble in worker.view.troubles] == [tries]
            assert worker._wait_s() > 1.0
            worker._jobs._rests["stage"] = 0.0  # its time has come
        monkeypatch.setattr(ingest, "commit", partial(refuse, "No route to host"))
        worker.turn(0.0)
    told = [(line["problem"], line["retry_s"]) for line in entries(stream.getvalue()) if line["event"] == "trouble"]
    assert told == [("Input/output error", 60.0), ("No route to host", 240.0)]


# ---- scans, upkeep, the end -----------------------------------------------------------------------------------------


def test_a_scan_that_was_refused_is_hurried_by_whoever_has_a_reason(
    settings: Settings, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A routine scan waits with it; a watch that was replaced does not, and the first reason given is logged."""
    _, stream, _ = start()
    with opened(patient(settings, retry_s=3600.0)) as ingest:
        worker, names = Worker(ingest), put(ingest.layout.raw_root / "day", 0, 2)
        worker.inbox.put(ScanAsked("start"))
        with monkeypatch.context() as patch:
            patch.setattr(ingest.store, "refresh", refuse)
            worker.turn(0.0)
        assert [trouble.tries for trouble in worker.view.troubles] == [1]
        worker.inbox.put(ScanAsked("routine", routine=True))
        worker.turn(0.0)
        assert not worker.folders, "it waits"
        worker.inbox.put(ScanAsked("the watch was replaced"))
        worker.inbox.put(ScanAsked("routine", routine=True))
        worker.turn(0.0)
        assert (worker.folders, worker.view.troubles) == (2, ())
        until_turned(worker, lambda: live(ingest) == {f"day/{name}" for name in names}, "what it found")
        for reasons in (["routine"], ["routine", "the folder a appeared", "the folder b appeared"]):
            for reason in reasons:
                worker.inbox.put(ScanAsked(reason, routine=reason == "routine"))
            worker.turn(0.0)
    told = [(line["reason"], line["to_do"]) for line in entries(stream.getvalue()) if line["event"] == "scanned"]
    assert told == [("start", 2), ("the folder a appeared", 0)]


def test_a_long_log_is_compacted_before_its_time(settings: Settings) -> None:
    """`service.compact_records` bounds what the next start has to replay, whatever the clock does."""
    few = settings.service.model_copy(update={"compact_records": 4})
    with opened(settings.model_copy(update={"service": few})) as ingest:
        worker = Worker(ingest)
        put(ingest.layout.raw_root, 0, 1)
        worker.inbox.put(Hint("It_0.csv"))
        until_turned(worker, lambda: ingest.store.pending == 2, "a run and its history in the log")
        for name in put(ingest.layout.raw_root, 1, 2):
            worker.inbox.put(Hint(name))
        until_turned(worker, ingest.layout.manifest_path.exists, "the table")
        assert ingest.store.pending < 4


def test_a_scan_finds_the_histories_that_another_process_owes(ingest: Ingest, settings: Settings) -> None:
    """A process was killed between its record and the history: nothing else is to be done, and it is written."""
    write(ingest, "It_1.csv", ONE.data)
    with opened(settings) as other:
        before = Worker(other)
        before.inbox.put(Hint("It_1.csv"))
        before.turn(0.0)
        assert other.store.catalog.stale_chips
    worker = Worker(ingest)
    worker.inbox.put(ScanAsked("start"))
    history = ingest.layout.history_file("Alisson72")
    until_turned(worker, history.exists, "the history")


def test_a_stop_leaves_histories_and_table_complete(settings: Settings) -> None:
    """What was ingested an instant before is in its chip's history and in the table, though neither was due yet."""
    late = settings.histories.model_copy(update={"debounce_s": 3600.0})
    with opened(settings.model_copy(update={"histories": late})) as ingest:
        worker = Worker(ingest)
        write(ingest, "It_1.csv", ONE.data)
        worker.inbox.put(Hint("It_1.csv"))
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            wait_until(lambda: ingest.store.catalog.rows, "the run")
        finally:
            worker.stop()
            thread.join()
        assert worker.failure is None
        assert (ingest.store.pending, list(ingest.store.catalog.stale_chips)) == (0, [])
        assert read_history(ingest.layout.history_file("Alisson72"))["source_file"].to_list() == ["It_1.csv"]
        assert worker.view.doing == "stopping: writing histories and compacting the log"


def test_an_archive_that_is_closed_to_the_service_is_counted_and_not_listed(ingest: Ingest) -> None:
    """The state is written twice a second: of so many files that are tried again it names some, and tells how many."""
    worker, names = Worker(ingest), [f"{number}{'x' * 300}.csv" for number in range(SHOWN_RETRYING + 5)]
    for name in names:
        worker.inbox.put(Hint(name))
    told = f"watching; {len(names)} files tried again: 0x"
    until_turned(worker, lambda: worker.view.doing.startswith(told), "all are tried again")
    assert len(worker.view.retrying) == SHOWN_RETRYING
