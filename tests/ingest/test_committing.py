"""Committing a batch: what it leaves behind when it is refused or overtaken, and what it owes afterwards."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pytest
from archive import Archive, unreadable
from measurement import BROKEN, Measurement

from ingestd import files
from ingestd.errors import Retry
from ingestd.files import durable
from ingestd.histories.chip import update_histories
from ingestd.ingest.commit import Ingest, opened
from ingestd.ingest.traces import read_reject
from ingestd.manifest import table
from ingestd.manifest.record import Event, Record
from ingestd.raw.settling import Observation
from ingestd.stage.run import Failed, Outcome, Waiting, stage_batch

RUN = Measurement()
A = "2025-09-23/IVg2025-09-23_1.csv"
B = "2025-09-23/IVg2025-09-23_2.csv"


def staged(archive: Archive, ingest: Ingest, *names: str) -> list[Outcome]:
    """Stage raw files by what is known of them now."""
    seen = Observation(archive.now().timestamp(), "")
    tasks = [ingest.task_for(name, files.stat_of((archive.raw / name).lstat()), seen) for name in names]
    return stage_batch(tasks, ingest.context)


@pytest.mark.parametrize("call", ["mkdir", "replace", "pwrite"])
def test_a_refused_batch_leaves_no_temporary_parquet(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Refused in its place or in the log, it is staged anew: a service that tries for days must not fill the disk."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    archive.put(A, RUN.data)
    with opened(archive.settings, archive.now) as ingest:
        outcomes = staged(archive, ingest, A)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(Retry, match="No space left"):
                ingest.commit(outcomes)
        assert [path.name for path in ingest.context.temporary.iterdir()] == ["owner.lock"]
        assert len(ingest.commit(staged(archive, ingest, A)).records) == 1


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_what_cannot_be_deleted_does_not_hide_why_nothing_was_staged(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A disk that became read-only keeps what was begun: the answer is that writing failed, for every file alike."""
    archive.put(A, RUN.data)
    real = os.open

    def refuse(path: str, flags: int = os.O_CREAT, mode: int = 0o777, **_: object) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, mode)

    with opened(archive.settings, archive.now) as ingest, monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        patch.setattr(os, "unlink", refuse)
        (failed,) = staged(archive, ingest, A)
    assert isinstance(failed, Failed)
    assert failed.ours
    assert failed.retry.message == "Read-only file system"


def test_a_batch_that_cannot_be_flushed_is_not_staged(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is taken for durable or stays on the disk; a file that only waits does so all the same."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    archive.put(A, RUN.data)
    archive.put(B, RUN.but(rows=0).data)
    with opened(archive.settings, archive.now) as ingest:
        with monkeypatch.context() as patch:
            patch.setattr(durable, "flush_path", refuse)
            failed, waits = staged(archive, ingest, A, B)
        assert isinstance(failed, Failed)
        assert (failed.ours, failed.retry.message) == (True, os.strerror(errno.EIO))
        assert isinstance(waits, Waiting)
        assert [path.name for path in ingest.context.temporary.iterdir()] == ["owner.lock"]
        done = ingest.commit([failed, waits])
        assert [record.source_file for record in done.records] == [B]


def test_an_overtaken_file_leaves_no_temporary_parquet(archive: Archive) -> None:
    """It was staged as a new file, and another process has made a run of an earlier version since."""
    archive.put(A, RUN.data)
    with opened(archive.settings, archive.now) as ingest:
        first = staged(archive, ingest, A)
        archive.put(A, RUN.but(chip=67).data)
        second = staged(archive, ingest, A)
        assert len(ingest.commit(first).records) == 1
        assert ingest.commit(second).again == second
        assert [path.name for path in ingest.context.temporary.iterdir()] == ["owner.lock"]


@pytest.mark.parametrize(
    ("name", "data"), [(B, RUN.data), (A.upper(), RUN.but(sample=2).data)], ids=["copy", "id taken"]
)
def test_what_is_staged_twice_leaves_no_temporary_parquet(archive: Archive, name: str, data: bytes) -> None:
    """The second of two new files is a copy of the first, or has its id and is staged under another one."""
    archive.put(A, RUN.data)
    archive.put(name, data)
    with opened(archive.settings, archive.now) as ingest:
        assert len(ingest.commit(staged(archive, ingest, A, name)).records) == 2
        assert [path.name for path in ingest.context.temporary.iterdir()] == ["owner.lock"]


def test_the_manifest_is_read_once_for_all_touched_files_of_a_batch(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock change that shifts every mtime of an archive costs no reading of the table for each of its files."""
    names = [f"It_{n}.csv" for n in range(5)]
    for n, name in enumerate(names):
        archive.put(name, Measurement(sample=n, start=1758632155.25 + n).data)
    archive.backfill()
    for name in names:
        archive.touch(name)
    reads: list[object] = []
    read_manifest = table.read_manifest

    def counted(*arguments: Any, where: Any = None) -> Any:
        if where is not None and where.meta.root_names() == ["run_id"]:
            reads.append(where)
        return read_manifest(*arguments, where=where)

    monkeypatch.setattr(table, "read_manifest", counted)
    assert sorted(archive.backfill()) == [("unchanged", name) for name in names]
    assert len(reads) == 1


def test_a_backup_from_before_an_edit_leaves_no_temporary_parquet(archive: Archive) -> None:
    """It is staged as a new file, and then known by the version that was kept: a copy."""
    for run in (RUN, RUN.but(chip=67)):
        archive.put(A, run.data)
        archive.backfill()
    archive.put(B, RUN.data)
    with opened(archive.settings, archive.now) as ingest:
        (record,) = ingest.commit(staged(archive, ingest, B)).records
        assert (record.event, record.source_file) == (Event.DUPLICATE, B)
        assert [path.name for path in ingest.context.temporary.iterdir()] == ["owner.lock"]


STAGED_AGAIN = {"moved": (B, RUN.data), "id taken": (A.upper(), RUN.but(sample=2).data)}
"""Files that are staged once more when they are decided: under their new name, or another id."""


@pytest.mark.parametrize("kind", STAGED_AGAIN)
def test_a_refused_batch_leaves_nothing_of_what_was_staged_again(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What was staged while the batch was decided goes with it."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    name, data = STAGED_AGAIN[kind]
    archive.put(A, RUN.data)
    archive.backfill()
    if kind == "moved":
        archive.delete(A)
    archive.put(name, data)
    with opened(archive.settings, archive.now) as ingest:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refuse)
            with pytest.raises(Retry, match="No space left"):
                ingest.commit(staged(archive, ingest, name))
        assert [path.name for path in ingest.context.temporary.iterdir()] == ["owner.lock"]
        assert len(ingest.commit(staged(archive, ingest, name)).records) == 1


def test_a_decision_that_fails_leaves_nothing_of_what_was_staged_again(archive: Archive) -> None:
    """A part becomes the whole of a run that moves there: as long as its Parquet cannot be read, it is tried again."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put(B, RUN.but(rows=2).data)
    archive.backfill()
    broken = archive.staged(archive.live()[B])
    archive.move(A, B)
    with opened(archive.settings, archive.now) as ingest:
        with unreadable(broken):
            (failed,) = ingest.commit(staged(archive, ingest, B)).failed
        assert failed.retry.message == os.strerror(errno.EIO)
        assert [path.name for path in ingest.context.temporary.iterdir()] == ["owner.lock"]
        assert len(ingest.commit(staged(archive, ingest, B)).records) == 1


def test_a_run_that_comes_while_its_chips_history_is_written_is_in_the_next(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process ingests it in between: the chip stays marked, whatever was just written."""

    def meanwhile(*given: Any) -> Any:
        changes = update_histories(*given)
        with opened(archive.settings, archive.now) as other:
            archive.put(B, RUN.but(sample=2, start=1758700000.5).data)
            other.commit(staged(archive, other, B))
        return changes

    archive.put(A, RUN.data)
    with opened(archive.settings, archive.now) as ingest:
        ingest.commit(staged(archive, ingest, A))
        with monkeypatch.context() as patch:
            patch.setattr("ingestd.ingest.commit.update_histories", meanwhile)
            assert [change.chip for change in ingest.refresh_histories()] == ["Alisson72"]
        assert [change.chip for change in ingest.refresh_histories()] == ["Alisson72"]
        assert ingest.refresh_histories() == []
    assert archive.history(72) == [A, B]


def test_an_event_that_the_disk_refused_is_written_before_the_log_forgets(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision counts all the same; a compaction makes its event JSON good."""

    def refuse(*_: object, **__: object) -> None:
        raise Retry("No space left on device")

    archive.put(A, RUN.data)
    with opened(archive.settings, archive.now) as ingest:
        with monkeypatch.context() as patch:
            patch.setattr("ingestd.ingest.commit.write_traces", refuse)
            assert len(ingest.commit(staged(archive, ingest, A)).records) == 1
        assert not list(files.all_below(archive.layout.events_dir, ".json"))
        ingest.compact()
        assert len(list(files.all_below(archive.layout.events_dir, ".json"))) == 1


def test_a_reject_json_that_was_refused_is_written_though_nothing_is_left_to_compact(archive: Archive) -> None:
    """A folder is in its place while the log is compacted: the next compaction has only that to do, and does it."""
    archive.put(A, BROKEN)
    place = archive.layout.reject_file(A)
    (place / "something").mkdir(parents=True)
    with opened(archive.settings, archive.now) as ingest:
        ingest.commit(staged(archive, ingest, A))
        assert ingest.compact() is not None
        assert ingest.reject_problem is not None
        shutil.rmtree(place)
        assert ingest.compact() is None
        assert ingest.reject_problem is None
        assert read_reject(archive.layout, A)["source_file"] == A


@pytest.mark.parametrize(
    ("before", "ours", "theirs"),
    [(b"", BROKEN, RUN.data), (BROKEN, RUN.data, BROKEN + b"again"), (b"", BROKEN, BROKEN + b"again")],
    ids=["rejected, then staged", "staged, then rejected", "rejected twice"],
)
def test_the_reject_json_says_what_was_decided_last_whoever_writes_last(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, before: bytes, ours: bytes, theirs: bytes
) -> None:
    """Between our decision and its JSON another process decides about the file again, and compacts the log."""
    archive.put(A, before)
    archive.backfill_amid()
    archive.put(A, ours)
    trace = Ingest._trace

    def late(ingest: Ingest, records: Sequence[Record]) -> None:
        monkeypatch.setattr(Ingest, "_trace", trace)
        archive.put(A, theirs)
        archive.backfill_amid()
        trace(ingest, records)

    monkeypatch.setattr(Ingest, "_trace", late)
    with opened(archive.settings, archive.now) as ingest:
        assert len(ingest.commit(staged(archive, ingest, A)).records) == 1
        ingest.compact()
    assert len(list(files.all_below(archive.layout.rejects_dir, ".json"))) == (theirs != RUN.data)
    if theirs != RUN.data:
        assert read_reject(archive.layout, A)["source_sha256"] == sha256(theirs).hexdigest()


@pytest.mark.parametrize("edit", [{"start": 1758700000.0}, {"rows": 5}], ids=["restarted", "completed"])
def test_a_file_waits_while_the_parquet_that_tells_what_it_is_cannot_be_read(
    archive: Archive, edit: dict[str, float]
) -> None:
    """For the time of a disk error neither an edit nor a completed copy counts as another measurement; others go on."""
    archive.put(A, RUN.data)
    archive.backfill()
    if "rows" in edit:
        archive.put(B, RUN.but(**edit).data)
        archive.backfill()
    other = "2025-09-23/It_3.csv"
    archive.put(A, RUN.but(**edit).data)
    archive.put(other, RUN.but(start=1758800000.0, sample=3).data)
    broken = archive.staged(next(row for row in archive.rows() if row.source_file == A))
    with unreadable(broken):
        assert archive.backfill_amid() == [("ingested", other)]
    (failed,) = archive.report.failed
    assert (failed.source_file, failed.place, failed.message) == (A, str(broken), os.strerror(errno.EIO))
    before = {row.run_id for row in archive.rows()}
    assert [name for _, name in archive.backfill()] == [A]
    assert sum(row.live for row in archive.rows()) == 2
    assert len(before & {row.run_id for row in archive.rows() if not row.live}) == 1
