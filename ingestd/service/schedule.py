"""The clockwork: APScheduler jobs that only put messages on the worker's queue, however the wall clock is set.

APScheduler plans by the wall clock, which may be set by hours or years while the service runs: a PC whose battery is
empty starts in the past until the network tells it the time. When the clock is set forward, a job is due at once and
runs once; when it is set back, `rearm` brings the job near again.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from ingestd.service.messages import Compact, DeleteOldEvents, Message, ScanAsked
from ingestd.settings import Settings

DELETE_FIRST_S = 60.0
"""When old event JSONs are first deleted, in seconds after the start: many a PC is switched off before the next time,
and a clock that was wrong at power-on is set by then.
"""

DELETE_EVERY_S = 6 * 3600.0
"""How often they are deleted after that, in seconds of uptime: a wall clock that is decades ahead for a moment would
have them deleted too early.
"""

JITTER = 0.1
"""Scans are spread by this part of their interval, so that several PCs on one share do not scan in step."""

STEP_S = 2.0
"""If the wall clock moved this many seconds more or less than time passed, it was set."""


def uptime_s() -> float:
    """Return how long the machine has been up, in seconds: this clock is never set, and runs on during sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Every(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Runs a job every so many seconds, counted from now.

    APScheduler's own interval counts from the previous run and lists every run that was missed: after the clock was set
    forward by years, hundreds of millions.
    """

    __slots__ = ("_every_s", "_jitter_s")

    def __init__(self, every_s: float, *, jitter_s: float = 0.0) -> None:
        self._every_s = every_s
        self._jitter_s = jitter_s

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:  # noqa: ARG002
        """Return a time after `now`, whenever the last run was."""
        spread_s = random.uniform(0, self._jitter_s)  # noqa: S311  # no secret
        return now + timedelta(seconds=self._every_s + spread_s)

    def __str__(self) -> str:
        return f"every {self._every_s:g} s"


class ClockSteps:
    """Notices when the wall clock was set. Drift and slewing do not count as steps."""

    def __init__(self, wall: Callable[[], datetime], uptime: Callable[[], float] = uptime_s) -> None:
        self._wall = wall
        self._uptime = uptime
        self._ahead_s = self._read()

    def step_s(self) -> float:
        """Return by how many seconds it was set since the last call: above 0 is forward, 0 if it was not set."""
        ahead_s = self._read()
        step_s, self._ahead_s = ahead_s - self._ahead_s, ahead_s
        return step_s if abs(step_s) >= STEP_S else 0.0

    def _read(self) -> float:
        return self._wall().timestamp() - self._uptime()


def make_scheduler(
    settings: Settings,
    put: Callable[[Message], None],
    check: Callable[[], None],
    check_s: float,
    uptime: Callable[[], float] = uptime_s,
) -> BackgroundScheduler:
    """Make a scheduler, not yet started.

    No run is dropped for being late (`misfire_grace_time=None`); late runs of one job are merged. `check` is the health
    check, run every `check_s` seconds.
    """
    delete_old_events = _by_real_time(DELETE_FIRST_S, DELETE_EVERY_S, lambda: put(DeleteOldEvents()), uptime)
    # A run skipped because the last one is not over does no harm here, but APScheduler would warn each time. The logger
    # is our own, so other schedulers in the process keep their warnings.
    logger = logging.getLogger("apscheduler.scheduler.ingestd")
    logger.setLevel(logging.ERROR)
    scheduler = BackgroundScheduler(
        timezone="UTC",
        logger=logger,
        job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
    )
    rescan_s, compact_s = settings.watch.rescan_s, settings.service.compact_s
    scan = ScanAsked("routine", routine=True)
    scheduler.add_job(put, Every(rescan_s, jitter_s=rescan_s * JITTER), args=[scan], id="scan")
    scheduler.add_job(put, Every(compact_s), args=[Compact()], id="compact")
    scheduler.add_job(delete_old_events, Every(DELETE_FIRST_S), id="delete-old-events")
    scheduler.add_job(check, Every(check_s), id="check")
    return scheduler


def _by_real_time(
    first_s: float, every_s: float, do: Callable[[], None], uptime: Callable[[], float]
) -> Callable[[], None]:
    """Return a function that, called often, does something `first_s` from now and every `every_s` after that."""
    due = uptime() + first_s

    def do_if_due() -> None:
        nonlocal due
        now = uptime()
        if now >= due:
            due = now + every_s
            do()

    return do_if_due


def rearm(scheduler: BackgroundScheduler) -> None:
    """Let no job wait longer than its interval: after the clock was set back, its next run would be far away."""
    now = datetime.now(UTC)
    for job in scheduler.get_jobs():
        latest = job.trigger.get_next_fire_time(None, now)
        if job.next_run_time > latest:
            scheduler.modify_job(job.id, next_run_time=latest)


def on_job_error(scheduler: BackgroundScheduler, tell: Callable[[str, str], None]) -> None:
    """Report a job that raised: `tell(job id, error)`. The job stays scheduled."""

    def heard(event: JobExecutionEvent) -> None:
        tell(str(event.job_id), repr(event.exception))

    scheduler.add_listener(heard, EVENT_JOB_ERROR)
