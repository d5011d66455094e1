"""The clockwork: APScheduler jobs that only put messages on the worker's queue."""

from __future__ import annotations

import logging
from collections.abc import Callable

from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from ingestd.service.messages import Compact, DeleteOldEvents, Message, ScanAsked
from ingestd.settings import Settings

DELETE_EVERY_S = 6 * 3600
JITTER = 0.1
"""Scans are spread by this part of their interval, so that several PCs on one share do not scan in step."""


def make_scheduler(
    settings: Settings, put: Callable[[Message], None], check: Callable[[], None], check_s: float
) -> BackgroundScheduler:
    """Make a scheduler, not yet started.

    Nothing is dropped because it is late (`misfire_grace_time=None`); late runs of one job are taken together. `check`
    is the health check, run every `check_s` seconds.
    """
    # A run left out because the last one is not over costs nothing here, and APScheduler would warn of each. The logger
    # is our own: other schedulers of the process keep their warnings.
    logger = logging.getLogger("apscheduler.scheduler.ingestd")
    logger.setLevel(logging.ERROR)
    scheduler = BackgroundScheduler(
        timezone="UTC",
        logger=logger,
        job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
    )
    rescan_s, compact_s = settings.watch.rescan_s, settings.service.compact_s
    scheduler.add_job(
        put,
        IntervalTrigger(seconds=rescan_s, jitter=rescan_s * JITTER),
        args=[ScanAsked("routine", routine=True)],
        id="scan",
    )
    scheduler.add_job(put, IntervalTrigger(seconds=compact_s), args=[Compact()], id="compact")
    scheduler.add_job(put, IntervalTrigger(seconds=DELETE_EVERY_S), args=[DeleteOldEvents()], id="delete-old-events")
    scheduler.add_job(check, IntervalTrigger(seconds=check_s), id="check")
    return scheduler


def on_job_error(scheduler: BackgroundScheduler, tell: Callable[[str, str], None]) -> None:
    """Report a job that raised: `tell(job id, error)`. The job stays scheduled."""

    def heard(event: JobExecutionEvent) -> None:
        tell(str(event.job_id), repr(event.exception))

    scheduler.add_listener(heard, EVENT_JOB_ERROR)
