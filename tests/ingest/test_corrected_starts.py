"""Copies of a run whose start time is corrected in its raw file: the measurement counts once, as corrected."""

from __future__ import annotations

import pytest
from archive import Archive, unreadable
from measurement import Measurement

RUN = Measurement()
CORRECTED = RUN.but(start=1758699999.5)
A, B, C = "2025-09-23/It_1.csv", "2025-09-23/It_2.csv", "2025-09-24/It_3.csv"


@pytest.mark.parametrize("force", [False, True])
def test_a_copy_made_before_the_original_was_corrected(archive: Archive, force: bool) -> None:
    """Neither was seen when it happened."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.copy(A, C)
    archive.put(A, CORRECTED.data)
    assert archive.backfill(force=force) == [("duplicate", C), ("superseded", A)]
    assert list(archive.live()) == [A]
    assert archive.backfill() == []


def test_a_known_copy_that_is_renamed_while_the_original_is_corrected(copied: Archive) -> None:
    """It has the run's bytes at a new path, as if the run had moved there."""
    copied.move(B, C)
    copied.put(A, CORRECTED.data)
    assert copied.backfill() == [("duplicate", C), ("superseded", A)]
    assert list(copied.live()) == [A]
    assert copied.backfill() == []


def test_a_run_moved_off_before_another_measurement_took_its_name(archive: Archive) -> None:
    """With other rows it is no correction: the run is where its bytes are."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.copy(A, C)
    archive.put(A, CORRECTED.but(sample=2).data)
    assert archive.backfill() == [("moved", C), ("ingested", A)]
    assert sorted(archive.live()) == [A, C]


def test_a_copy_waits_while_nothing_tells_whether_its_original_was_corrected(archive: Archive) -> None:
    """Only the run's Parquet can tell, and the disk does not give it: neither file counts as another measurement."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.copy(A, C)
    archive.put(A, CORRECTED.data)
    with unreadable(archive.staged(archive.live()[A])):
        assert archive.backfill_amid() == []
    assert {file.source_file for file in archive.report.failed} == {A, C}
    assert archive.backfill() == [("duplicate", C), ("superseded", A)]


def test_a_copy_put_back_over_a_corrected_start_undoes_it(copied: Archive) -> None:
    """The run has its first id again, and its copy takes its place when it goes."""
    (first,) = copied.live().values()
    copied.put(A, CORRECTED.data)
    copied.backfill()
    copied.copy(B, A)
    assert copied.backfill() == [("superseded", A)]
    assert copied.live()[A].run_id == first.run_id
    assert copied.notes()[B].run_id == first.run_id
    copied.delete(A)
    assert copied.backfill() == [("moved", B)]


def test_a_copy_from_before_a_corrected_start_counts_when_another_measurement_has_the_path(copied: Archive) -> None:
    """It follows the run to its new id, so that it is known to be all that is left of it."""
    copied.put(A, CORRECTED.data)
    assert copied.backfill() == [("superseded", A)]
    copied.put(A, RUN.but(start=None, chip=67, sample=2).data)
    assert copied.backfill() == [("edited", A), ("ingested", B)]
    assert {name: row.chip_number for name, row in copied.live().items()} == {A: 67, B: 72}
