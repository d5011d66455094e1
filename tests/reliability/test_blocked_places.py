"""A folder in the place of one of our files: the other files are written, the place is named, a repair mends it."""

from __future__ import annotations

import shutil

import lived
import pytest
from archive import Archive
from measurement import BROKEN, Measurement

from ingestd.errors import Retry
from ingestd.manifest.store import ManifestStore

RUN, OTHER = Measurement(chip=67), Measurement(start=1758639999.5, chip=72, sample=1)
LATER = RUN.but(start=1758700000.5, sample=3)


@pytest.fixture
def blocked_history(empty: Archive) -> Archive:
    """The history of the first of two chips cannot be written, and both have changed."""
    empty.layout.history_file("Alisson67").mkdir(parents=True)
    empty.put("It_1.csv", RUN.data)
    empty.put("It_2.csv", OTHER.data)
    empty.backfill_amid()
    return empty


def test_a_blocked_history_keeps_up_no_other(blocked_history: Archive) -> None:
    """The report names its place; it is written once that is free."""
    archive = blocked_history
    place = archive.layout.history_file("Alisson67")
    assert archive.history(72) == ["It_2.csv"]
    problem = archive.report.stopped_by
    assert isinstance(problem, Retry)
    assert problem.message.startswith("this history could not be written: ")
    assert problem.place == str(place)
    assert "move the folder away" in problem.next_step
    assert archive.report.histories == ["Alisson72"]
    assert ManifestStore(archive.layout).pending == 0, "the log is compacted all the same"
    place.rmdir()
    assert archive.backfill() == []
    assert archive.report.histories == ["Alisson67"]
    assert archive.history(67) == ["It_1.csv"]


def test_histories_written_before_a_blocked_one_are_told(empty: Archive) -> None:
    """They are written together; the last one cannot be."""
    empty.layout.history_file("Alisson72").mkdir(parents=True)
    empty.put("It_1.csv", RUN.data)
    empty.put("It_2.csv", OTHER.data)
    empty.backfill_amid()
    assert empty.history(67) == ["It_1.csv"]
    assert empty.report.histories == ["Alisson67"]


def test_several_blocked_histories_are_counted(blocked_history: Archive) -> None:
    """The problem names the first and says how many more there are."""
    archive = blocked_history
    archive.layout.history_file("Alisson68").mkdir()
    archive.put("It_3.csv", LATER.but(chip=68).data)
    archive.backfill_amid()
    assert archive.report.stopped_by is not None
    assert "(and 1 more history could not be written)" in archive.report.stopped_by.message


def test_a_blocked_history_is_damage_that_a_repair_mends(blocked_history: Archive) -> None:
    """Although the chip is still to be brought up to date; what stood there is set aside."""
    archive = blocked_history
    (archive.layout.history_file("Alisson67") / "notes.txt").write_text("mine")
    path = archive.layout.relative(archive.layout.history_file("Alisson67"))
    assert lived.damages(archive) == {("history-differs", path)}
    done = lived.mend(archive)
    assert done.left == []
    assert archive.history(67) == ["It_1.csv"]
    assert done.aside is not None
    assert [kept.read_text() for kept in done.aside.rglob("notes.txt")] == ["mine"]
    lived.check_sound(archive)


def test_a_blocked_reject_json_keeps_up_no_other_and_no_compaction(empty: Archive) -> None:
    """It is told, it is damage, and a repair makes it; the other rejects of the batch have theirs."""
    names = ["bad_1.csv", "bad_2.csv", "bad_3.csv"]
    place = empty.layout.reject_file(names[0])
    (place / "sub").mkdir(parents=True)
    for number, name in enumerate(names):
        empty.put(name, BROKEN + str(number).encode())
    empty.backfill_amid()
    problem = empty.report.stopped_by
    assert isinstance(problem, Retry)
    assert problem.message.startswith("the JSON of a reject could not be written or removed: ")
    assert problem.place == str(place)
    assert all(empty.layout.reject_file(name).is_file() for name in names[1:])
    assert ManifestStore(empty.layout).pending == 0
    assert lived.damages(empty) == {("reject-damaged", empty.layout.relative(place))}
    assert lived.mend(empty).left == []
    assert place.is_file()
    lived.check_sound(empty)


def test_a_repair_frees_every_place_before_it_writes(blocked_history: Archive) -> None:
    """A history and a reject JSON are blocked, and a run must be staged again: one does not stop the other's repair."""
    archive = blocked_history
    place = archive.layout.reject_file("bad.csv")
    place.mkdir(parents=True)
    archive.put("bad.csv", BROKEN)
    lived.backfill_without_compaction(archive)
    archive.staged(archive.live()["It_2.csv"]).unlink()
    assert {kind for kind, _ in lived.damages(archive)} == {"history-differs", "reject-damaged", "parquet-missing"}
    assert lived.mend(archive).left == []
    assert place.is_file()
    assert archive.history(67) == ["It_1.csv"]
    lived.check_sound(archive)


def test_a_reject_whose_blocked_json_cannot_be_removed_is_staged_all_the_same(empty: Archive) -> None:
    """The file was corrected: it is a run, and only the folder in the place of its old reject is told of."""
    empty.put("It_1.csv", BROKEN)
    empty.backfill()
    place = empty.layout.reject_file("It_1.csv")
    place.unlink()
    place.mkdir()
    empty.put("It_1.csv", RUN.data)
    assert empty.backfill_amid() == [("ingested", "It_1.csv")]
    assert empty.report.stopped_by is not None
    assert empty.report.stopped_by.place == str(place)
    shutil.rmtree(place)
    assert empty.backfill() == []
    lived.check_sound(empty)
