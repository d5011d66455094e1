"""Compaction: what it leaves, what a crash or a full disk in it costs, and the chips that stay stale across it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layouts import layout_of
from samples_of_rows import NOON, a_note, a_record, a_row, append_runs, knows, runs_in

from ingestd import files
from ingestd.errors import Corrupt, Retry
from ingestd.layout import Layout
from ingestd.manifest import log, table
from ingestd.manifest.record import Event, Record
from ingestd.manifest.store import ManifestStore, steady
from ingestd.manifest.view import read_view


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The places of an empty data root."""
    return layout_of(tmp_path)


# ---- compaction -----------------------------------------------------------------------------------------------------


def test_compaction_moves_the_log_into_the_table(layout: Layout) -> None:
    """After a compaction the table has all rows, the log none, and numbers go on."""
    store = ManifestStore(layout)
    append_runs(store, 2, 1)
    done = store.compact()
    assert (done and (done.records, done.rows)) == (2, 2)
    assert table.read_manifest(layout.manifest_path).equals(table.rows_frame([a_row(1), a_row(2)]))
    assert [path.name for path in layout.wal_dir.iterdir()] == ["00000002.log"]
    assert not store.catalog.rows
    assert store.compact() is None
    append_runs(store, 3)
    assert store.next_seq == 4
    assert runs_in(layout) == [1, 2, 3]


def test_compacting_at_other_times_gives_the_same_bytes(tmp_path: Path) -> None:
    """The table's bytes tell nothing of when it was compacted, or of row order in the log."""
    one, other = layout_of(tmp_path / "one"), layout_of(tmp_path / "other")
    store = ManifestStore(one)
    append_runs(store, *range(20))
    store.compact()
    store = ManifestStore(other)
    for number in reversed(range(20)):
        append_runs(store, number)
        if number % 7 == 0:
            store.compact()
    assert one.manifest_path.read_bytes() == other.manifest_path.read_bytes()


def test_a_compaction_under_an_open_store(layout: Layout) -> None:
    """A store whose segment was compacted away by another reads everything again and goes on."""
    one, other = ManifestStore(layout), ManifestStore(layout)
    append_runs(one, 1)
    other.refresh()
    append_runs(one, 2)
    one.compact()
    append_runs(one, 3)
    assert [record.seq for record in other.refresh()] == [3]
    assert knows(other, 1, 2, 3)
    append_runs(other, 4)
    one.compact()
    assert runs_in(layout) == [1, 2, 3, 4]
    assert other.next_seq == 5


def test_foreign_records_are_shown_before_the_log_forgets_them(layout: Layout) -> None:
    """`before` gets what this process did not write itself, once, while the log still has it."""
    one, other = ManifestStore(layout), ManifestStore(layout)
    append_runs(other, 1)
    append_runs(one, 2)
    shown: list[int] = []

    def before(records: list[Record]) -> None:
        assert len(log.segments(layout.wal_dir)) == 1
        shown.extend(record.seq for record in records)

    one.compact(before)
    assert shown == [1]
    append_runs(one, 3)
    one.compact(before)
    assert shown == [1]


@pytest.mark.parametrize("error", [None, Corrupt("of different moments"), log.SegmentGoneError()])
def test_a_reader_looks_again_after_a_compaction(layout: Layout, error: Exception | None) -> None:
    """What was read while the tables were replaced does not count, and is no damage either."""
    store = ManifestStore(layout)
    append_runs(store, 1)
    looks: list[int] = []

    def read() -> int:
        looks.append(len(looks))
        if len(looks) == 1:
            store.compact()
            if error is not None:
                raise error
        return looks[-1]

    assert steady(layout, read) == 1


def test_a_reader_does_not_look_for_ever(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compacted at every look, the manifest is out of reach for now; damage that stays is told at once."""
    store = ManifestStore(layout)
    looks: list[int] = []

    def read(error: Exception | None = None) -> None:
        looks.append(len(looks))
        if error is not None:
            raise error
        append_runs(store, len(looks))
        store.compact()

    monkeypatch.setattr("ingestd.manifest.store.READ_TRIES", 3)
    with pytest.raises(Retry, match="being compacted all the time"):
        steady(layout, read)
    with pytest.raises(Corrupt, match="damaged"):
        steady(layout, lambda: read(Corrupt("damaged")))
    assert len(looks) == 4


class _Killed(BaseException):
    pass


def _dies(function: Callable[..., Any], *, after: bool, calls: int) -> Callable[..., Any]:
    """Let the `calls`-th call of `function` end the process, before or after its work."""
    seen: list[None] = []

    def dying(*args: Any) -> Any:
        seen.append(None)
        if len(seen) != calls:
            return function(*args)
        if after:
            function(*args)
        raise _Killed

    return dying


CRASH_POINTS = [
    (module, name, calls, after)
    for module, name, calls in (
        (log, "create", 1),
        (table, "write_table", 1),
        (table, "write_table", 2),
        (log, "drop", 1),
    )
    for after in (False, True)
]


@pytest.mark.parametrize(("module", "name", "calls", "after"), CRASH_POINTS)
@pytest.mark.parametrize("reopen", [False, True])
def test_a_crash_anywhere_in_a_compaction_costs_nothing(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, calls: int, after: bool, reopen: bool
) -> None:
    """Killed before or after each step, a compaction loses no row, note or stale chip; the next one ends it."""
    store = ManifestStore(layout)
    append_runs(store, 1, 2)
    with store.transaction():
        store.append([a_record(store.next_seq, a_row(7), files=[a_note("x.csv"), a_note("y.csv")])])
    store.compact()
    append_runs(store, 3)
    with store.transaction():
        moved = a_row(1, source_file="new.csv", chip_name="Alisson99")
        gone = a_note("y.csv", outcome="forgotten")
        store.append([a_record(store.next_seq, moved, files=[a_note("z.csv"), gone])])
    stale, expected = store.catalog.stale_chips, read_view(layout)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, _dies(getattr(module, name), after=after, calls=calls))
        with pytest.raises(_Killed):
            store.compact()
    assert read_view(layout).equals(expected)
    store = ManifestStore(layout) if reopen else store
    for _ in range(2):
        assert knows(store, 2, 3)
        assert set(store.catalog.notes) == {"x.csv", "z.csv"}
        assert store.catalog.stale_chips == stale
        assert [run.run_id for run in store.catalog.live_at("new.csv")] == [moved.run_id]
        assert store.catalog.live_at(a_row(1).source_file) == []
        append_runs(store, 3)  # the same decision once more changes no row
        stale = {**stale, "Alisson67": store.next_seq - 1}
        store.compact()
        assert read_view(layout).equals(expected)
        assert len(log.segments(layout.wal_dir)) == 1
        store = ManifestStore(layout)


def test_leftovers_of_a_killed_compaction_are_removed(layout: Layout) -> None:
    """The temporary table or segment of a process that died while writing it is gone after the next compaction."""
    store = ManifestStore(layout)
    append_runs(store, 1)
    living = [files.temporary_beside(path) for path in (layout.manifest_path, log.segment_path(layout.wal_dir, 2))]
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    leftovers = [path.with_name(path.name.replace(str(os.getpid()), str(dead.pid), 1)) for path in living]
    for path in (*living, *leftovers):
        path.write_bytes(b"half of it")
    store.compact()
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in living)


def test_a_compaction_on_a_full_disk_costs_nothing(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by the disk, a compaction is a `Retry`; the rows are there, and the next one takes them in."""
    store = ManifestStore(layout)
    append_runs(store, 1)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(table, "write_table", full)
        with pytest.raises(OSError, match="No space left"):
            store.compact()
    append_runs(store, 2)
    assert runs_in(layout) == [1, 2]
    done = store.compact()
    assert done is not None
    assert done.rows == 2
    assert runs_in(layout) == [1, 2]


# ---- chips whose history is out of date -----------------------------------------------------------------------------


def _histories(store: ManifestStore, through: int, *chips: str) -> None:
    with store.transaction():
        record = Record(seq=store.next_seq, at=NOON, event=Event.HISTORIES, chips=list(chips), through=through)
        store.append([record])


def test_a_chip_stays_stale_until_its_history_is_written(layout: Layout) -> None:
    """Stale chips survive reopening and compaction; a HISTORIES record clears them up to `through` and no further."""
    store = ManifestStore(layout)
    with store.transaction():
        store.append([a_record(1, a_row(1, chip_name="A1")), a_record(2, a_row(2, chip_name="B2"))])
    assert store.catalog.stale_chips == {"A1": 1, "B2": 2}
    assert ManifestStore(layout).catalog.stale_chips == {"A1": 1, "B2": 2}
    store.compact()
    assert ManifestStore(layout).catalog.stale_chips == {"A1": 1, "B2": 2}
    _histories(store, 1, "A1", "B2")
    for reopened in (store, ManifestStore(layout)):
        assert reopened.catalog.stale_chips == {"B2": 2}
    store.compact()
    assert ManifestStore(layout).catalog.stale_chips == {"B2": 2}


def test_a_changed_chip_makes_both_histories_stale(layout: Layout) -> None:
    """A row whose chip changes makes the old chip's history stale and the new one's, also after a compaction."""
    store = ManifestStore(layout)
    with store.transaction():
        store.append([a_record(1, a_row(1, chip_name="A1"))])
    store.compact()
    _histories(store, 1, "A1")
    with store.transaction():
        store.append([a_record(store.next_seq, a_row(1, chip_name="B2"))])
    assert store.catalog.stale_chips == {"A1": 3, "B2": 3}


def test_a_compaction_that_cannot_complete_the_traces_changes_nothing(layout: Layout) -> None:
    """However often it is tried, the log keeps its one segment and the table its bytes."""
    store = ManifestStore(layout)
    append_runs(store, 1)
    store.compact()
    append_runs(store, 2)
    before = log.segments(layout.wal_dir), layout.manifest_path.stat().st_ino

    def refuse(_: list[Record]) -> None:
        raise Retry("No space left on device")

    for _ in range(3):
        with pytest.raises(Retry, match="No space left"):
            store.compact(refuse)
    assert (log.segments(layout.wal_dir), layout.manifest_path.stat().st_ino) == before
    assert store.compact() is not None
    assert runs_in(layout) == [1, 2]
