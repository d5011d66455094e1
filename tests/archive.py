"""A data root with raw files, backfills of it, and what must hold after every one of them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
from inline import inline
from measurement import Measurement

from ingestd.backfill.report import Report
from ingestd.backfill.run import Options, backfill, dry_run
from ingestd.files import scan_csvs, stat_of
from ingestd.histories.chip import read_history
from ingestd.layout import Layout
from ingestd.manifest.record import Event, FileNote, Record
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.store import ManifestStore
from ingestd.manifest.table import read_manifest, rows_of
from ingestd.manifest.view import read_view
from ingestd.raw.start_time import tells_start
from ingestd.settings import Settings, load_settings
from ingestd.stage.parquet import read_row

BEGIN = datetime(2025, 12, 1, tzinfo=UTC)
DAYS_OF_PATIENCE = timedelta(days=30)


def digest16(measurement: Measurement) -> str:
    """Return the name under which a version is kept aside when it is replaced."""
    return sha256(measurement.data).hexdigest()[:16]


@contextmanager
def unreadable(broken: Path) -> Iterator[None]:
    """Have the disk refuse the cells of a staged Parquet for the block."""
    opened = pa.OSFile

    def refuse(path: str) -> pa.OSFile:
        if path == str(broken):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(path)

    with mock.patch.object(pa, "OSFile", refuse):
        yield


class Archive:
    """Raw files and their backfills. Every change has an mtime of its own, long enough ago to be settled."""

    def __init__(self, root: Path, **sections: dict[str, Any]) -> None:
        self.root = root / "data"
        self.raw = self.root / "01_raw"
        self.raw.mkdir(parents=True)
        config = root / "config.toml"
        config.write_text("")
        stage = {"workers": 1, **sections.pop("stage", {})}
        self.settings: Settings = load_settings(config, {"paths": {"data_root": self.root}, "stage": stage, **sections})
        self.layout: Layout = self.settings.layout
        self.records: list[Record] = []
        self.fresh: list[Record] = []
        self.events: list[tuple[str, str]] = []
        self.reports: list[Report] = []
        self.ever: set[str] = set()
        self.grown: set[str] = set()
        self.versions: dict[str | None, str] = {}
        self.copies: dict[str, str | None] = {}
        self._ticks = 0

    # ---- what happens to raw files ----------------------------------------------------------------------------------

    def put(self, name: str, data: bytes) -> Path:
        """Write a raw file, in place where there is one."""
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.touch(name)
        return path

    def touch(self, name: str) -> None:
        """Give a raw file an mtime that no file had before."""
        self._ticks += 1
        moment = int(BEGIN.timestamp()) + self._ticks
        os.utime(self.raw / name, (moment, moment))

    def move(self, name: str, to: str) -> None:
        """Rename a raw file or a folder; what was there is gone."""
        (self.raw / to).parent.mkdir(parents=True, exist_ok=True)
        (self.raw / name).replace(self.raw / to)

    def copy(self, name: str, to: str) -> None:
        """Copy a raw file as `cp` does: same bytes, an mtime of its own."""
        self.put(to, (self.raw / name).read_bytes())

    def delete(self, name: str) -> None:
        """Delete a raw file or a folder."""
        path = self.raw / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    def files(self) -> dict[str, bytes]:
        """Return the raw files there are."""
        return {name: (self.raw / name).read_bytes() for name in scan_csvs(self.raw).files}

    # ---- backfills --------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """Tell the time: long after the last change."""
        return BEGIN + DAYS_OF_PATIENCE + timedelta(seconds=self._ticks)

    def backfill(self, **options: Any) -> list[tuple[str, str]]:
        """Backfill within this process, check what must always hold, and return (event, file) of every decision."""
        self.backfill_amid(**options)
        check(self)
        return self.events

    def backfill_amid(self, **options: Any) -> list[tuple[str, str]]:
        """Backfill while files are left undecided: that every one is accounted for is not checked."""
        before = _raw_state(self.raw)
        records: list[Record] = []
        given = {"engine": inline, "clock": self.now, **options}
        self.reports.append(backfill(self.settings, Options(on_record=records.append, **given)))
        self.records += records
        self.fresh = records
        assert _raw_state(self.raw) == before, "a backfill changed something in 01_raw"
        self.events = [(record.event.value, record.source_file) for record in records]
        return self.events

    @property
    def report(self) -> Report:
        """The last backfill's report."""
        return self.reports[-1]

    # ---- what came out ----------------------------------------------------------------------------------------------

    def rows(self) -> list[ManifestRow]:
        """Return every row, superseded ones too."""
        return list(rows_of(read_view(self.layout)))

    def live(self) -> dict[str, ManifestRow]:
        """Return the live rows by source file; a test that needs more than one a file takes `rows`."""
        return {row.source_file: row for row in self.rows() if row.live}

    def history(self, chip: int) -> list[str]:
        """Return the source files in the history of chip Alisson<chip>, in order."""
        path = self.layout.history_file(f"Alisson{chip}")
        return read_history(path)["source_file"].to_list() if path.exists() else []

    def notes(self) -> dict[str, FileNote]:
        """Return what is noted of files without a row of their own."""
        return ManifestStore(self.layout).catalog.notes

    def staged(self, row: ManifestRow) -> Path:
        """Locate a row's Parquet."""
        return self.layout.staged_file(row)

    def aside(self) -> list[str]:
        """Return the first 16 digits of the SHA-256 of every version kept in `_superseded`."""
        return sorted(path.stem for path in self.layout.superseded_root.rglob("*.parquet"))


def _raw_state(raw: Path) -> dict[str, tuple[int, int, int, int, int]]:
    found = {}
    for path in sorted([raw, *raw.rglob("*")]):
        status = path.lstat()
        found[str(path)] = (
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_atime_ns if stat.S_ISREG(status.st_mode) else 0,
        )
    return found


# ---- what must hold after every backfill -----------------------------------------------------------------------------


def check(archive: Archive) -> None:
    """Check what must hold after a backfill that was allowed to look at every file."""
    rows = archive.rows()
    live = [row for row in rows if row.live]
    _check_table(archive, rows, live)
    _check_stage(archive, live)
    _check_copies_stay(archive, live)
    _check_nothing_lost(archive, live)
    _check_raw_files_accounted_for(archive, live)
    _check_histories(archive, live)
    _check_traces(archive)


def _check_table(archive: Archive, rows: list[ManifestRow], live: list[ManifestRow]) -> None:
    table = read_manifest(archive.layout.manifest_path)
    assert table.equals(read_view(archive.layout)), "the compacted table is not what readers see"
    assert max(Counter(row.run_id for row in rows).values(), default=1) == 1
    assert max(Counter(row.source_sha256 for row in live).values(), default=1) == 1, "two live rows of the same bytes"
    by_id = {row.run_id: row for row in rows}
    for row in rows:
        assert row.superseded_by != row.run_id
        assert row.live or row.superseded_by in by_id


def _check_stage(archive: Archive, live: list[ManifestRow]) -> None:
    files = {path for path in archive.layout.staged_root.rglob("*") if path.is_file()}
    assert files == {archive.staged(row) for row in live}, "the stage holds other files than one a live row"
    empty = [path for path in archive.layout.staged_root.rglob("run_id=*") if not any(path.iterdir())]
    assert not empty, "an empty run folder stayed behind"
    own = {"source_mtime_ns"}  # a touch refreshes the manifest's stat only
    for row in live:
        assert read_row(archive.staged(row)).model_dump(exclude=own) == row.model_dump(exclude=own)
    assert [path.name for path in archive.layout.temporary_root.iterdir()] == ["sweep.lock"]


def _check_copies_stay(archive: Archive, live: list[ManifestRow]) -> None:
    """What was known as a copy of a run becomes no run of its own while that one or its heir lives.

    Where the header tells no start, another measurement may have its path, and so its id.
    """
    ids, by_digest = {row.run_id for row in live}, {row.source_sha256: row.run_id for row in live}
    nameless = {row.run_id for row in live if not tells_start(row.parameters)}
    follows = {row.run_id: row.superseded_by for row in archive.rows() if not row.live}
    for digest, copied in archive.copies.items():
        heir = copied
        while heir in follows:
            heir = follows[heir]
        assert heir not in ids - nameless or by_digest.get(digest, heir) in {heir, *archive.versions}, "a copy counts"
    duplicates = (note for note in archive.notes().values() if note.outcome == "duplicate")
    archive.copies = {note.source_sha256: note.run_id for note in duplicates if note.run_id in ids}


def _check_nothing_lost(archive: Archive, live: list[ManifestRow]) -> None:
    """Whatever was ever staged is staged still, was kept aside, or is the beginning of what took its place."""
    now = {row.source_sha256 for row in live}
    for record in archive.fresh:
        if record.event is Event.UPDATED:
            archive.grown.add(archive.versions[record.run_id])
    aside = set(archive.aside())
    lost = {digest for digest in archive.ever - now - archive.grown if digest[:16] not in aside}
    assert not lost, "the staged data of a run is gone"
    archive.ever |= now
    gone = archive.versions.keys() - {row.run_id for row in live}
    follows = {row.run_id: row.superseded_by for row in archive.rows() if not row.live}
    assert all(run_id in follows for run_id in gone), "a measurement's row is gone"
    archive.versions = {row.run_id: row.source_sha256 for row in live}


def _check_raw_files_accounted_for(archive: Archive, live: list[ManifestRow]) -> None:
    """Every raw file has the live row of its bytes, or a note that says why it has none."""
    assert dry_run(archive.settings).to_do == {}, "the next run would look at files again"
    by_digest = {row.source_sha256: row for row in live}
    by_id = {row.run_id: row for row in live}
    raw, notes = archive.files(), archive.notes()
    for name, data in raw.items():
        digest = sha256(data).hexdigest()
        row, note = by_digest.get(digest), notes.get(name)
        if note is not None and note.outcome in {"rejected", "queued"}:
            assert note.source_sha256 in {digest, ""}, "a note is of other bytes"
            assert note.source_sha256 or note.code == "too-large", "a file that can be read has its hash noted"
        elif row is None:
            assert note is not None
            assert note.outcome == "duplicate"
            assert digest in archive.ever, "a raw file has no row"
        elif row.source_file != name:
            assert note is not None
            assert (note.outcome, note.run_id) == ("duplicate", row.run_id)
            original = notes.get(row.source_file)
            spoilt = original is not None and original.outcome in {"rejected", "queued"}
            assert spoilt or sha256(raw[row.source_file]).hexdigest() == digest, "the row's raw file is another"
        else:
            assert note is None or (note.outcome, note.run_id) == ("occupied", row.run_id)
            assert row.source_mtime_ns == stat_of((archive.raw / name).stat()).mtime_ns
    assert all(note.run_id in by_id for note in notes.values() if note.outcome == "occupied")


def _check_histories(archive: Archive, live: list[ManifestRow]) -> None:
    found = {}
    for path in archive.layout.histories_dir.glob("*_history.csv"):
        frame = read_history(path)
        assert frame["seq"].to_list() == list(range(1, frame.height + 1))
        for run_id, parquet in frame.select("run_id", "parquet_path").iter_rows():
            assert run_id not in found, "a run stands in two histories, or twice in one"
            found[run_id] = path.name
            assert (archive.root / parquet).is_file()
    assert found == {row.run_id: f"{row.chip_name}_history.csv" for row in live}


def _check_traces(archive: Archive) -> None:
    events = {}
    for path in archive.layout.events_dir.rglob("*.json"):
        event = json.loads(path.read_text("utf-8"))
        assert path.name == f"{event['seq']:09d}-{event['event']}.json"
        events[event["seq"]] = (event["event"], event["source_file"])
    told = {record.seq: (record.event.value, record.source_file) for record in archive.records}
    assert events == told, "event JSONs and decisions differ"
    rejected = {
        archive.layout.reject_file(name) for name, note in archive.notes().items() if note.outcome == "rejected"
    }
    assert {path for path in archive.layout.rejects_dir.rglob("*") if path.is_file()} == rejected
