"""Paths that belonged to more than one run: renames and copies over other files, and what is done to them later."""

from __future__ import annotations

import shutil

import pytest
from archive import Archive, digest16
from measurement import BROKEN, Measurement

from ingestd.files import stat_of
from ingestd.ingest.commit import opened
from ingestd.raw.settling import Observation
from ingestd.stage.run import stage_batch

RUN = Measurement()
OTHER = Measurement(start=1758639999.5, chip=67, sample=1)
A, B, C = "2025-09-23/It_1.csv", "2025-09-23/It_2.csv", "2025-09-24/It_3.csv"


def renamed_over(archive: Archive) -> tuple[str, str]:
    """Ingest A and B, rename A over B; return the ids of the run that has the path now and of the one covered."""
    archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    archive.backfill()
    ids = archive.live()[A].run_id, archive.live()[B].run_id
    archive.move(A, B)
    assert archive.backfill() == [("moved", B)]
    return ids


def live_samples(archive: Archive) -> dict[str, tuple[int | None, int]]:
    """Return chip number and rows of every live run."""
    return {row.run_id: (row.chip_number, row.rows) for row in archive.rows() if row.live}


def test_later_changes_are_about_the_run_that_took_the_path(archive: Archive) -> None:
    """Touch, growth, a new start time and growth again leave the covered run as it was."""
    moved, covered = renamed_over(archive)
    archive.touch(B)
    assert archive.backfill() == [("unchanged", B)]
    archive.put(B, RUN.but(rows=4).data)
    assert archive.backfill() == [("updated", B)]
    archive.put(B, RUN.but(rows=4, start=1758700000.0).data)
    assert archive.backfill() == [("superseded", B)]
    archive.put(B, RUN.but(rows=5, start=1758700000.0).data)
    assert archive.backfill() == [("updated", B)]
    runs = live_samples(archive)
    assert moved not in runs
    assert runs.pop(covered) == (67, 3)
    assert list(runs.values()) == [(72, 5)]


def test_a_reject_in_between_does_not_mix_the_runs_up(archive: Archive) -> None:
    """Broken and then mended with another chip: the run that took the path is edited, not the covered one."""
    moved, covered = renamed_over(archive)
    archive.put(B, BROKEN)
    assert archive.backfill() == [("rejected", B)]
    archive.put(B, RUN.but(chip=70).data)
    assert archive.backfill() == [("edited", B)]
    assert live_samples(archive) == {moved: (70, 3), covered: (67, 3)}


def test_the_covered_file_restored(archive: Archive) -> None:
    """A backup of the covered file put back, corrected: its own run is edited, the other one stays."""
    moved, covered = renamed_over(archive)
    archive.put(B, OTHER.but(chip=68).data)
    assert archive.backfill() == [("edited", B)]
    assert live_samples(archive) == {moved: (72, 3), covered: (68, 3)}
    archive.put(B, OTHER.but(chip=68, rows=4).data)
    assert archive.backfill() == [("updated", B)]
    assert live_samples(archive) == {moved: (72, 3), covered: (68, 4)}


def test_the_file_of_a_name_used_again_restored_with_another_start(archive: Archive) -> None:
    """A backup of the first measurement, put back with its start corrected: its run is edited, the other one stays."""
    archive.put(A, RUN.data)
    archive.backfill()
    first = archive.live()[A].run_id
    archive.put(A, OTHER.data)
    assert archive.backfill() == [("ingested", A)]
    other = archive.fresh[0].run_id
    archive.put(A, RUN.but(start=1758632200.0).data)
    assert archive.backfill() == [("superseded", A)]
    assert [file.run_id for file in archive.report.lost] == [other]
    rows = {row.run_id: row for row in archive.rows()}
    assert rows.pop(first).superseded_by in rows
    assert other in rows
    assert [row.live for row in rows.values()] == [True, True]
    assert (archive.history(72), archive.history(67)) == ([A], [A])


def test_there_and_back_again(archive: Archive) -> None:
    """A file renamed over another, away, and over it again with its old mtime is seen each time."""
    moved, _ = renamed_over(archive)
    for name, to in ((B, C), (C, B), (B, A)):
        archive.move(name, to)
        assert archive.backfill() == [("moved", to)]
        assert [row.run_id for row in archive.rows() if row.source_file == to and row.run_id == moved] == [moved]


def test_an_edited_copy_over_a_run_is_a_run_of_its_own(archive: Archive) -> None:
    """`cp B A`, then A edited: neither the run A held nor B's is replaced."""
    archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    archive.backfill()
    before = live_samples(archive)
    archive.copy(B, A)
    assert archive.backfill() == [("duplicate", A)]
    archive.put(A, OTHER.but(chip=68).data)
    assert archive.backfill() == [("ingested", A)]
    runs = live_samples(archive)
    assert {run_id: runs.pop(run_id) for run_id in before} == before
    assert list(runs.values()) == [(68, 3)]


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_an_original_that_went_away_under_a_new_measurement(archive: Archive, rows: int) -> None:
    """A renamed to C and another measurement, of any length, written to A, both unseen: the new one is a new run."""
    archive.put(A, RUN.data)
    archive.backfill()
    run_id = archive.live()[A].run_id
    archive.move(A, C)
    archive.put(A, OTHER.but(rows=rows).data)
    assert archive.backfill() == [("moved", C), ("ingested", A)]
    assert archive.live()[C].run_id == run_id
    assert archive.live()[A].chip_number == 67


def test_a_copy_of_a_run_that_grew_on(archive: Archive) -> None:
    """Copied half way, then more rows in the original, both unseen: the half is a copy, the original grew."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.copy(A, C)
    archive.put(A, RUN.but(rows=6).data)
    assert archive.backfill() == [("duplicate", C), ("updated", A)]


def test_a_copy_takes_the_place_of_an_original_that_was_overwritten(archive: Archive) -> None:
    """A copied to C, then B copied over A: C is where A's bytes are, so it becomes the run's file, in the same go."""
    archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    archive.copy(A, C)
    archive.backfill()
    run_id = archive.live()[A].run_id
    archive.copy(B, A)
    assert archive.backfill() == [("duplicate", A), ("moved", C)]
    assert archive.live()[C].run_id == run_id
    assert archive.backfill() == []


def test_a_copy_stays_a_copy_while_its_original_is_broken(archive: Archive) -> None:
    """An original that is rejected for now keeps its run: mended with a correction it is edited, and counted once."""
    archive.put(A, RUN.data)
    archive.copy(A, C)
    archive.backfill()
    archive.put(A, BROKEN)
    assert archive.backfill() == [("rejected", A)]
    archive.put(A, RUN.but(chip=67).data)
    assert archive.backfill() == [("edited", A)]
    assert [row.source_file for row in archive.rows()] == [A]


def test_a_covered_run_whose_copy_tells_its_start(archive: Archive) -> None:
    """A file has the bytes that another run had, and grew from: the run it was goes to its copy, and stays there."""
    first, copy, covered = "x/It_3.csv", "y/It_1.csv", A
    archive.put(first, RUN.data)
    archive.put(covered, RUN.but(chip=67).data)
    archive.copy(covered, copy)
    archive.backfill()
    archive.copy(first, covered)
    archive.put(first, RUN.but(rows=4).data)
    assert archive.backfill() == [("duplicate", covered), ("updated", first), ("moved", copy)]
    assert archive.backfill() == []


@pytest.mark.parametrize("before", [BROKEN, b"", RUN.but(rows=0).data], ids=["bad", "empty", "no rows"])
def test_a_refusal_that_another_process_overtook(archive: Archive, before: bytes) -> None:
    """What was read before the file was mended, and is committed after, does not stand against the run."""
    path = archive.put(A, before)
    with opened(archive.settings, archive.now) as ingest:
        task = ingest.task_for(A, stat_of(path.lstat()), Observation(99.0, ""))
        read = stage_batch([task], ingest.context)
        archive.put(A, RUN.data)
        archive.backfill_amid()
        done = ingest.commit(read)
    assert (done.records, done.again) == ([], read)
    assert archive.backfill() == []
    assert not archive.notes()


def test_the_copy_of_a_run_whose_parquet_is_damaged_counts_when_that_is_overwritten(archive: Archive) -> None:
    """Nothing tells whether the new measurement has the run's rows: the run stays, and its copy takes its place."""
    archive.put(A, RUN.data)
    archive.copy(A, C)
    archive.backfill()
    archive.staged(archive.live()[A]).write_bytes(b"damaged")
    archive.put(A, RUN.but(sample=2, start=1758700000.5).data)
    run_id = archive.live()[A].run_id
    archive.backfill_amid()
    archive.backfill()
    assert archive.live().keys() == {A, C}
    assert archive.live()[C].run_id == run_id


def test_of_an_overwritten_run_the_copies_of_its_last_version_count(archive: Archive) -> None:
    """It was edited between two copies: the last version takes its place, the earlier one stays a copy."""
    archive.put(A, RUN.data)
    archive.copy(A, C)
    archive.backfill()
    archive.put(A, RUN.but(chip=67).data)
    archive.copy(A, B)
    archive.backfill()
    archive.put(A, RUN.but(sample=2, start=1758700000.5).data)
    archive.backfill()
    archive.backfill()
    assert archive.live().keys() == {A, B}
    assert archive.notes()[C].outcome == "duplicate"


def one_measurement_twice(archive: Archive, other: bytes) -> dict[str, str]:
    """Ingest a run at A and, at B, what was made of a copy of it; return the id of each."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put(B, other)
    assert archive.backfill() == [("ingested", B)]
    return {name: row.run_id for name, row in archive.live().items()}


PARTS = {"broken off": RUN.but(rows=2).data, "cut": RUN.data[:-9], "edited": RUN.but(chip=5).data}


@pytest.mark.parametrize("how", ["copied", "moved", "by force"])
@pytest.mark.parametrize("part", PARTS)
def test_a_copy_that_becomes_whole_counts_no_more(archive: Archive, part: str, how: str) -> None:
    """A copy that was broken off was a run of its own: it is superseded when all of it is there, its data is kept."""
    ids = one_measurement_twice(archive, PARTS[part])
    if how == "moved":
        archive.move(A, B)
    else:
        archive.copy(A, B)
    archive.backfill(force=how == "by force")
    assert {row.run_id: row.superseded_by for row in archive.rows()} == {ids[A]: None, ids[B]: ids[A]}
    assert list(archive.live()) == [B if how == "moved" else A]
    assert archive.report.lost == []
    (kept,) = (name for record in archive.fresh for name in record.superseded_parquet)
    assert (archive.layout.stage_root / kept).exists()
    archive.put(B, RUN.but(chip=70).data)
    assert archive.backfill() == [("edited" if how == "moved" else "ingested", B)]


def test_copies_of_a_part_are_copies_of_the_whole(archive: Archive) -> None:
    """A copy stopped twice on its way, and was copied at the first stop: all of it is one measurement in the end."""
    archive.put("other.csv", RUN.but(sample=2, start=1758700000.5).data)
    archive.copy("other.csv", "the other.csv")
    ids = one_measurement_twice(archive, RUN.but(rows=1).data)
    archive.copy(B, C)
    assert archive.backfill() == [("duplicate", C)]
    archive.put(B, RUN.but(rows=2).data)
    assert archive.backfill() == [("updated", B)]
    archive.copy(A, B)
    assert archive.backfill() == [("duplicate", B)]
    assert archive.notes()[C].run_id == ids[A]
    assert archive.notes()["the other.csv"].run_id == ids["other.csv"]
    archive.touch(C)
    assert archive.backfill() == [("unchanged", C)]


def test_a_part_of_which_there_is_a_copy_goes_there(archive: Archive) -> None:
    """What was at the path is in another file still: that is the run's from now on."""
    ids = one_measurement_twice(archive, RUN.but(rows=2).data)
    archive.copy(B, C)
    archive.backfill()
    archive.copy(A, B)
    assert archive.backfill() == [("duplicate", B), ("moved", C)]
    assert {name: row.run_id for name, row in archive.live().items()} == {A: ids[A], C: ids[B]}


def test_a_part_of_which_the_copy_is_gone_counts_no_more(archive: Archive) -> None:
    """A copy that was deleted, or changed, takes nothing's place: what is left of the part is in the whole."""
    ids = one_measurement_twice(archive, RUN.but(rows=2).data)
    archive.copy(B, C)
    archive.backfill()
    archive.delete(C)
    archive.copy(A, B)
    assert archive.backfill() == [("duplicate", B)]
    assert {row.run_id: row.superseded_by for row in archive.rows()} == {ids[A]: None, ids[B]: ids[A]}
    assert archive.report.lost == []


@pytest.mark.parametrize("move", [False, True])
def test_all_parts_at_one_path_become_whole(archive: Archive, move: bool) -> None:
    """One broken copy was put over another, of more rows, before the whole came: neither counts beside it."""
    ids = one_measurement_twice(archive, RUN.but(rows=2, chip=5).data)
    archive.put(C, RUN.but(rows=1).data)
    archive.backfill()
    archive.move(C, B)
    assert archive.backfill() == [("moved", B)]
    (archive.move if move else archive.copy)(A, B)
    archive.backfill()
    assert [row.run_id for row in archive.rows() if row.live] == [ids[A]]
    assert archive.report.lost == []
    assert {name[:16] for name in archive.aside()} >= {digest16(RUN.but(rows=2, chip=5)), digest16(RUN.but(rows=1))}


def test_a_part_is_compared_with_what_the_batch_stages(archive: Archive) -> None:
    """The run grew, or its rows were edited, in the same batch: its Parquet is not in its place yet."""
    archive.put(A, RUN.but(rows=1).data)
    archive.backfill()
    archive.put(B, RUN.but(rows=2, chip=5).data)
    archive.backfill()
    ids = {name: row.run_id for name, row in archive.live().items()}
    archive.put(A, RUN.data)
    archive.copy(A, B)
    assert archive.backfill() == [("updated", A), ("duplicate", B)]
    assert {row.run_id: row.superseded_by for row in archive.rows()} == {ids[A]: None, ids[B]: ids[A]}


def test_a_part_is_compared_with_its_own_whole(archive: Archive) -> None:
    """Another run moves in the same batch: what is staged for that one tells nothing of the part."""
    archive.put(C, RUN.but(sample=2, start=1758700000.5).data)
    ids = one_measurement_twice(archive, RUN.but(rows=2).data)
    archive.move(C, "0.csv")
    archive.copy(A, B)
    assert archive.backfill() == [("moved", "0.csv"), ("duplicate", B)]
    assert {row.run_id: row.superseded_by for row in archive.rows()} == {ids[A]: None, ids[B]: ids[A], ids[C]: None}


def test_a_part_of_what_the_run_was_before_the_batch_goes_on_counting(archive: Archive) -> None:
    """All rows of the run were edited, and that was copied over the part: what the part held is nowhere else."""
    ids = one_measurement_twice(archive, RUN.but(rows=2).data)
    archive.put(A, RUN.but(sample=2).data)
    archive.copy(A, B)
    assert archive.backfill() == [("edited", A), ("duplicate", B)]
    assert live_samples(archive).keys() == set(ids.values())


def test_a_part_is_superseded_by_a_whole_whose_parquet_was_gone(archive: Archive) -> None:
    """Moved over the part, the whole is staged anew: that is what the part is compared with."""
    ids = one_measurement_twice(archive, RUN.but(rows=2).data)
    archive.staged(archive.live()[A]).unlink()
    archive.move(A, B)
    assert archive.backfill() == [("moved", B)]
    assert {row.run_id: row.superseded_by for row in archive.rows()} == {ids[A]: None, ids[B]: ids[A]}


def test_a_corrected_copy_put_over_its_original_is_the_run(archive: Archive) -> None:
    """Copied, corrected and renamed over the original, with looks between: the corrected one counts, alone."""
    ids = one_measurement_twice(archive, RUN.but(chip=67).data)
    archive.move(B, A)
    assert archive.backfill() == [("moved", A)]
    assert {row.run_id: row.superseded_by for row in archive.rows()} == {ids[B]: None, ids[A]: ids[B]}
    assert (archive.history(67), archive.history(72)) == ([A], [])
    archive.put(A, RUN.but(chip=68).data)
    assert archive.backfill() == [("edited", A)]


@pytest.mark.parametrize(
    "other",
    [RUN.but(sample=2), RUN.but(start=None, rows=2), RUN.but(start=1758700000.5, rows=2)],
    ids=["other rows", "no start", "another start"],
)
def test_what_only_may_be_the_same_measurement_goes_on_counting(archive: Archive, other: Measurement) -> None:
    """With other rows or another start, or without one, what was at the path may be another measurement."""
    ids = one_measurement_twice(archive, other.data)
    archive.copy(A, B)
    assert archive.backfill() == [("duplicate", B)]
    assert live_samples(archive).keys() == set(ids.values())
    assert [file.run_id for file in archive.report.lost] == [ids[B]]


def test_a_run_whose_parquet_went_aside_is_told_by_that(archive: Archive) -> None:
    """An older manifest was put back after a start was corrected: the measurement counts once all the same."""
    archive.put(A, RUN.data)
    archive.backfill()
    manifest, before = archive.layout.manifest_path.parent, archive.root.parent / "before"
    shutil.copytree(manifest, before)
    archive.put(A, RUN.but(start=1758700000.5).data)
    assert archive.backfill() == [("superseded", A)]
    shutil.rmtree(manifest)
    before.rename(manifest)
    assert archive.backfill_amid() == [("superseded", A)]
    assert list(archive.live()) == [A]


def test_a_run_of_another_procedure_at_a_path_is_another_measurement(archive: Archive) -> None:
    """Whatever its rows are: the run that had the name until now stays."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put(A, RUN.but(start=1758700000.5).data.replace(b"It.It>", b"Tt.Tt>"))
    assert archive.backfill_amid() == [("ingested", A)]
    assert sorted(row.proc for row in archive.rows() if row.live) == ["ITS", "Tt"]
