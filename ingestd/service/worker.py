"""The one worker of the service: takes hints and jobs from one queue; looks, stages, logs, writes histories, compacts.

Others only put messages on the queue. Everything that decides runs here, in one thread.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ingestd import files
from ingestd.errors import Retry
from ingestd.histories.chip import problem_of
from ingestd.ingest.commit import Ingest
from ingestd.ingest.notes import forgotten_by
from ingestd.raw.settling import Verdict
from ingestd.service.decision_lines import chips_at, tell_decision
from ingestd.service.logline import cause
from ingestd.service.logs import our_log
from ingestd.service.looker import Looker
from ingestd.service.lost_lines import LostLines
from ingestd.service.messages import Answered, Compact, DeleteOldEvents, Hint, Message, ScanAsked
from ingestd.service.orphans import Orphans
from ingestd.service.retention import delete_old_events
from ingestd.service.state import RetryingFile, Trouble, check_space, goes_on, waits_out
from ingestd.service.suspects import Suspects
from ingestd.service.waiting import WaitList, backoff_s
from ingestd.stage.run import Failed, Outcome, Waiting, discard, in_batches, preload, stage_batch
from ingestd.words import count

IDLE_TURN_S = 5.0
"""The longest the worker waits for a message, in seconds: at least this often it shows that it is alive."""

HISTORY_REST = 10.0
"""While files wait to be staged, histories rest this many times as long as writing them took: a backlog goes first."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What the worker is doing, for other threads: a sentence, how many files it has to look at, what it cannot do."""

    doing: str = "watching; the first scan is under way"
    backlog: int = 0
    troubles: tuple[Trouble, ...] = ()
    retrying: tuple[RetryingFile, ...] = ()


class Worker:
    """The worker's turns. `run` is the body of its thread; `view`, `beat_at` and `folders` are read by others."""

    def __init__(self, ingest: Ingest) -> None:
        service = ingest.settings.service
        self.inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self.stopping = threading.Event()
        self.view = WorkerView()
        self.beat_at = time.monotonic()
        self.folders: int | None = None
        self.failure: Exception | None = None
        self._ingest = ingest
        self._service = service
        self._log = our_log()
        self._list = WaitList(retry_s=service.retry_s, retry_max_s=service.retry_max_s)
        self._looker = Looker(ingest, self._list)
        self._suspects = Suspects(ingest, self._list, self.inbox)
        self._orphans = Orphans(ingest, self._list)
        self._lost = LostLines(ingest, self._list, self._log)
        self._troubles: dict[str, Trouble] = {}
        self._blocked: set[str] = set()  # chips whose history could not be written, only because of its place
        self._jobs = {
            "scan": self._look_at_everything,
            "histories": self._write_histories,
            "compaction": self._compact,
            "retention": self._delete_old_events,
        }
        self._due: dict[str, float] = {}  # job asked for -> when it is due (monotonic seconds)
        self._stage_from = 0.0  # nothing is staged before, once something outside kept a batch from being staged
        self._scan = ScanAsked("start")
        self._histories_from = 0.0  # while there is a backlog

    # ---- the thread -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Take turns until asked to stop, then write histories and compact. An error that ends it is in `failure`."""
        try:
            preload()
            self._suspects.tell(self._log)
            while not self.stopping.is_set():
                self.turn(self._wait_s())
            self._finish_suspects()
            self._guarded("lost files", lambda: self._lost.tell(stopping=True))
            self._show("stopping: writing histories and compacting the log")
            self._guarded("histories", self._write_histories)
            self._guarded("compaction", self._compact)
        except Exception as error:  # the thread must not vanish silently: the daemon reports the error and ends
            self.failure = error

    def stop(self) -> None:
        """Ask the worker to finish what is in hand and end; may be called from any thread."""
        self.stopping.set()
        self.inbox.put(None)

    def turn(self, wait_s: float) -> None:
        """Take messages, waiting at most `wait_s`, and do what is due: a scan, one batch, histories, a compaction."""
        self._take_messages(wait_s)
        self._beat()
        self._do_if_due("scan")
        if time.monotonic() >= self._stage_from:
            self._guarded("stage", self._stage_due)
        self._put_backlog_first()
        for job in ("histories", "compaction", "retention"):
            self._do_if_due(job)
        self._show()

    def _put_backlog_first(self) -> None:
        if "histories" not in self._due or "histories" in self._troubles:
            return
        now, file_due = time.monotonic(), self._list.next_due()
        if file_due is not None and file_due <= now:
            self._due["histories"] = max(self._due["histories"], self._histories_from)
        else:
            self._due["histories"] = min(self._due["histories"], now + self._ingest.settings.histories.debounce_s)

    def _do_if_due(self, job: str) -> None:
        if time.monotonic() >= self._due.get(job, math.inf):
            del self._due[job]
            self._guarded(job, self._jobs[job])

    def _wait_s(self) -> float:
        """Return how long nothing is due, in seconds."""
        now = time.monotonic()
        times = [now + IDLE_TURN_S, *self._due.values()]
        stages = [now if self._suspects.is_due() else self._list.next_due()]
        stages += [self._orphans.next_due(), self._lost.next_due()]
        times += [max(due, self._stage_from) for due in stages if due is not None]
        return max(0.0, min(times) - now)

    def _take_messages(self, wait_s: float) -> None:
        try:
            message = self.inbox.get(timeout=wait_s) if wait_s > 0 else self.inbox.get_nowait()
            while True:
                self._take(message)
                message = self.inbox.get_nowait()
        except queue.Empty:
            return

    def _take(self, message: Message | None) -> None:
        now = time.monotonic()
        match message:
            case Hint(name):
                self._list.hint(name, now)
            case ScanAsked():
                if "scan" not in self._due or self._scan.routine:
                    self._scan = message
                self._due["scan"] = self._due.get("scan", now) if message.routine else now
            case Answered():
                self._suspects.take(message)
            case Compact():
                self._due.setdefault("compaction", now)
            case DeleteOldEvents():
                self._due.setdefault("retention", now)

    def _beat(self) -> None:
        self.beat_at = time.monotonic()

    # ---- trouble ----------------------------------------------------------------------------------------------------

    def _guarded(self, job: str, do: Callable[[], None]) -> None:
        """Run a job; if something outside prevents it, log that once, show it, and try again at growing intervals."""
        try:
            do()
        except Retry as error:
            self._postpone(job, error)
        except OSError as error:
            self._postpone(job, files.retry_from(error, self._ingest.layout.data_root))
        else:
            if self._troubles.pop(job, None) is not None:
                self._log.info("resumed", job=job)

    def _postpone(self, job: str, error: Retry) -> None:
        known = self._troubles.get(job)
        tries = known.tries + 1 if known else 1
        wait = backoff_s(tries - 1, self._service.retry_s, self._service.retry_max_s)
        step = goes_on(error.next_step)
        if known is None or known.message != error.message:
            self._log.error("trouble", job=job, **cause(error, step), retry_s=wait)
        since = known.since if known else self._ingest.clock()
        self._troubles[job] = Trouble.of(error, since, next_step=step, tries=tries)
        if job == "stage":
            self._stage_from = time.monotonic() + wait
        else:
            self._due[job] = time.monotonic() + wait

    # ---- scanning ---------------------------------------------------------------------------------------------------

    def _look_at_everything(self) -> None:
        """Compare everything in the raw root with what is decided: a scan is the truth, hints only hurry it."""
        asked, began = self._scan, time.monotonic()
        store = self._ingest.store
        store.refresh()
        found = files.scan_csvs(self._ingest.layout.raw_root, self._beat, store.catalog.run_files())
        store.refresh()
        fresh, now = store.catalog.undecided(found.files), time.monotonic()
        for name in fresh:
            self._list.hint(name, now)
        self._suspects.clear_after(found)
        self.folders = found.folders
        tell = self._log.debug if asked.routine and not fresh else self._log.info
        tell("scanned", reason=asked.reason, files=found.count, to_do=len(fresh), took_ms=_ms_since(began))
        for name, why in found.unreadable:
            self._log.warning("folder_unreadable", folder=name or ".", problem=why)
        self._ingest.keep_places()
        self._orphans.note_unseen(found)
        self._plan_upkeep()  # a kill may have come between a record and its history

    # ---- staging ----------------------------------------------------------------------------------------------------

    def _stage_due(self) -> None:
        """Stage and commit one batch of the files that are due; if there are none, promote copies of what is gone."""
        self._suspects.decide(self._decide)
        stage = self._ingest.settings.stage
        names = self._list.due(time.monotonic(), stage.batch_files)
        if not names:
            self._suspects.go_on()
            self._promote_copies()
            self._lost.tell()
            return
        began = time.monotonic()
        outcomes: list[Outcome] = []
        try:
            tasks = self._looker.tasks(names)
            if tasks:
                check_space(self._ingest.settings)
                self._ingest.keep_places()
            tasks = self._suspects.set_apart(tasks)
            for batch in in_batches(tasks, limit_files=stage.batch_files, limit_mib=stage.batch_mib):
                with self._suspects.noted(batch):
                    outcomes = stage_batch(batch, self._ingest.context)
                self._beat()
                self._decide(outcomes, began)
        except (Retry, OSError):
            discard(outcomes)
            for name in names:
                if name in self._list.entries:
                    self._list.again(name, time.monotonic())
            raise
        finally:
            self._tell_news()
            self._orphans.note(self._looker.gone)  # they are off the list, though the others may be staged again

    def _finish_suspects(self) -> None:
        self._suspects.finish()
        self._take_messages(0.0)
        if self._suspects.answered:
            self._guarded("stage", lambda: self._suspects.decide(self._decide))

    def _decide(self, outcomes: Sequence[Outcome], began: float) -> None:
        """Commit what was staged; look again later at what is not over, and try again what failed."""
        self._raise_ours(outcomes)
        self._commit(outcomes, began)
        for outcome in outcomes:
            match outcome:
                case Waiting():
                    self._looker.not_over(outcome)
                case Failed():
                    self._retry_later(outcome)

    def _raise_ours(self, outcomes: Sequence[Outcome]) -> None:
        """Raise if writing failed: other files would fail as well."""
        for outcome in outcomes:
            if isinstance(outcome, Failed) and outcome.ours:
                raise outcome.retry

    def _retry_later(self, outcome: Failed) -> None:
        name, retry = outcome.task.source_file, outcome.retry
        if name not in self._list.entries:
            self._list.hint(name, time.monotonic())
        if self._list.retry(name, retry.message, goes_on(retry.next_step), time.monotonic()):
            self._tell_retrying(name, retry)

    def _tell_retrying(self, name: str, retry: Retry) -> None:
        self._log.warning("retrying", source_file=name, **cause(retry, goes_on(retry.next_step)))

    def _commit(self, outcomes: Sequence[Outcome], began: float) -> None:
        if not outcomes:
            return
        chips = chips_at(self._ingest.store, (outcome.task.source_file for outcome in outcomes))
        done = self._ingest.commit(outcomes)
        took_ms = _ms_since(began)
        for record in done.records:
            self._list.done(record.source_file)
            tell_decision(self._log, self._ingest.store, record, took_ms, chips)
            self._lost.note(record, done.covered)
            for name in forgotten_by(record):
                self._list.hint(name, time.monotonic())
            if self._ingest.store.catalog.overwritten_at(record.source_file):
                self._orphans.note([record.source_file])
        for outcome in done.again:
            if outcome.task.source_file in self._list.entries:
                self._list.overtaken(outcome.task.source_file, time.monotonic())
        self._plan_upkeep()
        self._raise_ours(done.failed)
        for failed in done.failed:
            self._retry_later(failed)

    def _plan_upkeep(self) -> None:
        """Plan what follows from the log, whoever wrote it: stale histories, and a compaction if it is long."""
        now, store = time.monotonic(), self._ingest.store
        soon = now + self._ingest.settings.histories.debounce_s
        if store.catalog.stale_chips:
            self._due.setdefault("histories", soon)
        if self._blocked and store.catalog.stale_chips.keys() - self._blocked:
            self._due["histories"] = min(self._due["histories"], soon)  # these chips do not wait for those
        if store.pending >= self._service.compact_records:
            self._due.setdefault("compaction", now)

    def _promote_copies(self) -> None:
        """Let a copy take the place of each original that is still gone, a batch at a time."""
        gone = self._orphans.due()
        for copies in self._ingest.copies_of(gone) if gone else ():
            self._commit(copies, time.monotonic())
            self._beat()
            if self.stopping.is_set():
                return
        self._orphans.done(gone)

    def _tell_news(self) -> None:
        """Log why files wait, once for each kind of reason, what cannot be looked at, and which of these are gone."""
        for name, news in self._looker.news:
            match news:
                case Verdict():
                    self._log.info("waiting", source_file=name, state=news.state.value, reason=news.reason)
                case Retry():
                    self._tell_retrying(name, news)
                case None:
                    reason = "deleted, moved, renamed or put behind a link before it could be staged"
                    self._log.info("gone", source_file=name, reason=reason)
        self._looker.news.clear()

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def _write_histories(self) -> None:
        began = time.monotonic()
        self._blocked = set()
        changes = self._ingest.refresh_histories()
        ended = time.monotonic()
        self._histories_from = ended + HISTORY_REST * (ended - began)
        if chips := [change.chip for change in changes if change.changed]:
            self._log.info("histories", chips=chips, took_ms=_ms_since(began))
        self._blocked = {change.chip for change in changes if change.problem is not None}
        if (problem := problem_of(changes)) is not None:
            raise problem

    def _compact(self) -> None:
        began = time.monotonic()
        done = self._ingest.compact()
        if done is not None:
            self._log.info("compacted", records=done.records, runs=done.rows, took_ms=_ms_since(began))
        if self._ingest.reject_problem is not None:
            raise self._ingest.reject_problem

    def _delete_old_events(self) -> None:
        settings = self._ingest.settings
        today = self._ingest.clock().astimezone(settings.zone).date()
        self._ingest.keep_places()  # the raw files' folders are called after days as well
        gone = delete_old_events(self._ingest.layout.events_dir, today, settings.events.keep_days)
        if gone:
            self._log.info("events_deleted", days=gone)

    # ---- what others see --------------------------------------------------------------------------------------------

    def _show(self, doing: str = "") -> None:
        entries = self._list.entries
        retrying = tuple(
            RetryingFile(source_file=name, problem=entry.problem, next_step=entry.next_step, tries=entry.tries)
            for name, entry in entries.items()
            if entry.problem
        )
        backlog = sum(entry.state is None and not entry.problem for entry in entries.values())
        doing = doing or self._sentence(backlog, retrying)
        self.view = WorkerView(doing, backlog, tuple(self._troubles.values()), retrying)

    def _sentence(self, backlog: int, retrying: Sequence[RetryingFile]) -> str:
        if self._troubles:
            return waits_out(next(iter(self._troubles.values())))
        said = [f"staging: {count(backlog, 'file')} to look at" if backlog else "watching"]
        if retrying:
            first = retrying[0]
            said.append(f"{count(len(retrying), 'file')} tried again: {first.source_file}: {first.problem}")
        running = len(self._list.entries) - backlog - len(retrying)
        if running and not backlog:
            said.append(f"{count(running, 'file')} not over yet")
        return "; ".join(said)


def _ms_since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)
