"""A batch that the disk does not let end: its record can be neither flushed nor cut back, or Parquet not be removed."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from archive import Archive
from measurement import Measurement

from ingestd import files
from ingestd.errors import InDoubt, Retry
from ingestd.ingest.commit import Ingest, opened
from ingestd.layout import PART_NAME
from ingestd.raw.settling import Observation
from ingestd.stage.placing import NOTE_NAME, is_under_way
from ingestd.stage.run import stage_batch
from ingestd.upkeep.verify import verify

RUN = Measurement()
A, B = "2025-09-23/It_1.csv", "2025-09-23/It_2.csv"


def commit(archive: Archive, ingest: Ingest, name: str) -> None:
    """Stage one raw file and decide about it."""
    task = ingest.task_for(name, files.stat_of((archive.raw / name).lstat()), Observation(1e6, ""))
    ingest.commit(stage_batch([task], ingest.context))


def commit_in_doubt(archive: Archive, ingest: Ingest, monkeypatch: pytest.MonkeyPatch, *, whole: bool) -> None:
    """Decide about A while the disk takes the record, or half of it, and then nothing any more."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def write_and_refuse(descriptor: int, data: bytes, offset: int) -> None:
        os.pwrite(descriptor, data if whole else data[: len(data) // 2], offset)
        refuse()

    ingest.forget([])  # begins the log
    with monkeypatch.context() as patch:
        patch.setattr("ingestd.manifest.log._write_all", write_and_refuse)
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(InDoubt, match="Input/output error"):
            commit(archive, ingest, A)


def keep_parquet(patch: pytest.MonkeyPatch) -> None:
    """Let no Parquet be removed."""
    unlink = os.unlink

    def keep(path: str | Path, **given: Any) -> None:
        if Path(path).name == PART_NAME:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        unlink(path, **given)

    patch.setattr(os, "unlink", keep)


@pytest.mark.parametrize("whole", [True, False], ids=["recorded", "torn"])
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_new_run_in_doubt_is_recorded_with_its_parquet_or_not_at_all(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, whole: bool, goes_on: bool
) -> None:
    """The next batch of the process, or the next start, asks the log: no record names Parquet that is not there."""
    archive.put(A, RUN.data)
    archive.put(B, RUN.but(start=1758700000.5, sample=2).data)
    with opened(archive.settings, archive.now) as ingest:
        commit_in_doubt(archive, ingest, monkeypatch, whole=whole)
        if goes_on:
            commit(archive, ingest, B)
            assert (A in {run.source_file for run in ingest.store.catalog.rows.values()}) == whole
    with opened(archive.settings, archive.now):
        pass
    staged = list(archive.layout.staged_root.glob("*/*/*/*.parquet"))
    assert len(staged) == whole + goes_on
    archive.backfill_amid()
    assert sorted(archive.live()) == [A, B]
    assert verify(archive.settings, deep=True).clean


@pytest.mark.parametrize("goes_on", [True, False])
def test_an_edit_in_doubt_that_is_taken_back_leaves_the_run_as_it_was(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    """Half a record is none: the Parquet that the edit had replaced is put back."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put(A, RUN.but(chip=67).data)
    archive.put(B, RUN.but(start=1758700000.5, sample=2).data)
    with opened(archive.settings, archive.now) as ingest:
        commit_in_doubt(archive, ingest, monkeypatch, whole=False)
        if goes_on:
            commit(archive, ingest, B)
    archive.put(A, RUN.data)
    archive.backfill_amid()
    assert archive.live()[A].chip_number == RUN.chip
    assert verify(archive.settings, deep=True).clean


@pytest.mark.parametrize("goes_on", [True, False])
def test_an_edit_in_doubt_is_taken_back_from_another_disk_too(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    """Replaced versions may be kept behind a link, on a disk from which no rename leads into the stage."""
    elsewhere = Path("/dev/shm")
    if not os.access(elsewhere, os.W_OK) or elsewhere.stat().st_dev == archive.root.stat().st_dev:
        pytest.skip("there is no second file system here that may be written to")
    with tempfile.TemporaryDirectory(dir=elsewhere) as folder:
        archive.layout.stage_root.mkdir()
        archive.layout.superseded_root.symlink_to(folder)
        archive.put(A, RUN.data)
        archive.backfill()
        archive.put(A, RUN.but(chip=67).data)
        with opened(archive.settings, archive.now) as ingest:
            commit_in_doubt(archive, ingest, monkeypatch, whole=False)
            archive.put(A, RUN.data)
            if goes_on:
                commit(archive, ingest, A)
        archive.backfill_amid()
        assert archive.live()[A].chip_number == RUN.chip
        assert verify(archive.settings, deep=True).clean


@pytest.mark.parametrize("goes_on", [True, False])
def test_parquet_that_the_disk_would_not_let_go_is_removed_by_the_next_batch_or_start(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    """Whoever scans the stage must not find a superseded run beside its successor for good."""
    archive.put(A, RUN.data)
    archive.backfill()
    old = archive.staged(archive.live()[A])
    archive.put(A, RUN.but(start=1758700000.5).data)
    archive.put(B, RUN.but(start=1758700001.5, sample=2).data)
    with opened(archive.settings, archive.now) as ingest:
        with monkeypatch.context() as patch:
            keep_parquet(patch)
            commit(archive, ingest, A)
        assert old.exists()
        if goes_on:
            commit(archive, ingest, B)
            assert not old.exists()
    archive.backfill_amid()
    assert not old.exists()
    assert verify(archive.settings, deep=True).clean


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_run_in_doubt_that_the_disk_would_not_let_go_is_taken_back_later(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    """Neither the next batch nor the next start gives up its note before the Parquet without a record is gone."""
    archive.put(A, RUN.data)
    archive.put(B, RUN.but(start=1758700000.5, sample=2).data)
    with opened(archive.settings, archive.now) as ingest:
        commit_in_doubt(archive, ingest, monkeypatch, whole=False)
        archive.delete(A)
        if goes_on:
            with monkeypatch.context() as patch:
                keep_parquet(patch)
                with pytest.raises(Retry, match="Input/output error"):
                    commit(archive, ingest, B)
    with monkeypatch.context() as patch:
        keep_parquet(patch)
        with pytest.raises(Retry, match="Input/output error"):
            archive.backfill_amid()
    assert archive.backfill() == [("ingested", B)]


def test_a_batch_whose_note_is_out_of_reach_may_be_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a note that is certainly not there lets the next batch write its own, or a stop delete the folder."""
    (tmp_path / NOTE_NAME).write_text("{}")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        assert is_under_way(tmp_path)
    assert is_under_way(tmp_path)
    (tmp_path / NOTE_NAME).unlink()
    assert not is_under_way(tmp_path)
