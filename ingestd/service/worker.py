"""The one worker of the service: takes hints and jobs from one queue; scans, looks, stages, and does what follows.

Others only put messages on the queue. Everything that decides runs here, in one thread.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ingestd import files
from ingestd.errors import Retry
from ingestd.ingest.commit import Ingest
from ingestd.ingest.notes import forgotten_by
from ingestd.raw.settling import Verdict
from ingestd.service.decision_lines import chips_at, tell_decision
from ingestd.service.follow_up import FollowUp
from ingestd.service.jobs import Jobs
from ingestd.service.logline import cause, ms_since
from ingestd.service.logs import our_log
from ingestd.service.looker import Looker
from ingestd.service.lost_lines import LostLines
from ingestd.service.messages import Answered, Compact, DeleteOldEvents, Hint, Message, ScanAsked
from ingestd.service.orphans import Orphans
from ingestd.service.state import RetryingFile, Trouble, check_space, goes_on, waits_out
from ingestd.service.suspects import Suspects
from ingestd.service.waiting import Entry, WaitList
from ingestd.stage.run import Failed, Outcome, Waiting, discard, in_batches, preload, stage_batch
from ingestd.words import count

IDLE_TURN_S = 5.0
"""The longest the worker waits for a message, in seconds: at least this often it shows that it is alive."""

SHOWN_RETRYING = 100
"""How many of the files that are tried again the state names: the files of a whole archive may be closed to us."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What the worker is doing, for other threads: a sentence, how many files it has to look at, what it cannot do.

    `retrying` are `SHOWN_RETRYING` files at most.
    """

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
        self._log = our_log()
        self._list = WaitList(retry_s=service.retry_s, retry_max_s=service.retry_max_s)
        self._looker = Looker(ingest, self._list)
        self._suspects = Suspects(ingest, self._list, self.inbox)
        self._orphans = Orphans(ingest, self._list)
        self._lost = LostLines(ingest, self._list, self._log)
        self._jobs = Jobs(ingest, self._log)
        self._follow_up = FollowUp(ingest, self._jobs, self._log)
        self._scan = ScanAsked("start")

    # ---- the thread -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Take turns until asked to stop, then write histories and compact. An error that ends it is in `failure`."""
        try:
            preload()
            self._suspects.tell(self._log)
            while not self.stopping.is_set():
                self.turn(self._wait_s())
            self._finish_suspects()
            self._jobs.attempt("lost files", lambda: self._lost.tell(stopping=True))
            self._show("stopping: writing histories and compacting the log")
            self._follow_up.finish()
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
        self._jobs.do_if_due("scan", self._look_at_everything)
        if time.monotonic() >= self._jobs.rests_until("stage"):
            self._jobs.attempt("stage", self._stage_due)
        self._follow_up.do_due(self._list.next_due())
        self._show()

    def _wait_s(self) -> float:
        """Return how long nothing is due, in seconds."""
        now = time.monotonic()
        times = [now + IDLE_TURN_S, self._jobs.next_due()]
        stages = [now if self._suspects.is_due() else self._list.next_due()]
        stages += [self._orphans.next_due(), self._lost.next_due()]
        times += [max(due, self._jobs.rests_until("stage")) for due in stages if due is not None]
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
                if not self._jobs.is_asked("scan") or self._scan.routine:
                    self._scan = message
                if message.routine:
                    self._jobs.ask("scan", now)
                else:
                    self._jobs.hurry("scan", now)
            case Answered():
                self._suspects.take(message)
            case Compact():
                self._jobs.ask("compaction", now)
            case DeleteOldEvents():
                self._jobs.ask("retention", now)

    def _beat(self) -> None:
        self.beat_at = time.monotonic()

    # ---- scanning ---------------------------------------------------------------------------------------------------

    def _look_at_everything(self) -> None:
        """Compare everything in the raw root with what is decided: a scan is the truth, hints only hurry it."""
        asked, began = self._scan, time.monotonic()
        store = self._ingest.store
        store.refresh()
        found = files.scan_csvs(self._ingest.layout.raw_root, self._beat, store.catalog.run_files())
        store.refresh()
        fresh, now = store.catalog.undecided(found.files), time.monotonic()
        news = not asked.routine or not fresh.keys() <= self._list.entries.keys()  # a run may be under way for hours
        for name in fresh:
            self._list.hint(name, now)
        self._suspects.clear_after(found)
        self.folders = found.folders
        tell = self._log.info if news else self._log.debug
        tell("scanned", reason=asked.reason, files=found.count, to_do=len(fresh), took_ms=ms_since(began))
        for name, why in found.unreadable:
            self._log.warning("folder_unreadable", folder=name or ".", problem=why)
        self._ingest.keep_places()
        self._orphans.note_unseen(found)
        self._follow_up.plan()  # a kill may have come between a record and its history

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
            self._jobs.attempt("stage", lambda: self._suspects.decide(self._decide))

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
        if self._list.retry(name, retry, time.monotonic()):
            self._tell_retrying(name, retry)

    def _tell_retrying(self, name: str, retry: Retry) -> None:
        self._log.warning("retrying", source_file=name, **cause(retry, goes_on(retry.next_step)))

    def _commit(self, outcomes: Sequence[Outcome], began: float) -> None:
        if not outcomes:
            return
        chips = chips_at(self._ingest.store, (outcome.task.source_file for outcome in outcomes))
        done = self._ingest.commit(outcomes)
        took_ms = ms_since(began)
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
        self._follow_up.plan()
        self._raise_ours(done.failed)
        for failed in done.failed:
            self._retry_later(failed)

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

    # ---- what others see --------------------------------------------------------------------------------------------

    def _show(self, doing: str = "") -> None:
        entries = self._list.entries
        ailing = [name for name, entry in entries.items() if entry.problem]
        retrying = tuple(_retrying(name, entries[name]) for name in ailing[:SHOWN_RETRYING])
        backlog = sum(entry.state is None and not entry.problem for entry in entries.values())
        doing = doing or self._sentence(backlog, retrying, len(ailing))
        self.view = WorkerView(doing, backlog, tuple(self._jobs.troubles.values()), retrying)

    def _sentence(self, backlog: int, retrying: Sequence[RetryingFile], ailing: int) -> str:
        if self._jobs.troubles:
            return waits_out(next(iter(self._jobs.troubles.values())))
        said = [f"staging: {count(backlog, 'file')} to look at" if backlog else "watching"]
        if retrying:
            first = retrying[0]
            said.append(f"{count(ailing, 'file')} tried again: {first.source_file}: {first.message}")
        running = len(self._list.entries) - backlog - ailing
        if running and not backlog:
            said.append(f"{count(running, 'file')} not over yet")
        return "; ".join(said)


def _retrying(name: str, entry: Entry) -> RetryingFile:
    return RetryingFile(source_file=name, message=entry.problem, next_step=entry.next_step, tries=entry.tries)
