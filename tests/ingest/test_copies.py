"""Which measurement a file is when files are copied, renamed, linked and put over each other, in any combination."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from archive import Archive
from measurement import Measurement

from ingestd.ingest.commit import KNOWN_AT_MOST, opened

RUN = Measurement()
OTHER = Measurement(start=1758639999.5, chip=67, sample=1)
A, B, C = "2025-09-23/It_1.csv", "2025-09-23/It_2.csv", "2025-09-24/It_3.csv"


def test_a_copy_takes_the_place_of_its_lost_original(archive: Archive) -> None:
    """When the original of a known copy disappears, the copy is the run's file from then on."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.copy(A, C)
    archive.backfill()
    run_id = archive.live()[A].run_id
    archive.delete(A)
    assert archive.backfill() == [("moved", C)]
    assert {row.source_file: row.run_id for row in archive.rows()} == {C: run_id}
    assert C not in archive.notes()
    assert (archive.report.scanned, archive.report.known) == (1, 0)


def test_a_moved_run_with_a_cut_last_line_has_been_waited_for(archive: Archive) -> None:
    """Its bytes were staged when nothing more was to come: under another name too, however young its mtime is."""
    cut = RUN.but(tail="1.5,").data
    archive.put(A, cut)
    archive.backfill()
    archive.delete(A)
    young = archive.put(B, cut)
    moment = archive.now().timestamp() - 10
    os.utime(young, (moment, moment))
    assert archive.backfill() == [("moved", B)]


def test_a_copy_takes_the_place_of_its_original_whichever_wait_is_longer(tmp_path: Path) -> None:
    """It was over when it was noted and stands still since, also where `settle_s` is more than `quiet_s`."""
    archive = Archive(tmp_path, settle={"settle_s": 60.0, "quiet_s": 30.0})
    archive.put(A, RUN.data)
    archive.copy(A, C)
    archive.backfill()
    archive.delete(A)
    assert archive.backfill() == [("moved", C)]
    assert list(archive.live()) == [C]


@pytest.mark.parametrize("gone", [True, False])
def test_a_copy_that_takes_the_place_of_an_overwritten_run_is_known_no_more(archive: Archive, gone: bool) -> None:
    """What was counted as known is what was: no copy that is gone is taken out of it, one that is looked at is."""
    archive.put(A, RUN.data)
    archive.copy(A, B)
    archive.put(C, RUN.but(start=1758639999.5, sample=1).data)
    archive.backfill()
    if gone:
        archive.delete(B)
    archive.put(A, RUN.but(start=1758700000.5, sample=2).data)
    archive.backfill()
    assert archive.report.events == Counter({"ingested": 1} if gone else {"ingested": 1, "moved": 1})
    assert archive.report.known == 1


@pytest.mark.parametrize("hidden", ["a copy", "the original"])
def test_what_a_folder_link_leads_to_is_not_there(archive: Archive, tmp_path: Path, hidden: str) -> None:
    """A day's folder moves elsewhere and a link stands in its place: the copy that a scan finds takes the run."""
    first, here, there = ("o/It_1.csv", "b/It_1.csv", "a/It_1.csv")
    if hidden == "the original":
        first = there
    archive.put(first, RUN.data)
    archive.backfill()
    for name in {here, there} - {first}:
        archive.copy(first, name)
    archive.backfill()
    (archive.raw / "a").rename(tmp_path / "elsewhere")
    (archive.raw / "a").symlink_to(tmp_path / "elsewhere")
    if first != there:
        archive.delete(first)
    with opened(archive.settings) as ingest:
        assert [same.task.source_file for copies in ingest.copies_of([first]) for same in copies] == [here]
    assert archive.backfill() == [("moved", here)]
    assert list(archive.live()) == [here]
    assert (archive.report.scanned, archive.report.known) == (1, 0)
    assert archive.backfill() == []


def test_of_two_copies_one_takes_the_place(archive: Archive) -> None:
    """The first of several copies becomes the original, the others are its copies."""
    archive.put(A, RUN.data)
    archive.copy(A, B)
    archive.copy(A, C)
    assert archive.backfill() == [("ingested", A), ("duplicate", B), ("duplicate", C)]
    archive.delete(A)
    assert archive.backfill() == [("moved", B), ("unchanged", C)]
    archive.delete(B)
    assert archive.backfill() == [("moved", C)]


def test_a_chain_of_renames(archive: Archive) -> None:
    """A->B and B->C in one go: both runs are kept, each under its new path."""
    archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    archive.backfill()
    ids = {name: row.run_id for name, row in archive.live().items()}
    archive.move(B, C)
    archive.move(A, B)
    archive.backfill()
    assert {name: row.run_id for name, row in archive.live().items()} == {B: ids[A], C: ids[B]}


def test_two_files_change_names(archive: Archive) -> None:
    """A<->B: both runs are kept, each under its new path; so they are when they change back."""
    archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    archive.backfill()
    ids = {name: row.run_id for name, row in archive.live().items()}
    for expected in ({A: ids[B], B: ids[A]}, ids):
        archive.move(A, "swapping")
        archive.move(B, A)
        archive.move("swapping", B)
        archive.backfill()
        assert {name: row.run_id for name, row in archive.live().items()} == expected


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("edit", [{"chip": 67}, {"rows": RUN.rows + 1}], ids=["edited", "grown"])
def test_a_copy_made_before_an_edit_of_the_original(archive: Archive, edit: dict[str, int], force: bool) -> None:
    """Copied, then the original corrected, both unseen: the copy is a copy, the original is edited, one row."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.copy(A, C)
    archive.put(A, RUN.but(**edit).data)
    assert archive.backfill(force=force) == [("duplicate", C), ("edited" if "chip" in edit else "updated", A)]
    assert [(row.source_file, row.source_size) for row in archive.rows()] == [(A, len(RUN.but(**edit).data))]


@pytest.mark.parametrize("name", [A, "It_1.csv"], ids=["dated by its path", "dated by its mtime"])
def test_a_copy_of_what_a_run_without_a_start_time_was_before_it_grew(archive: Archive, name: str) -> None:
    """The original begins with the bytes of the copy: it is the same measurement, which has gone on."""
    archive.put(name, RUN.but(start=None).data)
    archive.backfill()
    archive.copy(name, C)
    archive.put(name, RUN.but(start=None, rows=RUN.rows + 1).data)
    assert sorted(archive.backfill()) == [("duplicate", C), ("updated", name)]
    assert len(archive.rows()) == 1


@pytest.mark.parametrize("known", [False, True])
def test_a_copy_of_a_run_whose_file_is_another_run_s_now(archive: Archive, known: bool) -> None:
    """Bytes that go on as the run did are another's all the same, where they are known as that: the copy is left."""
    longer = RUN.but(rows=RUN.rows + 1)
    archive.put(A, RUN.data)
    archive.put(B, longer.data)
    archive.backfill()
    ids = {row.source_file: row.run_id for row in archive.rows()}
    archive.copy(A, C)
    if known:
        assert archive.backfill() == [("duplicate", C)]
    archive.put(A, longer.data)
    assert sorted(archive.backfill()) == [("duplicate", A), ("moved", C)]
    assert {row.source_file: row.run_id for row in archive.rows()} == {B: ids[B], C: ids[A]}


def test_a_copy_of_a_run_that_goes_on_being_measured(archive: Archive) -> None:
    """While its file is written to, the copy is one; what it becomes is decided when it is over."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.copy(A, C)
    with (archive.raw / A).open("ab") as file:
        file.write(b"1.5,3.1e-05,1.4,n")
        file.flush()
        assert archive.backfill_amid() == [("duplicate", C)]
        file.write(b"an,nan,nan\r\n")
    archive.touch(A)
    assert archive.backfill() == [("updated", A)]
    assert len(archive.rows()) == 1


def test_a_copy_of_a_run_that_is_being_saved(archive: Archive) -> None:
    """An editor has written header and a row so far: it is the run's file, and the copy takes no run away from it."""
    edited, half = RUN.but(chip=67).data, -30
    archive.put(A, RUN.data)
    archive.backfill()
    archive.copy(A, C)
    with (archive.raw / A).open("wb") as file:
        file.write(edited[:half])
        file.flush()
        assert archive.backfill_amid() == [("duplicate", C)]
        file.write(edited[half:])
    archive.touch(A)
    assert archive.backfill() == [("edited", A)]
    assert {row.source_file: row.chip_number for row in archive.rows() if row.live} == {A: 67}


@pytest.mark.parametrize("other", [OTHER, OTHER.but(start=None)], ids=["with a start time", "without one"])
@pytest.mark.parametrize("rows", [0, 2], ids=["header alone", "some rows"])
def test_a_moved_run_whose_name_a_running_measurement_has_taken(
    archive: Archive, rows: int, other: Measurement
) -> None:
    """Nothing says that it is the same measurement: the run is where its bytes are, whoever writes at its old path."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.move(A, C)
    with (archive.raw / A).open("wb") as file:
        file.write(other.but(rows=rows).data)
        file.flush()
        assert archive.backfill_amid() == [("moved", C)]
        file.write(other.data.removeprefix(other.but(rows=rows).data))
    archive.touch(A)
    assert archive.backfill() == [("ingested", A)]
    assert {row.source_file: row.chip_number for row in archive.rows()} == {C: RUN.chip, A: OTHER.chip}


def test_a_copy_of_a_run_that_was_spoilt_and_mended(archive: Archive) -> None:
    """A slip in the editor is rejected, the run stays where it was; mended, it is the same run again."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.copy(A, C)
    archive.put(A, RUN.data.replace(b",1.4,", b",1,4,"))
    assert archive.backfill() == [("duplicate", C), ("rejected", A)]
    archive.put(A, RUN.but(chip=67).data)
    assert archive.backfill() == [("edited", A)]
    assert {row.source_file: row.chip_number for row in archive.rows() if row.live} == {A: 67}


def test_a_copy_put_over_a_queued_file_before_an_edit_of_the_original(archive: Archive) -> None:
    """The path of the copy is known already, and the copy is decided first all the same."""
    archive.put(C, RUN.but(rows=0).data)
    archive.put(A, RUN.data)
    archive.backfill()
    archive.copy(A, C)
    archive.put(A, RUN.but(rows=RUN.rows + 1).data)
    assert archive.backfill() == [("duplicate", C), ("updated", A)]
    assert len(archive.rows()) == 1


@pytest.mark.parametrize("edit", [{"rows": RUN.rows + 1}, {"chip": 67}], ids=["grown", "of the same size"])
@pytest.mark.parametrize(("original", "over"), [(A, B), (B, A)])
def test_a_copy_put_over_another_run_before_an_edit_of_the_original(
    archive: Archive, original: str, over: str, edit: dict[str, int]
) -> None:
    """Whatever their names, the copy is decided before the edit: the run it covers stays, nothing counts twice."""
    archive.put(original, RUN.data)
    archive.put(over, OTHER.data)
    archive.backfill()
    ids = {row.run_id for row in archive.rows()}
    archive.copy(original, over)
    archive.put(original, RUN.but(**edit).data)
    assert archive.backfill() == [("duplicate", over), ("updated" if "rows" in edit else "edited", original)]
    assert {row.run_id for row in archive.rows() if row.live} == ids


@pytest.mark.parametrize("edit", [{"rows": RUN.rows + 1}, {"chip": 67}], ids=["grown", "of the same size"])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(("original", "link"), [(A, B), (B, A)])
def test_an_edit_seen_through_a_hard_link(
    archive: Archive, original: str, link: str, known: bool, edit: dict[str, int]
) -> None:
    """Two names of one file show the same edit: it is the original's, whatever the names, and the link stays a copy."""
    archive.put(original, RUN.data)
    archive.backfill()
    os.link(archive.raw / original, archive.raw / link)
    if known:
        assert archive.backfill() == [("duplicate", link)]
    archive.put(original, RUN.but(**edit).data)
    edited, copied = "updated" if "rows" in edit else "edited", "unchanged" if known else "duplicate"
    assert archive.backfill() == [(edited, original), (copied, link)]
    assert len(archive.rows()) == 1


def test_a_file_overwritten_by_a_copy_of_another(archive: Archive) -> None:
    """`cp A B`: the run that B held stays (as a deleted one does), A's is counted once."""
    archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    archive.backfill()
    ids = {row.run_id for row in archive.rows()}
    archive.copy(A, B)
    assert archive.backfill() == [("duplicate", B)]
    assert {row.run_id for row in archive.rows() if row.live} == ids


def test_a_file_moved_over_another(archive: Archive) -> None:
    """`mv A B`: both runs stay; the path is that of the run that moved, and what follows is about that one."""
    archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    archive.backfill()
    moved, covered = archive.live()[A].run_id, archive.live()[B].run_id
    archive.move(A, B)
    assert archive.backfill() == [("moved", B)]
    assert {(row.run_id, row.source_file) for row in archive.rows()} == {(moved, B), (covered, B)}
    archive.put(B, RUN.but(rows=4).data)
    assert archive.backfill() == [("updated", B)]
    assert {row.run_id: row.rows for row in archive.rows()} == {moved: 4, covered: 3}


def test_case_twins(archive: Archive) -> None:
    """`x.csv` and `X.csv` with the same start and other content are two runs, though their plain ids are one."""
    archive.put("day/x_1.csv", RUN.data)
    archive.put("day/X_1.csv", RUN.but(sample=1).data)
    assert archive.backfill() == [("ingested", "day/X_1.csv"), ("ingested", "day/x_1.csv")]
    assert len({row.run_id for row in archive.rows()}) == 2
    archive.put("day/x_1.csv", RUN.but(rows=4).data)
    archive.put("day/X_1.csv", RUN.but(rows=4, sample=1).data)
    assert archive.backfill() == [("updated", "day/X_1.csv"), ("updated", "day/x_1.csv")]


@pytest.mark.parametrize("name", ["Day/It_1.csv", "day/iT_1.csv"])
def test_another_spelling_on_a_share_that_ignores_case(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The old name still leads to the file, which is no copy of itself: the run moves, and an edit stays an edit."""
    lstat = Path.lstat

    def in_any_case(path: Path) -> os.stat_result:
        spelt = {str(one).lower(): one for one in archive.raw.rglob("*")}
        return lstat(spelt.get(str(path).lower(), path))

    archive.put("day/It_1.csv", RUN.data)
    archive.backfill()
    archive.move("day/It_1.csv", name)
    if name.startswith("D"):
        archive.delete("day")
    monkeypatch.setattr(Path, "lstat", in_any_case)
    assert archive.backfill_amid() == [("moved", name)]
    archive.put(name, RUN.but(chip=67).data)
    assert archive.backfill_amid() == [("edited", name)]
    assert list(archive.live()) == [name]


def test_the_same_run_in_two_new_folders(archive: Archive) -> None:
    """Written to two folders and seen at once: the first path is the run, the second its copy."""
    archive.put(A, RUN.data)
    archive.put("backup/It_1.csv", RUN.data)
    assert archive.backfill() == [("ingested", A), ("duplicate", "backup/It_1.csv")]


def test_a_hard_link_is_a_copy(archive: Archive) -> None:
    """Two names of one file are one run."""
    archive.put(A, RUN.data)
    os.link(archive.raw / A, archive.raw / B)
    assert archive.backfill() == [("ingested", A), ("duplicate", B)]


def many_of_one_size(archive: Archive) -> list[str]:
    """Ingest more runs of one size than are compared in advance; return their files."""
    names = [f"2025-09-23/It_{number}.csv" for number in range(1, KNOWN_AT_MOST + 4)]
    for number, name in enumerate(names):
        archive.put(name, RUN.but(start=1758632100.25 + number).data)
    archive.backfill()
    return names


def test_copies_among_many_files_of_one_size(archive: Archive) -> None:
    """Where more runs than are compared in advance have one size, a copy, a touch and a move are told all the same."""
    names = many_of_one_size(archive)
    assert len({(archive.raw / name).stat().st_size for name in names}) == 1
    archive.copy(names[0], "copy.csv")
    archive.touch(names[1])
    archive.move(names[2], "moved.csv")
    assert sorted(archive.backfill()) == [("duplicate", "copy.csv"), ("moved", "moved.csv"), ("unchanged", names[1])]
    assert len(archive.live()) == len(names)


@pytest.mark.parametrize("edit", [{"chip": 67}, {"rows": 4}], ids=["edited", "grown"])
def test_a_copy_beside_an_edit_of_its_original_among_many_files_of_one_size(
    archive: Archive, edit: dict[str, int]
) -> None:
    """Seen at once: the copy is told from the bytes the original had, as where few have that size."""
    names = many_of_one_size(archive)
    archive.copy(names[4], "copy.csv")
    archive.put(names[4], RUN.but(start=1758632104.25, **edit).data)
    assert [event for event, _ in archive.backfill()] == ["duplicate", "edited" if "chip" in edit else "updated"]
    assert sorted(archive.live()) == sorted(names)


def test_a_moved_run_whose_name_a_new_one_has_among_many_files_of_one_size(archive: Archive) -> None:
    """Seen at once: the run is where its bytes are, and the new measurement is a run of its own."""
    names = many_of_one_size(archive)
    run_id = archive.live()[names[2]].run_id
    archive.move(names[2], "moved.csv")
    archive.put(names[2], OTHER.data)
    assert archive.backfill() == [("moved", "moved.csv"), ("ingested", names[2])]
    assert archive.live()["moved.csv"].run_id == run_id
