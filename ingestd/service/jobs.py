"""The timetable of the worker's jobs: when each is due, and what keeps one from being done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Literal

from structlog.stdlib import BoundLogger

from ingestd import files
from ingestd.errors import Retry
from ingestd.ingest.commit import Ingest
from ingestd.service.logline import cause
from ingestd.service.state import Trouble, goes_on
from ingestd.service.waiting import backoff_s

Job = Literal["scan", "stage", "histories", "compaction", "retention", "lost files"]


class Jobs:
    """Which jobs were asked for, and which something outside prevents. Only the worker's thread uses it.

    `troubles` holds, by job, what prevents it. Times are monotonic seconds.
    """

    def __init__(self, ingest: Ingest, log: BoundLogger) -> None:
        self._ingest = ingest
        self._log = log
        self._due: dict[Job, float] = {}
        self._rests: dict[Job, float] = {}  # until when a job that was prevented is not tried again
        self.troubles: dict[Job, Trouble] = {}

    def ask(self, job: Job, due: float) -> None:
        """Ask for a job at `due`, unless it is asked for already."""
        self._due.setdefault(job, due)

    def hurry(self, job: Job, due: float) -> None:
        """Ask for a job at `due`, or earlier if it is due earlier."""
        self._due[job] = min(due, self._due.get(job, due))

    def put_off(self, job: Job, due: float) -> None:
        """Let a job that was asked for wait until `due`, or longer if it is due later."""
        self._due[job] = max(due, self._due[job])

    def is_asked(self, job: Job) -> bool:
        """Tell whether a job was asked for and not done yet."""
        return job in self._due

    def rests_until(self, job: Job) -> float:
        """Return until when a job that was prevented is not tried again; in the past if it may go on."""
        return self._rests.get(job, 0.0)

    def next_due(self) -> float:
        """Return when the next of the jobs asked for is due; infinity if there is none."""
        return min(self._due.values(), default=math.inf)

    def do_if_due(self, job: Job, do: Callable[[], None]) -> None:
        """Do a job if it was asked for and its time has come."""
        if time.monotonic() >= self._due.get(job, math.inf):
            del self._due[job]
            if not self.attempt(job, do):
                self._due[job] = self._rests[job]

    def attempt(self, job: Job, do: Callable[[], None]) -> bool:
        """Do a job now; if something outside prevents it, log that once, show it, and let the job rest.

        Return whether it was done. The rests grow while the same job is prevented again and again.
        """
        try:
            do()
        except Retry as error:
            self._prevented(job, error)
            return False
        except OSError as error:
            self._prevented(job, files.retry_from(error, self._ingest.layout.data_root))
            return False
        if self.troubles.pop(job, None) is not None:
            self._log.info("resumed", job=job)
        return True

    def _prevented(self, job: Job, error: Retry) -> None:
        service, known = self._ingest.settings.service, self.troubles.get(job)
        tries = known.tries + 1 if known else 1
        wait = backoff_s(tries - 1, service.retry_s, service.retry_max_s)
        step = goes_on(error.next_step)
        if known is None or known.message != error.message:
            self._log.error("trouble", job=job, **cause(error, step), retry_s=wait)
        since = known.since if known else self._ingest.clock()
        self.troubles[job] = Trouble.of(error, since, next_step=step, tries=tries)
        self._rests[job] = time.monotonic() + wait
