"""Every known raw file and run, in memory: what decisions about a file are based on."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime
from operator import attrgetter
from typing import NamedTuple
from zlib import crc32

import polars as pl

from ingestd.files import FileStat, Stamp, Stamps
from ingestd.manifest.record import Event, FileNote, NoteOutcome, Record
from ingestd.manifest.row import ManifestRow, StartTimeOrigin
from ingestd.manifest.table import LIVE


class KnownRun(NamedTuple):
    """What a decision needs of a row; the field names are the manifest's."""

    run_id: str
    source_file: str
    source_size: int
    source_mtime_ns: int
    source_sha256: str
    proc: str
    date_local: date
    start_time_utc: datetime
    start_time_origin: StartTimeOrigin
    chip_name: str | None
    superseded_by: str | None

    @property
    def stamp(self) -> Stamp:
        """Size and mtime (ns) of the raw file, as `ManifestRow.stamp`."""
        return self.source_size, self.source_mtime_ns

    @property
    def live(self) -> bool:
        """Whether this run stands for its measurement, as `ManifestRow.live`."""
        return self.superseded_by is None


_known_fields = attrgetter(*KnownRun._fields)


class Catalog:
    """The known runs and files; `apply` keeps it current record by record.

    `rows` are the rows of records not yet compacted, `notes` the files without a live row of their own, `stale_chips`
    maps a chip to the record that made its history out of date.
    """

    def __init__(self, base: pl.DataFrame, notes: Iterable[FileNote]) -> None:
        self.rebase(base)
        self.notes: dict[str, FileNote] = {note.source_file: note for note in notes}
        self._copies: dict[str, set[str]] = {}  # hash -> paths that are known as copies with these bytes
        for note in self.noted_as("duplicate"):
            self._copies.setdefault(note.source_sha256, set()).add(note.source_file)
        self.stale_chips: dict[str, int] = {}
        live = base.filter(LIVE)
        self._seen = Stamps(
            live["source_file"].to_list(),
            zip(live["source_size"].to_list(), live["source_mtime_ns"].to_list(), strict=True),
        )
        for note in self.notes.values():
            self._seen[note.source_file] = note.stamp

    def rebase(self, base: pl.DataFrame) -> None:
        """Switch to the table that a compaction left, which holds every row; what is known stays the same."""
        self._base = base
        self.rows: dict[str, ManifestRow] = {}
        self._known: dict[str, KnownRun] = {}  # of `rows`
        self.changed_notes: dict[str, FileNote] = {}
        self._finders: dict[str, _Finder] = {}
        self._listed: dict[tuple[str, str | int], set[str]] = {}  # of the live ones among `rows`: column, value -> runs

    # ---- questions --------------------------------------------------------------------------------------------------

    def has_rows(self) -> bool:
        """Tell whether any run is known."""
        return bool(self.rows) or not self._base.is_empty()

    def is_current(self, source_file: str, stamp: Stamp) -> bool:
        """Tell whether the file in this state was decided already, so that it need not be opened."""
        return self._seen.get(source_file) == stamp

    def run_files(self) -> Stamps:
        """Return the state of every raw file that is a run's and has no note."""
        stamps = self._seen.copy()
        for name in self.notes:
            stamps.pop(name, None)
        return stamps

    def undecided(self, found: Mapping[str, FileStat]) -> dict[str, FileStat]:
        """Keep the files that are not current."""
        seen = self._seen.get
        return {name: status for name, status in found.items() if seen(name) != status[:2]}

    def is_known(self, source_file: str) -> bool:
        """Tell whether the path was ever decided."""
        return source_file in self._seen

    def run(self, run_id: str) -> KnownRun | None:
        """Look a run up by its id, superseded ones too."""
        if (known := self._known.get(run_id)) is not None:
            return known
        return next(self._compacted("run_id", run_id), None)

    def live_at(self, source_file: str) -> list[KnownRun]:
        """List the live runs made from this path, the one that occupies it now first."""
        if source_file not in self._seen:  # asked seven times for every new file
            return []
        runs = sorted(self._live("source_file", source_file), key=lambda run: run.run_id)
        if len(runs) < 2:
            return runs
        note = self.notes.get(source_file)
        return sorted(runs, key=lambda run: note is None or note.run_id != run.run_id)

    def occupant(self, source_file: str) -> KnownRun | None:
        """Find the run that the file at this path was when it was last decided; None when it was a copy of another."""
        note, here = self.notes.get(source_file), self.live_at(source_file)
        return here[0] if here and (note is None or note.outcome != "duplicate") else None

    def live_with(self, digest: str) -> KnownRun | None:
        """Find the live run whose raw file had exactly these bytes (SHA-256, hex)."""
        return min(self._live("source_sha256", digest), key=lambda run: run.run_id, default=None)

    def digests_of_size(self, size: int, *, at_most: int | None = None) -> frozenset[str]:
        """List the hashes of live runs with a raw file of this size: a file with one of them needs no parsing.

        Empty if more than `at_most` runs have it: listing them for each file would cost more than it saves.
        """
        if at_most is not None and self.count_of_size(size) > at_most:
            return frozenset()
        return frozenset(run.source_sha256 for run in self._live("source_size", size))

    def count_of_size(self, size: int) -> int:
        """Count the runs, the live ones at least, whose raw file has this size."""
        return len(self._listed.get(("source_size", size), ())) + len(self._where("source_size", size))

    def copies(self, run: KnownRun | ManifestRow) -> list[FileNote]:
        """List the files with a run's present bytes that are known as its copies."""
        return [note for note in self.copies_of_bytes(run.source_sha256) if note.run_id == run.run_id]

    def copies_of_bytes(self, digest: str) -> list[FileNote]:
        """List the files with these bytes (SHA-256, hex) that are known as copies, of whichever run."""
        return [self.notes[path] for path in sorted(self._copies.get(digest, ()))]

    def copies_of_runs_at(self, paths: Iterable[str]) -> Iterator[FileNote]:
        """List the files that are known as copies of the runs made from these paths."""
        return (note for path in paths for run in self.live_at(path) for note in self.copies(run))

    def edited_original_of(self, digest: str) -> KnownRun | None:
        """Find the live run whose raw file once had these bytes and was edited since, as its known copies tell."""
        runs = (self.heir_of(note.run_id) for note in self.copies_of_bytes(digest) if note.run_id)
        return next((run for run in runs if run is not None), None)

    def heir_of(self, run_id: str) -> KnownRun | None:
        """Find the live run that stands for a run's measurement: itself, or what superseded it in the end."""
        passed: set[str] = set()
        while (run := self.run(run_id)) is not None and run.superseded_by is not None and run_id not in passed:
            passed.add(run_id)
            run_id = run.superseded_by
        return run if run is not None and run.live else None

    def overwritten(self) -> dict[KnownRun, FileNote]:
        """Find the live runs whose path has another run's bytes, each with the note that says so."""
        notes = {note.source_file: note for note in self.notes.values() if note.names_occupant}
        if not notes:
            return {}
        kept = self._base.filter(LIVE, pl.col("source_file").is_in(list(notes)))
        runs = [run for run in map(KnownRun._make, kept.iter_rows()) if run.run_id not in self.rows]
        runs += [run for run in self._known.values() if run.live and run.source_file in notes]
        return {run: notes[run.source_file] for run in runs if notes[run.source_file].run_id != run.run_id}

    def overwritten_at(self, source_file: str) -> dict[KnownRun, FileNote]:
        """Find what `overwritten` does, at one path only."""
        note = self.notes.get(source_file)
        if note is None or not note.names_occupant:
            return {}
        return {run: note for run in self.live_at(source_file) if run.run_id != note.run_id}

    def noted_as(self, outcome: NoteOutcome) -> list[FileNote]:
        """List the notes with this outcome, such as `rejected`."""
        return [note for note in self.notes.values() if note.outcome == outcome]

    # ---- changes ----------------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> None:
        """Take one record in. Applying it twice changes nothing."""
        if record.event is Event.HISTORIES:
            for chip in record.chips:
                if self.stale_chips.get(chip, 0) <= record.through:
                    self.stale_chips.pop(chip, None)
            return
        for row in record.rows:
            self._put_row(row, record.seq)
        for note in record.files:
            self._put_note(note)

    def _put_row(self, row: ManifestRow, seq: int) -> None:
        new = KnownRun._make(_known_fields(row))
        if (old := self.run(row.run_id)) is not None:
            self._unlist(old)
            self._mark_stale(old.chip_name, seq)
        self.rows[row.run_id] = row
        self._known[row.run_id] = new
        self._mark_stale(row.chip_name, seq)
        if row.live:
            for place in _places(new):
                self._listed.setdefault(place, set()).add(row.run_id)
        if row.live and row.source_file not in self._seen:
            self._seen[row.source_file] = row.stamp
        else:
            self._look_again(row.source_file)
        if old is not None and old.source_file != row.source_file:
            self._look_again(old.source_file)

    def _put_note(self, note: FileNote) -> None:
        self.changed_notes[note.source_file] = note
        if (before := self.notes.get(note.source_file)) is not None and before.source_sha256 in self._copies:
            self._copies[before.source_sha256].discard(note.source_file)
        if note.outcome == "duplicate":
            self._copies.setdefault(note.source_sha256, set()).add(note.source_file)
        if note.outcome == "forgotten":
            self.notes.pop(note.source_file, None)
        else:
            self.notes[note.source_file] = note
        self._look_again(note.source_file)

    def _look_again(self, path: str) -> None:
        """Set the state in which a path is current: its note's, else its last live row's, as after opening."""
        if (note := self.notes.get(path)) is not None:
            self._seen[path] = note.stamp
        elif runs := self.live_at(path):
            self._seen[path] = max(runs, key=lambda run: (run.start_time_utc, run.run_id)).stamp
        else:
            self._seen.pop(path, None)

    def _mark_stale(self, chip: str | None, seq: int) -> None:
        if chip is not None:
            self.stale_chips[chip] = seq

    def _unlist(self, run: KnownRun) -> None:
        for place in _places(run):
            if (listed := self._listed.get(place)) is not None:
                listed.discard(run.run_id)

    # ---- looking up: rows of the log in dicts, compacted ones through sorted keys ------------------------------------

    def _live(self, column: str, value: str | int) -> Iterator[KnownRun]:
        for run_id in self._listed.get((column, value), ()):
            yield self._known[run_id]
        for run in self._compacted(column, value):
            if run.live and run.run_id not in self.rows:
                yield run

    def _compacted(self, column: str, value: str | int) -> Iterator[KnownRun]:
        # Row by row: gathering a handful of rows takes polars fifty times as long.
        found = map(KnownRun._make, map(self._base.row, self._where(column, value)))
        return (run for run in found if getattr(run, column) == value)

    def _where(self, column: str, value: str | int) -> list[int]:
        """List the positions of the compacted rows that may have this value."""
        if self._base.is_empty():
            return []
        if column not in self._finders:
            self._finders[column] = _Finder(self._base[column])
        return self._finders[column].find(value)


def _places(run: KnownRun) -> Iterator[tuple[str, str | int]]:
    yield "source_file", run.source_file
    yield "source_sha256", run.source_sha256
    yield "source_size", run.source_size


class _Finder:
    """Finds where a value may be in a column, in a microsecond: nearly always it is nowhere.

    It bisects sorted keys of 8 bytes, since dicts of a million runs would take gigabytes. Values may share a key.
    """

    def __init__(self, column: pl.Series) -> None:
        self._key, keys_of = _KEYS[column.name]
        keys = keys_of(column)
        order = keys.arg_sort()
        self._keys = array("q", keys.gather(order).to_list())
        self._positions = array("L", order.to_list())

    def find(self, value: str | int) -> list[int]:
        """List the positions of all values with the key of `value`."""
        key = self._key(value)
        begin = bisect_left(self._keys, key)
        return self._positions[begin : bisect_right(self._keys, key, begin)].tolist()


_HEX_DIGITS = 15
"""How many of an id's last hex digits make its key: as many as a signed 64-bit number has room for."""


def _id_key(value: str | int) -> int:
    try:
        return int(str(value)[-_HEX_DIGITS:], 16)
    except ValueError:
        return -1


def _id_keys(column: pl.Series) -> pl.Series:
    return column.str.slice(-_HEX_DIGITS).str.to_integer(base=16, strict=False).fill_null(-1)


def _path_key(value: str | int) -> int:
    return crc32(str(value).encode())


def _path_keys(column: pl.Series) -> pl.Series:
    return pl.Series(map(_path_key, column.to_list()), dtype=pl.Int64)


_KEYS: dict[str, tuple[Callable[[str | int], int], Callable[[pl.Series], pl.Series]]] = {
    "run_id": (_id_key, _id_keys),
    "source_sha256": (_id_key, _id_keys),
    "source_file": (_path_key, _path_keys),
    "source_size": (int, lambda column: column),
}
"""Column -> how one value becomes a key, and how a whole column does."""
