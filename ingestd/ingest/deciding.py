"""Which measurement a staged file is, and what follows: one record, and Parquet put in its place.

The content decides first, then the path; what matches neither is a new run. See "Which measurement a file is" in
`docs/architecture.md`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ingestd.errors import Corrupt
from ingestd.files import FileStat, is_gone
from ingestd.ingest.originals import Originals
from ingestd.manifest.catalog import KnownRun
from ingestd.manifest.record import Event, FileNote, NoteOutcome, Reason, Record
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.store import ManifestStore
from ingestd.raw.start_time import tells_start
from ingestd.stage import run as stage
from ingestd.stage.identity import distinct_run_ids
from ingestd.stage.placing import Kept, Placing
from ingestd.stage.run import Failed, Outcome, Prior, Rejected, Same, StageContext, Staged, Waiting

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
                return self._decide_rejected(outcome)
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
        prior = catalog.occupant(row.source_file)
        if self._is_overtaken(outcome):
            return None
        here = next((run for run in catalog.live_at(row.source_file) if run.run_id == row.run_id), None)
        if here is not None:
            return self._put_again(here, outcome, placing)
        copied = self._edited_original_of(row) if same is None else None
        if copied is not None and copied.source_file != row.source_file:
            stage.discard([outcome])
            return self._copy(copied, Same(task, row.source_sha256))
        distinct = self._distinct(outcome)
        if not isinstance(distinct, Staged):
            return distinct if isinstance(distinct, Failed) else None
        if prior is None:
            return self._put(Event.INGESTED, distinct, placing)
        return self._restarted(prior, distinct, placing)

    def _edited_original_of(self, row: ManifestRow) -> KnownRun | None:
        """Find the live run whose raw file had these bytes and was edited since.

        Its known copies tell, or the version of it that was kept. The latter counts only if both headers give the
        start: otherwise another measurement may have taken the run's path, and so its id.
        """
        catalog = self.store.catalog
        if (known := catalog.edited_original_of(row.source_sha256)) is not None:
            return known
        kept = self.layout.superseded_runs(row.proc, row.date_local, row.source_sha256)
        if not kept or not tells_start(row.parameters):
            return None
        heirs = {run.run_id: run for run in map(catalog.heir_of, kept) if run is not None}
        rows = self.store.full_rows(list(heirs)).values()
        return next((heirs[one.run_id] for one in rows if tells_start(one.parameters)), None)

    def _is_overtaken(self, outcome: Staged | Rejected | Waiting) -> bool:
        """Tell whether the path has got another run, or another version of its run, since the file was read."""
        occupant = self.store.catalog.occupant(outcome.task.source_file)
        return (occupant and prior_of(occupant)) != outcome.task.prior

    def _distinct(self, outcome: Staged) -> Outcome:
        """Stage once more under another id when the plain id belongs to a run of another file."""
        row = outcome.row

        def is_free(run_id: str) -> bool:
            taken = self.store.catalog.run(run_id)
            return taken is None or taken.source_file == row.source_file

        if is_free(row.run_id):
            return outcome
        run_id = next(filter(is_free, distinct_run_ids(row.source_file, row.start_time_utc, row.source_sha256)))
        stage.discard([outcome])
        return stage.stage_batch([replace(outcome.task, run_id=run_id, known=frozenset())], self.context)[0]

    def _put(self, event: Event, outcome: Staged, placing: Placing, old: KnownRun | None = None) -> Record:
        """Record a row and place its Parquet; what an edit replaces is kept aside."""
        row, kept = outcome.row, []
        old = old or self.store.catalog.run(row.run_id)
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
            files=[*self._cleared(row, old), *self._joined(row)],
            superseded_parquet=kept,
        )

    def _kept_aside(self, old: KnownRun, placing: Placing) -> str:
        aside = self.layout.superseded_file(old, old.source_sha256)
        placing.kept.append(Kept(self.layout.staged_file(old), aside, old.source_sha256))
        return aside.relative_to(self.layout.stage_root).as_posix()

    def _joined(self, row: ManifestRow) -> list[FileNote]:
        """Note known copies of a run's new bytes as its copies: the run they were copies of has other bytes now."""
        others = (note for note in self.store.catalog.copies_of_bytes(row.source_sha256) if note.run_id != row.run_id)
        return [_of(row.run_id, note) for note in others if note.source_file != row.source_file]

    def _put_again(self, old: KnownRun, outcome: Staged, placing: Placing) -> Record:
        """Record what a run's file holds now: more rows, or an edit.

        If the header does not give the start, the edit may be another measurement.
        """
        left = [] if outcome.grown or tells_start(outcome.row.parameters) else self._left_alone(old, outcome)
        record = self._put(Event.UPDATED if outcome.grown else Event.EDITED, outcome, placing)
        return record.model_copy(update={"files": [*record.files, *map(forgotten, left)]})

    def _restarted(self, prior: KnownRun, outcome: Staged, placing: Placing) -> Record:
        """Record that a file has another start now: an edit of a run that had its name, or another measurement."""
        runs = self.store.catalog.live_at(outcome.row.source_file)[:COMPARED_AT_MOST]
        old = next((run for run in runs if not self._has_other_rows(run, outcome)), None)
        if old is None:
            record = self._put(Event.INGESTED, outcome, placing)
            note = f"the file was run {prior.run_id}, with other rows; that one stays"
            return record.model_copy(update={"note": note})
        record = self._put(Event.SUPERSEDED, outcome, placing, old)
        moved_on = (note for note in self._copies_of([old]) if note.source_file != outcome.row.source_file)
        return record.model_copy(
            update={
                "rows": [self._retired(old, outcome.row.run_id), outcome.row],
                "files": [*record.files, *(_of(outcome.row.run_id, note) for note in moved_on)],
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
        copies = self._copies_of([old])
        digests = {note.source_sha256 for note in copies}
        if not digests or not self._has_other_rows(old, outcome):
            return []
        version = old.source_sha256 if old.source_sha256 in digests else min(digests)
        return [note for note in copies if note.source_sha256 == version]

    def _copies_of(self, runs: list[KnownRun]) -> list[FileNote]:
        """List the files that are known as copies of these runs, whichever version of them."""
        ids = {run.run_id for run in runs}
        return [note for note in self.store.catalog.noted_as("duplicate") if note.run_id in ids]

    def _has_other_rows(self, old: KnownRun, outcome: Staged) -> bool:
        """Tell whether a file at a run's path is another measurement: an edit leaves most rows as they are.

        If the run's Parquet is gone, the version kept aside tells (an older manifest was put back, say); if nothing of
        it can be read, nothing tells that it is the same measurement.
        """
        from ingestd.stage.parquet import read_run, share_rows  # noqa: PLC0415  # loads pyarrow

        if old.source_sha256 == outcome.row.source_sha256:
            return False
        if old.proc != outcome.row.proc:
            return True
        staged, aside = self.layout.staged_file(old), self.layout.superseded_file(old, old.source_sha256)
        try:
            return not share_rows(read_run(aside if is_gone(staged) else staged), read_run(outcome.temporary))
        except Corrupt:
            return True

    def _begins_as(self, old: KnownRun, parquet: Path) -> bool:
        """Tell whether what is staged begins with all rows of a run."""
        from ingestd.stage.parquet import read_run, same_cells  # noqa: PLC0415  # loads pyarrow

        try:
            before, after = read_run(self.layout.staged_file(old)), read_run(parquet)
        except Corrupt:
            return False
        return after.num_rows >= before.num_rows and same_cells(before, after.slice(0, before.num_rows))

    def _decide_same(self, outcome: Same, placing: Placing) -> Record | Failed | None:
        catalog, task = self.store.catalog, outcome.task
        note = catalog.notes.get(task.source_file)
        if note is not None and note.outcome == "rejected" and note.source_sha256 == outcome.digest and not task.force:
            record = self._noted(Event.UNCHANGED, outcome, note.model_copy(update=_state(task.status)))
            return record.model_copy(update={"note": f"still rejected ({note.code})"})
        run = catalog.live_with(outcome.digest)
        decided = note is None and catalog.is_current(task.source_file, task.status.stamp)
        if run is None or decided:
            return None
        if run.source_file == task.source_file:
            return self._touched(run, outcome)
        if self.originals.holds(catalog, run, task.now):
            return self._merged(self._copy(run, outcome), run, placing)
        return self._moved(run, outcome, placing)

    def _copy(self, run: KnownRun, outcome: Same) -> Record:
        """Note a copy of a run; the run's file may have been edited since the copy was made."""
        task = outcome.task
        copy = FileNote(
            source_file=task.source_file,
            source_sha256=outcome.digest,
            outcome="duplicate",
            run_id=run.run_id,
            **_state(task.status),
        )
        before = self.store.catalog.notes.get(task.source_file)
        known = before is not None and (before.outcome, before.run_id) == ("duplicate", run.run_id)
        return self._noted(Event.UNCHANGED if known else Event.DUPLICATE, outcome, copy)

    def _merged(self, record: Record, run: KnownRun, placing: Placing) -> Record:
        """Supersede the runs that a file was, as an incomplete or edited copy, before it got the bytes of `run`."""
        catalog, start = self.store.catalog, (run.proc, run.start_time_utc, "header")
        there = catalog.live_at(record.source_file)
        same = (one for one in there if (one.proc, one.start_time_utc, one.start_time_origin) == start)
        place = self.layout.staged_file(record.rows[0] if record.rows else run)
        begun = (one for one in same if self._begins_as(one, placing.parquet_for(place)))
        parts = [one for one in begun if not self.originals.has_copy(catalog, one)]  # otherwise that takes its place
        if not parts:
            return record
        ids = [part.run_id for part in parts]
        placing.removed += map(self.layout.staged_file, parts)
        return record.model_copy(
            update={
                "rows": [*(self._retired(part, run.run_id) for part in parts), *record.rows],
                "files": [*record.files, *(_of(run.run_id, note) for note in self._copies_of(parts))],
                "note": f"it was run {' and '.join(ids)}, of the same measurement",
                "superseded_parquet": [self._kept_aside(part, placing) for part in parts],
            }
        )

    def _touched(self, run: KnownRun, outcome: Same) -> Record:
        row = self.store.full_rows([run.run_id])[run.run_id].model_copy(update=_state(outcome.task.status))
        return Record(
            seq=self.store.next_seq,
            at=outcome.task.now,
            event=Event.UNCHANGED,
            source_file=row.source_file,
            run_id=row.run_id,
            rows=[row],
            files=self._cleared(row, run),
        )

    def _moved(self, run: KnownRun, outcome: Same, placing: Placing) -> Record | Failed | None:
        """Give a run its new path; stage it again from there, because file number and summary come from the name."""
        task = replace(outcome.task, known=frozenset(), prior=prior_of(run), run_id=run.run_id)
        (staged,) = stage.stage_batch([task], self.context)
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

    def _note(self, outcome: Rejected | Waiting, kind: NoteOutcome, code: str) -> FileNote:
        """Note a file that is not a run now, and which run it was before: it may become that one again."""
        before = self.store.catalog.occupant(outcome.task.source_file)
        return FileNote(
            source_file=outcome.task.source_file,
            source_sha256=outcome.digest,
            outcome=kind,
            run_id=before and before.run_id,
            code=code,
            **_state(outcome.task.status),
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

    def _cleared(self, row: ManifestRow, old: KnownRun | None) -> list[FileNote]:
        """Update the notes on the path that a run is now made from, and on the one it was made from before.

        If other live rows were made from the same path (files that were overwritten by a rename), note that this run
        occupies it; otherwise it needs no note.
        """
        notes, path = self.store.catalog.notes, row.source_file
        cleared = []
        own = {row.run_id, old.run_id if old else ""}
        if any(run.run_id not in own for run in self.store.catalog.live_at(path)):
            cleared.append(
                FileNote(
                    source_file=path,
                    source_size=row.source_size,
                    source_mtime_ns=row.source_mtime_ns,
                    source_sha256=row.source_sha256,
                    outcome="occupied",
                    run_id=row.run_id,
                )
            )
        elif path in notes:
            cleared.append(forgotten(notes[path]))
        left = notes.get(old.source_file) if old and old.source_file != path else None
        if left is not None and (left.outcome, left.run_id) == ("occupied", row.run_id):
            cleared.append(forgotten(left))
        return cleared


# ---- what is known of a path -----------------------------------------------------------------------------------------


def prior_of(run: KnownRun) -> Prior:
    """Reduce a known run to what staging its file again needs."""
    return Prior(run.run_id, run.source_sha256, run.source_size, run.start_time_utc, run.start_time_origin)


def moved_from(source_file: str) -> str:
    """Word the note of a `moved` record, by which the old path's story is found."""
    return f"it was {source_file}"


def forgotten(note: FileNote) -> FileNote:
    """Return the note that takes a note back."""
    return note.model_copy(update={"outcome": "forgotten", "run_id": None, "code": None})


def _of(run_id: str, note: FileNote) -> FileNote:
    """Return the note of a copy as one of this run."""
    return note.model_copy(update={"run_id": run_id})


def forgotten_by(record: Record) -> list[str]:
    """List the other files whose notes a decision takes back, so that they must be looked at again."""
    if record.event is not Event.EDITED:
        return []
    return [n.source_file for n in record.files if n.outcome == "forgotten" and n.source_file != record.source_file]


def _state(status: FileStat) -> dict[str, int]:
    return {"source_size": status.size, "source_mtime_ns": status.mtime_ns}
