"""The manifest as a whole: transactions, followers, readers, and what is refused."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import polars as pl
import pytest
from layouts import layout_of
from racing import append_rows
from samples_of_rows import a_note, a_record, a_row, append_runs, knows, runs_in

from ingestd.errors import Corrupt, LockHeld, Retry
from ingestd.layout import Layout
from ingestd.manifest import log, table
from ingestd.manifest.record import encode
from ingestd.manifest.store import ManifestStore
from ingestd.manifest.view import read_view


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The places of an empty data root."""
    return layout_of(tmp_path)


# ---- opening and appending ------------------------------------------------------------------------------------------


def test_opening_creates_nothing(layout: Layout) -> None:
    """Opening, reading and compacting nothing leave an empty data root with a lock and an empty log at most."""
    store = ManifestStore(layout)
    assert store.next_seq == 1
    assert store.refresh() == []
    assert read_view(layout).is_empty()
    assert not layout.manifest_path.parent.exists()
    assert store.compact() is None
    assert not layout.manifest_path.exists()


def test_what_is_appended_is_there_for_everyone(layout: Layout) -> None:
    """An append is in the own catalog, in a reader's view and in a store opened later."""
    store = ManifestStore(layout)
    append_runs(store, 1, 2)
    assert knows(store, 1, 2)
    assert runs_in(layout) == [1, 2]
    assert knows(ManifestStore(layout), 1, 2)
    assert store.next_seq == 3


def test_two_stores_follow_each_other(layout: Layout) -> None:
    """A transaction sees what another store appended before it, so numbers never clash."""
    one, other = ManifestStore(layout), ManifestStore(layout)
    append_runs(one, 1)
    append_runs(other, 2)
    assert knows(other, 1, 2)
    assert [record.seq for record in one.refresh()] == [2]
    assert knows(one, 1, 2)
    append_runs(one, 3)
    assert [record.seq for record in other.refresh()] == [3]


def test_appending_needs_a_transaction(layout: Layout) -> None:
    """Outside a transaction, before one or after, nothing may be decided or appended."""
    store = ManifestStore(layout)
    with pytest.raises(RuntimeError, match="needs a transaction"):
        store.append([a_record(1)])
    append_runs(store, 1)
    with pytest.raises(RuntimeError, match="needs a transaction"):
        store.decide(a_record(2))


def test_a_decision_counts_only_when_committed(layout: Layout) -> None:
    """A later decision of the transaction sees an earlier one; without `commit` both are undone."""
    store = ManifestStore(layout)
    append_runs(store, 1)
    with store.transaction():
        store.decide(a_record(store.next_seq, a_row(2)))
        assert knows(store, 1, 2)
        assert store.next_seq == 3
    assert knows(store, 1)
    assert not knows(store, 2)
    assert store.next_seq == 2
    assert runs_in(layout) == [1]
    append_runs(store, 3)
    assert runs_in(layout) == [1, 3]


def test_a_refused_append_is_not_believed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk refuses the append, catalog, view and log are as before, and the store goes on afterwards."""
    store = ManifestStore(layout)
    append_runs(store, 1)
    before = log.segment_path(layout.wal_dir, 1).read_bytes()

    def refuse(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)  # the lock's note of its holder is refused as well
        with pytest.raises(Retry, match="No space left"):
            append_runs(store, 2)
    assert not knows(store, 2)
    assert log.segment_path(layout.wal_dir, 1).read_bytes() == before
    with store.transaction():
        store.decide(a_record(store.next_seq, a_row(2)))
        assert knows(store, 1, 2)
        store.commit()
    assert runs_in(layout) == [1, 2]


def test_nothing_is_written_under_a_lock_that_was_deleted(layout: Layout) -> None:
    """Another process may hold the one made since: neither log nor table changes; the next transaction goes on."""
    store = ManifestStore(layout)
    append_runs(store, 1)
    before = log.segment_path(layout.wal_dir, 1).read_bytes()
    with store.transaction():
        layout.lock_path.unlink()
        with pytest.raises(Retry, match="this lock was deleted"):
            store.append([a_record(store.next_seq, a_row(2))])
    with pytest.raises(Retry, match="this lock was deleted"):
        store.compact(lambda _: layout.lock_path.unlink())
    assert [path.read_bytes() for path in layout.wal_dir.iterdir()] == [before]
    assert not layout.manifest_path.exists()
    append_runs(store, 3)
    assert store.compact() is not None
    assert runs_in(layout) == [1, 3]


@pytest.fixture
def interrupted(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> ManifestStore:
    """A store with one run, whose disk refused the second one."""
    store = ManifestStore(layout)
    append_runs(store, 1)
    monkeypatch.setattr(log, "append", refuse)
    with pytest.raises(Retry, match="refused"):
        append_runs(store, 2)
    monkeypatch.undo()
    return store


def refuse(*_: object) -> None:
    """Stand for a disk that does not answer."""
    raise Retry("refused")


def test_a_refused_append_is_not_believed_however_long_the_disk_is_away(
    interrupted: ManifestStore, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the manifest cannot be read either, the store knows nothing; then what the disk has."""
    monkeypatch.setattr(log, "replay", refuse)
    for _ in range(2):
        with pytest.raises(Retry, match="refused"):
            _ = interrupted.catalog
        with pytest.raises(Retry, match="refused"):
            interrupted.refresh()
        with pytest.raises(Retry, match="refused"):
            append_runs(interrupted, 3)
    monkeypatch.undo()
    assert knows(interrupted, 1)
    append_runs(interrupted, 3)
    interrupted.compact()
    assert knows(interrupted, 1, 3)
    assert runs_in(layout) == [1, 3]


def test_a_disk_that_goes_away_amid_an_append_is_not_taken_for_an_empty_one(
    interrupted: ManifestStore, layout: Layout
) -> None:
    """What an unmounted disk leaves is an empty folder: no log is begun in it, and all goes on when it is back."""
    stage, away = layout.stage_root, layout.stage_root.with_name("unmounted")
    stage.rename(away)
    stage.mkdir()
    for _ in range(2):
        with pytest.raises(Retry, match="the write-ahead log is gone"):
            append_runs(interrupted, 3)
        with pytest.raises(Retry, match="the write-ahead log is gone"):
            interrupted.compact()
    shutil.rmtree(stage)
    away.rename(stage)
    append_runs(interrupted, 3)
    assert knows(interrupted, 1, 3)
    assert runs_in(layout) == [1, 3]


@pytest.mark.parametrize("table_path", ["manifest_path", "known_files_path"])
def test_a_table_that_goes_away_under_a_store_is_not_written_without_its_rows(
    compacted: Layout, tmp_path: Path, table_path: str
) -> None:
    """Nothing is decided, compacted or read while it is gone; all goes on when it is back."""
    store, path = ManifestStore(compacted), getattr(compacted, table_path)
    path.rename(tmp_path / "away")
    for refused in (store.compact, store.refresh, lambda: append_runs(store, 5)):
        with pytest.raises(Retry, match="the table is gone") as caught:
            refused()
        assert caught.value.place == str(path)
    (tmp_path / "away").rename(path)
    append_runs(store, 5)
    assert store.compact() is not None
    assert runs_in(compacted) == [1, 2, 3, 4, 5]
    assert "x.csv" in ManifestStore(compacted).catalog.notes


def test_an_older_table_put_under_a_store_is_refused(compacted: Layout) -> None:
    """A compaction must not write the older copy as if it were all there is."""
    store, newest = ManifestStore(compacted), compacted.manifest_path.read_bytes()
    shutil.copy(compacted.data_root / "older.parquet", compacted.manifest_path)
    with pytest.raises(Corrupt, match="holds 2 runs where the log counts 3"):
        store.compact()
    compacted.manifest_path.write_bytes(newest)
    store.compact()
    assert runs_in(compacted) == [1, 2, 3, 4]


def test_a_table_that_is_put_back_is_read_again(compacted: Layout) -> None:
    """Another file with the same rows, as a backup brings it, is the table."""
    store = ManifestStore(compacted)
    shutil.copy(compacted.manifest_path, compacted.data_root / "backup.parquet")
    (compacted.data_root / "backup.parquet").replace(compacted.manifest_path)
    append_runs(store, 5)
    assert knows(store, 1, 2, 3, 4, 5)
    store.compact()
    assert runs_in(compacted) == [1, 2, 3, 4, 5]


def test_a_torn_end_is_mended_by_the_next_transaction(layout: Layout) -> None:
    """A store that is open while another process dies in the middle of a write cuts the end and goes on."""
    store = ManifestStore(layout)
    append_runs(store, 1)
    with log.segment_path(layout.wal_dir, 1).open("ab") as file:
        file.write(encode(a_record(2, a_row(9)))[:-20])
    assert runs_in(layout) == [1]
    append_runs(store, 2)
    assert runs_in(layout) == [1, 2]
    assert [path.read_bytes()[:8] for path in layout.wal_dir.glob("*.torn-*")] == [encode(a_record(2, a_row(9)))[:8]]


def test_a_transaction_in_a_transaction_names_the_holder(layout: Layout) -> None:
    """A lock that is not given within the timeout is an error naming the process that holds it."""
    one, other = ManifestStore(layout), ManifestStore(layout, lock_timeout_s=0.01)
    with one.transaction(), pytest.raises(LockHeld, match=f"pid {os.getpid()} on "), other.transaction():
        pass


# ---- reading whole rows ---------------------------------------------------------------------------------------------


def test_whole_rows_come_from_table_and_log(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """`full_rows` gives the newest version of each run, wherever it stands; unknown ids are left out."""
    store = ManifestStore(layout)
    append_runs(store, 1, 2)
    store.compact()
    newer = a_row(2, summary="newer")
    with store.transaction():
        store.append([a_record(store.next_seq, newer)])
    rows = [a_row(1), newer]
    assert store.full_rows([row.run_id for row in rows] + ["f" * 20]) == {row.run_id: row for row in rows}


def test_whole_rows_of_an_older_schema_have_defaults(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row from a table that lacks a column has the model's default there."""
    store = ManifestStore(layout)
    append_runs(store, 1)
    store.compact()
    table.write_table(layout.manifest_path, table.rows_frame([a_row(1)]).drop("warnings", "vds_v"))
    assert store.full_rows([a_row(1).run_id]) == {a_row(1).run_id: a_row(1)}


# ---- refused --------------------------------------------------------------------------------------------------------


@pytest.fixture
def compacted(layout: Layout) -> Layout:
    """A manifest with a table of three runs, a table of one note, and one more run in the log."""
    store = ManifestStore(layout)
    append_runs(store, 1, 2)
    store.compact()
    shutil.copy(layout.manifest_path, layout.data_root / "older.parquet")
    with store.transaction():
        store.append([a_record(store.next_seq, a_row(3), files=[a_note("x.csv")])])
    store.compact()
    append_runs(store, 4)
    return layout


def _refused(layout: Layout, message: str) -> None:
    before = {path: path.read_bytes() for path in layout.manifest_path.parent.rglob("*") if path.is_file()}
    with pytest.raises(Corrupt, match=message) as caught:
        ManifestStore(layout)
    assert "ingestd re" in caught.value.next_step
    with pytest.raises(Corrupt, match=message):
        read_view(layout)
    assert {path: path.read_bytes() for path in layout.manifest_path.parent.rglob("*") if path.is_file()} == before


def test_a_missing_table_is_refused(compacted: Layout) -> None:
    """Without its table a manifest is not read as an empty one."""
    compacted.manifest_path.unlink()
    _refused(compacted, "the table of 3 runs is missing")


def test_a_missing_table_of_notes_is_refused(compacted: Layout) -> None:
    """Without its notes a manifest would forget rejects and copies."""
    compacted.known_files_path.unlink()
    _refused(compacted, "the table of 1 files without a run is missing")


def test_an_older_copy_of_the_table_is_refused(compacted: Layout) -> None:
    """A table with fewer rows than were compacted is an older copy."""
    shutil.copy(compacted.data_root / "older.parquet", compacted.manifest_path)
    _refused(compacted, "holds 2 runs where the log counts 3")


def test_a_missing_log_is_refused(compacted: Layout) -> None:
    """Without its log a manifest may lack its newest runs."""
    shutil.rmtree(compacted.wal_dir)
    _refused(compacted, "the log is missing beside manifest.parquet: was paths.wal_dir changed")


def test_a_damaged_log_is_refused(compacted: Layout) -> None:
    """Damage of the log refuses the manifest and leaves every byte as it is."""
    (path,) = compacted.wal_dir.glob("*.log")
    path.write_bytes(path.read_bytes().replace(b"Alisson67 #4", b"Alisson66 #4"))
    _refused(compacted, "its checksum does not match")


def test_an_open_store_refuses_damage_that_came_later(compacted: Layout) -> None:
    """A transaction on a log that was damaged behind the known position changes nothing."""
    store = ManifestStore(compacted)
    with log.segment_path(compacted.wal_dir, store.position.segment).open("ab") as file:
        file.write(b"rubbish that is no record, longer than a head\n")
    before = log.segment_path(compacted.wal_dir, store.position.segment).read_bytes()
    with pytest.raises(Corrupt, match="its head is damaged"), store.transaction():
        pass
    assert log.segment_path(compacted.wal_dir, store.position.segment).read_bytes() == before


# ---- views ----------------------------------------------------------------------------------------------------------


def test_a_view_of_chips_sees_changes_of_chip(layout: Layout) -> None:
    """The rows of one chip leave out a run whose chip was corrected in the log, and have one that came to it."""
    store = ManifestStore(layout)
    with store.transaction():
        store.append([a_record(1, a_row(1, chip_name="A1")), a_record(2, a_row(2, chip_name="B2"))])
    store.compact()
    with store.transaction():
        store.append([a_record(3, a_row(1, chip_name="B2"))])
    assert read_view(layout, ["A1"]).is_empty()
    expected = read_view(layout).filter(pl.col("chip_name") == "B2")
    assert expected.height == 2
    assert read_view(layout, ["B2"]).equals(expected)
    few = read_view(layout, ["B2"], columns=["rows", "run_id"])
    assert few.columns == ["rows", "run_id", "start_time_utc", "chip_name"]
    assert few.equals(expected.select(few.columns))


def test_a_view_of_few_columns_has_the_same_rows(layout: Layout) -> None:
    """Rows of the table, and of the log over them, in the order of all; what they are sorted by comes along."""
    store = ManifestStore(layout)
    append_runs(store, 1, 2, 4)
    store.compact()
    with store.transaction():
        store.append([a_record(store.next_seq, a_row(2, rows=77)), a_record(store.next_seq + 1, a_row(3))])
    few = read_view(layout, columns=["rows"])
    assert few.columns == ["rows", "start_time_utc", "run_id"]
    assert few.equals(read_view(layout).select(few.columns))
    assert 77 in few["rows"]
    assert few.height == 4


def test_processes_racing_lose_no_row_and_show_none_twice(layout: Layout) -> None:
    """Three processes append 200 records each and compact at random; a reader never sees a row vanish."""
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=append_rows, args=(layout.data_root, 1000 * n, 200)) for n in range(3)]
    for worker in workers:
        worker.start()
    seen: set[str] = set()
    looks = 0
    while any(worker.is_alive() for worker in workers):
        now = read_view(layout).get_column("run_id").to_list()
        assert len(set(now)) == len(now)
        assert seen <= set(now)
        seen, looks = set(now), looks + 1
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert looks > 10
    assert runs_in(layout) == [1000 * n + i for n in range(3) for i in range(200)]
    assert ManifestStore(layout).next_seq == 601
