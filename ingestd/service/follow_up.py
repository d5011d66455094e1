"""What follows from decisions: histories of the chips that changed, compaction, and the end of old events."""

from __future__ import annotations

import time

from structlog.stdlib import BoundLogger

from ingestd.histories.blocked import problem_of
from ingestd.ingest.commit import Ingest
from ingestd.service.jobs import Jobs
from ingestd.service.logline import ms_since
from ingestd.service.retention import delete_some_events

HISTORY_REST = 10.0
"""While files wait to be staged, histories rest this many times as long as writing them took: a backlog goes first."""


class FollowUp:
    """Does and plans these jobs. Only the worker's thread calls it."""

    def __init__(self, ingest: Ingest, jobs: Jobs, log: BoundLogger) -> None:
        self._ingest = ingest
        self._jobs = jobs
        self._log = log
        self._blocked: set[str] = set()  # chips whose history could not be written, only because of its place
        self._histories_from = 0.0  # while there is a backlog

    def plan(self) -> None:
        """Plan what follows from the log, whoever wrote it: stale histories, and a compaction if it is long.

        A compaction is due as well if the disk refused an event JSON: it writes that, or says what keeps it from it.
        """
        now, store, settings = time.monotonic(), self._ingest.store, self._ingest.settings
        soon = now + settings.histories.debounce_s
        if store.catalog.stale_chips:
            self._jobs.ask("histories", soon)
        if self._blocked and store.catalog.stale_chips.keys() - self._blocked:
            self._jobs.hurry("histories", soon)  # these chips do not wait for those
        if store.pending >= settings.service.compact_records or self._ingest.owes_traces:
            self._jobs.ask("compaction", now)

    def do_due(self, file_due: float | None) -> None:
        """Do what is due; `file_due` is when the next file is to be looked at, in monotonic seconds."""
        self._put_backlog_first(file_due)
        self._jobs.do_if_due("histories", self._write_histories)
        self._jobs.do_if_due("compaction", self._compact)
        self._jobs.do_if_due("retention", self._delete_old_events)

    def finish(self) -> None:
        """Write histories and compact, due or not: the service is stopping."""
        self._jobs.attempt("histories", self._write_histories)
        self._jobs.attempt("compaction", self._compact)

    def _put_backlog_first(self, file_due: float | None) -> None:
        if not self._jobs.is_asked("histories") or "histories" in self._jobs.troubles:
            return
        now = time.monotonic()
        if file_due is not None and file_due <= now:
            self._jobs.put_off("histories", self._histories_from)
        else:
            self._jobs.hurry("histories", now + self._ingest.settings.histories.debounce_s)

    def _write_histories(self) -> None:
        began = time.monotonic()
        self._blocked = set()
        changes = self._ingest.refresh_histories()
        ended = time.monotonic()
        self._histories_from = ended + HISTORY_REST * (ended - began)
        if chips := [change.chip for change in changes if change.changed]:
            self._log.info("histories", chips=chips, took_ms=ms_since(began))
        self._blocked = {change.chip for change in changes if change.problem is not None}
        if (problem := problem_of(changes)) is not None:
            raise problem

    def _compact(self) -> None:
        began = time.monotonic()
        done = self._ingest.compact()
        if done is not None:
            self._log.info("compacted", records=done.records, runs=done.rows, took_ms=ms_since(began))
        if self._ingest.reject_problem is not None:
            raise self._ingest.reject_problem

    def _delete_old_events(self) -> None:
        settings = self._ingest.settings
        today = self._ingest.clock().astimezone(settings.zone).date()
        self._ingest.keep_places()  # the raw files' folders are called after days as well
        events_dir = self._ingest.layout.events_dir
        gone = delete_some_events(events_dir, today, settings.events.keep_days)
        if gone is None:
            return
        if gone.parent == events_dir:
            self._log.info("events_deleted", days=[gone.name])
        self._jobs.ask("retention", time.monotonic())  # in the next turn: runs that are over do not wait for all of it
