"""From what staging answered about a settled file to one decision, durable in the log.

The order for a run is always the same: its staged Parquet is durable, then its log record (now the run is *ingested*),
then its event JSON. Decisions are made under the manifest's lock and take into account all earlier ones of any process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from ingestd.errors import Corrupt, IngestdError, OutOfReach, Retry
from ingestd.files import FileStat, Scan
from ingestd.histories.chip import HistoryChange, update_histories
from ingestd.ingest.deciding import Decider, prior_of
from ingestd.ingest.notes import forgotten
from ingestd.ingest.order import in_turn
from ingestd.ingest.originals import Originals
from ingestd.ingest.traces import write_traces
from ingestd.manifest.record import Event, FileNote, Record
from ingestd.manifest.store import Compaction, ManifestStore
from ingestd.raw.settling import Observation, State
from ingestd.raw_guard import Guard
from ingestd.settings import Settings
from ingestd.stage import run as stage
from ingestd.stage.placing import Placing, is_under_way, take_back
from ingestd.stage.run import (
    Failed,
    Outcome,
    Rejected,
    Same,
    StageContext,
    Staged,
    StageTask,
    Waiting,
    failed_by_fault,
)
from ingestd.stage.workspace import Workspace, read_in_hand, workspace

Clock = Callable[[], datetime]

KNOWN_AT_MOST = 16
"""If there are more runs of one size, a new file of that size is parsed before its hash is compared with theirs."""


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Committed:
    """What became of a batch: the records written, the outcomes to look at again, and the files that failed.

    `covered` are the ids of the runs whose raw files turned out to have the bytes of other runs now.
    """

    records: list[Record] = field(default_factory=list)
    covered: set[str] = field(default_factory=set)
    again: list[Outcome] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)


class Ingest:
    """Decides about staged files and commits the decisions. Open it with `opened`.

    `suspects` are the raw files that were in hand in services that have died since the last start; `reject_problem` is
    why a reject JSON could not be written at the last compaction.
    """

    def __init__(
        self,
        settings: Settings,
        store: ManifestStore,
        workspace: Workspace,
        clock: Clock,
        suspects: frozenset[str],
    ) -> None:
        self.settings = settings
        self.layout = settings.layout
        self.store = store
        self.workspace = workspace
        self.clock = clock
        self.suspects = suspects
        self.context = StageContext(
            raw_root=self.layout.raw_root,
            temporary=workspace.folder,
            registry=settings.registry,
            zone=settings.zone,
            patience=settings.patience,
            max_file_bytes=settings.max_file_bytes,
        )
        self.originals = Originals(store, self.context)
        self._guard = Guard(self.layout)
        self._decider = Decider(store, self.context, self.originals)
        self._untraced: list[Record] = []
        self.reject_problem: Retry | None = None

    # ---- before staging ---------------------------------------------------------------------------------------------

    def keep_places(self) -> None:
        """Check that no write goes among the raw files, and that the staged runs and the workspace are there.

        Raises:
            Retry: a link leads into the raw root, the folder of staged runs is gone, or the disk refused.
        """
        self._guard.check()
        self.store.refuse_gone_stage()
        self.workspace.keep()

    def task_for(self, source_file: str, status: FileStat, seen: Observation, *, force: bool = False) -> StageTask:
        """Make the task of staging a file, with what is known of its path and size."""
        catalog = self.store.catalog
        prior = catalog.occupant(source_file)
        known = catalog.digests_of_size(status.size, at_most=KNOWN_AT_MOST)
        if prior is not None:
            known |= {prior.source_sha256}
        note = catalog.notes.get(source_file)
        if note is not None and note.outcome == "rejected":
            known |= {note.source_sha256}
        return StageTask(
            source_file=source_file,
            status=status,
            seen=seen,
            now=self.clock(),
            known=frozenset() if force else known,
            prior=prior and prior_of(prior),
            force=force,
        )

    def orphaned_copies(self, scan: Scan) -> Iterator[list[Same]]:
        """Yield, a batch at a time, the known copies whose original a scan did not see: each may take its place."""
        return self._orphaned(self.store.catalog.noted_as("duplicate"), scan.saw)

    def copies_of(self, gone: Sequence[str]) -> Iterator[list[Same]]:
        """Yield, a batch at a time, the known copies of runs whose raw files, at these paths, are gone as seen now."""
        return self._orphaned(list(self.store.catalog.copies_of_runs_at(gone)), self.originals.sees)

    def _orphaned(self, notes: Sequence[FileNote], saw: Callable[[str], bool]) -> Iterator[list[Same]]:
        orphaned = self.originals.orphaned(notes, saw, self.clock())
        while batch := list(islice(orphaned, self.settings.stage.batch_files)):
            yield batch

    # ---- committing -------------------------------------------------------------------------------------------------

    def commit(self, outcomes: Sequence[Outcome]) -> Committed:
        """Decide about a batch and make the decisions durable: one flush of the stage, one write of the log.

        A queued file is noted, so that it is not opened again before it changes; running and failed ones are skipped.
        `again` lists those that another process's decision overtook, `failed` those that could not be decided.

        Raises:
            Retry: the disk refused, a link leads among the raw files, or the folder of staged runs is gone.
            LockHeld: another process held the manifest's lock for too long.
            Corrupt: manifest or log is damaged.

        After any of these nothing of the batch counts, and what it wrote is removed as far as the disk allows. Only
        after an `InDoubt`, a `Retry` too, it may count; whoever decides next finds that out.
        """
        done, undecided, placing = Committed(), list[Outcome](), Placing()
        decidable = [
            outcome
            for outcome in outcomes
            if isinstance(outcome, Staged | Same | Rejected)
            or (isinstance(outcome, Waiting) and outcome.verdict.state is State.QUEUED)
        ]
        if not decidable:
            return done
        try:
            self._guard.check()
            self.store.refuse_gone_stage()
            with self.store.transaction():
                if is_under_way(self.context.temporary):  # the disk would not let the last batch end
                    take_back(self.layout, self.context.temporary, self.store.full_rows)
                self.store.expect(prior.run_id for outcome in decidable if (prior := outcome.task.prior) is not None)
                for outcome in in_turn(self.store.catalog, decidable):
                    was = self.store.catalog.occupant(outcome.task.source_file)
                    decision = self._decided(outcome, placing)
                    if isinstance(decision, Record):
                        self.store.decide(decision)
                        done.records.append(decision)
                        over = self.store.catalog.overwritten_at(decision.source_file)
                        done.covered |= {run.run_id for run in over if was and was.run_id == run.run_id}
                        continue
                    undecided.append(outcome)
                    if decision is None:
                        done.again.append(outcome)
                    else:
                        done.failed.append(decision)
                with placing.in_place(self.layout.stage_root, self.context.temporary):
                    self.store.commit()
        except BaseException:
            stage.discard([*decidable, *placing.made])
            raise
        stage.discard(undecided)
        self._trace(done.records)
        return done

    def _decided(self, outcome: Outcome, placing: Placing) -> Record | Failed | None:
        """Decide about one file; an error in our own code costs that file, never the batch."""
        try:
            with placing.all_or_nothing():
                return self._decider.decide(outcome, placing)
        except OutOfReach as error:
            return Failed(outcome.task, error)
        except (IngestdError, OSError):
            raise
        except Exception as error:
            return failed_by_fault(outcome.task, error)

    # ---- after staging ----------------------------------------------------------------------------------------------

    def forget(self, source_files: Sequence[str]) -> list[Record]:
        """Forget the rejects of files that are gone; return the records. A file that comes back is looked at again.

        Errors as `ManifestStore.transaction`.
        """
        with self.store.transaction():
            records = []
            for source_file in source_files:
                note = self.store.catalog.notes.get(source_file)
                if note is not None and note.outcome == "rejected":
                    record = Record(
                        seq=self.store.next_seq,
                        at=self.clock(),
                        event=Event.FORGOTTEN,
                        source_file=source_file,
                        files=[forgotten(note)],
                    )
                    self.store.decide(record)
                    records.append(record)
            self.store.commit()
        self._trace(records)
        return records

    def refresh_histories(self) -> list[HistoryChange]:
        """Write the histories of the chips that changed; those whose place refused have a `problem`.

        A chip stays marked as stale in the log until its history is written, so a kill in between loses none. It also
        stays so if the histories are written elsewhere this time (`Settings.histories_elsewhere`).

        Raises:
            Retry: the disk refused, the manifest is out of reach, or a lock was held for too long (`LockHeld`).
            Corrupt: manifest or log is damaged.
        """
        self._guard.check()
        self.store.refresh()
        stale, through = sorted(self.store.catalog.stale_chips), self.store.next_seq - 1
        if not stale:
            return []
        changes = update_histories(self.settings, stale)
        done = [change.chip for change in changes if change.problem is None]
        if done and not self.settings.histories_elsewhere:
            with self.store.transaction():
                record = Record(
                    seq=self.store.next_seq, at=self.clock(), event=Event.HISTORIES, chips=done, through=through
                )
                self.store.append([record])
        return changes

    @property
    def owes_traces(self) -> bool:
        """Whether the disk refused the JSON of a decision: the next compaction writes it."""
        return bool(self._untraced)

    def compact(self) -> Compaction | None:
        """Compact the log; the event JSONs of all its records are durable before any record is deleted.

        A reject JSON whose place refuses does not stop it: `reject_problem` says so, and the next call tries again.

        Raises:
            Retry: the disk refused, or another process held the manifest's lock for too long (`LockHeld`).
            Corrupt: table or log is damaged; nothing was changed.
        """
        self._guard.check()
        done = self.store.compact(before=self._complete_traces)
        if done is None and self._untraced:
            with self.store.transaction():
                self._complete_traces([])
        return done

    def _trace(self, records: Sequence[Record]) -> None:
        """Write the traces of decisions that count already; if the disk refuses, compaction does it later.

        Another process may have decided about the same files since: a reject JSON follows what was decided last, so the
        lock is held while any is written or removed.
        """
        try:
            with self.store.transaction() if any(record.files for record in records) else nullcontext():
                self._untraced += [record for record, _ in self._write_traces(records, durable=False)]
        except (Retry, Corrupt):  # damage stops the next decision, or compaction
            self._untraced += records

    def _complete_traces(self, foreign: Sequence[Record]) -> None:
        """Make good what the disk refused before, and what other processes may not have got to."""
        records = sorted([*foreign, *self._untraced], key=lambda record: record.seq)
        blocked = self._write_traces(records, durable=True)
        self._untraced = [record for record, _ in blocked]
        self.reject_problem = next((_without_json(error) for _, error in blocked), None)

    def _write_traces(self, records: Sequence[Record], *, durable: bool) -> list[tuple[Record, Retry]]:
        notes = self.store.catalog.notes
        return write_traces(self.layout, self.settings.zone, records, notes, durable=durable)


def _without_json(error: Retry) -> Retry:
    message = f"the JSON of a reject could not be written or removed: {error.message}"
    return Retry(message, place=error.place, next_step=error.next_step)


@contextmanager
def opened(settings: Settings, clock: Clock = utc_now) -> Iterator[Ingest]:
    """Open a data root for ingesting, making the stage's folders; any number of processes may do so at once.

    Raises:
        Corrupt: manifest or log is damaged; nothing was changed.
        Retry: the disk refused, or a process held a lock for too long.
    """
    store = ManifestStore(settings.layout, lock_timeout_s=settings.manifest.lock_timeout_s)

    suspects: set[str] = set()

    def on_dead(folder: Path) -> None:
        suspects.update(read_in_hand(folder))
        if is_under_way(folder):
            with store.transaction():  # which reads what other processes have recorded since
                take_back(settings.layout, folder, store.full_rows)

    with workspace(settings.layout.temporary_root, on_dead) as own:
        yield Ingest(settings, store, own, clock, frozenset(suspects))
