"""A repair or rebuild right after a kill, before any start: what was half done counts as a start would have it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import lived
import pytest
from archive import Archive
from crash_cases import PYTHONPATH
from inline import inline
from measurement import BROKEN

from ingestd.errors import Corrupt
from ingestd.stage.parquet import read_row
from ingestd.upkeep.rebuild import rebuild_manifest

KILLED = """
import os, signal, sys
from ingestd.manifest import log
from ingestd.__main__ import main

append, when = log.append, sys.argv.pop(1)

def killed(directory, position, records):
    if not any(record.rows or record.reason for record in records):
        return append(directory, position, records)
    if when == "after":
        append(directory, position, records)
    os.kill(os.getpid(), signal.SIGKILL)

log.append = killed
sys.exit(main())
"""

A = "day/It_1.csv"
LATER = 1758700000.5


def backfill_killed(archive: Archive, when: str) -> None:
    """Backfill in a process that is killed before or after it appends its first decisions."""
    config = archive.root.parent / "config.toml"
    place = ["--config", str(config), "--data-root", str(archive.root), "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, when, "backfill", *place],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr


def of_another_class(data: bytes) -> bytes:
    """The same measurement under the class of another procedure."""
    changed = data.replace(b".It>", b".It2>").replace(b".It.", b".It2.")
    assert changed != data
    return changed


def rebuild(archive: Archive) -> None:
    """Make the manifest anew from the stage, within this process."""
    rebuild_manifest(archive.settings, from_raw=False, engine=inline)


def check(archive: Archive) -> None:
    """One live row a raw file, its Parquet in its place, nothing damaged, and nothing changes any more."""
    archive._ticks += 60
    lived.plain_start(archive)
    live = [row for row in archive.rows() if row.live]
    assert sorted(row.source_file for row in live) == sorted(archive.files())
    for row in live:
        assert read_row(archive.staged(row)).source_sha256 == row.source_sha256
    assert lived.damages(archive, deep=True) == set()
    rows = lived.manifest(archive)
    lived.plain_start(archive)
    assert lived.manifest(archive) == rows


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["class", "start", "rows"])
@pytest.mark.parametrize("how", ["repair", "repair of a damaged table", "rebuild"])
def test_an_edit_half_done(what: str, when: str, how: str, empty: Archive) -> None:
    """An edit of class, start time or rows was under way: the measurement counts once, and its data is there."""
    first = lived.number(1)
    empty.put(A, first.data)
    empty.backfill()
    edits = {
        "class": of_another_class(first.data),
        "start": lived.number(1, start=LATER).data,
        "rows": first.but(rows=7).data,
    }
    empty.put(A, edits[what])
    backfill_killed(empty, when)
    assert lived.damages(empty) == set(), "a start would end it: it is no damage"
    if how == "rebuild":
        rebuild(empty)
    else:
        if how != "repair":
            lived.flip(empty.layout.manifest_path, 300)
        assert lived.mend(empty, apply=False).steps
        assert lived.mend(empty).left == []
    check(empty)


@pytest.mark.parametrize("how", ["repair of a damaged table", "rebuild"])
def test_what_the_log_still_owed_is_written(how: str, empty: Archive) -> None:
    """Killed between the log record and its event and reject JSON: they are there when the log is made anew."""
    empty.put(A, lived.number(1).data)
    empty.backfill()
    empty.put("day/It_2.csv", lived.number(2).data)
    empty.put("day/bad.csv", BROKEN)
    backfill_killed(empty, "after")
    if how == "rebuild":
        rebuild(empty)
    else:
        lived.flip(empty.layout.manifest_path, 300)
        assert lived.mend(empty).left == []
    assert lived.damages(empty) == set()
    assert empty.layout.reject_file("day/bad.csv").exists()
    assert len(list(empty.layout.events_dir.rglob("*.json"))) == 3


def test_a_manifest_that_is_gone_comes_back_with_its_copies(empty: Archive) -> None:
    """Table, notes and log are gone beside a stage: a repair asks the events, so that a copy counts nowhere twice."""
    empty.put(A, lived.number(1).data)
    empty.backfill()
    empty.copy(A, "copy/It_1.csv")
    empty.backfill()
    empty.put(A, lived.number(1, chip=68).data)
    empty.backfill()
    before = lived.manifest(empty)
    for path in (empty.layout.manifest_path, empty.layout.known_files_path):
        path.unlink()
    shutil.rmtree(empty.layout.wal_dir)
    assert lived.mend(empty).left == []
    assert lived.manifest(empty) == before
    assert empty.backfill() == []


def test_damage_of_a_replaced_version_is_named(empty: Archive) -> None:
    """Parquet that an edit replaced and that rotted is damage, set aside; the superseded row stays in a rebuild."""
    empty.put(A, lived.number(1).data)
    empty.backfill()
    empty.put(A, lived.number(1, start=LATER).data)
    empty.backfill()
    before = lived.manifest(empty)
    (kept,) = empty.layout.superseded_root.rglob("*.parquet")
    lived.cut_file(kept, 10)
    assert {kind for kind, _ in lived.damages(empty)} == {"parquet-damaged"}
    with pytest.raises(Corrupt):
        rebuild(empty)
    assert lived.mend(empty).left == []
    rebuild(empty)
    assert lived.manifest(empty) == before


def test_a_chip_whose_runs_all_went_needs_no_history(empty: Archive) -> None:
    """Its only run was superseded under another chip, and its file deleted: no damage. An old one put back is."""
    empty.put(A, lived.number(1, chip=60).data)
    empty.backfill()
    old = empty.layout.history_file("Alisson60").read_bytes()
    empty.put(A, lived.number(1, chip=61, start=LATER).data)
    empty.backfill()
    empty.layout.history_file("Alisson60").unlink()
    assert lived.damages(empty) == set()
    empty.layout.history_file("Alisson60").write_bytes(old)
    assert lived.damages(empty) == {("history-differs", "histories/Alisson60_history.csv")}
    assert lived.mend(empty).left == []
    assert empty.history(60) == []


def test_an_emptied_raw_file_is_not_staged_again(empty: Archive) -> None:
    """Its Parquet is gone as well: the plan says that it is lost, as does a repair that is carried out."""
    path: Path = empty.put(A, lived.number(1).data)
    empty.backfill()
    path.write_bytes(b"")
    empty.touch(A)
    empty.backfill()
    empty.staged(next(row for row in empty.rows())).unlink()
    plan = lived.mend(empty, apply=False)
    assert plan.steps == []
    assert [finding.kind for finding in plan.left] == ["parquet-missing"]
    assert [finding.kind for finding in lived.mend(empty).left] == ["parquet-missing"]
