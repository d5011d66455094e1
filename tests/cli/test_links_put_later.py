"""P1: a link that somebody puts below ingestd's own folders, after the start, leads no write into the raw files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import Folder
from measurement import BROKEN, Measurement

DAY = "2025-09-23"
GOOD, BAD = f"{DAY}/It_1.csv", f"{DAY}/It_2.csv"


@pytest.fixture
def raw(folder: Folder) -> Folder:
    """A data root with a good and a bad raw file, not staged yet."""
    folder.put(GOOD, Measurement().data)
    folder.put(BAD, BROKEN)
    return folder


def content(folder: Folder) -> dict[str, bytes | None]:
    """Everything below the raw root."""
    found = sorted(folder.raw.rglob("*"))
    return {str(path.relative_to(folder.raw)): path.read_bytes() if path.is_file() else None for path in found}


def link(folder: Folder, place: str) -> Path:
    """Put a link to the day's raw files at a place below the data root."""
    path = folder.path / "data" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(folder.raw / DAY, target_is_directory=True)
    return path


def test_no_reject_is_written_through_a_link(raw: Folder) -> None:
    """The run ends with the place and what to do; when the link is gone the reject is written."""
    before, path = content(raw), link(raw, f"02_stage/_rejects/{DAY}")
    done = raw.run("backfill")
    assert done.code == 2, done.out
    assert f"{path}: a link leads from here into paths.raw_root = {raw.raw}, where ingestd never writes" in done.err
    assert "next: move the link away" in done.err
    assert content(raw) == before
    path.unlink()
    assert raw.run("backfill").code == 1
    assert (path / "It_2.csv.json").is_file()
    assert content(raw) == before


def test_nothing_is_deleted_through_a_link(raw: Folder) -> None:
    """A file beside the measurements that is called as a reject would be is none of ingestd's."""
    raw.put(f"{BAD}.json", b"notes of a person")
    path = link(raw, f"02_stage/_rejects/{DAY}")
    raw.put(BAD, Measurement(rows=0).data)
    before = content(raw)
    raw.run("backfill")
    assert content(raw) == before
    assert path.is_symlink()


def test_no_metadata_is_written_through_a_link(raw: Folder) -> None:
    """`export-metadata` writes no day at all, because one of them would go among the raw files."""
    assert raw.run("backfill").code == 1
    before, path = content(raw), link(raw, f"metadata/{DAY}")
    done = raw.run("export-metadata")
    assert (done.code, done.out) == (2, "")
    assert f"{path}: a link leads from here into paths.raw_root" in done.err
    assert content(raw) == before


@pytest.mark.parametrize("name", ["lock", "service.lock"])
def test_no_lock_is_written_through_a_link(name: str, raw: Folder) -> None:
    """A lock that is a link to a measurement is refused: its holder's name would be written over it."""
    before, path = content(raw), raw.path / "data" / "02_stage" / "_manifest" / name
    path.parent.mkdir(parents=True)
    path.symlink_to(raw.raw / GOOD)
    for command in ("backfill", "run"):
        done = raw.run(command)
        assert done.code == 2
        assert f"{path} (a link to {raw.raw / GOOD})" in done.err
        assert "it lies in paths.raw_root" in done.err
    assert content(raw) == before


def test_a_lock_that_leads_elsewhere_is_refused_too(raw: Folder) -> None:
    """Whatever the link leads to is no lock of ingestd's; the message says what stands in the way."""
    elsewhere, path = raw.path / "thesis.tex", raw.path / "data" / "02_stage" / "_manifest" / "lock"
    elsewhere.write_text("chapter one")
    path.parent.mkdir(parents=True)
    path.symlink_to(elsewhere)
    done = raw.run("backfill")
    assert done.code == 2
    assert f"{path}: {os.strerror(40)}" in done.err
    assert "next: a symbolic link stands where ingestd's own file belongs: move it away" in done.err
    assert elsewhere.read_text() == "chapter one"
