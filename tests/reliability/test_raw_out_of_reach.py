"""Raw files whose folder cannot be read: verify calls none of them missing, and repair mends all others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lived
import pytest
from archive import Archive
from lived import RUN, run_powerless
from measurement import BROKEN

from ingestd import files
from ingestd.service.status import read_status


@pytest.mark.parametrize("mode", [0, 0o444])
def test_what_is_in_a_closed_folder_is_not_called_missing(empty: Archive, mode: int) -> None:
    """One note a folder says why, of how many runs, and what to do; what is gone beside it is missing all the same."""
    for n, name in enumerate(["day/It_1.csv", "day/deep/It_2.csv", "other/It_3.csv", "daybreak.csv"]):
        empty.put(name, RUN.but(start=1758632155.25 + n, sample=n).data)
    empty.backfill()
    for name in ("other/It_3.csv", "daybreak.csv"):
        empty.delete(name)
    empty.staged(empty.live()["day/It_1.csv"]).unlink()
    folder = empty.raw / "day"
    folder.chmod(mode)
    found = run_powerless(empty, "verify")["findings"]
    folder.chmod(0o755)
    (damage,) = [one for one in found if one["level"] == "damage"]
    assert (damage["kind"], damage["message"]) == ("parquet-missing", "the Parquet of day/It_1.csv is gone")
    found.remove(damage)
    assert sorted((one["kind"], one["path"]) for one in found) == [
        ("raw-missing", "daybreak.csv"),
        ("raw-missing", "other/It_3.csv"),
        ("raw-unreadable", "day"),
    ]
    (closed,) = [one for one in found if one["kind"] == "raw-unreadable"]
    assert (closed["level"], closed["run_id"]) == ("note", None)
    assert "(Permission denied)" in closed["message"]
    assert "of 2 runs" in closed["message"]
    assert "ingestd verify" in closed["message"]
    assert sorted(one.kind for one in lived.findings(empty)) == ["parquet-missing", "raw-missing", "raw-missing"]


def test_a_raw_file_that_may_not_be_read_cannot_be_compared(empty: Archive) -> None:
    """A deep verify says so and what to do, as of a folder, calls nothing damaged and compares the others."""
    for n, name in enumerate(["day/It_1.csv", "day/It_2.csv"]):
        empty.put(name, RUN.but(start=1758632155.25 + n, sample=n).data)
    empty.backfill()
    (empty.raw / "day/It_1.csv").chmod(0)
    done = run_powerless(empty, "verify", "--deep")
    (told,) = done["findings"]
    assert (told["level"], told["kind"], told["path"]) == ("note", "raw-unreadable", "day/It_1.csv")
    assert told["message"].startswith("cannot be read (Permission denied): give the user of this command read access")
    assert told["run_id"] == empty.live()["day/It_1.csv"].run_id
    assert (done["cells"] > 0, done["exit_code"]) == (True, 0)


def test_a_raw_file_that_may_not_be_read_is_named_beside_damage_too(empty: Archive) -> None:
    """A deep verify looks at damage once more: what it could not read, and so never compared, is told all the same."""
    for n, name in enumerate(["day/It_1.csv", "day/It_2.csv"]):
        empty.put(name, RUN.but(start=1758632155.25 + n, sample=n).data)
    empty.backfill()
    empty.layout.history_file("Alisson72").unlink()
    (empty.raw / "day/It_1.csv").chmod(0)
    found = run_powerless(empty, "verify", "--deep")["findings"]
    kinds = [("history-missing", "histories/Alisson72_history.csv"), ("raw-unreadable", "day/It_1.csv")]
    assert sorted((one["kind"], one["path"]) for one in found) == kinds


def test_of_a_folder_whose_path_is_too_long_no_access_is_asked_for(empty: Archive) -> None:
    """Read access changes nothing there: the advice is that of `ingestd backfill`, to shorten its names."""
    folder = os.open(empty.raw, os.O_DIRECTORY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=folder)
        inner = os.open("d" * 250, os.O_DIRECTORY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    (told,) = lived.findings(empty)
    assert told.kind == "raw-unreadable"
    long = "the path is longer than the system allows: shorten its names, or move it nearer to the root"
    assert told.message == f"cannot be read (File name too long): {long}, then run `ingestd verify` again"


def test_a_repair_mends_what_is_within_reach(empty: Archive) -> None:
    """Of two runs without Parquet that one is staged again whose folder may be entered; the other is named as left."""
    for n, name in enumerate(["day/It_1.csv", "other/It_2.csv"]):
        empty.put(name, RUN.but(start=1758632155.25 + n, sample=n).data)
    empty.backfill()
    staged = {name: empty.staged(row) for name, row in empty.live().items()}
    for path in staged.values():
        path.unlink()
    folder = empty.raw / "day"
    folder.chmod(0)
    for apply in ([], ["--apply"]):
        done = run_powerless(empty, "repair", *apply)
        assert [(step["kind"], step["paths"]) for step in done["steps"]] == [("stage-again", ["other/It_2.csv"])]
        assert [left["kind"] for left in done["left"]] == ["parquet-missing"]
        assert (done["exit_code"], done["stopped_by"]) == (1, None)
    folder.chmod(0o755)
    assert {name: path.exists() for name, path in staged.items()} == {"day/It_1.csv": False, "other/It_2.csv": True}
    assert lived.mend(empty).left == []


def test_a_reject_that_cannot_be_tried_again_stays_one(empty: Archive) -> None:
    """Nobody has looked at it: it is told why, and what is known of it is kept."""
    for name in ("closed/It_1.csv", "open/It_2.csv"):
        empty.put(name, BROKEN + name.encode())
    empty.backfill()
    folder = empty.raw / "closed"
    folder.chmod(0)
    done = run_powerless(empty, "rejects", "retry", "--all")
    assert done["retried"] == {"closed/It_1.csv": "failed", "open/It_2.csv": "rejected"}
    (failed,) = done["failed"]
    assert (failed["source_file"], failed["message"], done["exit_code"]) == ("closed/It_1.csv", "Permission denied", 1)
    assert [one["source_file"] for one in run_powerless(empty, "rejects", "list")["rejects"]] == sorted(done["retried"])
    folder.chmod(0o755)
    assert lived.damages(empty) == set()


@pytest.mark.parametrize("words", [["rebuild-manifest", "--from", "stage"], ["repair", "--apply"]])
def test_a_raw_file_that_may_not_be_read_does_not_keep_the_manifest_from_being_restored(
    words: list[str], empty: Archive
) -> None:
    """It was put back by another user, with another mtime: its row is restored as it was staged."""
    for n, name in enumerate(["day/It_1.csv", "day/It_2.csv"]):
        empty.put(name, RUN.but(start=1758632155.25 + n, sample=n).data)
    empty.backfill()
    before = lived.manifest(empty)
    empty.touch("day/It_1.csv")
    lived.flip(empty.layout.manifest_path, 300)
    (empty.raw / "day/It_1.csv").chmod(0)
    done = run_powerless(empty, *words)
    (empty.raw / "day/It_1.csv").chmod(0o644)
    assert done["exit_code"] == 0
    assert lived.manifest(empty) == before
    assert lived.damages(empty) == set()


def test_a_part_whose_copy_is_out_of_reach_goes_on_counting(empty: Archive) -> None:
    """The whole was put over it: its copy may still be there, and takes its place once its folder may be entered."""
    empty.put("It_1.csv", RUN.data)
    empty.put("It_2.csv", RUN.but(rows=2).data)
    empty.copy("It_2.csv", "day/It_2.csv")
    empty.backfill()
    before = {row.run_id for row in empty.live().values()}
    empty.copy("It_1.csv", "It_2.csv")
    folder = empty.raw / "day"
    folder.chmod(0)
    done = run_powerless(empty, "backfill", "--workers", "1")
    folder.chmod(0o755)
    assert (done["events"], done["exit_code"]) == ({"duplicate": 1}, 1)
    assert {row.run_id for row in empty.rows() if row.live} == before
    lived.backfill_without_compaction(empty)
    assert set(empty.live()) == {"It_1.csv", "day/It_2.csv"}


def test_what_is_decided_while_verify_looks_is_neither_missing_nor_undecided(
    empty: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is moved, another is new, and the service decides about both after verify has read the manifest."""
    empty.put("day/It_1.csv", RUN.data)
    empty.put("day/It_2.csv", RUN.but(start=1758632156.25, sample=2).data)
    empty.backfill()
    empty.delete("day/It_2.csv")
    scan = files.scan_csvs

    def scanned_late(root: Path) -> files.Scan:
        monkeypatch.setattr(files, "scan_csvs", scan)
        empty.move("day/It_1.csv", "moved/It_1.csv")
        empty.put("day/It_3.csv", RUN.but(start=1758632157.25, sample=3).data)
        empty.backfill()
        return scan(root)

    monkeypatch.setattr(files, "scan_csvs", scanned_late)
    assert [(one.kind, one.path) for one in lived.findings(empty)] == [("raw-missing", "day/It_2.csv")]


def test_a_run_whose_file_came_after_the_look_of_status_has_a_raw_file(
    empty: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is moved, another is new, and the service decides about both after status has scanned the raw files."""
    for number, name in enumerate(["day/It_1.csv", "day/It_2.csv"]):
        empty.put(name, RUN.but(start=1758632155.25 + number, sample=number).data)
    empty.backfill()
    empty.delete("day/It_2.csv")
    scan = files.scan_csvs

    def scanned_early(root: Path, **options: Any) -> files.Scan:
        monkeypatch.setattr(files, "scan_csvs", scan)
        seen = scan(root, **options)
        empty.move("day/It_1.csv", "moved/It_1.csv")
        empty.put("day/It_3.csv", RUN.but(start=1758632157.25, sample=3).data)
        empty.backfill()
        return seen

    monkeypatch.setattr(files, "scan_csvs", scanned_early)
    found = read_status(empty.settings, empty.now())
    assert (found.runs, found.runs_without_raw_file) == (3, 1)
