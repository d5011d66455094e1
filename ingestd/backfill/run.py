"""An archive in one go: everything in `01_raw` that is settled and not yet decided, staged in parallel.

One process scans, decides and writes the log; worker processes read, parse and write Parquet. Batches are committed in
the order they were handed out, so the result does not depend on the number of workers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ingestd.backfill.fate import Fate
from ingestd.backfill.ledger import Ledger
from ingestd.backfill.report import FailedFile, RejectedFile, Report, WaitingFile
from ingestd.errors import Corrupt, NoWorkers, Retry, UsageError
from ingestd.files import FileStat, Scan, exists, retry_from, scan_csvs, state_below, try_root
from ingestd.histories.blocked import problem_of
from ingestd.ingest.commit import Clock, Ingest, opened, utc_now
from ingestd.ingest.lost import LostFile, lost_files
from ingestd.ingest.notes import forgotten_by
from ingestd.ingest.order import looking_order
from ingestd.manifest.record import Event, Record
from ingestd.manifest.store import ManifestStore
from ingestd.raw.settling import Observation, State, Verdict, judge_outside, queued
from ingestd.settings import Settings
from ingestd.stage.cluster import DaskEngine
from ingestd.stage.engine import Engine, ProcessEngine
from ingestd.stage.run import Failed, Outcome, StageContext, StageTask, Waiting, in_batches
from ingestd.writers import Writers, read_writers

LOOKS = 3
"""How often one backfill looks at a file that changes, or is decided by another process, meanwhile."""

STOP_HEARD_S = 0.2
"""A wait notices a stop within this many seconds."""

COMPACT_FROM = 5000
"""Records in the log at which a backfill under way compacts: until then their rows are in memory, a few kB each.

In a larger manifest, a tenth of its rows, so that rewriting it stays a small share of the work.
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backfill has come: files looked at, and files to look at in all."""

    done: int
    total: int


def engine_of(context: StageContext, settings: Settings) -> AbstractContextManager[Engine]:
    """Return the engine the settings name.

    Raises:
        UsageError: the settings name the Dask engine but no scheduler.
    """
    if settings.stage.engine == "processes":
        return ProcessEngine(context, workers=settings.workers, threads=settings.stage.polars_threads)
    if not settings.stage.scheduler:
        raise UsageError("the Dask engine needs a scheduler", next_step="--scheduler ADDRESS, or stage.scheduler")
    return DaskEngine(context, scheduler=settings.stage.scheduler)


EngineOf = Callable[[StageContext, Settings], AbstractContextManager[Engine]]


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a backfill.

    `force` stages again what is already staged; `histories` and `compact` may be left to another command; `only` limits
    it to these files. `stop` is asked between batches; `on_progress` is called for each file, `on_record` for each
    decision. `engine` opens the engine that stages.
    """

    force: bool = False
    histories: bool = True
    compact: bool = True
    only: frozenset[str] | None = None
    stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[Progress], None] = lambda _: None
    on_record: Callable[[Record], None] = lambda _: None
    clock: Clock = utc_now
    engine: EngineOf = engine_of


def backfill(settings: Settings, options: Options | None = None) -> Report:
    """Stage everything that is settled and not yet decided; write histories; compact.

    Whatever ends it (a stop, a full disk, a kill), what was committed stays, and the next run goes on from there.
    `Report.stopped_by` tells of a disk that refused, of damage that was met on the way, or of a process that held the
    manifest's lock for too long.

    Raises:
        Retry: the raw root or the manifest cannot be read, or the stage's folders cannot be made.
        Corrupt: manifest or log is damaged; nothing was changed.
    """
    options = options or Options()
    try_root(settings.layout.raw_root)  # before anything is made below a root that is mistyped or not mounted
    with opened(settings, options.clock) as ingest:
        with options.engine(ingest.context, settings) as engine:
            known = None if options.force else ingest.store.catalog.run_files()
            scan = scan_csvs(settings.layout.raw_root, known=known)
            report = _Run(ingest, engine, options, scan).stage_everything()
        if report.stopped_by is None or isinstance(report.stopped_by, NoWorkers):
            _finish(ingest, options, report)
        return report


def dry_run(settings: Settings, *, force: bool = False) -> Report:
    """List what a backfill, with or without `force`, would look at; open no raw file and write nothing."""
    catalog = ManifestStore(settings.layout).catalog
    scan = scan_csvs(settings.layout.raw_root, known=None if force else catalog.run_files())
    undecided = catalog.undecided(scan.files)
    report = Report()
    report.name_passed_over(scan)
    for name in sorted(scan.files if force else undecided):
        report.to_do[name] = "unchanged" if name not in undecided else "changed" if catalog.is_known(name) else "new"
    to_do = len(report.to_do)
    report.fates = Counter({Fate.TO_DO: to_do, Fate.KNOWN: scan.count - to_do})
    return report


def _finish(ingest: Ingest, options: Options, report: Report) -> None:
    """Write the histories that changed and compact the log; the report says what kept that from being done."""
    problem: Retry | Corrupt | None = None
    try:
        if options.histories:
            changes = ingest.refresh_histories()
            report.histories, problem = [change.chip for change in changes if change.changed], problem_of(changes)
        if options.compact:
            ingest.compact()
            problem = problem or ingest.reject_problem
    except (Retry, Corrupt) as error:
        problem = problem or error
    report.stopped_by = report.stopped_by or problem


class _Run:
    """One backfill under way: it looks, in passes, at the files of a scan that need it, and notes the fate of each."""

    def __init__(self, ingest: Ingest, engine: Engine, options: Options, scan: Scan) -> None:
        self.ingest = ingest
        self.settings = ingest.settings
        self.engine = engine
        self.options = options
        self.scan = scan
        self.ledger = Ledger()
        self.report = Report()
        self._again: dict[str, FileStat | None] = {}  # worth another look; None: whatever its state was
        self._scanned_at = time.monotonic()
        self._changed_at: dict[str, float] = {}  # when a file was first seen in another state than the scan's
        self._lost_sight = False  # a file of the scan was gone when it was to be read: deleted or moved
        self._covered: set[str] = set()  # runs whose raw files got the bytes of others
        self._total = 0
        self._compact_at = COMPACT_FROM
        self._done = 0

    def stage_everything(self) -> Report:
        """Stage and commit what is settled, let copies take the place of originals that are gone, and sum up."""
        try:
            self._stage_in_passes()
            if self.options.only is None and not self.options.stop():
                self._promote_copies()
            self._fail_unseen()
        except (Retry, Corrupt) as error:
            self.report.stopped_by = error
        self.report.interrupted = self.options.stop()
        self._sum_up()
        return self.report

    def _stage_in_passes(self) -> None:
        """Stage and commit what was found, then what a folder that was renamed meanwhile has taken to other paths."""
        self._stage_all(self._to_do())
        if self._lost_sight and self.options.only is None and not self.options.stop():
            catalog = self.ingest.store.catalog
            self.scan = scan_csvs(self.settings.layout.raw_root, known=catalog.run_files())
            self._scanned_at = time.monotonic()
            self.ledger.follow(self.scan)
            self._stage_all(self._in_order(catalog.undecided(self.scan.files)))

    def _stage_all(self, to_do: dict[str, FileStat]) -> None:
        """Stage and commit, and look again at what was too young or changed meanwhile."""
        self._total += len(to_do)
        self._stage(to_do)
        for _ in range(LOOKS - 1):
            if not self._again or self.options.stop():
                return
            self._wait_until(self._scanned_at + self.settings.settle.settle_s)
            for name in filter(self._again.__contains__, self.ledger.names(Fate.WAITING)):
                self.ledger.put(name, Fate.TO_DO)
            self._stage(self._look_again())

    def _to_do(self) -> dict[str, FileStat]:
        """Pick the files that need a look, in the order in which they must be decided."""
        catalog, options, found = self.ingest.store.catalog, self.options, self.scan.files
        wanted = dict(found) if options.force else catalog.undecided(found)
        if options.only is not None:
            wanted = {name: status for name, status in wanted.items() if name in options.only}
        for note in catalog.notes.values():
            name = note.source_file
            if name not in found or name in wanted:
                continue
            if note.outcome == "rejected":
                self.ledger.put(name, Fate.REJECTED_BEFORE)
            elif note.outcome == "queued":
                self._wait(name, queued(note.code), found[name], fate=Fate.WAITING_BEFORE)
        return self._in_order(wanted)

    def _in_order(self, wanted: dict[str, FileStat]) -> dict[str, FileStat]:
        for name in wanted:
            self.ledger.put(name, Fate.TO_DO)
        return {name: wanted[name] for name in looking_order(self.ingest.store.catalog, wanted)}

    def _wait_until(self, moment: float) -> None:
        """Wait until a moment of the monotonic clock, or until a stop is asked for."""
        while (left := moment - time.monotonic()) > 0 and not self.options.stop():
            time.sleep(min(left, STOP_HEARD_S))

    def _promote_copies(self) -> None:
        """Let copies take the place of originals that are gone."""
        for copies in self.ingest.orphaned_copies(self.scan):
            self._commit(copies)
            if self.options.stop():
                return

    def _fail_unseen(self) -> None:
        """Note as failed the files asked for by name that the scan did not see and that cannot be looked at."""
        for name in sorted(name for name in self.options.only or () if not self.scan.saw(name)):
            try:
                exists(self.settings.layout.raw_file(name))
            except OSError as error:
                self._out_of_reach(name, error)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _sum_up(self) -> None:
        """Give each file still to do its fate, mark the lost ones, and fill the report from the ledger."""
        report, ledger = self.report, self.ledger
        try:
            self._end_what_is_to_do()
            report.lost = self._lost_files()
        except (Retry, Corrupt) as error:  # a commit was cut short, and the manifest cannot be read again
            report.stopped_by = report.stopped_by or error
            for name in ledger.names(Fate.TO_DO):
                ledger.put(name, Fate.LEFT)
        for file in report.lost:
            ledger.lose(file.source_file)
        report.name_passed_over(self.scan)
        report.fates = ledger.sums(self.scan)
        report.waiting = sorted(ledger.told(WaitingFile), key=lambda file: file.source_file)
        report.rejected, report.failed = ledger.told(RejectedFile), ledger.told(FailedFile)
        report.rejected_before = ledger.names(Fate.REJECTED_BEFORE, Fate.STILL_REJECTED)

    def _end_what_is_to_do(self) -> None:
        """Give a fate to each file still to do: it never stood still, was left, or another process was faster."""
        catalog, ledger, early = self.ingest.store.catalog, self.ledger, self.report.ended_early
        if not early:
            pending = self._look_again()
            for name in filter(pending.__contains__, ledger.names(Fate.TO_DO)):
                place, message = str(self.settings.layout.raw_file(name)), "it had changed every time it was looked at"
                self._note_failed(name, Retry(message, place=place, next_step="run the same command again"))
        for name in ledger.names(Fate.TO_DO):
            status = self.scan.files.get(name)
            decided = status is not None and catalog.is_current(name, status.stamp) and not self.options.force
            ledger.put(name, Fate.LEFT if early and not decided else Fate.OVERTAKEN)

    def _lost_files(self) -> list[LostFile]:
        store, only = self.ingest.store, self.options.only
        rowless = {file.source_file: file.code for file in self.ledger.told(WaitingFile) if file.state is State.QUEUED}
        moving = {status.size for status in store.catalog.undecided(self.scan.files).values()}
        lost = lost_files(store, rowless, self.scan.saw, moving, self._covered)
        return [file for file in lost if only is None or file.source_file in only]

    # ---- one pass ---------------------------------------------------------------------------------------------------

    def _stage(self, pending: dict[str, FileStat]) -> None:
        """Stage and commit the files that nobody is writing; note the others as waiting.

        One look at all processes serves the whole pass: a file that has the same size and mtime before the look and
        when it is read was settled at the moment of the look.
        """
        self._again = {}
        if not pending:
            return
        writers = read_writers(pending.values(), visible=self.settings.settle.writers_visible)
        batches = self._batches(pending, writers)
        for outcomes in self.engine.stage(batches, self.options.stop):
            for outcome in outcomes:
                self._account(outcome)
            self._commit(outcomes)

    def _batches(self, pending: dict[str, FileStat], writers: Writers) -> Iterator[list[StageTask]]:
        stage = self.settings.stage
        tasks = (self._task(name, status, writers) for name, status in pending.items())
        for batch in in_batches(filter(None, tasks), limit_files=stage.batch_files, limit_mib=stage.batch_mib):
            self.ingest.keep_places()
            yield batch

    def _task(self, name: str, status: FileStat, writers: Writers) -> StageTask | None:
        steady_s = time.monotonic() - self._changed_at.get(name, self._scanned_at)
        seen = Observation(max(abs(status.age_s(self.options.clock())), steady_s), writers.writer_of(status))
        verdict = judge_outside(seen, self.ingest.context.patience)
        if verdict.state is State.SETTLED:
            return self.ingest.task_for(name, status, seen, force=self.options.force)
        self._wait(name, verdict, status)
        if seen.writer == "":
            self._again[name] = status
        self._advance()
        return None

    def _wait(self, name: str, verdict: Verdict, status: FileStat, *, rows: int = 0, fate: Fate = Fate.WAITING) -> None:
        age_s = status.age_s(self.options.clock())
        self.ledger.tell(fate, WaitingFile(name, verdict.state, verdict.reason, verdict.code, age_s, rows))

    def _account(self, outcome: Outcome) -> None:
        name = outcome.task.source_file
        match outcome:
            case Waiting():
                self._wait(name, outcome.verdict, outcome.task.status, rows=outcome.rows)
                if outcome.rows == 0 and outcome.verdict.state is State.RUNNING:
                    self._again[name] = outcome.task.status
            case Failed():
                self._fail(outcome)
        self._advance()

    def _fail(self, outcome: Failed) -> None:
        """Note a file that could not be staged; raise what would make other files fail too, such as a full disk."""
        if outcome.ours:
            raise outcome.retry
        self._note_failed(outcome.task.source_file, outcome.retry)

    def _out_of_reach(self, name: str, error: OSError) -> None:
        self._note_failed(name, retry_from(error, self.settings.layout.raw_file(name)))

    def _note_failed(self, name: str, retry: Retry) -> None:
        self.ledger.tell(Fate.FAILED, FailedFile(name, retry.message, retry.place, retry.next_step))

    def _advance(self) -> None:
        self._done = min(self._done + 1, self._total)
        self.options.on_progress(Progress(self._done, self._total))

    def _commit(self, outcomes: Sequence[Outcome]) -> None:
        done = self.ingest.commit(outcomes)
        self._covered |= done.covered
        for outcome in done.again:
            self._again[outcome.task.source_file] = outcome.task.status
        for record in done.records:
            self._note(record)
        for failed in done.failed:
            self._fail(failed)
        self._bound_log()

    def _note(self, record: Record) -> None:
        self.report.events[record.event] += 1
        self.report.note_warnings(record)
        if record.event is Event.REJECTED and record.reason is not None:
            self.ledger.tell(Fate.REJECTED, RejectedFile(record.source_file, record.reason))
        elif record.event is Event.UNCHANGED and any(note.outcome == "rejected" for note in record.files):
            self.ledger.put(record.source_file, Fate.STILL_REJECTED)
        elif record.event is not Event.QUEUED:  # it is noted as waiting already
            self.ledger.put(record.source_file, Fate(record.event.value))
        self.options.on_record(record)
        for name in forgotten_by(record):
            self.ledger.put(name, Fate.TO_DO)
            self._again[name] = None

    def _bound_log(self) -> None:
        if self.options.compact and self.ingest.store.pending >= self._compact_at:
            done = self.ingest.compact()
            self._compact_at = max(COMPACT_FROM, done.rows // 10 if done else 0)

    def _look_again(self) -> dict[str, FileStat]:
        """Stat the files of the last pass that deserve another look."""
        pending: dict[str, FileStat] = {}
        catalog = self.ingest.store.catalog
        for name, before in self._again.items():
            try:
                status = state_below(self.settings.layout.raw_root, name)
            except OSError as error:
                self._out_of_reach(name, error)
                continue
            if status is None:
                self._lost_sight = True
                continue
            if self.options.force or not catalog.is_current(name, status.stamp):
                pending[name] = status
            if status != before:
                self._changed_at[name] = time.monotonic()
        return pending
