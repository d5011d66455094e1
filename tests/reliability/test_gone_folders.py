"""Whole folders of ours that are taken away: nothing is begun anew in their place, and the way back is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import lived
import pytest
from archive import Archive
from measurement import Measurement

from ingestd.errors import Corrupt, Retry
from ingestd.service.status import read_status
from ingestd.service.status_report import Health

RUN, OTHER = Measurement(), Measurement(start=1758639999.5, chip=67, sample=1)
A, B = "2025-09-23/It_1.csv", "2025-09-23/It_2.csv"


@pytest.fixture
def staged(empty: Archive) -> Archive:
    """Two runs, and the raw file of one was stored elsewhere since."""
    empty.put(A, RUN.data)
    empty.put(B, OTHER.data)
    empty.backfill()
    empty.delete(B)
    empty.backfill()
    return empty


def test_no_manifest_is_begun_beside_staged_runs(staged: Archive) -> None:
    """The manifest was deleted: a backfill would forget the run without a raw file; a rebuild brings all back."""
    want = lived.manifest(staged)
    shutil.rmtree(staged.layout.manifest_path.parent)
    staged.backfill_amid()
    problem = staged.report.stopped_by
    assert isinstance(problem, Corrupt)
    assert problem.message.startswith("the manifest is gone, but runs are staged")
    assert problem.place == str(staged.layout.manifest_path.parent)
    assert problem.next_step.startswith("`ingestd rebuild-manifest` makes it again")
    lived.rebuild(staged, "stage")
    assert lived.manifest(staged) == want
    assert staged.backfill_amid() == []
    lived.check_sound(staged)


def test_a_manifest_begins_anew_once_the_staged_runs_are_moved_away(staged: Archive, tmp_path: Path) -> None:
    """As the message says."""
    shutil.rmtree(staged.layout.manifest_path.parent)
    staged.layout.staged_root.rename(tmp_path / "away")
    assert staged.backfill_amid() == [("ingested", A)]


def test_nothing_is_staged_where_the_staged_runs_are_gone(staged: Archive, tmp_path: Path) -> None:
    """Their folder was moved: it is waited for, and nothing is made in its place. With it back, work goes on."""
    away = staged.layout.staged_root.rename(tmp_path / "away")
    staged.put("It_3.csv", RUN.but(start=1758700000.5, sample=3).data)
    staged.backfill_amid()
    assert isinstance(staged.report.stopped_by, Retry)
    assert staged.report.stopped_by.place == str(staged.layout.staged_root)
    assert not staged.layout.staged_root.exists()
    away.rename(staged.layout.staged_root)
    assert staged.backfill() == [("ingested", "It_3.csv")]
    lived.check_sound(staged)


def test_no_rebuild_from_raw_files_begins_while_the_staged_runs_are_away(staged: Archive, tmp_path: Path) -> None:
    """It would stage them anew beside those that come back; nothing is changed."""
    before = staged.layout.manifest_path.read_bytes()
    staged.layout.staged_root.rename(tmp_path / "away")
    with pytest.raises(Retry, match="the staged runs are gone"):
        lived.rebuild(staged, "raw")
    assert staged.layout.manifest_path.read_bytes() == before
    assert not staged.layout.staged_root.exists()


def test_staged_runs_that_are_lost_are_staged_again_by_a_repair(staged: Archive) -> None:
    """Where there is a raw file; the run without one is named as lost."""
    (gone,) = (row.run_id for row in staged.rows() if row.source_file == B)
    shutil.rmtree(staged.layout.staged_root)
    done = lived.mend(staged)
    assert [(one.kind, one.run_id) for one in done.left] == [("parquet-missing", gone)]
    assert staged.staged(staged.live()[A]).exists()
    staged.touch(A)
    assert staged.backfill_amid() == [("unchanged", A)]


def test_a_repair_ends_the_wait_for_staged_runs_that_no_raw_file_brings_back(staged: Archive) -> None:
    """All raw files were stored elsewhere: nothing can be staged again, but what is measured from now on is staged."""
    staged.delete(A)
    staged.backfill()
    shutil.rmtree(staged.layout.staged_root)
    staged.put("It_3.csv", RUN.but(start=1758700000.5, sample=3).data)
    assert staged.backfill_amid() == []
    for done in (lived.mend(staged, apply=False), lived.mend(staged)):
        assert [(step.kind, step.paths) for step in done.steps] == [("stage-folder", ["02_stage/raw_measurements"])]
        assert {finding.kind for finding in done.left} == {"parquet-missing"}
    assert staged.backfill_amid() == [("ingested", "It_3.csv")]
    assert len(staged.live()) == 3


@pytest.mark.parametrize("part", ["_manifest", "raw_measurements"])
def test_the_status_says_what_is_gone(staged: Archive, tmp_path: Path, part: str) -> None:
    """Nothing will be staged, so it is not said that the next backfill stages what waits, and no more."""
    staged.put("It_3.csv", RUN.but(start=1758700000.5, sample=3).data)
    assert read_status(staged.settings, staged.now()).troubles == []
    (staged.layout.stage_root / part).rename(tmp_path / "away")
    report = read_status(staged.settings, staged.now())
    assert report.health is Health.NEEDS_A_PERSON
    (trouble,) = report.troubles
    assert trouble.place == str(staged.layout.stage_root / part)
    assert ("`ingestd rebuild-manifest`" if part == "_manifest" else "`ingestd repair --apply`") in trouble.next_step
