"""What the daemon makes of a watch in trouble, of beats that stay away and of a worker that failed; no thread runs."""

from __future__ import annotations

import io
import shutil
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fake_watch import FakeWatch
from logged import Clock, Start, entries

from ingestd.errors import Corrupt, Retry
from ingestd.ingest.commit import Ingest
from ingestd.service import daemon as life
from ingestd.service.daemon import LIMITED_SCAN_S, STUCK_S, Daemon, Exit, Signals
from ingestd.service.messages import ScanAsked
from ingestd.service.notify import Notifier
from ingestd.service.state import service_lock
from ingestd.service.watch import OVERFLOWED
from ingestd.service.worker import Worker

AWAY = Retry("this folder cannot be read", place="/raw", next_step="mount the share")


class Systemd(Notifier):
    """A systemd that only keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(None, watchdog_s=10.0)
        self.heard: list[str] = []

    def _send(self, *assignments: str) -> None:
        self.heard += assignments


class Supervised:
    """A daemon with a watch of the test's making, whose clocks the test sets."""

    def __init__(self, ingest: Ingest, stream: io.StringIO, clock: Clock) -> None:
        self.clock, self.wall = clock, datetime(2025, 9, 23, 13, tzinfo=UTC)
        self.signals, self.systemd, self.worker = Signals(), Systemd(), Worker(ingest)
        self.layout, self.lock = ingest.layout, service_lock(ingest.layout)
        self.daemon = Daemon(
            ingest.settings, self.worker, self.signals, self.systemd, lambda: self.wall, lock=self.lock
        )
        self.watch = cast("Any", self.daemon._watch)  # a fake one
        assert self.daemon._place_watch(self.watch)
        self.daemon._describe_watch(self.watch)
        self.stream = stream

    def scans(self) -> list[str]:
        """Return why scans were asked for since the last call."""
        asked = []
        while not self.worker.inbox.empty():
            message = self.worker.inbox.get()
            assert isinstance(message, ScanAsked)
            asked.append(message.reason)
        return asked

    def logged(self) -> list[tuple[str, str]]:
        """Return the events logged since the last call, each with its problem."""
        text = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        return [(entry["event"], entry.get("problem", "")) for entry in entries(text)]


@pytest.fixture
def supervised(ingest: Ingest, start: Start, monkeypatch: pytest.MonkeyPatch) -> Supervised:
    """A daemon that was not started."""
    clock = Clock()
    clock.now = 1000.0
    monkeypatch.setattr(life, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(life, "Watch", FakeWatch)
    _, stream, _ = start()
    monkeypatch.setattr("ingestd.service.throttle.REPEAT_S", 0.0)  # what is told twice shows
    return Supervised(ingest, stream, clock)


# ---- the watch ------------------------------------------------------------------------------------------------------


def test_a_watch_in_doubt_is_replaced_with_a_scan_before_and_after(supervised: Supervised) -> None:
    """The scan before finds what was missed though no watch can be placed; the one after, what came in between."""
    assert supervised.daemon._watching == "by inotify, and by scanning every 300 s"
    supervised.watch.reason = "the reader has ended"
    supervised.worker.folders = 7
    supervised.daemon._check_watch()
    assert supervised.watch.folders == [7]
    assert supervised.scans() == ["the reader has ended", "the watch was replaced"]
    assert supervised.logged() == [("watch_replaced", "the reader has ended")]
    supervised.daemon._check_watch()
    assert (supervised.scans(), supervised.logged()) == ([], [])


def test_a_lost_watch_is_told_once_and_scanned_for_until_it_is_back(supervised: Supervised) -> None:
    """Each check asks for a scan; log and state say what is waited for, and that it came back."""
    supervised.watch.reason, supervised.watch.missing = "the root is gone", AWAY
    for _ in range(3):
        supervised.daemon._check_watch()
        assert len(supervised.scans()) == 1
    assert supervised.logged() == [("watch_lost", AWAY.message)]
    assert supervised.daemon._watching == "waiting for /raw: this folder cannot be read"
    supervised.watch.missing = None
    supervised.daemon._check_watch()
    assert supervised.logged() == [("watch_replaced", "the root is gone"), ("watch_restored", "")]
    assert supervised.daemon._watching == "by inotify, and by scanning every 300 s"


@pytest.mark.parametrize("rescan_s", [3.0, 300.0])
def test_a_limited_watch_is_told_once_and_made_up_for_by_scans(supervised: Supervised, rescan_s: float) -> None:
    """Every ten seconds, or as often as is set if that is more often; not at each check."""
    daemon, every_s = supervised.daemon, min(LIMITED_SCAN_S, rescan_s)
    watching = daemon._settings.watch.model_copy(update={"rescan_s": rescan_s})
    daemon._settings = daemon._settings.model_copy(update={"watch": watching})
    supervised.watch.limited = "the kernel's limit"
    began, asked = supervised.clock.now, []
    while supervised.clock.now <= began + 2 * every_s:
        daemon._check_watch()
        asked += [supervised.clock.now - began for _ in supervised.scans()]
        supervised.clock.now += 0.5
    assert asked == [0.0, every_s, 2 * every_s]
    assert supervised.logged() == [("watch_limited", "the kernel's limit")]
    assert daemon._watching == f"by scanning every {every_s:g} s, because the kernel's limit"


def test_a_stopped_watch_is_not_placed_again(supervised: Supervised) -> None:
    """A check that comes during a stop leaves things as they are."""
    supervised.signals.stop.set()
    supervised.watch.stop()
    supervised.daemon._check_watch()
    assert not supervised.watch.standing
    assert supervised.scans() == []


def test_every_doubt_of_the_watch_asks_for_a_scan_and_only_lost_hints_are_told(supervised: Supervised) -> None:
    """A folder that was renamed is no loss; an overflow is."""
    supervised.watch.doubt("a folder appeared")
    assert (supervised.scans(), supervised.logged()) == (["a folder appeared"], [])
    supervised.watch.doubt(OVERFLOWED)
    assert (supervised.scans(), supervised.logged()) == ([OVERFLOWED], [("hints_lost", OVERFLOWED)])


# ---- beats and clocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("worker_s", "check_s", "fed"),
    [(0.0, STUCK_S - 1, True), (0.0, STUCK_S, False), (STUCK_S + 29, 0.0, True), (STUCK_S + 30, 0.0, False)],
)
def test_who_is_silent_for_how_long_is_stuck(
    supervised: Supervised, worker_s: float, check_s: float, fed: bool
) -> None:
    """Checks for a minute, the worker for the time that another process may hold the manifest's lock longer."""
    daemon, now = supervised.daemon, supervised.clock.now
    limit = daemon._settings.manifest.model_copy(update={"lock_timeout_s": 30.0})
    daemon._settings = daemon._settings.model_copy(update={"manifest": limit})
    supervised.worker.beat_at, daemon._checked_at = now - worker_s, now - check_s
    daemon._feed_watchdog()
    assert supervised.systemd.heard == ["WATCHDOG=1"] * fed


def test_the_watchdog_is_fed_as_often_as_it_must_be(supervised: Supervised) -> None:
    """Not at each turn of the main loop; and at once where the last time was missed."""
    began, fed = supervised.clock.now, []
    while supervised.clock.now < began + 25:
        supervised.worker.beat_at = supervised.daemon._checked_at = supervised.clock.now
        supervised.daemon._feed_watchdog()
        fed += [supervised.clock.now - began for _ in supervised.systemd.heard]
        supervised.systemd.heard.clear()
        supervised.clock.now += 0.5
    assert fed == [0.0, 10.0, 20.0]


def test_jobs_are_planned_again_when_the_clock_was_set_back(supervised: Supervised) -> None:
    """Their next runs would be hours away; the log names the step."""
    daemon = supervised.daemon
    ahead = datetime.now(UTC) + timedelta(hours=5)
    daemon._scheduler.start(paused=True)
    try:
        for job in daemon._scheduler.get_jobs():
            daemon._scheduler.modify_job(job.id, next_run_time=ahead)
        daemon._heed_clock()
        assert supervised.logged() == []
        supervised.wall -= timedelta(hours=5)
        daemon._heed_clock()
        assert supervised.logged() == [("clock_stepped", "the machine's clock was set back")]
        assert all(job.next_run_time < ahead for job in daemon._scheduler.get_jobs())
    finally:
        daemon._scheduler.shutdown()


# ---- the end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "code", "line"),
    [
        (
            Corrupt("damaged", place="wal", next_step="repair"),
            Exit.COULD_NOT_RUN,
            {"place": "wal", "next_step": "repair"},
        ),
        (Retry("disk full", place="stage", next_step="free some"), Exit.FAILED, {"next_step": "free some"}),
        (ZeroDivisionError("oh"), Exit.FAILED, {}),
    ],
    ids=["damage", "disk", "ours"],
)
def test_the_log_says_why_the_worker_failed(
    supervised: Supervised, failure: Exception, code: Exit, line: dict[str, Any]
) -> None:
    """Damage with its place and what to do, ingestd's own error with its traceback; also if it came during a stop."""

    def fail(_wait_s: float) -> None:
        raise failure

    supervised.worker.turn = fail  # type: ignore[assignment,method-assign]  # the fault under test
    supervised.daemon._scheduler.start(paused=True)
    supervised.daemon._thread.start()
    supervised.daemon._thread.join()
    assert supervised.daemon._stop() == code
    told = entries(supervised.stream.getvalue())
    assert [entry["event"] for entry in told] == ["stopping", "failed"]
    assert told[-1].items() >= line.items()
    assert ("ZeroDivisionError: oh" in told[-1].get("exception", "")) == isinstance(failure, ZeroDivisionError)


@pytest.mark.parametrize("with_log", [True, False])
def test_another_data_root_in_place_of_the_own_ends_it(supervised: Supervised, *, with_log: bool) -> None:
    """A disk that was mounted again brings another lock and a log; an empty mount point, even with a lock, does not."""
    layout = supervised.layout
    layout.wal_dir.mkdir(parents=True, exist_ok=True)
    with supervised.lock.held():
        supervised.daemon._check()
        assert not supervised.daemon._displaced
        away = layout.stage_root.rename(layout.stage_root.with_name("away"))
        supervised.daemon._check()
        assert not supervised.daemon._displaced, "it is waited for"
        layout.service_lock_path.parent.mkdir(parents=True)
        layout.service_lock_path.touch()
        if with_log:
            layout.wal_dir.mkdir()
        supervised.daemon._check()
        assert supervised.daemon._displaced is with_log
        shutil.rmtree(layout.stage_root)
        away.rename(layout.stage_root)


def test_systemd_shows_what_a_running_service_does(supervised: Supervised) -> None:
    """That it stops, systemd knows already: the last line stays."""
    supervised.daemon._show("running")
    supervised.daemon._show("stopping")
    assert supervised.systemd.heard == [f"STATUS={supervised.worker.view.doing}"]
