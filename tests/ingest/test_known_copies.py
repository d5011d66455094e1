"""Copies that are known as such, when something happens to them or to their original afterwards."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from archive import Archive
from measurement import BROKEN, Measurement

from ingestd.ingest.commit import opened
from ingestd.settings import load_settings
from ingestd.upkeep.explain import explain
from ingestd.upkeep.verify import verify

RUN = Measurement()
OTHER = Measurement(start=1758650000.5, chip=70, sample=2)
A, B, C = "2025-09-23/It_1.csv", "2025-09-23/It_2.csv", "2025-09-24/It_3.csv"


def told(archive: Archive) -> str:
    """Return what `verify` says of the copy, and `explain` too."""
    (finding,) = (one for one in verify(archive.settings).findings if one.kind == "duplicate")
    assert explain(archive.settings, B, archive.now()).verdict == f"It is {finding.message}."
    return finding.message


EDITS: list[dict[str, float]] = [{"rows": RUN.rows + 1}, {"chip": 67}, {"start": 1758699999.5}]

AFTERWARDS: dict[str, Callable[[Archive], object]] = {
    "touched": lambda archive: archive.touch(B),
    "renamed": lambda archive: archive.move(B, C),
    "copied": lambda archive: archive.copy(B, C),
    "written again": lambda archive: archive.put(B, RUN.data),
}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("what", AFTERWARDS)
@pytest.mark.parametrize("edit", EDITS, ids=["grown", "of the same size", "of another start"])
def test_a_copy_of_what_was_edited_since_stays_one(
    copied: Archive, edit: dict[str, float], what: str, force: bool
) -> None:
    """The original is corrected, then something happens to its copy: the measurement counts once, corrected."""
    copied.put(A, RUN.but(**edit).data)
    assert [name for _, name in copied.backfill()] == [A]
    expected = {row.run_id: row.chip_number for row in copied.rows() if row.live}
    AFTERWARDS[what](copied)
    copied.backfill(force=force)
    assert {row.run_id: row.chip_number for row in copied.rows() if row.live} == expected
    assert copied.notes()[C if what in {"renamed", "copied"} else B].outcome == "duplicate"
    assert copied.backfill() == []


def test_force_leaves_a_copy_of_what_was_edited_since_a_copy(copied: Archive) -> None:
    """`--force` parses every file anew, and counts none that is known as a copy."""
    copied.put(A, RUN.but(chip=67).data)
    copied.backfill()
    assert copied.backfill(force=True) == [("unchanged", B), ("restaged", A)]
    assert ", before its edit: counted once, there" in told(copied)


def test_a_copy_that_was_deleted_is_told_as_gone(copied: Archive) -> None:
    """`explain` says what it was, not that it is there."""
    copied.delete(B)
    assert copied.backfill() == []
    (run,) = copied.rows()
    verdict = f"It is gone, and was a copy of {A} (run {run.run_id}): counted once, there."
    assert explain(copied.settings, B, copied.now()).verdict == verdict


def test_the_copy_put_back_over_its_edited_original_undoes_the_edit(copied: Archive) -> None:
    """The bytes of a known copy, at the original's own path, are that run as it was."""
    copied.put(A, RUN.but(chip=67).data)
    copied.backfill()
    copied.copy(B, A)
    assert copied.backfill() == [("edited", A)]
    assert {row.source_file: row.chip_number for row in copied.rows()} == {A: 72}
    copied.delete(A)
    assert copied.backfill() == [("moved", B)]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("how", ["known", "kept"])
def test_a_copy_from_before_two_corrected_starts_stays_one(archive: Archive, how: str, force: bool) -> None:
    """Known as a copy before the corrections or first seen after them: it is told as a copy of the run as it is now."""
    archive.put(A, RUN.data)
    if how == "known":
        archive.copy(A, B)
    archive.backfill()
    for start in (1758699999.5, 1758700000.5):
        archive.put(A, RUN.but(start=start).data)
        assert archive.backfill() == [("superseded", A)]
    if how == "kept":
        archive.put(B, RUN.data)
        assert archive.backfill() == [("duplicate", B)]
    (run,) = archive.live().values()
    assert told(archive) == f"a copy of {A} (run {run.run_id}), before its edit: counted once, there"
    archive.touch(B)
    archive.backfill(force=force)
    assert list(archive.live()) == [A]


@pytest.mark.parametrize("batch", [1, 64])
def test_copies_follow_a_run_into_another_time_zone(archive: Archive, batch: int) -> None:
    """Forced into another zone the run has another id: its copy is a copy of that one, and takes its place."""
    run = RUN.data.replace(b"Start time: 1758632155.25", b"Start time: 2025-09-23T09:55:55.25")
    archive.put(B, run)
    archive.backfill()
    archive.copy(B, A)
    assert archive.backfill() == [("duplicate", A)]
    archive.settings = load_settings(
        None,
        {
            "paths": {"data_root": archive.root},
            "stage": {"workers": 1, "batch_files": batch},
            "time": {"local_tz": "Europe/Madrid"},
        },
    )
    archive.backfill(force=True)
    (live,) = archive.live().values()
    assert archive.notes()[A].run_id == live.run_id
    archive.delete(B)
    assert archive.backfill() == [("moved", A)]
    assert [row.run_id for row in archive.live().values()] == [live.run_id]


@pytest.mark.parametrize("left", [RUN.but(rows=0).data, b""], ids=["header alone", "nothing"])
def test_a_known_copy_takes_the_place_of_an_emptied_original(copied: Archive, left: bytes) -> None:
    """Its rows are gone from the run's file and lie in the copy: the run is there from now on."""
    (run,) = copied.rows()
    copied.put(A, left)
    assert copied.backfill() == [("queued", A), ("moved", B)]
    assert {name: row.run_id for name, row in copied.live().items()} == {B: run.run_id}
    copied.put(A, RUN.data)
    assert copied.backfill() == [("duplicate", A)]


@pytest.mark.parametrize("left", [RUN.but(rows=0).data, b""], ids=["header alone", "nothing"])
def test_an_emptied_original_that_is_restored_and_copied_keeps_its_run(archive: Archive, left: bytes) -> None:
    """What is known of the emptied file holds for that state of it alone: its bytes are there again."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put(A, left)
    assert archive.backfill_amid() == [("queued", A)]
    archive.put(A, RUN.data)
    archive.copy(A, C)
    assert sorted(archive.backfill()) == [("duplicate", C), ("unchanged", A)]
    assert list(archive.live()) == [A]


def test_a_copy_that_is_being_overwritten_takes_no_place(copied: Archive) -> None:
    """The original is gone while somebody writes to its copy: the run is not where its bytes were."""
    copied.delete(A)
    data = OTHER.data
    with (copied.raw / B).open("wb") as file:
        file.write(data[:-30])
        file.flush()
        assert copied.backfill_amid() == []
        with opened(copied.settings) as ingest:
            assert list(ingest.copies_of([A])) == []
        file.write(data[-30:])
    copied.touch(B)
    assert copied.backfill() == [("ingested", B)]
    assert {name: row.chip_number for name, row in copied.live().items()} == {A: 72, B: 70}


@pytest.mark.parametrize("copy", ["2025-09-22/It_4.csv", "2025-09-25/It_4.csv"])
def test_a_copy_of_a_part_that_was_overwritten_is_no_copy_of_it(archive: Archive, copy: str) -> None:
    """A part becomes whole, and its copy something else, both unseen: the measurement counts once."""
    archive.put(A, RUN.data)
    archive.put(B, RUN.but(rows=2).data)
    archive.copy(B, copy)
    archive.backfill()
    archive.put(B, RUN.data)
    archive.put(copy, OTHER.data)
    archive.backfill()
    assert {name: row.chip_number for name, row in archive.live().items()} == {A: 72, copy: 70}


def test_a_copy_of_one_run_that_another_has_become(archive: Archive) -> None:
    """A file grows to bytes that another run had before, of which a copy is known: that is a copy of it now."""
    first, grown, more = (RUN.but(rows=rows).data for rows in (1, 2, 3))
    archive.put(A, first)
    archive.backfill()
    archive.put(B, grown)
    archive.backfill()
    archive.copy(B, C)
    archive.backfill()
    archive.put(B, more)
    archive.backfill()
    archive.put(A, grown)
    archive.backfill()
    assert archive.live()[A].source_sha256 == sha256(grown).hexdigest()
    assert archive.notes()[C].run_id == archive.live()[A].run_id


@pytest.mark.parametrize("original", ["a/It_1.csv", A], ids=["told by mtime", "told by path"])
def test_a_copy_of_a_run_without_a_start_that_was_overwritten(archive: Archive, original: str) -> None:
    """Another measurement has the original's path, and no header tells them apart: the copy is a run of its own."""
    run = RUN.but(start=None)
    archive.put(original, run.data)
    archive.copy(original, "z/It_2.csv")
    archive.backfill()
    archive.put(original, run.but(chip=67, sample=2).data)
    assert archive.backfill() == [("edited", original), ("ingested", "z/It_2.csv")]
    assert {name: row.chip_number for name, row in archive.live().items()} == {original: 67, "z/It_2.csv": 72}


def test_a_backup_of_what_a_run_without_a_start_has_replaced_is_a_run(archive: Archive) -> None:
    """The path's run is another measurement now, which no header tells: the bytes of before count by themselves."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put(A, RUN.but(start=None, sample=2).data)
    assert archive.backfill() == [("edited", A)]
    archive.put(B, RUN.data)
    assert archive.backfill() == [("ingested", B)]


def test_a_run_without_a_start_moves_though_another_has_its_path_and_date(archive: Archive) -> None:
    """Only a header tells that a file still holds its run: the date in the path is that of both measurements."""
    archive.put(A, RUN.but(start=None).data)
    archive.backfill()
    (run,) = archive.rows()
    archive.copy(A, "2025-09-22/It_1.csv")
    archive.put(A, RUN.but(start=None, chip=67, sample=2).data)
    assert archive.backfill() == [("moved", "2025-09-22/It_1.csv"), ("ingested", A)]
    assert archive.live()["2025-09-22/It_1.csv"].run_id == run.run_id


def test_a_backup_without_a_start_of_what_has_one_now_is_a_run(archive: Archive) -> None:
    """Another measurement took its path and got its start later: the bytes of before are no copy of that one."""
    for data in (RUN.but(start=None), RUN.but(start=None, sample=2), RUN.but(sample=2)):
        archive.put(A, data.data)
        archive.backfill()
    assert archive.events == [("superseded", A)]
    archive.put(B, RUN.but(start=None).data)
    assert archive.backfill() == [("ingested", B)]


@pytest.mark.parametrize(("run", "changes"), [(RUN.but(start=None), {"chip": 67}), (RUN, {"sample": 2})])
def test_a_copy_from_before_a_correction(archive: Archive, run: Measurement, changes: dict[str, int]) -> None:
    """Its rows are those of before, or its header tells the start, whatever the rows: it is the same measurement."""
    archive.put(A, run.data)
    archive.copy(A, B)
    archive.backfill()
    archive.put(A, run.but(**changes).data)
    assert archive.backfill() == [("edited", A)]
    assert archive.notes()[B].outcome == "duplicate"
    assert sorted(archive.backfill(force=True)) == [("restaged", A), ("unchanged", B)]


def test_a_copy_from_before_an_edit_of_a_file_that_was_overwritten(copied: Archive) -> None:
    """The corrected run stays, though its file is another measurement now, and its copies stay copies of it."""
    copied.put(A, RUN.but(chip=67).data)
    copied.backfill()
    copied.copy(B, C)
    assert copied.backfill() == [("duplicate", C)]
    copied.put(A, OTHER.data)
    assert copied.backfill() == [("ingested", A)]
    copied.touch(B)
    assert copied.backfill() == [("unchanged", B)]
    assert sorted((row.source_file, row.chip_number) for row in copied.rows() if row.live) == [(A, 67), (A, 70)]


def test_a_copy_is_not_given_a_run_by_what_never_was_at_its_path(copied: Archive) -> None:
    """The copy is deleted, and another measurement takes its original's path: `explain` tells of no move."""
    for name in (A, B):
        copied.put(name, RUN.but(start=None).data)
    copied.backfill()
    copied.delete(B)
    copied.put(A, OTHER.but(start=None).data)
    copied.backfill_amid()
    assert explain(copied.settings, B, copied.now()).verdict == "Its raw file is gone, and it never became a run."


def test_a_copy_behind_a_link_takes_no_place(copied: Archive, tmp_path: Path) -> None:
    """No scan follows a link: the original that was emptied is to be restored."""
    (copied.raw / "copies").mkdir()
    copied.move(B, "copies/It_1.csv")
    copied.backfill()
    (copied.raw / "copies").rename(tmp_path / "elsewhere")
    (copied.raw / "copies").symlink_to(tmp_path / "elsewhere")
    copied.put(A, b"")
    copied.backfill_amid()
    (lost,) = copied.report.lost
    assert lost.copy is None
    assert lost.next_step.startswith("restore it from a backup")


@pytest.mark.parametrize("meanwhile", [BROKEN, b"", RUN.but(rows=0).data], ids=["bad", "empty", "no rows"])
def test_a_copy_that_was_something_else_for_a_while(copied: Archive, meanwhile: bytes) -> None:
    """A copy from before an edit is spoilt and restored: the measurement counts once, corrected."""
    copied.put(A, RUN.but(chip=67).data)
    copied.backfill()
    copied.put(B, meanwhile)
    copied.backfill_amid()
    copied.put(B, RUN.data)
    copied.backfill_amid()
    assert copied.live()[A].chip_number == 67
    assert copied.notes()[B].outcome == "duplicate"
    assert ", before its edit: counted once, there" in told(copied)
    assert copied.backfill_amid() == []


def test_a_backup_from_before_an_edit_is_a_copy(archive: Archive) -> None:
    """It was never seen beside the original: what the run was is kept, and tells."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put(A, RUN.but(chip=67).data)
    archive.backfill()
    archive.put(B, RUN.data)
    assert archive.backfill() == [("duplicate", B)]
    assert ", before its edit: counted once, there" in told(archive)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_backup_waits_while_what_was_kept_cannot_be_looked_at(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A folder of replaced versions that cannot be read is not an empty one: a copy would count as a run."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put(A, RUN.but(chip=67).data)
    archive.backfill()
    archive.put(B, RUN.data)
    archive.put(C, OTHER.but(start=1758900000.5).data)  # of another day, on which nothing was replaced
    scandir, kept = os.scandir, str(archive.layout.superseded_root)

    def refuse(path: str) -> Any:
        if str(path).startswith(f"{kept}/proc=ITS/date=2025-09-23"):
            raise OSError(number, os.strerror(number), str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        assert archive.backfill_amid() == [("ingested", C)]
    assert [(file.source_file, file.message) for file in archive.report.failed] == [(B, os.strerror(number))]
    assert archive.backfill() == [("duplicate", B)]


def test_copies_from_before_a_run_grew_change_places(copied: Archive) -> None:
    """One was spoilt, another file takes the other's name: what is known of the bytes tells, before it is gone."""
    copied.put(A, RUN.but(rows=4).data)
    copied.copy(B, C)
    copied.backfill()
    copied.put(B, BROKEN)
    copied.backfill()
    copied.move(C, B)
    copied.put(C, OTHER.data)
    copied.backfill()
    assert sorted(copied.live()) == [A, C]
    assert copied.notes()[B].outcome == "duplicate"


@pytest.mark.parametrize("retried", [True, False], ids=["retried", "touched"])
def test_a_copy_whose_name_lacks_the_chip_is_no_reject_while_the_run_is_in_its_place(
    archive: Archive, retried: bool
) -> None:
    """It was one only as long as nothing else had the run's bytes; the next look finds the copy that took the place."""
    nameless = RUN.data.replace(b"#\tChip group name: Alisson\r\n", b"").replace(b"#\tChip number: 72\r\n", b"")
    for name in ("d/Alisson72_1.csv", "e/It.csv", "f/Alisson72_1.csv"):
        archive.put(name, nameless)
        archive.backfill()
    archive.delete("d/Alisson72_1.csv")
    assert archive.backfill() == [("rejected", "e/It.csv"), ("moved", "f/Alisson72_1.csv")]
    if retried:
        assert archive.backfill(force=True) == [("restaged", "f/Alisson72_1.csv"), ("duplicate", "e/It.csv")]
    else:
        archive.touch("e/It.csv")
        assert archive.backfill() == [("duplicate", "e/It.csv")]
    assert archive.backfill() == []
