"""An archive in one shot: everything in `01_raw` that is settled and not yet decided, staged in parallel.

One process scans, decides and writes the log; worker processes read, parse and write Parquet. Batches are committed in
the order they were handed out, so the result does not depend on the number of workers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ingestd.cluster import DaskEngine
from ingestd.deciding import forgotten_by
from ingestd.engine import Engine, ProcessEngine
from ingestd.errors import Corrupt, NoWorkers, Retry, UsageError
from ingestd.files import FileStat, Scan, exists, retry_from, scan_csvs, stat_of, try_root
from ingestd.ingest import Clock, Ingest, opened, utc_now
from ingestd.lost import lost_files
from ingestd.manifest.record import Event, Record
from ingestd.manifest.store import ManifestStore
from ingestd.order import looking_order
from ingestd.raw.settling import Observation, State, Verdict, judge_outside, queued
from ingestd.report import FailedFile, RejectedFile, Report, WaitingFile
from ingestd.settings import Settings
from ingestd.stage.run import Failed, Outcome, StageContext, StageTask, Waiting, in_batches
from ingestd.writers import Writers, read_writers

LOOKS = 3
"""How often one run looks at a file that changed, or was decided by another process, while it ran."""

STOP_HEARD_S = 0.2
"""A wait hears of a stop within so many seconds."""

COMPACT_FROM = 5000
"""Records in the log from which a run compacts on its way: their rows are in memory until then, a few kB each.

In a larger manifest, a tenth of its rows: rewriting it stays a small share of the run.
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backfill is: files looked at, of how many, and the last of them."""

    done: int
    total: int
    source_file: str


def engine_of(context: StageContext, settings: Settings) -> AbstractContextManager[Engine]:
    """Return the engine the settings name.

    Raises:
        UsageError: it is the Dask engine, and no scheduler is named.
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

    `force` stages again what is staged; `histories` and `compact` may be left to another command; `only` limits it to
    these files. `stop` is asked between batches; `on_progress` and `on_record` are told of each file and decision.
    `engine` opens what stages.
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

    Raises:
        UsageError: another process holds the manifest's lock too long.
        Retry: the raw root cannot be read.
        Corrupt: manifest or log is damaged; nothing was changed.
    """
    options = options or Options()
    try_root(settings.layout.raw_root)  # before anything is made below a root that is mistyped or not mounted
    with opened(settings, options.clock) as ingest:
        with options.engine(ingest.context, settings) as engine:
            run = _Run(ingest, engine, options)
            run.stage_everything()
        if run.report.stopped_by is None or isinstance(run.report.stopped_by, NoWorkers):
            run.finish()
        return run.report


def dry_run(settings: Settings, *, force: bool = False) -> Report:
    """Tell what a backfill, with `force` or without, would look at; open no raw file and write nothing."""
    catalog = ManifestStore(settings.layout).catalog
    scan = scan_csvs(settings.layout.raw_root, known=None if force else catalog.run_files())
    report = Report(passed_over=_passed_over(scan), unreachable=_unreachable(scan), scanned=scan.count)
    undecided = catalog.undecided(scan.files)
    for name in sorted(scan.files if force else undecided):
        report.to_do[name] = "unchanged" if name not in undecided else "changed" if catalog.is_known(name) else "new"
    report.known = report.scanned - len(report.to_do)
    return report


class _Run:
    """One backfill under way."""

    def __init__(self, ingest: Ingest, engine: Engine, options: Options) -> None:
        self.ingest = ingest
        self.settings = ingest.settings
        self.engine = engine
        self.options = options
        self.report = Report()
        self._waiting: dict[str, WaitingFile] = {}
        self._again: dict[str, FileStat | None] = {}  # None: in whatever state it was
        self._late: set[str] = set()  # looked at, although nothing about them had changed
        self._occupied: dict[str, Event] = {}  # what was decided of files that may hold another run's bytes
        self._total = 0
        self._compact_at = COMPACT_FROM
        self._done = 0

    def stage_everything(self) -> None:
        """Scan, stage and commit, and look again at what was too young or changed meanwhile."""
        known = None if self.options.force else self.ingest.store.catalog.run_files()
        scan = scan_csvs(self.settings.layout.raw_root, known=known)
        scanned_at = time.monotonic()
        self.report.scanned = scan.count
        self.report.passed_over, self.report.unreachable = _passed_over(scan), _unreachable(scan)
        to_do = self._to_do(scan.files)
        self._total = len(to_do)
        try:
            self._stage(to_do, steady_s=0.0)
            for _ in range(LOOKS - 1):
                if not self._again or self.options.stop():
                    break
                self._wait_until(scanned_at + self.settings.settle.settle_s)
                pending, same = self._look_again()
                for name in self._again:
                    self._waiting.pop(name, None)
                self._stage(pending, steady_s=time.monotonic() - scanned_at if same else 0.0)
            if self.options.only is None and not self.options.stop():
                self._promote_copies(scan)
            self._fail_unseen(scan)
        except Retry as error:
            self.report.stopped_by = error
        self.report.interrupted = self.options.stop()
        try:
            self._sum_up(scan, to_do)
        except (Retry, Corrupt) as error:  # the manifest was left amid a commit, and cannot be read again
            self.report.stopped_by = self.report.stopped_by or error
            self.report.waiting = [self._waiting[name] for name in sorted(self._waiting)]
            self.report.left = self._total - self._done

    def _fail_unseen(self, scan: Scan) -> None:
        """Note the files asked for by name that no scan comes to, and that are not gone."""
        for name in sorted(name for name in self.options.only or () if not scan.saw(name)):
            try:
                exists(self.settings.layout.raw_file(name))
            except OSError as error:
                self._out_of_reach(name, error)

    def _out_of_reach(self, name: str, error: OSError) -> None:
        self._note_failed(name, retry_from(error, self.settings.layout.raw_file(name)))

    def _note_failed(self, name: str, retry: Retry) -> None:
        self.report.failed.append(FailedFile(name, retry.message, retry.place, retry.next_step))

    def _wait_until(self, moment: float) -> None:
        """Wait, on the monotonic clock, unless a stop is asked for."""
        while (left := moment - time.monotonic()) > 0 and not self.options.stop():
            time.sleep(min(left, STOP_HEARD_S))

    def _sum_up(self, scan: Scan, to_do: Mapping[str, FileStat]) -> None:
        """Sort the files that are not staged into the report's lists."""
        report, store, only = self.report, self.ingest.store, self.options.only
        looked_at = to_do.keys() | self._late
        report.known -= sum(map(scan.saw, self._late - to_do.keys()))
        rowless = {name: file.code for name, file in self._waiting.items() if file.state is State.QUEUED}
        moving = {status.size for status in store.catalog.undecided(scan.files).values()}
        lost = lost_files(store, rowless, scan.saw, moving)
        report.lost = [file for file in lost if only is None or file.source_file in only]
        gone = {file.source_file for file in report.lost}
        report.waiting = [self._waiting[name] for name in sorted(self._waiting) if name not in gone]
        report.failed += map(self._fail_of, self._never_still())
        report.rejected_before.sort()
        unseen: Set[str] = set()
        if report.interrupted or report.stopped_by is not None:
            unseen = to_do.keys() - self._waiting.keys() - self._occupied.keys()
            undecided = store.catalog.undecided(to_do).keys() - {file.source_file for file in report.failed}
            report.left = self._total - self._done if self.options.force else len(undecided - self._waiting.keys())
        report.known_listed = len({*report.rejected_before, *rowless, *gone} - looked_at)
        self._sum_up_lost(gone, unseen)

    def _sum_up_lost(self, gone: Set[str], unseen: Set[str]) -> None:
        """Have each lost file count once: as staged, failed or, if it is `unseen`, left; else as lost."""
        report = self.report
        events = {name: self._occupied[name] for name in gone & self._occupied.keys()}
        report.lost_events = Counter(event for event in events.values() if not event.stages)
        others = {name for name, event in events.items() if event.stages} | {file.source_file for file in report.failed}
        report.lost_alone = len(gone - others - unseen)

    def _never_still(self) -> list[str]:
        """List the files that were decided by nobody although they were looked at again and again."""
        if self.report.interrupted or self.report.stopped_by is not None:
            return []
        pending, _ = self._look_again()
        return sorted(pending.keys() - self._waiting.keys())

    def _fail_of(self, name: str) -> FailedFile:
        place = str(self.settings.layout.raw_file(name))
        return FailedFile(name, "it was in another state at every look", place, "run the same command again")

    def finish(self) -> None:
        """Write the histories that changed and compact the log; a refusal of the disk stands in the report."""
        try:
            if self.options.histories:
                self.report.histories = self.ingest.refresh_histories()
            if self.options.compact:
                self.ingest.compact()
        except Retry as error:
            self.report.stopped_by = self.report.stopped_by or error

    def _to_do(self, found: dict[str, FileStat]) -> dict[str, FileStat]:
        """Pick the files that need a look, in the order in which they must be decided."""
        catalog, options = self.ingest.store.catalog, self.options
        wanted = dict(found) if options.force else catalog.undecided(found)
        if options.only is not None:
            wanted = {name: status for name, status in wanted.items() if name in options.only}
        self.report.known = self.report.scanned - len(wanted)
        for note in catalog.notes.values():
            if note.source_file not in found or note.source_file in wanted:
                continue
            if note.outcome == "rejected":
                self.report.rejected_before.append(note.source_file)
            elif note.outcome == "queued":
                self._wait(note.source_file, queued(note.code), found[note.source_file])
        return {name: wanted[name] for name in looking_order(catalog, wanted)}

    # ---- one pass ---------------------------------------------------------------------------------------------------

    def _stage(self, pending: dict[str, FileStat], steady_s: float) -> None:
        """Stage and commit the files that nobody writes to; note the others as waiting.

        One look at all processes serves the pass: a file that had the same size and mtime before the look and has them
        when it is read was settled at the moment of the look.
        """
        self._again = {}
        if not pending:
            return
        writers = read_writers(pending.values(), visible=self.settings.settle.writers_visible)
        batches = self._batches(pending, writers, steady_s)
        for outcomes in self.engine.stage(batches, self.options.stop):
            for outcome in outcomes:
                self._account(outcome)
            self._commit(outcomes)

    def _batches(self, pending: dict[str, FileStat], writers: Writers, steady_s: float) -> Iterator[list[StageTask]]:
        stage = self.settings.stage
        tasks = (self._task(name, status, writers, steady_s) for name, status in pending.items())
        for batch in in_batches(filter(None, tasks), limit_files=stage.batch_files, limit_mib=stage.batch_mib):
            self.ingest.workspace.keep()
            yield batch

    def _task(self, name: str, status: FileStat, writers: Writers, steady_s: float) -> StageTask | None:
        seen = Observation(max(abs(status.age_s(self.options.clock())), steady_s), writers.writer_of(status))
        verdict = judge_outside(seen, self.ingest.context.patience)
        if verdict.state is State.SETTLED:
            return self.ingest.task_for(name, status, seen, force=self.options.force)
        self._wait(name, verdict, status)
        if seen.writer == "":
            self._again[name] = status
        self._advance(name)
        return None

    def _wait(self, name: str, verdict: Verdict, status: FileStat, rows: int = 0) -> None:
        age_s = status.age_s(self.options.clock())
        self._waiting[name] = WaitingFile(name, verdict.state, verdict.reason, verdict.code, age_s, rows)

    def _account(self, outcome: Outcome) -> None:
        name = outcome.task.source_file
        self._waiting.pop(name, None)
        match outcome:
            case Waiting():
                self._wait(name, outcome.verdict, outcome.task.status, outcome.rows)
                if outcome.rows == 0 and outcome.verdict.state is State.RUNNING:
                    self._again[name] = outcome.task.status
            case Failed():
                self._fail(outcome)
        self._advance(name)

    def _fail(self, outcome: Failed) -> None:
        """Note a file that could not be staged; where writing failed, others would fail as well."""
        if outcome.ours:
            raise outcome.retry
        self._note_failed(outcome.task.source_file, outcome.retry)

    def _promote_copies(self, scan: Scan) -> None:
        """Where an original is gone its copy takes its place."""
        for copies in self.ingest.orphaned_copies(scan):
            self._late.update(copy.task.source_file for copy in copies)
            self._commit(copies)
            if self.options.stop():
                return

    def _advance(self, name: str) -> None:
        self._done = min(self._done + 1, self._total)
        self.options.on_progress(Progress(self._done, self._total, name))

    def _commit(self, outcomes: Sequence[Outcome]) -> None:
        done = self.ingest.commit(outcomes)
        for outcome in done.again:
            self._again[outcome.task.source_file] = outcome.task.status
        for record in done.records:
            self.report.events[record.event] += 1
            if record.event is Event.REJECTED and record.reason is not None:
                self.report.rejected.append(RejectedFile(record.source_file, record.reason))
            self.report.note_warnings(record)
            self.options.on_record(record)
            for name in forgotten_by(record):
                self._late.add(name)
                self._again[name] = None
            note = self.ingest.store.catalog.notes.get(record.source_file)
            if note is not None and note.names_occupant:
                self._occupied[record.source_file] = record.event
        for failed in done.failed:
            self._fail(failed)
        self._bound_log()

    def _bound_log(self) -> None:
        if self.options.compact and self.ingest.store.pending >= self._compact_at:
            done = self.ingest.compact()
            self._compact_at = max(COMPACT_FROM, done.rows // 10 if done else 0)

    def _look_again(self) -> tuple[dict[str, FileStat], bool]:
        """Stat the files of the last pass that deserve another look; tell whether all stood still since the scan."""
        pending: dict[str, FileStat] = {}
        same = True
        catalog = self.ingest.store.catalog
        for name, before in self._again.items():
            try:
                status = stat_of(self.settings.layout.raw_file(name).lstat())
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                self._out_of_reach(name, error)
                continue
            if not catalog.is_current(name, status.stamp):
                pending[name] = status
                same = same and status == before
        return pending, same


def _passed_over(scan: Scan) -> dict[str, str]:
    reasons = (
        (scan.links, "a symbolic link; links are not followed"),
        (scan.specials, "not a regular file"),
        (scan.undecodable, "its name is not UTF-8: rename it"),
    )
    found = {name: reason for names, reason in reasons for name in names}
    step = "let the user ingestd runs as read it"
    return found | {name or ".": f"cannot be looked at: {why}; {step}" for name, why in scan.unreadable}


def _unreachable(scan: Scan) -> list[str]:
    return sorted([*scan.undecodable, *(name or "." for name, _ in scan.unreadable)])
