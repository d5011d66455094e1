"""What a batch puts in place before it is recorded: kept, undone when the disk refuses, taken back when broken off."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from archive import Archive, digest16
from inline import inline
from measurement import Measurement

from ingestd.backfill.run import Options, backfill
from ingestd.errors import Retry
from ingestd.files import durable, stat_of
from ingestd.ingest.commit import opened
from ingestd.manifest import log
from ingestd.manifest.record import Event
from ingestd.raw.settling import Observation
from ingestd.settings import load_settings
from ingestd.stage.parquet import read_row
from ingestd.stage.placing import NOTE_NAME
from ingestd.stage.run import stage_batch
from ingestd.upkeep.verify import verify

RUN = Measurement()
A = "2025-09-23/IVg2025-09-23_1.csv"
B = "2025-09-23/IVg2025-09-23_2.csv"


def refuse(*_: object) -> None:
    """Answer as a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


def break_off(archive: Archive, monkeypatch: pytest.MonkeyPatch, *, recorded: bool = False) -> None:
    """Backfill, and press Ctrl-C between the Parquet in its place and its record, or just after it is `recorded`."""
    append = log.append

    def interrupted(*given: Any) -> None:
        if recorded:
            append(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(log, "append", interrupted)
        backfill(archive.settings, Options(engine=inline, clock=archive.now))


def parquets(archive: Archive) -> list[Path]:
    """List the Parquet in the live stage."""
    return sorted(archive.layout.staged_root.rglob("*.parquet"))


def test_what_was_broken_off_is_taken_back_by_the_next_start(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes between placing and recording, no Parquet stays that no record tells of."""
    archive.put(A, RUN.data)
    break_off(archive, monkeypatch)
    assert len(parquets(archive)) == 1
    archive.delete(A)
    assert archive.backfill() == []
    assert parquets(archive) == []


def test_what_was_broken_off_is_taken_back_where_the_data_root_moved(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note holds where the data root is mounted under another name by then."""
    archive.put(A, RUN.data)
    break_off(archive, monkeypatch)
    archive.delete(A)
    moved = archive.root.rename(archive.root.with_name("elsewhere"))
    settings = load_settings(moved.with_name("config.toml"), {"paths": {"data_root": moved}})
    assert list(settings.layout.staged_root.rglob("*.parquet"))
    backfill(settings, Options(engine=inline, clock=archive.now))
    assert not list(settings.layout.staged_root.rglob("*.parquet"))


def left_note(archive: Archive) -> Path:
    """Locate the note of the batch that was broken off."""
    (note,) = archive.layout.temporary_root.glob(f"*/{NOTE_NAME}")
    return note


def test_a_damaged_version_kept_aside_does_not_keep_a_start_from_working(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read is not put back, and not in the way: the raw file is staged again over it."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put(A, RUN.but(chip=67).data)
    break_off(archive, monkeypatch)
    (aside,) = archive.layout.superseded_root.rglob("*.parquet")
    aside.write_bytes(b"PAR1 and then zeros" + bytes(100))
    (event,) = backfill(archive.settings, Options(engine=inline, clock=archive.now)).events
    assert event == "edited"
    assert archive.live()[A].chip_number == 67


def test_a_killed_restore_leaves_nothing_behind(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start puts the version back, and removes the temporary file of the one before."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put(A, RUN.but(chip=67).data)
    break_off(archive, monkeypatch)
    kept = next(archive.layout.superseded_root.rglob("*.parquet"))
    (leftover := kept.with_name(f".x.{2**22 + 1}-0123456789abcdef.tmp")).write_bytes(b"half")
    archive.put(A, RUN.data)
    archive.backfill_amid()
    assert (archive.live()[A].chip_number, leftover.exists()) == (RUN.chip, False)


@pytest.mark.parametrize(
    "where", ["../01_raw/2025-09-23/x", "/{raw}/2025-09-23/x", "raw_measurements/x", "_tmp/../../01_raw/x"]
)
def test_a_note_that_was_edited_takes_nothing_else_away(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Only a run's own folder below raw_measurements is ever taken back, whatever the note says."""
    archive.put(A, RUN.data)
    break_off(archive, monkeypatch)
    note = left_note(archive)
    content = json.loads(note.read_bytes())
    content["placed"].append(where.format(raw=archive.raw))
    note.write_text(json.dumps(content))
    other = archive.layout.staged_root / "note.txt"
    other.write_text("not ours")
    archive.delete(A)
    archive.put("2025-09-23/y.txt", b"not ours either")
    backfill(archive.settings, Options(engine=inline, clock=archive.now))
    assert parquets(archive) == []
    assert other.exists()
    assert (archive.raw / "2025-09-23/y.txt").exists()


def test_what_was_replaced_goes_when_the_record_stands(archive: Archive) -> None:
    """A process that stages a growing file again and again keeps no earlier Parquet of it: the disk would fill up."""
    with opened(archive.settings, archive.now) as ingest:
        for rows in (3, 4, 5):
            archive.put(A, RUN.but(rows=rows).data)
            status = stat_of((archive.raw / A).lstat())
            task = ingest.task_for(A, status, Observation(archive.now().timestamp(), ""))
            (record,) = ingest.commit(stage_batch([task], ingest.context)).records
        assert record.event is Event.UPDATED
        assert [path.name for path in ingest.context.temporary.iterdir()] == ["owner.lock"]
        assert archive.aside() == []


@pytest.mark.parametrize("change", [RUN.but(chip=67), RUN.but(rows=RUN.rows + 2)], ids=["edited", "grown"])
def test_an_edit_that_was_recorded_stands(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, change: Measurement
) -> None:
    """Stopped just after the record, the next start leaves the new version in its place, although it finds the old."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put(A, change.data)
    break_off(archive, monkeypatch, recorded=True)
    with opened(archive.settings, archive.now):
        row = archive.live()[A]
        assert read_row(archive.staged(row)) == row
        assert row.source_size == len(change.data)


def test_the_old_version_comes_back_without_a_moment_of_none(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a refused change is undone, whoever reads the run finds one version or the other."""
    archive.put(A, RUN.data)
    archive.backfill()
    target = archive.staged(archive.live()[A])
    before = target.read_bytes()
    archive.put(A, RUN.but(rows=RUN.rows + 2).data)
    there: list[bool] = []
    link, unlink = os.link, Path.unlink

    def linked(source: Path, to: Path) -> None:
        there.append(target.exists())
        link(source, to)

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        there.append(target.exists())

    with monkeypatch.context() as patch, contextlib.suppress(Retry):
        patch.setattr(log, "append", refuse)
        patch.setattr(os, "link", linked)
        patch.setattr(Path, "unlink", unlinked)
        backfill(archive.settings, Options(engine=inline, clock=archive.now))
    assert target.read_bytes() == before
    assert len(there) > 3
    assert all(there)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.mark.parametrize("stop", [Killed(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_edit_that_was_not_recorded_keeps_the_old_version(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    """Stopped between the new Parquet and its record, the next start does not take the new one for the old one."""
    archive.put(A, RUN.data)
    archive.backfill()
    old = archive.live()[A]
    staged = archive.staged(old).read_bytes()
    archive.put(A, RUN.but(chip=67).data)

    def refuse(*_: object) -> None:
        raise stop

    with monkeypatch.context() as patch, contextlib.suppress(Killed, Retry):
        patch.setattr(log, "append", refuse)
        backfill(archive.settings, Options(engine=inline, clock=archive.now))
    assert archive.live()[A] == old
    assert archive.backfill() == [("edited", A)]
    (aside,) = archive.layout.superseded_root.rglob("*.parquet")
    assert aside.read_bytes() == staged
    assert read_row(aside) == old


@pytest.mark.parametrize("change", ["edited", "superseded", "updated", "moved", "forced", "new"])
def test_a_change_that_the_disk_refused_leaves_the_old_version_staged(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Where the record is refused, the old row's Parquet alone is staged, also when the change is taken back."""
    archive.put(A, RUN.data)
    archive.backfill()
    target = archive.staged(archive.live()[A])
    staged = target.read_bytes()
    changed = {
        "edited": RUN.but(chip=67),
        "superseded": RUN.but(start=1758700000.5),
        "updated": RUN.but(rows=RUN.rows + 2),
    }
    if change in changed:
        archive.put(A, changed[change].data)
    elif change == "moved":
        archive.move(A, B)
    elif change == "new":
        archive.put(B, RUN.but(start=1758700000.5).data)

    with monkeypatch.context() as patch, contextlib.suppress(Retry):
        patch.setattr(os, "pwrite", refuse)  # the lock's note of its holder is refused as well
        backfill(archive.settings, Options(engine=inline, clock=archive.now, force=change == "forced"))
    assert target.read_bytes() == staged
    assert parquets(archive) == [target]
    if change == "moved":
        archive.move(B, A)
        assert archive.backfill() == []
    elif change in changed:
        archive.put(A, RUN.data)
        assert archive.backfill() == [("unchanged", A)]
    assert target.read_bytes() == staged
    assert not any(archive.layout.temporary_root.rglob("*.replaced"))


def test_the_latest_staging_of_a_version_is_the_one_kept(archive: Archive) -> None:
    """A version that came back and was replaced once more is kept as it was staged last."""
    for measurement in (RUN, RUN.but(chip=67), RUN):
        archive.put(A, measurement.data)
        archive.backfill()
    old = archive.live()[A]
    archive.put(A, RUN.but(chip=71).data)
    archive.backfill()
    kept = {path.stem: read_row(path) for path in archive.layout.superseded_root.rglob("*.parquet")}
    assert kept[digest16(RUN)] == old
    assert kept.keys() == {digest16(RUN), digest16(RUN.but(chip=67))}


def test_damaged_parquet_does_not_replace_a_version_that_was_kept(archive: Archive) -> None:
    """A version that came back was damaged before it was replaced once more: what was kept at first stays."""
    for measurement in (RUN, RUN.but(chip=67), RUN):
        archive.put(A, measurement.data)
        archive.backfill()
    (kept,) = archive.layout.superseded_root.rglob(f"{digest16(RUN)}.parquet")
    before = kept.read_bytes()
    archive.staged(archive.live()[A]).write_bytes(b"damaged")
    archive.put(A, RUN.but(chip=71).data)
    assert archive.backfill() == [("edited", A)]
    assert kept.read_bytes() == before


def test_an_edit_of_a_run_whose_parquet_is_gone(archive: Archive) -> None:
    """There is nothing to keep; the new version is staged."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.staged(archive.live()[A]).unlink()
    archive.put(A, RUN.but(chip=67).data)
    archive.backfill_amid()
    assert archive.events == [("edited", A)]
    assert archive.aside() == []


def test_the_old_version_is_kept_durably_before_it_is_replaced(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that holds the old version's second name is flushed before the new version takes the first."""
    archive.put(A, RUN.data)
    archive.backfill()
    target = archive.staged(archive.live()[A])
    archive.put(A, RUN.but(chip=67).data)
    told: list[tuple[str, Path]] = []
    flush, replace = durable.flush_path, os.replace

    def flushed(path: Path) -> None:
        told.append(("flush", path))
        flush(path)

    def replaced(path: Path, to: Path) -> None:
        told.append(("replace", Path(to)))
        replace(path, to)

    monkeypatch.setattr(durable, "_syncfs", None)
    monkeypatch.setattr(durable, "flush_path", flushed)
    monkeypatch.setattr(os, "replace", replaced)
    archive.backfill()
    (aside,) = archive.layout.superseded_root.rglob("*.parquet")
    made = [aside.parent, aside.parent.parent, archive.layout.superseded_root, archive.layout.stage_root]
    first = {path for what, path in told[: told.index(("replace", target))] if what == "flush"}
    (note,) = (path for path in first if path.name == NOTE_NAME)
    assert {note.parent, *made} <= first


def test_what_is_put_back_is_durable(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the old version is flushed when that is in its place again, and so is one that got a new folder."""
    archive.put(A, RUN.data)
    archive.backfill()
    target = archive.staged(archive.live()[A])
    archive.put(A, RUN.but(chip=67).data)
    break_off(archive, monkeypatch)
    shutil.rmtree(target.parent)
    told: list[Path] = []
    monkeypatch.setattr(durable, "_syncfs", None)
    monkeypatch.setattr(durable, "flush_path", told.append)
    with opened(archive.settings, archive.now):
        assert read_row(target) == archive.live()[A]
    assert {target.parent, target.parent.parent} <= set(told)


@pytest.mark.parametrize("stop", [None, KeyboardInterrupt])
def test_a_superseded_run_is_staged_until_its_successor_is_recorded(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException] | None
) -> None:
    """Whoever reads the run finds its Parquet as long as the manifest names it; then it goes, broken off or not."""
    archive.put(A, RUN.data)
    archive.backfill()
    old = archive.staged(archive.live()[A])
    archive.put(A, RUN.but(start=1758700000.5).data)
    there: list[bool] = []
    append = log.append

    def appended(*given: Any) -> Any:
        there.append(old.exists())
        position = append(*given)
        if stop is not None:
            raise stop
        return position

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(log, "append", appended)
        backfill(archive.settings, Options(engine=inline, clock=archive.now, histories=False))
    assert there == [True]
    assert old.exists() == (stop is not None)
    assert not backfill(archive.settings, Options(engine=inline, clock=archive.now)).events
    assert not old.parent.exists()
    assert [row.live for row in archive.rows()] == [False, True]
    assert verify(archive.settings).clean


@pytest.mark.parametrize("recorded", [True, False])
def test_a_part_of_a_run_is_staged_until_the_whole_is_recorded(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    """A batch that only takes Parquet away keeps it first, and is ended, or taken back, by the next start."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put("B.csv", RUN.but(rows=2).data)
    archive.backfill()
    old, append = archive.staged(archive.live()["B.csv"]), log.append
    archive.copy(A, "B.csv")

    def appended(*given: Any) -> Any:
        assert old.exists()
        if recorded:
            append(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(log, "append", appended)
        backfill(archive.settings, Options(engine=inline, clock=archive.now, histories=False))
    assert old.exists()
    backfill(archive.settings, Options(engine=inline, clock=archive.now))
    assert not old.parent.exists()
    assert [row.source_file for row in archive.rows() if row.live] == [A]
    assert len(archive.aside()) == 1
    assert verify(archive.settings).clean
