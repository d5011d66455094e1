"""Which measurement a staged file is, and what follows: one record, and Parquet put in its place.

The content decides first, then the path; what matches neither is a new run. See "Which measurement a file is" in
`docs/architecture.md`.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from ingestd.ingest import notes
from ingestd.ingest.comparing import begins_as, edited_original_of, has_other_rows
from ingestd.ingest.originals import Originals
from ingestd.manifest.catalog import KnownRun
from ingestd.manifest.record import Event, FileNote, NoteOutcome, Reason, Record
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.store import ManifestStore
from ingestd.raw.start_time import tells_start
from ingestd.stage import run as stage
from ingestd.stage.identity import distinct_run_ids
from ingestd.stage.placing import Kept, Placing
from ingestd.stage.run import Failed, Outcome, Prior, Rejected, Same, StageContext, Staged, StageTask, Waiting
from ingestd.words import count

COMPARED_AT_MOST = 8
"""How many runs of one name a file with another start is compared with: that which has the name, then others."""


class Decider:
    """Decides about staged files, one by one, from what the store's catalog knows."""

    def __init__(self, store: ManifestStore, context: StageContext, originals: Originals) -> None:
        self.layout = store.layout
        self.store = store
        self.context = context
        self.originals = originals

    def decide(self, outcome: Outcome, placing: Placing) -> Record | Failed | None:
        """Decide about one file; None when another process's decision overtook it and it must be looked at again.

        `Failed` when it had to be staged once more and could not be. What must be in place before the record may be
        written is added to `placing`. Call it inside a transaction.

        Raises:
            OutOfReach: a run's Parquet, which tells what the file is, cannot be read now.
        """
        match outcome:
            case Staged():
                return self._decide_staged(outcome, placing)
            case Same():
                return self._decide_same(outcome, placing)
            case Rejected() | Waiting() if self._is_overtaken(outcome):
                return None
            case Rejected():
                return self._copied(outcome, placing) or self._decide_rejected(outcome)
            case Waiting():
                return self._noted(Event.QUEUED, outcome, self._note(outcome, "queued", outcome.verdict.code))
            case Failed():
                raise AssertionError("a failed file is never decided")

    def _decide_staged(self, outcome: Staged, placing: Placing) -> Record | Failed | None:
        catalog, row, task = self.store.catalog, outcome.row, outcome.task
        same = catalog.live_with(row.source_sha256)
        if same is not None and task.force and same.run_id == row.run_id and same.source_file == row.source_file:
            return self._put(Event.RESTAGED, outcome, placing)
        retimed = task.force and task.prior is not None and same is not None and same.run_id == task.prior.run_id
        if same is not None and not retimed:  # retimed: the same bytes, but another time zone gives another start
            stage.discard([outcome])
            return self._decide_same(Same(task, row.source_sha256), placing)
        if self._is_overtaken(outcome):
            return None
        here = next((run for run in catalog.live_at(row.source_file) if run.run_id == row.run_id), None)
        if here is not None:
            return self._put_again(here, outcome, placing)
        copied = edited_original_of(self.store, row) if same is None else None
        if copied is not None and copied.source_file != row.source_file:
            stage.discard([outcome])
            return self._copy(copied, Same(task, row.source_sha256))
        distinct = self._distinct(outcome, placing)
        if not isinstance(distinct, Staged):
            return distinct if isinstance(distinct, Failed) else None
        if task.prior is None:
            return self._put(Event.INGESTED, distinct, placing)
        return self._restarted(task.prior, distinct, placing)

    def _is_overtaken(self, outcome: Staged | Rejected | Waiting) -> bool:
        """Tell whether the path has got another run, or another version of its run, since the file was read."""
        occupant = self.store.catalog.occupant(outcome.task.source_file)
        return (occupant and prior_of(occupant)) != outcome.task.prior

    def _distinct(self, outcome: Staged, placing: Placing) -> Outcome:
        """Stage once more under another id when the plain id belongs to a run of another file."""
        row = outcome.row

        def is_free(run_id: str) -> bool:
            taken = self.store.catalog.run(run_id)
            return taken is None or taken.source_file == row.source_file

        if is_free(row.run_id):
            return outcome
        run_id = next(filter(is_free, distinct_run_ids(row.source_file, row.start_time_utc, row.source_sha256)))
        stage.discard([outcome])
        return self._stage_again(replace(outcome.task, run_id=run_id, known=frozenset()), placing)

    def _stage_again(self, task: StageTask, placing: Placing) -> Outcome:
        """Stage a file once more; its Parquet does not outlive a decision, or a batch, that fails."""
        (staged,) = stage.stage_batch([task], self.context)
        if isinstance(staged, Staged):
            placing.made.append(staged)
        return staged

    def _put(self, event: Event, outcome: Staged, placing: Placing, old: KnownRun | None = None) -> Record:
        """Record a row and place its Parquet; what an edit replaces is kept aside."""
        catalog, row, kept = self.store.catalog, outcome.row, list[str]()
        old = old or catalog.run(row.run_id)
        target = self.layout.staged_file(row)
        if old is not None and old.live:
            was = self.layout.staged_file(old)
            if event in {Event.EDITED, Event.SUPERSEDED}:
                kept.append(self._kept_aside(old, placing))
            else:  # kept until the record is durable
                placing.kept.append(Kept(was, outcome.temporary.with_suffix(".replaced")))
            if was != target:
                placing.removed.append(was)
        placing.renamed.append((outcome.temporary, target))
        return Record(
            seq=self.store.next_seq,
            at=outcome.task.now,
            event=event,
            source_file=row.source_file,
            run_id=row.run_id,
            rows=[row],
            files=[*notes.cleared(catalog, row, old), *notes.joined(catalog, row)],
            superseded_parquet=kept,
        )

    def _kept_aside(self, old: KnownRun, placing: Placing) -> str:
        aside = self.layout.superseded_file(old, old.source_sha256)
        placing.kept.append(Kept(self.layout.staged_file(old), aside, old.source_sha256))
        return aside.relative_to(self.layout.stage_root).as_posix()

    def _put_again(self, old: KnownRun, outcome: Staged, placing: Placing) -> Record:
        """Record what a run's file holds now: more rows, or an edit.

        If the header does not give the start, the edit may be another measurement.
        """
        left = [] if outcome.grown or tells_start(outcome.row.parameters) else self._left_alone(old, outcome)
        record = self._put(Event.UPDATED if outcome.grown else Event.EDITED, outcome, placing)
        files = [*record.files, *map(notes.forgotten, left)]
        return record.model_copy(update={"files": files, "note": self._lost_rows(old, outcome.row)})

    def _lost_rows(self, old: KnownRun, row: ManifestRow) -> str:
        """Say how many rows a run had before an edit took some away; empty if it took none.

        A sync client that settles a conflict may put an earlier, shorter version in a run's place.
        """
        if row.source_size >= old.source_size:
            return ""
        before = self.store.full_rows([old.run_id])[old.run_id].rows
        return f"it had {count(before, 'row')} before" if row.rows < before else ""

    def _restarted(self, prior: Prior, outcome: Staged, placing: Placing) -> Record:
        """Record that a file has another start now: an edit of a run that had its name, or another measurement."""
        runs = self.store.catalog.live_at(outcome.row.source_file)[:COMPARED_AT_MOST]
        old = next((run for run in runs if not has_other_rows(self.layout, run, outcome)), None)
        if old is None:
            record = self._put(Event.INGESTED, outcome, placing)
            note = f"the file was run {prior.run_id}, with other rows; that one stays"
            return record.model_copy(update={"note": note})
        record = self._put(Event.SUPERSEDED, outcome, placing, old)
        copies = notes.copies_of(self.store.catalog, [old])
        moved_on = (note for note in copies if note.source_file != outcome.row.source_file)
        return record.model_copy(
            update={
                "rows": [self._retired(old, outcome.row.run_id), outcome.row],
                "files": [*record.files, *(notes.of_run(outcome.row.run_id, note) for note in moved_on)],
                "note": f"its start time changed; it was run {old.run_id}",
            }
        )

    def _retired(self, old: KnownRun, successor: str) -> ManifestRow:
        return self.store.full_rows([old.run_id])[old.run_id].model_copy(update={"superseded_by": successor})

    def _left_alone(self, old: KnownRun, outcome: Staged) -> list[FileNote]:
        """List the copies of a run whose file was overwritten by another measurement: they are all that is left of it.

        They are copies of its last version if there are any, otherwise of an earlier one. If it was only edited, none
        is listed: the copies are of the same measurement, which still counts.
        """
        copies = notes.copies_of(self.store.catalog, [old])
        digests = {note.source_sha256 for note in copies}
        if not digests or not has_other_rows(self.layout, old, outcome):
            return []
        version = old.source_sha256 if old.source_sha256 in digests else min(digests)
        return [note for note in copies if note.source_sha256 == version]

    def _decide_same(self, outcome: Same, placing: Placing) -> Record | Failed | None:
        catalog, task = self.store.catalog, outcome.task
        note = catalog.notes.get(task.source_file)
        if note is not None and note.outcome == "rejected" and note.source_sha256 == outcome.digest and not task.force:
            return self._copied(outcome, placing) or self._still_rejected(note, outcome)
        run = catalog.live_with(outcome.digest)
        decided = note is None and catalog.is_current(task.source_file, task.status.stamp)
        if run is None or decided:
            return None
        if run.source_file == task.source_file:
            return self._touched(run, outcome)
        return self._copied(outcome, placing) or self._moved(run, outcome, placing)

    def _copy(self, run: KnownRun, outcome: Same | Rejected) -> Record:
        """Note a copy of a run; the run's file may have been edited since the copy was made."""
        task = outcome.task
        copy = notes.copy(run, outcome.digest, task.source_file, task.status)
        before = self.store.catalog.notes.get(task.source_file)
        known = before is not None and (before.outcome, before.run_id) == ("duplicate", run.run_id)
        return self._noted(Event.UNCHANGED if known else Event.DUPLICATE, outcome, copy)

    def _copied(self, outcome: Same | Rejected, placing: Placing) -> Record | None:
        """Note a copy of a run that is in its place; one that was rejected for its own name alone is a copy too."""
        catalog, task = self.store.catalog, outcome.task
        run = catalog.live_with(outcome.digest)
        if run is None or run.source_file == task.source_file or not self.originals.holds(run, task):
            return None
        return self._merged(self._copy(run, outcome), run, placing)

    def _merged(self, record: Record, run: KnownRun, placing: Placing) -> Record:
        """Supersede the runs that a file was, as an incomplete or edited copy, before it got the bytes of `run`."""
        catalog, start = self.store.catalog, (run.proc, run.start_time_utc, "header")
        there = catalog.live_at(record.source_file)
        same = (one for one in there if (one.proc, one.start_time_utc, one.start_time_origin) == start)
        place = self.layout.staged_file(record.rows[0] if record.rows else run)
        begun = (one for one in same if begins_as(self.layout, one, placing.parquet_for(place)))
        parts = [one for one in begun if not self.originals.has_copy(one)]  # otherwise that takes its place
        if not parts:
            return record
        ids = [part.run_id for part in parts]
        placing.removed += map(self.layout.staged_file, parts)
        return record.model_copy(
            update={
                "rows": [*(self._retired(part, run.run_id) for part in parts), *record.rows],
                "files": [*record.files, *(notes.of_run(run.run_id, note) for note in notes.copies_of(catalog, parts))],
                "note": f"it was run {' and '.join(ids)}, of the same measurement",
                "superseded_parquet": [self._kept_aside(part, placing) for part in parts],
            }
        )

    def _touched(self, run: KnownRun, outcome: Same) -> Record:
        row = self.store.full_rows([run.run_id])[run.run_id].model_copy(update=notes.stamped(outcome.task.status))
        return Record(
            seq=self.store.next_seq,
            at=outcome.task.now,
            event=Event.UNCHANGED,
            source_file=row.source_file,
            run_id=row.run_id,
            rows=[row],
            files=notes.cleared(self.store.catalog, row, run),
        )

    def _moved(self, run: KnownRun, outcome: Same, placing: Placing) -> Record | Failed | None:
        """Give a run its new path; stage it again from there, because file number and summary come from the name.

        Its bytes were a settled file's before, so nothing more of it is waited for.
        """
        over = replace(outcome.task.seen, unchanged_s=inf)
        task = replace(outcome.task, seen=over, known=frozenset(), prior=prior_of(run), run_id=run.run_id)
        staged = self._stage_again(task, placing)
        match staged:
            case Staged() if staged.row.source_sha256 == outcome.digest:
                record = self._merged(self._put(Event.MOVED, staged, placing, run), run, placing)
                return record.model_copy(update={"note": moved_from(run.source_file)})
            case Rejected() if staged.digest in {outcome.digest, ""}:  # rejected by the settings, or for its new name
                return self._decide_rejected(staged)
            case Failed():
                return staged
        stage.discard([staged])
        return None

    def _decide_rejected(self, outcome: Rejected) -> Record:
        note = self._note(outcome, "rejected", outcome.reason.code)
        return self._noted(Event.REJECTED, outcome, note, outcome.reason)

    def _still_rejected(self, note: FileNote, outcome: Same) -> Record:
        record = self._noted(Event.UNCHANGED, outcome, note.model_copy(update=notes.stamped(outcome.task.status)))
        return record.model_copy(update={"note": f"still rejected ({note.code})"})

    def _note(self, outcome: Rejected | Waiting, kind: NoteOutcome, code: str) -> FileNote:
        """Note a file that is not a run now, and which run it was before: it may become that one again."""
        before = self.store.catalog.occupant(outcome.task.source_file)
        return FileNote(
            source_file=outcome.task.source_file,
            source_sha256=outcome.digest,
            outcome=kind,
            run_id=before and before.run_id,
            code=code,
            **notes.stamped(outcome.task.status),
        )

    def _noted(
        self, event: Event, outcome: Same | Rejected | Waiting, note: FileNote, reason: Reason | None = None
    ) -> Record:
        return Record(
            seq=self.store.next_seq,
            at=outcome.task.now,
            event=event,
            source_file=note.source_file,
            run_id=note.run_id,
            files=[note],
            reason=reason,
        )


# ---- what is known of a path -----------------------------------------------------------------------------------------


def prior_of(run: KnownRun) -> Prior:
    """Reduce a known run to what staging its file again needs."""
    return Prior(run.run_id, run.source_sha256, run.source_size, run.start_time_utc, run.start_time_origin)


def moved_from(source_file: str) -> str:
    """Word the note of a `moved` record, by which the old path's story is found."""
    return f"it was {source_file}"
