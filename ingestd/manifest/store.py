"""The manifest as one thing: table, log and catalog, opened, followed, appended to and compacted.

Any number of processes may have it open. A `transaction` takes the lock, mends a torn end, and reads what others
appended, so that what is decided inside it rests on all that is known.
"""

from __future__ import annotations

import contextlib
import os
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import polars as pl

from ingestd import files
from ingestd.errors import Corrupt, Damaged, Retry
from ingestd.layout import Layout
from ingestd.manifest import log, table
from ingestd.manifest.catalog import Catalog, KnownRun
from ingestd.manifest.log import Position, Replay
from ingestd.manifest.record import FILE_NOTES, Record, SegmentHead
from ingestd.manifest.row import ManifestRow

Result = TypeVar("Result")

Tables = tuple[files.FileStat | None, files.FileStat | None]
"""The state of `manifest.parquet` and of `known_files.parquet`, which identifies them; None if there is none."""

_MOUNTED = "is the disk or share that holds it mounted?"

READ_TRIES = 50
"""How many times a reader tries when compactions keep replacing what it reads."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did: records taken in, rows in the table after it."""

    records: int
    rows: int


class ManifestStore:
    """The door to `_manifest/`. Opening reads; nothing is created before the first `transaction`.

    `pending` counts the log's records that are not compacted; `position` is how far the log is known.
    """

    def __init__(self, layout: Layout, *, lock_timeout_s: float = 60.0) -> None:
        self.layout = layout
        self._lock = manifest_lock(layout)
        self._timeout_s = lock_timeout_s
        self._locked = False
        self.pending = 0
        self._draft: list[Record] = []
        self._foreign: list[Record] = []
        self._expected: list[str] = []  # ids of rows to be read with the next
        self._ahead: dict[str, ManifestRow] = {}  # rows of the table that were read in the current transaction
        self._undone = False  # the catalog has decisions that were never written
        self.position = Position(0, 0, 1)  # of no log yet
        self._head: SegmentHead | None = None  # of the segment that the position is in
        self._tables: Tables = (None, None)  # as they were when the catalog was read from them
        self._catalog: Catalog
        self._read_again()

    @property
    def catalog(self) -> Catalog:
        """What is known; read again if a transaction was undone.

        Raises:
            Corrupt, Retry: it has to be read again and cannot be, as in `refresh`.
        """
        if self._undone:
            self._read_again()
        return self._catalog

    @property
    def next_seq(self) -> int:
        """The number of the next record, after the drafts of the current transaction."""
        return self.position.next_seq + len(self._draft)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def _read_again(self) -> None:
        """Replace what is known by what the disk has, unless a log or table that was there is gone.

        Raises:
            Corrupt: table or log is damaged.
            Retry: the disk refused, or the log, or a table, that was there is gone. Its disk may not be mounted.
        """
        layout = self.layout

        def read() -> tuple[Catalog, Replay | None, Tables]:
            tables = _tables(layout)
            base = table.read_manifest(layout.manifest_path, KnownRun._fields)
            notes = FILE_NOTES.validate_python(table.read_notes(layout.known_files_path).to_dicts())
            found = log.replay(layout.wal_dir)
            if found is None and self.position.segment:
                raise Retry(
                    "the write-ahead log is gone: is the disk or share that holds the manifest mounted?",
                    place=str(layout.wal_dir),
                    next_step="mount it again; if it was removed on purpose, restart ingestd to begin a new one",
                )
            self._refuse_lost(tables)
            check_whole(layout, found, base.height)
            return Catalog(base, notes), found, tables

        catalog, found, self._tables = steady(layout, read)
        self._foreign = found.records if found else []
        self.pending = len(self._foreign)
        if found is not None:
            self._head = found.heads[-1]
            for record in found.records[: found.before_latest]:
                catalog.apply(record)
            # If the table holds them already, records do not tell which chip a run has left; the head does.
            catalog.stale_chips = dict(found.heads[-1].stale_chips)
            for record in found.records[found.before_latest :]:
                catalog.apply(record)
        self._catalog, self._undone = catalog, False
        self.position = found.position if found else self.position

    def _refuse_lost(self, tables: Tables) -> None:
        """Raise `Retry` if a table that was there is gone: its disk may not be mounted."""
        paths = (self.layout.manifest_path, self.layout.known_files_path)
        for path, was, now in zip(paths, self._tables, tables, strict=True):
            if was is not None and now is None:
                raise Retry(
                    "the table is gone: is the disk or share that holds the manifest mounted?",
                    place=str(path),
                    next_step="mount it again; if the table is lost, stop ingestd and run `ingestd repair`",
                )

    def refuse_filled_stage(self) -> None:
        """Raise `Corrupt` if there are staged runs where the manifest, log and all, is yet to begin."""
        if not self.position.segment and (parquet := files.any_below(self.layout.staged_root, ".parquet")):
            raise Damaged(
                f"the manifest is gone, but runs are staged ({self.layout.relative(parquet)}): {_MOUNTED}",
                place=str(self.layout.manifest_path.parent),
                next_step="`ingestd rebuild-manifest` makes it again from them; to begin anew, move them away first",
            )

    def refuse_gone_stage(self) -> None:
        """Raise `Retry` if runs are known and the folder of the staged ones is gone: its disk may not be mounted."""
        if self.stage_is_gone:
            raise gone_stage(self.layout)

    @property
    def stage_is_gone(self) -> bool:
        """Whether runs are known and the folder of the staged ones is gone: nothing is staged before it is back."""
        return files.is_gone(self.layout.staged_root) and self.catalog.has_rows()

    def refresh(self) -> list[Record]:
        """Take in what other processes appended since; return those records (all of the log after a compaction).

        Raises:
            Retry: the log, or a table, that was there is gone. Its disk may not be mounted, so no new one is begun.
        """
        follows = self.position.segment and not self._undone and self._reads_tables()
        found = log.follow(self.layout.wal_dir, self.position) if follows else None
        if found is None:
            self._read_again()
            return list(self._foreign)
        for record in found.records:
            self._catalog.apply(record)
        self.pending += len(found.records)
        self._foreign += found.records
        self.position = found.position
        self._head = found.heads[-1] if found.heads else self._head
        return found.records

    def _reads_tables(self) -> bool:
        """Tell whether the tables on the disk are those that the catalog was read from."""
        return _tables(self.layout) == self._tables

    def full_rows(self, run_ids: Sequence[str]) -> dict[str, ManifestRow]:
        """Read whole rows by run id; ids without a row are left out.

        Raises:
            Corrupt, Retry: the table is damaged or out of reach.
        """
        at_hand = ChainMap(self.catalog.rows, self._ahead)
        rows = {run_id: at_hand[run_id] for run_id in run_ids if run_id in at_hand}
        absent = [run_id for run_id in run_ids if run_id not in rows]
        if absent:
            wanted = pl.col("run_id").is_in([*absent, *self._expected])
            read = table.read_manifest(self.layout.manifest_path, where=wanted)
            found = {row.run_id: row for row in table.rows_of(read)}
            rows |= {run_id: found[run_id] for run_id in absent if run_id in found}
            if self._locked:
                self._ahead |= found
                self._expected = []
        return rows

    def expect(self, run_ids: Iterable[str]) -> None:
        """Name runs of which `full_rows` may be asked one by one: the first time all are read. In a transaction only.

        The table is read as a whole each time, which for thousands of touched files takes longer than to stage them.
        """
        self._expected = list(run_ids)

    # ---- writing ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the lock, with the log whole and the catalog current, for the block.

        Raises:
            LockHeld: another process held the lock for longer than the timeout.
            Corrupt: table or log is damaged, or gone beside staged runs; nothing was changed.
            Retry: the disk refused, or the log, or a table, that was there is gone.
        """
        with self._lock.held(self._timeout_s):
            self._locked = True
            try:
                if self._undone or not self._reads_tables() or not log.ends_at(self.layout.wal_dir, self.position):
                    self.refresh()
                    log.mend(self.layout.wal_dir, self.position)
                if not self.position.segment:
                    self.refuse_filled_stage()
                    self._begin_segment(SegmentHead(segment=1, next_seq=1))
                yield
            finally:
                self._locked = False
                self._ahead, self._expected = {}, []
                if self._draft:  # decided but never written: the catalog must forget it
                    self._draft, self._undone = [], True

    def _begin_segment(self, head: SegmentHead) -> None:
        self.position = log.create(self.layout.wal_dir, head)
        self._head = head

    def decide(self, record: Record) -> None:
        """Take one decision into the catalog; it counts only when `commit` has written it. Inside a transaction only.

        Later decisions of the same transaction see it; leaving the transaction without `commit` undoes it.
        """
        if not self._locked:
            raise RuntimeError("a decision needs a transaction")
        self._draft.append(record)
        self._catalog.apply(record)

    def commit(self) -> None:
        """Append the transaction's decisions durably: one write, one flush.

        Raises:
            Retry, InDoubt: as `log.append`; or the lock was deleted meanwhile, and nothing is written.
        """
        if self._draft:
            self._lock.check()
            if self._head is not None and not self._head.is_current:  # an older ingestd could not read what follows
                self._begin_segment(self._head.renewed(self.position.next_seq, self.catalog.stale_chips))
            self.position = log.append(self.layout.wal_dir, self.position, self._draft)
            self.pending += len(self._draft)
            self._draft = []

    def append(self, records: Sequence[Record]) -> None:
        """Decide and commit a batch. Inside a transaction only."""
        for record in records:
            self.decide(record)
        self.commit()

    def compact(self, before: Callable[[list[Record]], None] = lambda _: None) -> Compaction | None:
        """Take the log's records into the Parquet files and delete the segments; None when there was nothing to do.

        `before` is called, before anything is changed, with the records that this process did not write itself: it
        makes good what follows from a record and may be missing after a crash, while the log still has the record.
        """
        with self.transaction():
            sealed, count = self.position.segment, self.pending
            if not count:
                return None
            before(self._foreign)
            self._lock.check()
            # A table that has rotted must not get a new, valid seal.
            table.look_anew(self.layout.known_files_path, self.layout.manifest_path)
            rows = table.overlay(table.read_manifest(self.layout.manifest_path), list(self.catalog.rows.values()))
            notes = table.overlay_notes(
                table.read_notes(self.layout.known_files_path), list(self.catalog.changed_notes.values())
            )
            self._begin_segment(
                SegmentHead(
                    segment=sealed + 1,
                    next_seq=self.position.next_seq,
                    compacted_rows=rows.height,
                    compacted_files=notes.height,
                    stale_chips=self.catalog.stale_chips,
                )
            )
            files.remove_leftovers(self.layout.manifest_path.parent)
            table.write_table(self.layout.known_files_path, notes)
            table.write_table(self.layout.manifest_path, rows)
            self._tables = _tables(self.layout)
            log.drop(self.layout.wal_dir, sealed + 1)
            self.catalog.rebase(rows.select(KnownRun._fields))
            self.pending = 0
            self._foreign = []
            return Compaction(count, rows.height)


def manifest_lock(layout: Layout) -> files.Lock:
    """Return the lock held for an append or a compaction."""
    return files.Lock(layout.lock_path, refusal="another ingestd process ({holder}) is writing the manifest")


def gone_stage(layout: Layout) -> Retry:
    """Return the error for a folder of staged runs that is gone."""
    return Retry(
        "the staged runs are gone: was their folder moved, or is its disk not mounted?",
        place=str(layout.staged_root),
        next_step="bring it back; if it is lost, `ingestd repair --apply` stages what it can again",
    )


def check_whole(layout: Layout, found: Replay | None, rows: int | None) -> None:
    """Raise `Corrupt` when the table or the log is gone or too old although the other says it was there.

    `rows` is how many rows the table holds, None when only some were read. If one is out of reach, raise `Retry`.
    """
    with files.as_retry(layout.manifest_path):
        table_there, notes_there = files.exists(layout.manifest_path), files.exists(layout.known_files_path)
    if found is None and table_there:
        raise log.damaged(
            layout.wal_dir,
            "the log is missing beside manifest.parquet: was paths.wal_dir changed, or is its disk not mounted?",
        )
    if found is None:
        return
    runs, notes = found.heads[0].compacted_rows, found.heads[0].compacted_files
    if runs and not table_there:
        raise table.damaged(layout.manifest_path, f"the table of {runs} runs is missing; {_MOUNTED}")
    if rows is not None and rows < runs:
        raise table.damaged(layout.manifest_path, f"holds {rows} runs where the log counts {runs}: an older copy?")
    if notes and not notes_there:
        raise table.damaged(layout.known_files_path, f"the table of {notes} files without a run is missing; {_MOUNTED}")


def steady(layout: Layout, read: Callable[[], Result]) -> Result:
    """Run `read`, again when a compaction replaced the table or took a segment away under it."""
    for _ in range(READ_TRIES):
        before = _tables(layout)
        try:
            result = read()
        except log.SegmentGoneError:
            continue
        except Corrupt:  # table and log of different moments do not agree, and nothing is wrong with either
            if _tables(layout) == before:
                raise
            continue
        if _tables(layout) == before:
            return result
    raise Retry("the manifest is being compacted all the time", place=str(layout.manifest_path), next_step="try again")


def _tables(layout: Layout) -> Tables:
    return _state(layout.manifest_path), _state(layout.known_files_path)


def _state(path: Path) -> files.FileStat | None:
    try:
        return files.stat_of(os.stat(path))  # noqa: PTH116  # quicker: called in every transaction
    except FileNotFoundError:
        return None
    except OSError as error:
        raise files.retry_from(error, path) from error
