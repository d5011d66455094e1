"""Memory does not grow with the archive: a long backfill compacts on its way, and a file's bytes go with its answer."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import pytest
from archive import Archive
from measurement import Measurement

from ingestd.backfill import run as module
from ingestd.errors import Corrupt, Reject
from ingestd.files import scan_csvs
from ingestd.ingest.commit import opened
from ingestd.manifest.store import ManifestStore
from ingestd.raw import run, table
from ingestd.raw.settling import Observation
from ingestd.raw.table import Body
from ingestd.stage.run import Rejected, stage_batch

RUN = Measurement()


def fill(archive: Archive) -> None:
    """Put eight runs of two chips in, and a copy that is decided after a compaction forgot its original's row."""
    for number in range(8):
        measured = Measurement(start=1758632155.25 + 60 * number, chip=67 + number % 2, sample=number)
        archive.put(f"2025-09-23/It_{number}.csv", measured.data)
    archive.copy("2025-09-23/It_0.csv", "copies/It_0.csv")


def test_a_backfill_that_compacts_on_its_way_comes_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log never grows beyond its bound and a batch; manifest, notes and histories have the same bytes."""
    roots = [tmp_path / "bounded", tmp_path / "whole"]
    for root in roots:
        root.mkdir()
    bounded, whole = (Archive(root, stage={"batch_files": 1}) for root in roots)
    fill(bounded)
    fill(whole)
    pending: list[int] = []
    events = whole.backfill()
    monkeypatch.setattr(module, "COMPACT_FROM", 3)
    look = lambda _: pending.append(ManifestStore(bounded.layout).pending)  # noqa: E731  # asked at every file
    assert bounded.backfill(on_progress=look) == events
    assert len(events) == 9
    assert max(pending) == 2
    for name in ("manifest_path", "known_files_path"):
        assert getattr(bounded.layout, name).read_bytes() == getattr(whole.layout, name).read_bytes()
    for chip in (67, 68):
        assert bounded.history(chip) == whole.history(chip)
        assert len(bounded.history(chip)) == 4


@pytest.mark.parametrize("compact_from", [3, 100], ids=["on its way", "at the end"])
def test_a_manifest_that_is_damaged_under_way_is_told_with_what_was_staged(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, compact_from: int
) -> None:
    """The backfill ends there, with a report; what it had logged is there when the damage is mended."""
    archive.put("first.csv", RUN.data)
    archive.backfill()
    fill(archive)
    intact = archive.layout.manifest_path.read_bytes()
    monkeypatch.setattr(module, "COMPACT_FROM", compact_from)
    archive.backfill_amid(on_progress=lambda _: archive.layout.manifest_path.write_bytes(b"PAR1"))
    assert isinstance(archive.report.stopped_by, Corrupt)
    assert archive.report.stopped_by.place == str(archive.layout.manifest_path)
    archive.layout.manifest_path.write_bytes(intact)
    archive.backfill()
    assert len(archive.live()) == 9


BAD_ROW = b"1,2,3,4,5,6,7,8,9,10,11,12\n"
REFUSED = {
    "a row too long": RUN.data + BAD_ROW,
    "a column twice": RUN.data.replace(b"t (s)", b"VL (V)"),
    "no procedure": RUN.data.replace(b".It>", b".Nothing>"),
    "a bad start time": RUN.data.replace(b"Start time: ", b"Start time: soon "),
}


@pytest.mark.parametrize("names", [*((name,) for name in REFUSED), tuple(REFUSED)], ids=" and ".join)
def test_a_refused_file_leaves_no_frames_behind(archive: Archive, names: tuple[str, ...]) -> None:
    """The steps of a refused file, which hold its bytes, go when it is answered, without a search for garbage."""
    for name in names:
        archive.put(f"{name}.csv", REFUSED[name])
    with opened(archive.settings, archive.now) as ingest:
        tasks = [
            ingest.task_for(name, status, Observation(archive.now().timestamp(), ""))
            for name, status in scan_csvs(archive.raw).files.items()
        ]
        stage_batch(tasks, ingest.context)  # what is loaded with the first file is not the question
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            outcomes = stage_batch(tasks, ingest.context)
            gc.collect()
            frames = [found.f_code.co_name for found in gc.garbage if isinstance(found, FrameType)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
    assert {type(outcome) for outcome in outcomes} == {Rejected}
    assert frames == []


def with_unknown_columns(number: int) -> bytes:
    """Make a run of three rows with two columns that its procedure does not know: some 138 bytes of `extra`."""
    head, labels, rows = Measurement(start=1758632155.25 + 60 * number, sample=number).data.partition(b"t (s)")
    names, *cells = rows.splitlines(keepends=True)
    return head + b"".join([b"label 1,label 2,", labels, names, *(b"a,b," + line for line in cells)])


@pytest.mark.parametrize(("limit", "turns"), [(10**6, [5]), (400, [2, 2, 1]), (150, [1, 1, 1, 1, 1])])
def test_files_of_many_unknown_columns_take_turns(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, limit: int, turns: list[int]
) -> None:
    """Of a batch as many are parsed at once as unknown columns allow, and written before the next are parsed."""
    for number in range(4):
        archive.put(f"It_{number}.csv", with_unknown_columns(number))
    archive.put("Last.csv", with_unknown_columns(4) + b"1,2\r\n")
    found: list[int] = []
    written: list[int] = []
    parse = run.parse_bodies

    def noted(bodies: Sequence[Body]) -> list[run.RawRun | Reject]:
        written.append(len(list(archive.layout.temporary_root.glob("*/*.parquet"))))
        found.append(len(bodies))
        return parse(bodies)

    monkeypatch.setattr(run, "parse_bodies", noted)
    monkeypatch.setattr(table, "MAX_EXTRA_BYTES", limit)
    events = archive.backfill()
    assert found == turns
    assert written == [sum(turns[:turn]) for turn in range(len(turns))]
    assert events == [("ingested", f"It_{number}.csv") for number in range(4)] + [("rejected", "Last.csv")]
