"""rebuild-manifest and repair give back what was there: deleted raw files, superseded runs, lost records."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import lived
import pytest
from archive import Archive
from lived import cut_file, damages, flip, histories, manifest, mend, rebuild, tree
from measurement import BROKEN
from powerless import powerless

from ingestd.backfill.run import dry_run
from ingestd.errors import Corrupt, UsageError
from ingestd.manifest import log
from ingestd.manifest.record import split
from ingestd.manifest.store import ManifestStore
from ingestd.stage.parquet import read_header, read_run, write_run
from ingestd.upkeep.rebuild import rebuild_manifest
from ingestd.upkeep.staged import UNKNOWN_RUN, read_stage

pytestmark = pytest.mark.usefixtures("damage_counted")


@pytest.mark.parametrize("source", ["stage", "raw"])
def test_a_rebuilt_manifest_is_the_one_before(source: str, archive: Archive) -> None:
    """rebuild-manifest gives the same rows but for the ingest time, the same notes and the same histories."""
    rows, notes, lines, raw = manifest(archive), archive.notes(), histories(archive), tree(archive.raw)
    assert any(row["superseded_by"] for row in rows.values())
    rebuild(archive, source)
    assert manifest(archive) == rows
    assert archive.notes() == notes
    assert histories(archive) == lines
    assert tree(archive.raw) == raw
    lived.check_sound(archive)


@pytest.mark.parametrize("source", ["stage", "raw"])
def test_a_manifest_that_is_gone_is_rebuilt(source: str, archive: Archive) -> None:
    """Without table, notes, log and events the stage alone gives the same rows and histories."""
    rows, lines = manifest(archive), histories(archive)
    shutil.rmtree(archive.layout.manifest_path.parent)
    rebuild(archive, source)
    assert manifest(archive) == rows
    lived.plain_start(archive)
    assert histories(archive) == lines
    lived.check_sound(archive)


def test_of_runs_that_followed_each_other_each_names_the_next(archive: Archive) -> None:
    """Without table, log and events, the order in which they were staged tells what superseded each."""
    for day in range(3):
        archive.put(lived.RESTARTED, lived.number(4, start=1758711111.5 - 86400 * day).data)
        archive.backfill()
    rows = manifest(archive)
    shutil.rmtree(archive.layout.manifest_path.parent)
    rebuild(archive, "stage")
    assert manifest(archive) == rows


@pytest.mark.parametrize("how", ["rebuild", "repair"])
def test_no_segment_number_is_used_twice(how: str, archive: Archive) -> None:
    """Whoever follows the log meanwhile cannot take the new segment for one it has read."""
    taken = log.segments(archive.layout.wal_dir)[-1]
    flip(archive.layout.manifest_path, 300)
    _restore(archive, how)
    assert log.segments(archive.layout.wal_dir)[0] > taken


@pytest.mark.parametrize("lost", ["log", "events"])
def test_no_record_number_is_used_twice(lost: str, archive: Archive) -> None:
    """The events tell which ones are taken, or the head of a log that was compacted."""
    taken = max(int(path.name.partition("-")[0]) for path in archive.layout.events_dir.rglob("*.json"))
    shutil.rmtree(archive.layout.wal_dir if lost == "log" else archive.layout.events_dir)
    rebuild(archive, "stage")
    assert ManifestStore(archive.layout).next_seq > taken


@pytest.mark.parametrize("name", [lived.DELETED, lived.EDITED])
def test_a_run_that_only_the_table_knows_comes_through_a_damaged_log(name: str, archive: Archive) -> None:
    """Its Parquet is gone, whether an older version is kept or none: it stays live, and is named if nothing is left."""
    rows, row = manifest(archive), archive.live()[name]
    archive.staged(row).unlink()
    _empty_log(archive)
    assert [finding.run_id for finding in mend(archive).left] == ([row.run_id] if name == lived.DELETED else [])
    assert manifest(archive) == rows


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("how", ["rebuild", "repair"])
def test_a_touch_is_told_from_an_edit_of_as_many_bytes(how: str, edited: bool, archive: Archive) -> None:
    """The stage records no touch, so the raw file is read: only one with other bytes is looked at by the next start."""
    changed = lived.RUN.but(chip=67).data
    assert len(changed) == len(lived.RUN.data)
    archive.put(lived.PLAIN, changed if edited else lived.RUN.data)
    flip(archive.layout.manifest_path, 300)
    shutil.rmtree(archive.layout.events_dir)
    _restore(archive, how)
    assert dry_run(archive.settings).to_do == ({lived.PLAIN: "changed"} if edited else {})
    lived.plain_start(archive)
    assert archive.live()[lived.PLAIN].chip_number == (67 if edited else 72)


@pytest.mark.parametrize("how", ["rebuild", "repair"])
def test_an_mtime_that_no_table_holds_stops_no_restoring(how: str, archive: Archive) -> None:
    """A raw file dated after the year 2262, as a wrong clock makes it, has the time that the manifest gives it."""
    os.utime(archive.raw / lived.PLAIN, (10**10, 10**10))
    if (archive.raw / lived.PLAIN).stat().st_mtime != 10**10:
        pytest.skip("this file system holds no such time")
    lived.plain_start(archive)
    want = manifest(archive)
    flip(archive.layout.manifest_path, 300)
    _restore(archive, how)
    assert manifest(archive) == want
    assert dry_run(archive.settings).to_do == {}


def test_rebuilding_keeps_the_old_manifest_aside(archive: Archive) -> None:
    """Table and log of before stand below `aside`, byte for byte."""
    before = {path.read_bytes() for path in [archive.layout.manifest_path, *archive.layout.wal_dir.glob("*.log")]}
    rebuild(archive, "stage")
    kept = {path.read_bytes() for path in (archive.layout.manifest_path.parent / "aside").rglob("*") if path.is_file()}
    assert before <= kept


def test_two_rebuilds_in_one_second_keep_both_old_manifests(archive: Archive) -> None:
    """Each has a folder of its own, so that the second replaces nothing the first one kept."""
    now, manifests, folders = archive.now(), [], []
    for _ in range(3):
        manifests.append(archive.layout.manifest_path.read_bytes())
        folders.append(rebuild_manifest(archive.settings, from_raw=False, clock=lambda: now).aside)
        archive.put(f"day/It_9{len(folders)}.csv", lived.number(90 + len(folders)).data)
        archive.backfill()
    assert len(set(manifests)) == 3
    kept = [next(folder.rglob("manifest.parquet")).read_bytes() for folder in folders]
    assert kept == manifests


@pytest.mark.parametrize("proc", ["AA", "ZZ"])
@pytest.mark.parametrize("later", [True, False])
def test_of_two_files_of_a_run_the_one_staged_later_counts(proc: str, later: bool, archive: Archive) -> None:
    """Without a manifest their rows tell, in whatever order they are read; the other is astray."""
    row, path = archive.live()[lived.PLAIN], archive.staged(archive.live()[lived.PLAIN])
    came = row.ingested_at_utc + timedelta(seconds=1 if later else -1)
    other = row.model_copy(update={"proc": proc, "ingested_at_utc": came})
    archive.staged(other).parent.mkdir(parents=True)
    write_run(archive.staged(other), read_run(path), other, read_header(path))
    stage = read_stage(archive.layout)
    counts, astray = (other, path) if later else (row, archive.staged(other))
    assert (stage.live[row.run_id].proc, stage.strays) == (counts.proc, [astray])


@pytest.mark.parametrize(
    ("number", "damaged"),
    [
        (rb'"seq": \d+', b'"seq": 1e999'),
        (rb'"source_mtime_ns": 1', b'"source_mtime_ns": 9'),
        (rb'"superseded_by": null', b'"superseded_by": 4'),
    ],
)
@pytest.mark.parametrize("how", ["rebuild", "repair"])
def test_a_damaged_event_stops_no_restoring(how: str, number: bytes, damaged: bytes, archive: Archive) -> None:
    """One bit flipped makes a number that no row can hold: the event is passed over, and the raw file tells instead."""
    want = manifest(archive)
    (path,) = archive.layout.events_dir.rglob("*-unchanged.json")
    data, count = re.subn(number, damaged, path.read_bytes())
    assert count
    path.write_bytes(data)
    flip(archive.layout.manifest_path, 300)
    _restore(archive, how)
    assert manifest(archive) == want


def test_rebuilding_from_raw_files_that_are_away_changes_nothing(archive: Archive) -> None:
    """A share that is not mounted is named before the old manifest is set aside."""
    archive.raw.rename(archive.raw.with_name("away"))
    before = tree(archive.root)
    with pytest.raises(UsageError, match="no such folder of raw files"):
        rebuild(archive, "raw")
    assert tree(archive.root) == before


def test_rebuilding_refuses_to_forget_a_damaged_run(archive: Archive) -> None:
    """With a damaged Parquet nothing is rebuilt, because its run would be lost; repair mends it first."""
    path = archive.staged(archive.live()[lived.PLAIN])
    cut_file(path, -7)
    before = tree(archive.root)
    with pytest.raises(Corrupt, match=r"[^)]; its run would be lost"):
        rebuild(archive, "stage")
    assert tree(archive.root).keys() == before.keys()
    mend(archive)
    rebuild(archive, "stage")
    lived.check_sound(archive)


@pytest.mark.parametrize("source", ["repair", "stage", "raw"])
def test_runs_of_deleted_raw_files_stay(source: str, archive: Archive) -> None:
    """A run whose raw file was deleted keeps its row and its Parquet through repair and rebuild."""
    rows = manifest(archive)
    gone = next(run_id for run_id, row in rows.items() if row["source_file"] == lived.DELETED)
    archive.layout.manifest_path.unlink()
    if source == "repair":
        assert mend(archive).left == []
    else:
        rebuild(archive, source)
    assert manifest(archive)[gone] == rows[gone]
    assert damages(archive) == set()


@pytest.mark.parametrize("name", ["late", "restarted", "moved", "edited", "grown"])
def test_a_lost_record_is_made_good_from_the_stage(name: str, archive: Archive) -> None:
    """A record that a damaged log lost comes back from the Parquet it stood for, whatever kind it was."""
    changes: dict[str, Callable[[], object]] = {
        "late": lambda: archive.put("late/It_20.csv", lived.number(20).data),
        "restarted": lambda: archive.put(lived.PLAIN, lived.RUN.but(start=1758711111.5).data),
        "moved": lambda: archive.move(lived.OTHER_CHIP, "late/It_2.csv"),
        "edited": lambda: archive.put(lived.PLAIN, lived.RUN.but(chip=67).data),
        "grown": lambda: archive.put(lived.PLAIN, lived.RUN.but(rows=7).data),
    }
    changes[name]()
    lived.backfill_without_compaction(archive)
    want = manifest(archive)
    _spoil_first_record(archive)
    assert {kind for kind, _ in damages(archive)} == {"manifest"}
    assert mend(archive).left == []
    assert manifest(archive) == want
    lived.plain_start(archive)
    assert manifest(archive) == want
    lived.check_sound(archive)


def test_a_lost_run_without_raw_file_comes_back(archive: Archive) -> None:
    """A manifest put back from a backup takes a later run in again from its Parquet, its raw file gone or not."""
    folder, backup = archive.layout.manifest_path.parent, archive.root.parent / "backup"
    shutil.copytree(folder, backup)
    archive.put("late/It_20.csv", lived.number(20).data)
    lived.plain_start(archive)
    want = manifest(archive)
    archive.delete("late/It_20.csv")
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    assert mend(archive).left == []
    assert manifest(archive) == want


def test_lost_notes_come_back_from_the_events(archive: Archive) -> None:
    """Without the table of known files a copy made before its original was edited is still a copy, counted once."""
    archive.put(lived.PLAIN, lived.RUN.but(chip=67).data)
    lived.plain_start(archive)
    want, notes = manifest(archive), archive.notes()
    archive.layout.known_files_path.unlink()
    assert mend(archive).left == []
    assert archive.notes() == notes
    lived.plain_start(archive)
    assert manifest(archive) == want


@pytest.mark.parametrize("how", ["repair", "rebuild"])
def test_an_older_table_of_as_many_runs_is_made_good(how: str, archive: Archive) -> None:
    """A table put back from before an edit reads well; verify sees the Parquet say otherwise, which is taken then."""
    old = archive.layout.manifest_path.read_bytes()
    archive.put(lived.PLAIN, lived.RUN.but(chip=67).data)
    lived.plain_start(archive)
    want = manifest(archive)
    archive.layout.manifest_path.write_bytes(old)
    assert "parquet-differs" in {kind for kind, _ in damages(archive)}
    archive.delete(lived.PLAIN)
    _restore(archive, how)
    assert manifest(archive) == want


def test_rot_is_not_sealed_by_a_compaction(archive: Archive) -> None:
    """A bit that flips in a table a running process has read already is found before the table is written anew."""
    want = manifest(archive)
    flip(archive.layout.manifest_path, 300)
    archive.put("late/It_20.csv", lived.number(20).data)
    with pytest.raises(Corrupt, match="checksum"):
        lived.plain_start(archive)
    assert mend(archive).left == []
    lived.plain_start(archive)
    assert manifest(archive).items() >= want.items()
    lived.check_sound(archive)


@pytest.mark.parametrize("left", ["events", "table", "neither"])
def test_a_superseded_run_survives_though_its_successor_moved(left: str, archive: Archive) -> None:
    """Its row comes back from `_superseded`; events or table tell what superseded it, which is unknown without them."""
    old = next(row for row in archive.rows() if row.superseded_by)
    archive.move(lived.RESTARTED, "elsewhere/It_4.csv")
    lived.plain_start(archive)
    if left != "events":
        shutil.rmtree(archive.layout.events_dir)
    if left == "table":
        _empty_log(archive)
    else:
        archive.layout.manifest_path.unlink()
    assert mend(archive).left == []
    again = next(row for row in archive.rows() if row.run_id == old.run_id)
    assert again.superseded_by == (UNKNOWN_RUN if left == "neither" else old.superseded_by)
    assert damages(archive) == set()


@pytest.mark.parametrize("how", ["repair", "rebuild"])
def test_a_superseded_run_that_only_events_tell_of_does_not_come_back(how: str, archive: Archive) -> None:
    """The table has it as live, the record is lost, and so is the version that was kept."""
    old = archive.live()[lived.PLAIN].run_id
    archive.put(lived.PLAIN, lived.RUN.but(start=1758711111.5).data)
    lived.backfill_without_compaction(archive)
    want = manifest(archive)
    (kept,) = archive.layout.superseded_root.glob(f"*/*/run_id={old}/*.parquet")
    kept.unlink()
    _spoil_first_record(archive)
    _restore(archive, how)
    assert manifest(archive) == want
    assert damages(archive) == set()


def test_a_note_of_the_log_is_not_replaced_by_an_older_event(archive: Archive) -> None:
    """What was a copy is rejected, as the log alone tells: that event is gone, and the one before is there."""
    archive.put(lived.COPY, BROKEN + b"copy")
    lived.backfill_without_compaction(archive)
    notes = archive.notes()
    assert notes[lived.COPY].outcome == "rejected"
    max(archive.layout.events_dir.rglob("*-rejected.json"), key=lambda path: path.name).unlink()
    flip(archive.layout.manifest_path, 300)
    assert mend(archive).left == []
    assert archive.notes() == notes


def _restore(archive: Archive, how: str) -> None:
    if how == "rebuild":
        rebuild(archive, "stage")
    else:
        assert mend(archive).left == []


def _empty_log(archive: Archive) -> None:
    for path in archive.layout.wal_dir.glob("*.log"):
        path.write_bytes(b"")


def _spoil_first_record(archive: Archive) -> None:
    path = log.segment_path(archive.layout.wal_dir, log.segments(archive.layout.wal_dir)[-1])
    offset, payload = split(path.read_bytes()).payloads[1]
    flip(path, offset + 27 + len(payload) // 2)


@pytest.mark.parametrize("events", [True, False])
def test_rebuilding_takes_no_edited_run_without_parquet_for_superseded(events: bool, archive: Archive) -> None:
    """The version from before its edit was kept: the run stays live all the same, and is staged again by a repair."""
    row, rows = archive.live()[lived.EDITED], manifest(archive)
    archive.staged(row).unlink()
    if not events:
        shutil.rmtree(archive.layout.events_dir)
    rebuild(archive, "stage")
    assert manifest(archive) == rows
    assert damages(archive) == {("parquet-missing", archive.layout.relative(archive.staged(row)))}
    mend(archive)
    assert (manifest(archive), damages(archive)) == (rows, set())


@pytest.mark.parametrize("words", [["verify"], ["repair", "--apply"], ["rebuild-manifest", "--from", "stage"]])
@pytest.mark.parametrize(
    "part",
    ["raw_measurements", "raw_measurements/proc=ITS", "_rejects", "_tmp", "_manifest/wal", "_manifest/events"],
)
def test_a_folder_that_cannot_be_read_is_not_taken_for_empty(part: str, words: list[str], archive: Archive) -> None:
    """Where the permission to read a folder is lost nothing is called gone, and nothing changes."""
    if (words[0] == "rebuild-manifest" and part in {"_rejects", "_tmp"}) or (words[0] == "verify" and "events" in part):
        pytest.skip("it does not look there, or not before it is done")
    folder, before = archive.layout.stage_root / part, manifest(archive)
    aside = archive.layout.manifest_path.parent / "aside"
    mode = folder.stat().st_mode
    folder.chmod(0)
    place = ["--data-root", str(archive.root), "--config", str(archive.root.parent / "config.toml")]
    done = subprocess.run(
        [*powerless(), sys.executable, "-m", "ingestd", *words, *place],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    folder.chmod(mode)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Permission denied" in done.stderr
    assert "ingestd itself failed" not in done.stderr
    assert manifest(archive) == before
    assert not aside.exists()
    assert damages(archive) == set()
