"""A run's raw file that was emptied or cut back to its header: every command tells that its measurement is gone."""

from __future__ import annotations

import lived
import pytest
from archive import Archive
from lived import PLAIN, RUN

from ingestd.raw.settling import RESTORE
from ingestd.service.status import Health, StatusReport, read_status
from ingestd.upkeep.explain import explain

HEADER = RUN.but(rows=0).data
OTHER = f"{lived.DAY}/It_2.csv"
CASES = [(b"", "is empty now"), (HEADER, "has only its header now"), (HEADER + b"1", "has no complete row any more")]


@pytest.fixture
def run_id(empty: Archive) -> str:
    """The id of the one run that is staged."""
    empty.put(PLAIN, RUN.data)
    empty.backfill()
    return empty.live()[PLAIN].run_id


def status(archive: Archive) -> StatusReport:
    """Ask for the status at the archive's own time."""
    return read_status(archive.settings, archive.now())


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
                (waiting,) = empty.report.waiting
                assert waiting.reason == f"i{told}: {RESTORE}"
                assert empty.backfill() == []
        report = status(empty)
        (trouble,) = report.troubles
        assert (trouble.message, trouble.place) == (f"i{told}", str(empty.raw / PLAIN))
        assert trouble.next_step == RESTORE
        assert (report.health, report.waiting, report.runs) == (Health.NEEDS_A_PERSON, [], 1)
        assert verdict(empty).startswith(f"I{told}: {RESTORE}")
    (found,) = lived.findings(empty)
    assert (found.level, found.kind, found.run_id) == ("note", "raw-emptied", run_id)
    assert found.message == f"i{told}: {RESTORE}"


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
