"""The clockwork: it leaves the rest of the process alone, and goes on whatever becomes of the wall clock."""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import apscheduler.schedulers.base
import pytest
from apscheduler.schedulers.background import BackgroundScheduler
from running import Service, put
from waiting import wait_until

from ingestd.service import schedule
from ingestd.service.messages import Compact, DeleteOldEvents, Message, ScanAsked
from ingestd.service.schedule import DELETE_EVERY_S, DELETE_FIRST_S, ClockSteps, Every, make_scheduler, rearm
from ingestd.settings import Settings

HOUR_S = 3600.0
YEAR_S = 365.25 * 24 * HOUR_S
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_other_schedulers_keep_their_warnings() -> None:
    """Ours tells errors only; APScheduler's own logger, which others of the process use, is not touched."""
    library = logging.getLogger("apscheduler.scheduler")
    before = library.getEffectiveLevel()
    make_scheduler(Settings(), lambda _: None, lambda: None, 1.0)
    assert library.getEffectiveLevel() == before


def test_a_run_left_out_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """While a check takes longer than its interval, the runs left out are not logged one by one."""
    came, release, scans = threading.Event(), threading.Event(), threading.Semaphore(0)

    def check() -> None:
        came.set()
        release.wait(60)

    def put(_: Message) -> None:
        scans.release()

    settings = Settings(flags={"watch": {"rescan_s": 0.2}})  # type: ignore[call-arg]
    scheduler = make_scheduler(settings, put, check, 0.05)
    scheduler.start()
    try:
        assert came.wait(60)
        for _ in range(3):  # meanwhile the check was due several times
            assert scans.acquire(timeout=60)
    finally:
        release.set()
        scheduler.shutdown()
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


# ---- a wall clock that is set ---------------------------------------------------------------------------------------


class Clockwork:
    """A scheduler with quick scans and checks, whose wall clock is `ahead_s` ahead; `done` counts what its jobs did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        self.up_s = 0.0
        self.done: Counter[str] = Counter()
        clockwork = self

        class Wall(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # as the original is used
                return datetime.now(tz) + timedelta(seconds=clockwork.ahead_s)

        monkeypatch.setattr(apscheduler.schedulers.base, "datetime", Wall)
        monkeypatch.setattr(schedule, "datetime", Wall)
        settings = Settings(flags={"watch": {"rescan_s": 0.2}})  # type: ignore[call-arg]
        self.scheduler: BackgroundScheduler = make_scheduler(settings, self._put, self._check, 0.1, lambda: self.up_s)

    def _put(self, message: Message) -> None:
        self.done[type(message).__name__] += 1

    def _check(self) -> None:
        self.done["check"] += 1

    def goes_on(self) -> None:
        """Wait until scans and checks have run three times more."""
        wanted = {job: self.done[job] + 3 for job in ("check", ScanAsked.__name__)}
        wait_until(lambda: all(self.done[job] >= count for job, count in wanted.items()), "scans and checks")


@pytest.fixture
def clockwork(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clockwork]:
    """A clockwork that runs."""
    found = Clockwork(monkeypatch)
    found.scheduler.start()
    yield found
    found.scheduler.shutdown()


@pytest.mark.timeout(60)
def test_a_clock_set_forward_by_years(clockwork: Clockwork) -> None:
    """Scans and checks go on, and a compaction is asked for once, though it would have been due many times."""
    clockwork.goes_on()
    clockwork.ahead_s = 11 * YEAR_S
    clockwork.goes_on()
    assert clockwork.done[Compact.__name__] == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ahead_s", [-2 * HOUR_S, -11 * YEAR_S])
def test_a_clock_set_back(clockwork: Clockwork, ahead_s: float) -> None:
    """Armed again, scans and checks go on, and no job waits longer than its interval."""
    clockwork.goes_on()
    clockwork.ahead_s = ahead_s
    rearm(clockwork.scheduler)
    clockwork.goes_on()
    limit = datetime.now(UTC) + timedelta(seconds=ahead_s + Settings().service.compact_s)
    assert all(job.next_run_time <= limit for job in clockwork.scheduler.get_jobs())


def test_arming_again_puts_nothing_off(clockwork: Clockwork) -> None:
    """A job that is due sooner stays so: a clock that is set every minute keeps no job from its turn."""
    before = clockwork.scheduler.get_job("compact").next_run_time
    rearm(clockwork.scheduler)
    assert clockwork.scheduler.get_job("compact").next_run_time == before


def deletions(clockwork: Clockwork, ahead_s: float) -> int:
    """Count how often old events were deleted, after the clock was set `ahead_s` further and every job ran."""
    compactions = clockwork.done[Compact.__name__]
    clockwork.ahead_s += ahead_s
    wait_until(lambda: clockwork.done[Compact.__name__] > compactions, "every job was due")
    clockwork.goes_on()
    return clockwork.done[DeleteOldEvents.__name__]


@pytest.mark.timeout(60)
def test_old_events_are_deleted_by_real_time(clockwork: Clockwork) -> None:
    """Soon after a start, however short a life is, and every few hours; a wrong clock deletes nothing before."""
    assert deletions(clockwork, 80 * YEAR_S) == 0
    clockwork.up_s += DELETE_FIRST_S
    assert deletions(clockwork, 1 * HOUR_S) == 1
    assert deletions(clockwork, 80 * YEAR_S) == 1
    clockwork.up_s += DELETE_EVERY_S
    assert deletions(clockwork, DELETE_EVERY_S) == 2
    assert DELETE_FIRST_S < 300


@pytest.mark.parametrize("before", [None, NOW, NOW - timedelta(days=4000), NOW + timedelta(days=4000)])
def test_the_next_time_is_counted_from_now(before: datetime | None) -> None:
    """Whenever the last run was, no run was missed and none is far away."""
    waits = [(Every(10.0, jitter_s=1.0).get_next_fire_time(before, NOW) - NOW).total_seconds() for _ in range(100)]
    assert min(waits) >= 10.0
    assert max(waits) <= 11.0
    assert len(set(waits)) > 1, "no spread"


def test_scans_of_several_machines_do_not_stay_in_step() -> None:
    """A share is not scanned by all of them at once: each scan comes up to a tenth of the interval later."""
    scan = make_scheduler(Settings(), lambda _: None, lambda: None, 1.0).get_job("scan")
    waits = [(scan.trigger.get_next_fire_time(None, NOW) - NOW).total_seconds() for _ in range(100)]
    rescan_s = Settings().watch.rescan_s
    assert rescan_s <= min(waits) < 1.05 * rescan_s < max(waits) <= 1.1 * rescan_s


@pytest.mark.parametrize("set_s", [3.0, -3.0, -2 * HOUR_S, 11 * YEAR_S])
def test_a_step_of_the_clock_is_told_once(set_s: float) -> None:
    """By how much it was set, at the next look; the looks before and after see none."""
    wall, uptime = [NOW], [500.0]
    steps = ClockSteps(lambda: wall[0], lambda: uptime[0])

    def goes_on(wall_s: float, real_s: float = 0.5) -> float:
        wall[0] += timedelta(seconds=wall_s)
        uptime[0] += real_s
        return steps.step_s()

    assert goes_on(0.5) == 0
    assert math.isclose(goes_on(set_s + 0.5), set_s, abs_tol=1e-3)
    assert goes_on(0.5) == 0


def test_a_clock_that_drifts_is_not_set() -> None:
    """Slewed as fast as Linux does it (500 ppm) for a month, or not looked at for half an hour, it makes no step."""
    wall, uptime = [NOW], [500.0]
    steps = ClockSteps(lambda: wall[0], lambda: uptime[0])
    for real_s in [*[60.0] * (30 * 24 * 60), HOUR_S / 2]:
        wall[0] += timedelta(seconds=real_s * 1.0005)
        uptime[0] += real_s
        assert steps.step_s() == 0


WALL = """
import sys, functools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apscheduler.schedulers.base
from ingestd.__main__ import main
from ingestd.service import daemon, schedule

class Wall(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(seconds=float(Path("ahead").read_text()))

apscheduler.schedulers.base.datetime = schedule.datetime = Wall
daemon.run_service = functools.partial(daemon.run_service, clock=lambda: Wall.now(UTC))
del sys.argv[1:4]
sys.exit(main())
"""
"""`ingestd run` with a wall clock that is ahead by as many seconds as the file `ahead` says."""


def set_ahead(folder: Path, seconds: float) -> None:
    """Set the wall clock, at one instant."""
    (folder / "new").write_text(str(seconds))
    (folder / "new").rename(folder / "ahead")


def goes_on(service: Service, runs: int) -> None:
    """Wait for scans, signs of life, and one run more."""
    scans, signs = len(service.lines("scanned")), service.heard().count("WATCHDOG=1")
    service.until(lambda: len(service.lines("scanned")) >= scans + 4, "scans")
    service.until(lambda: service.heard().count("WATCHDOG=1") >= signs + 3, "signs of life")
    put(service.raw / f"{runs}", runs, 1)
    service.until(lambda: len(service.live_names()) == runs, "the run")


def wait_for_steps(service: Service, count: int) -> None:
    """Wait until so many steps of the clock were told of."""
    service.until(lambda: len(service.lines("clock_stepped")) == count, f"step {count} is told")


def test_a_service_whose_clock_is_set(tmp_path: Path) -> None:
    """Back by hours and forward by years, each is told once; scans, checks and the watchdog go on as before."""
    set_ahead(tmp_path, 0.0)
    service = Service(tmp_path, watch={"rescan_s": 0.5}, log={"level": "debug"})
    with service.start(prefix=(sys.executable, "-c", WALL), environment={"WATCHDOG_USEC": "1000000"}):
        goes_on(service, runs=1)
        for steps, ahead_s in enumerate((-2 * HOUR_S, 11 * YEAR_S), start=1):
            set_ahead(tmp_path, ahead_s)
            wait_for_steps(service, steps)
            goes_on(service, runs=1 + steps)
        back, forward = service.lines("clock_stepped")
        assert (back["problem"], round(back["seconds"] / HOUR_S)) == ("the machine's clock was set back", -2)
        assert (forward["problem"], round(forward["seconds"] / YEAR_S)) == ("the machine's clock was set forward", 11)
        assert service.stop() == 0
