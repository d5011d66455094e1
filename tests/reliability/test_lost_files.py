"""A run's raw file that was emptied, cut back to its header or overwritten: every command tells what is gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import lived
import pytest
from archive import Archive
from inline import inline
from lived import PLAIN, RUN

from ingestd.backfill.run import Options, backfill
from ingestd.cli.report import exit_code
from ingestd.ingest.lost import RESTORE_EMPTIED, lost_at
from ingestd.manifest.store import ManifestStore
from ingestd.service.status import read_status
from ingestd.service.status_report import Health, StatusReport
from ingestd.upkeep.explain import explain

HEADER = RUN.but(rows=0).data
OTHER = f"{lived.DAY}/It_2.csv"
CASES = [(b"", "is empty now"), (HEADER, "has only its header now"), (HEADER + b"1", "no longer has a complete row")]


@pytest.fixture
def run_id(empty: Archive) -> str:
    """The id of the one run that is staged."""
    empty.put(PLAIN, RUN.data)
    empty.backfill()
    return empty.live()[PLAIN].run_id


def status(archive: Archive) -> StatusReport:
    """Ask for the status at the archive's own time."""
    return read_status(archive.settings, archive.now())


def link_to(path: Path) -> None:
    """Put a link to a sound measurement at a path."""
    target = path.with_name("elsewhere.txt")
    target.write_bytes(RUN.data)
    path.symlink_to(target)


def verdict(archive: Archive, asked: str = PLAIN) -> str:
    """Explain at the archive's own time."""
    return explain(archive.settings, asked, archive.now()).verdict


@pytest.mark.parametrize(("data", "now"), CASES)
def test_it_is_told_before_and_after_the_next_backfill(empty: Archive, run_id: str, data: bytes, now: str) -> None:
    """Status needs a person, verify has a finding, explain says what to do; nobody calls the file queued."""
    told = f"t was run {run_id} (3 rows, kept staged), and {now}"
    empty.put(PLAIN, data)
    for decided in (False, True):
        if decided:
            assert empty.backfill() == [("queued", PLAIN)]
            for _ in range(2):  # when it is decided, and whenever it is passed over
                assert empty.report.lost == [(PLAIN, run_id, f"i{told}", RESTORE_EMPTIED, None)]
                assert lost_at(ManifestStore(empty.layout), PLAIN) == empty.report.lost, "what the service logs"
                assert (empty.report.waiting, exit_code(empty.report)) == ([], 1)
                assert empty.backfill() == []
        report = status(empty)
        (trouble,) = report.troubles
        assert (trouble.message, trouble.place) == (f"i{told}", str(empty.raw / PLAIN))
        assert trouble.next_step == RESTORE_EMPTIED
        assert (report.health, report.waiting, report.runs) == (Health.NEEDS_A_PERSON, [], 1)
        moved = "" if decided else ", unless it was moved, which the next `ingestd backfill` sees"
        assert verdict(empty) == f"I{told}: {RESTORE_EMPTIED}{moved}."
    (found,) = lived.findings(empty)
    assert (found.level, found.kind, found.run_id) == ("note", "raw-emptied", run_id)
    assert found.message == f"i{told}: {RESTORE_EMPTIED}"


def test_what_is_not_staged_any_more_is_not_called_staged(empty: Archive, run_id: str) -> None:
    """Where the run's Parquet is gone as well, every command says that of the emptied file."""
    empty.staged(empty.live()[PLAIN]).unlink()
    empty.put(PLAIN, b"")
    told = f"t was run {run_id} (3 rows, whose Parquet is gone too), and is empty now"
    for _ in range(2):  # before it is decided, and after it
        assert [trouble.message for trouble in status(empty).troubles] == [f"i{told}"]
        assert verdict(empty).startswith(f"I{told}: {RESTORE_EMPTIED}")
        report = backfill(empty.settings, Options(engine=inline, clock=empty.now))
        assert [file.message for file in report.lost] == [f"i{told}"]
    found = {one.kind: one.message for one in lived.findings(empty)}
    assert set(found) == {"parquet-missing", "raw-emptied"}
    assert found["raw-emptied"] == f"i{told}: {RESTORE_EMPTIED}"


def test_a_copy_of_what_was_emptied_is_named(empty: Archive, run_id: str) -> None:
    """It says which file has the bytes, as long as it has them, and that it takes the place; the backfill does that."""
    copy = "backup/It_1.csv"
    empty.copy(PLAIN, copy)
    assert empty.backfill() == [("duplicate", copy)]
    empty.put(PLAIN, b"")
    told = f"its copy {copy} takes its place at the next scan, or with `ingestd backfill`"
    for decided in (False, True):
        if decided:
            empty.backfill(only=frozenset({PLAIN}))
            assert [(file.run_id, file.next_step) for file in empty.report.lost] == [(run_id, told)]
            assert next(one.message for one in lived.findings(empty) if one.kind == "raw-emptied").endswith(told)
        (trouble,) = status(empty).troubles
        assert (trouble.place, trouble.next_step) == (str(empty.raw / PLAIN), told)
        assert verdict(empty).endswith(f": {told}."), "it is not said to be moved, perhaps"
    empty.backfill()
    assert empty.report.lost == []
    assert empty.live()[copy].run_id == run_id


def test_what_was_a_copy_once_is_not_named(empty: Archive, run_id: str) -> None:
    """A file known as a copy that has other bytes by now, or is gone, restores nothing."""
    copy = "backup/It_1.csv"
    empty.copy(PLAIN, copy)
    empty.backfill()
    empty.put(PLAIN, b"")
    empty.put(copy, SECOND.data)
    assert [(one.message, one.next_step) for one in status(empty).troubles] == [
        (f"it was run {run_id} (3 rows, kept staged), and is empty now", RESTORE_EMPTIED)
    ]
    empty.delete(copy)
    assert [one.next_step for one in status(empty).troubles] == [RESTORE_EMPTIED]


def test_the_backup_put_back_ends_it(empty: Archive, run_id: str) -> None:
    """With its bytes back the file is the run again, and nothing is left to tell."""
    empty.put(PLAIN, b"")
    empty.backfill()
    empty.put(PLAIN, RUN.data)
    assert empty.backfill() == [("unchanged", PLAIN)]
    assert status(empty).troubles == []
    assert lived.findings(empty) == []
    assert verdict(empty).startswith(f"It is run {run_id}: 3 rows")


def test_a_file_that_is_deleted_afterwards(empty: Archive, run_id: str) -> None:
    """An emptied file that is gone then is told as every run is whose raw file is gone."""
    empty.put(PLAIN, b"")
    empty.backfill()
    empty.delete(PLAIN)
    assert status(empty).troubles == []
    assert [one.kind for one in lived.findings(empty)] == ["raw-missing"]
    assert verdict(empty).startswith(f"It is run {run_id}: 3 rows")
    assert verdict(empty).endswith("Its raw file is gone; the staged data stays.")


@pytest.mark.parametrize(("put", "told"), [(link_to, "links are not followed"), (os.mkfifo, "no regular file")])
def test_what_stands_in_the_place_of_a_raw_file_is_told(
    empty: Archive, run_id: str, put: Callable[[Path], None], told: str
) -> None:
    """A raw file replaced by a link, or by what is no file, is not simply gone."""
    empty.delete(PLAIN)
    put(empty.raw / PLAIN)
    (found,) = lived.findings(empty)
    assert (found.kind, found.run_id, told in found.message) == ("raw-missing", run_id, True)
    assert status(empty).runs_without_raw_file == 1
    for asked in (PLAIN, run_id):
        assert told in verdict(empty, asked)


def test_a_new_run_queued_in_the_place_of_one_that_was_moved(empty: Archive, run_id: str) -> None:
    """A run whose file was renamed is not lost, before the next backfill and after it: the new file is queued."""
    empty.move(PLAIN, OTHER)
    empty.put(PLAIN, HEADER)
    for decided in (False, True):
        if decided:
            empty.backfill()
            assert empty.live()[OTHER].run_id == run_id
            assert verdict(empty).startswith("It is queued: header only")
        report = status(empty)
        assert report.troubles == []
        assert ("queued", PLAIN) in [(file.state, file.source_file) for file in report.waiting]
    assert [one.kind for one in lived.findings(empty)] == ["queued"]


# ---- overwritten with another run's bytes ----------------------------------------------------------------------------

SECOND = RUN.but(start=1758700000.5, sample=7, rows=5)


@pytest.fixture
def second_id(empty: Archive, run_id: str) -> str:
    """The id of a second run, beside the first."""
    assert run_id
    empty.put(OTHER, SECOND.data)
    empty.backfill()
    return empty.live()[OTHER].run_id


def told(run_id: str, other: str) -> str:
    """What is said of the first run's file when it has the second's bytes."""
    return f"it was run {run_id} (3 rows, kept staged), and has the bytes of run {other} now"


def test_an_overwritten_file_is_told_by_every_command(empty: Archive, run_id: str, second_id: str) -> None:
    """`cp` of one run's file over another's: the copy is one, and what was there is told until it is restored."""
    empty.put(PLAIN, SECOND.data)
    assert empty.backfill() == [("duplicate", PLAIN)]
    for _ in range(2):
        assert empty.report.lost == [(PLAIN, run_id, told(run_id, second_id), "restore it from a backup", None)]
        assert exit_code(empty.report) == 1
        assert empty.backfill() == []
    report = status(empty)
    (trouble,) = report.troubles
    assert (trouble.message, trouble.next_step) == (told(run_id, second_id), "restore it from a backup")
    assert (report.health, report.runs) == (Health.NEEDS_A_PERSON, 2)
    found = {one.kind: one for one in lived.findings(empty)}
    assert set(found) == {"duplicate", "raw-overwritten"}
    assert found["raw-overwritten"].run_id == run_id
    assert found["raw-overwritten"].message == f"{told(run_id, second_id)}: restore it from a backup"
    sentence = f"{PLAIN}: {told(run_id, second_id)}: restore it from a backup."
    assert verdict(empty) == f"It is a copy of {OTHER} (run {second_id}): counted once, there. {sentence}"
    assert verdict(empty, run_id).startswith(f"It is run {run_id}: 3 rows")
    assert verdict(empty, run_id).endswith(sentence)
    assert verdict(empty, second_id).startswith(f"It is run {second_id}: 5 rows")
    empty.put(PLAIN, RUN.data)
    empty.backfill()
    assert (empty.report.lost, status(empty).troubles, lived.findings(empty)) == ([], [], [])


def test_a_run_that_moved_over_anothers_file(empty: Archive, run_id: str, second_id: str) -> None:
    """`mv` of one run's file over another's: the run moved, and the one that was there is told."""
    empty.put(PLAIN, SECOND.data)
    empty.delete(OTHER)
    empty.backfill()
    assert empty.report.lost == [(PLAIN, run_id, told(run_id, second_id), "restore it from a backup", None)]
    assert [one.kind for one in lived.findings(empty)] == ["raw-overwritten"]
    assert verdict(empty, run_id).endswith("restore it from a backup.")
    assert verdict(empty, second_id).startswith(f"It is run {second_id}: 5 rows")
    assert "restore" not in verdict(empty, second_id)


@pytest.mark.parametrize("both", [False, True])
def test_a_run_is_not_staged_again_from_the_file_of_one_that_moved_over_it(
    both: bool, empty: Archive, run_id: str, second_id: str
) -> None:
    """Its Parquet is gone as well: the plan names it as left, as the repair does, and the other is staged again."""
    empty.put(PLAIN, SECOND.data)
    empty.delete(OTHER)
    empty.backfill()
    rows, want = {row.run_id: row for row in empty.rows()}, lived.manifest(empty)
    for run in (run_id, second_id) if both else (run_id,):
        empty.staged(rows[run]).unlink()
    plan = lived.mend(empty, apply=False)
    assert [step.paths for step in plan.steps] == ([[PLAIN]] if both else [])
    assert [(one.kind, one.run_id) for one in plan.left] == [("parquet-missing", run_id)]
    assert lived.mend(empty).left == plan.left
    assert lived.manifest(empty) == want


@pytest.mark.parametrize("first", ["deleted", "overwritten"])
def test_a_name_used_again_for_another_measurement(empty: Archive, run_id: str, first: str) -> None:
    """What the file was stays in manifest, stage and history; that its file is gone is told once, and by `verify`."""
    if first == "deleted":
        empty.delete(PLAIN)
        empty.backfill()
    empty.put(PLAIN, SECOND.data)
    assert empty.backfill() == [("ingested", PLAIN)]
    (record,) = empty.fresh
    assert record.note == f"the file was run {run_id}, with other rows; that one stays"
    other = str(record.run_id)
    next_step = "restore it from a backup under another name, unless it is kept elsewhere"
    assert empty.report.lost == [(PLAIN, run_id, told(run_id, other), next_step, None)]
    assert exit_code(empty.report) == 1
    assert {row.run_id for row in empty.rows() if row.live} == {run_id, other}
    assert empty.history(72) == [PLAIN, PLAIN]
    assert empty.backfill() == []
    assert (empty.report.lost, exit_code(empty.report), status(empty).troubles) == ([], 0, [])
    (found,) = lived.findings(empty)
    assert (found.level, found.kind, found.run_id) == ("note", "raw-overwritten", run_id)
    assert found.message == f"{told(run_id, other)}: {next_step}"
    assert verdict(empty, run_id).endswith(f"{found.message}.")
    assert verdict(empty).startswith(f"It is run {other}: 5 rows")
    want = lived.manifest(empty)
    for source in ("raw", "stage"):
        lived.rebuild(empty, source)
        assert lived.manifest(empty) == want, source
    empty.put(OTHER, RUN.data)
    assert empty.backfill_amid() == [("moved", OTHER)]
    assert lived.findings(empty) == []


def test_only_the_run_that_had_the_name_until_now_is_told(empty: Archive, run_id: str) -> None:
    """A name used again and again, the first file put back in between, perhaps corrected: each loss is told once."""
    now, third, fourth = run_id, RUN.but(start=1758700500.0, sample=8), RUN.but(start=1758700600.0, sample=9)
    changes = [(SECOND, "ingested"), (third, "ingested"), (RUN, "unchanged"), (fourth, "ingested")]
    for measurement, event in [*changes, (RUN.but(chip=67), "edited")]:
        empty.put(PLAIN, measurement.data)
        assert empty.backfill() == [(event, PLAIN)]
        assert [file.run_id for file in empty.report.lost] == [now]
        now = str(empty.fresh[0].run_id)
        empty.touch(PLAIN)
        assert empty.backfill() == [("unchanged", PLAIN)]
        assert empty.report.lost == []


@pytest.mark.parametrize("change", [{"start": 1758700100.0}, {"rows": 6}])
@pytest.mark.parametrize("start", [1758700000.0, 1758700011.0, 1758700022.0])
def test_a_name_used_again_before_the_manifest_was_lost(
    empty: Archive, run_id: str, start: float, change: dict[str, float]
) -> None:
    """Rebuilt from the stage alone, it knows which of the two runs the file is: that one is changed, none is added."""
    again = SECOND.but(start=start)
    empty.put(PLAIN, again.data)
    empty.backfill()
    other = empty.fresh[0].run_id
    want, notes = lived.manifest(empty), empty.notes()
    shutil.rmtree(empty.layout.manifest_path.parent)
    lived.rebuild(empty, "stage")
    assert (lived.manifest(empty), empty.notes()) == (want, notes)
    assert [(one.kind, one.run_id) for one in lived.findings(empty)] == [("raw-overwritten", run_id)]
    empty.put(PLAIN, again.but(**change).data)
    assert empty.backfill_amid() == [("superseded" if "start" in change else "updated", PLAIN)]
    assert other == (empty.fresh[0].rows[0].run_id if "start" in change else empty.fresh[0].run_id)
    assert sum(row.live for row in empty.rows()) == 2


def test_an_overwritten_file_that_is_deleted_then(empty: Archive, run_id: str, second_id: str) -> None:
    """Then it is told as every run is whose raw file is gone."""
    empty.put(PLAIN, SECOND.data)
    empty.backfill()
    empty.delete(PLAIN)
    for asked in (PLAIN, run_id):
        assert ("gone" in verdict(empty, asked), "restore" in verdict(empty, asked)) == (True, False)
    empty.backfill()
    assert (empty.report.lost, status(empty).troubles) == ([], [])
    assert [(one.kind, one.run_id) for one in lived.findings(empty)] == [("raw-missing", run_id)]
    assert second_id in {row.run_id for row in empty.live().values()}


def test_a_copy_put_over_a_file_whose_run_moved(empty: Archive, run_id: str, second_id: str) -> None:
    """The run that was there is at another path by now: nothing is lost."""
    empty.move(PLAIN, "moved/It_1.csv")
    empty.put(PLAIN, SECOND.data)
    empty.backfill()
    assert empty.live()["moved/It_1.csv"].run_id == run_id
    assert (empty.report.lost, status(empty).troubles) == ([], [])
    assert [one.kind for one in lived.findings(empty)] == ["duplicate"]
    assert second_id


def test_only_the_files_asked_for_are_told(empty: Archive, run_id: str) -> None:
    """`rejects retry` of one file tells nothing of another."""
    empty.put(PLAIN, b"")
    empty.backfill()
    assert empty.report.lost[0].run_id == run_id
    empty.backfill(only=frozenset({OTHER}))
    assert empty.report.lost == []


def test_a_superseded_run_is_told_as_what_it_is(empty: Archive, run_id: str) -> None:
    """Asked by its id, the story is about that run, not about the one that stands for its file now."""
    empty.put(PLAIN, RUN.but(start=1758632200.5).data)
    assert empty.backfill() == [("superseded", PLAIN)]
    now = empty.live()[PLAIN].run_id
    assert verdict(empty, run_id) == f"It was run {run_id}, superseded by {now}, which counts in its place."
    assert verdict(empty, now).startswith(f"It is run {now}")
