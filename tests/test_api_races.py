"""The Python API beside a service, where what was found may be elsewhere a moment later, and on a disk that refuses."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from archive import unreadable
from commands import Folder
from measurement import BROKEN, Measurement

import ingestd
from ingestd.errors import Reject, Retry, UsageError
from ingestd.histories.chip import HistoryChange
from ingestd.ingest.commit import Ingest
from ingestd.manifest.row import ManifestRow
from ingestd.stage.parquet import read_run
from ingestd.stage.run import Outcome, StageContext, StageTask, stage_batch

RUN = Measurement()


def edited_amid(monkeypatch: pytest.MonkeyPatch, folder: Folder, data: bytes) -> None:
    """Have another process stage an edit of the run between the look into the manifest and that into the Parquet."""

    def edit_first(path: Path) -> pa.Table:
        monkeypatch.undo()
        folder.put("It_1.csv", data)
        ingestd.stage_run("It_1.csv", folder.path / "data")
        return read_run(path)

    monkeypatch.setattr("ingestd.api.read_run", edit_first)


def test_a_run_that_an_edit_moves_to_another_folder_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder names the procedure, which the edit corrected: the run is there, not gone."""
    folder = Folder(tmp_path)
    folder.put("It_1.csv", RUN.data)
    row = ingestd.stage_run("It_1.csv", tmp_path / "data")
    edited_amid(monkeypatch, folder, RUN.data.replace(b"It.It", b"It2.It2"))
    frame = ingestd.load_run(row.run_id, tmp_path / "data")
    assert frame.height == RUN.rows
    assert ingestd.load_manifest(tmp_path / "data")["proc"].to_list() == ["It2"]


def test_a_run_that_an_edit_supersedes_names_its_successor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Parquet is kept elsewhere then: that is no damage."""
    folder = Folder(tmp_path)
    folder.put("It_1.csv", RUN.data)
    row = ingestd.stage_run("It_1.csv", tmp_path / "data")
    edited_amid(monkeypatch, folder, RUN.but(start=1758632000.0).data)
    with pytest.raises(UsageError, match="was superseded"):
        ingestd.load_run(row.run_id, tmp_path / "data")


def test_a_reject_whose_json_is_only_being_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service has just recorded it; the JSON comes a moment later, and is no damage that needs a repair."""
    folder = Folder(tmp_path)
    folder.put("bad.csv", BROKEN)
    with pytest.raises(Reject) as first:
        ingestd.stage_run("bad.csv", tmp_path / "data")
    (path,) = (tmp_path / "data/02_stage/_rejects").iterdir()
    path.rename(tmp_path / "late")
    monkeypatch.setattr("ingestd.ingest.traces.time.sleep", lambda _: (tmp_path / "late").rename(path))
    with pytest.raises(Reject) as again:
        ingestd.stage_run("bad.csv", tmp_path / "data")
    assert str(again.value) == str(first.value)


def test_a_file_that_another_process_decides_first_is_to_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service may have decided about other bytes than were read here: its row is not given for them."""
    folder = Folder(tmp_path)
    folder.put("It_1.csv", RUN.data)

    def be_late(tasks: list[StageTask], context: StageContext) -> list[Outcome]:
        monkeypatch.undo()
        outcomes = stage_batch(tasks, context)
        folder.put("It_1.csv", RUN.but(rows=5).data)
        ingestd.stage_run("It_1.csv", tmp_path / "data")
        return outcomes

    monkeypatch.setattr("ingestd.api.stage_batch", be_late)
    with pytest.raises(Retry, match="another process is deciding about it right now"):
        ingestd.stage_run("It_1.csv", tmp_path / "data")
    assert ingestd.stage_run("It_1.csv", tmp_path / "data").rows == 5


def test_an_edit_that_cannot_be_told_from_another_run_is_to_be_tried_again(tmp_path: Path) -> None:
    """As long as the disk refuses the run's Parquet, nothing is decided, and its row is not given for the new bytes."""
    folder = Folder(tmp_path)
    folder.put("It_1.csv", RUN.data)
    ingestd.stage_run("It_1.csv", tmp_path / "data")
    (part,) = (tmp_path / "data/02_stage/raw_measurements").rglob("*.parquet")
    folder.put("It_1.csv", RUN.but(start=1758700000.0, sample=2).data)
    with unreadable(part), pytest.raises(Retry, match="Input/output error") as refused:
        ingestd.stage_run("It_1.csv", tmp_path / "data")
    assert refused.value.place == str(part)
    assert ingestd.stage_run("It_1.csv", tmp_path / "data").start_time_utc.timestamp() == 1758700000.0


def test_a_run_that_the_service_stages_in_the_same_moment_gives_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever decides first, the program has asked for the row of these bytes, and gets it."""
    folder = Folder(tmp_path)
    folder.put("It_1.csv", RUN.data)
    others: list[ManifestRow] = []

    def overtaken(tasks: list[StageTask], context: StageContext) -> list[Outcome]:
        monkeypatch.undo()
        outcomes = stage_batch(tasks, context)
        others.append(ingestd.stage_run("It_1.csv", tmp_path / "data"))
        return outcomes

    monkeypatch.setattr("ingestd.api.stage_batch", overtaken)
    assert [ingestd.stage_run("It_1.csv", tmp_path / "data")] == others
    assert ingestd.load_manifest(tmp_path / "data").height == 1


def test_the_history_is_there_when_the_service_has_yet_to_write_it(tmp_path: Path) -> None:
    """The service collects a chip's changes for a while; a program that stages a file may load the history at once."""
    folder = Folder(tmp_path)
    folder.put("It_1.csv", RUN.data)
    assert folder.run("stage-all", "--raw-root", "data/01_raw", "--stage-root", "data/02_stage").code == 0
    row = ingestd.stage_run("It_1.csv", tmp_path / "data")
    assert ingestd.load_history("Alisson72", tmp_path / "data")["run_id"].to_list() == [row.run_id]


def test_a_run_that_is_moved_while_its_history_is_written_gives_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may hold the histories' lock for seconds, and the service find the new name meanwhile."""
    folder = Folder(tmp_path)
    path = folder.put("day/It_1.csv", RUN.data)
    write = Ingest.refresh_histories

    def move_first(ingest: Ingest) -> list[HistoryChange]:
        monkeypatch.undo()
        path.parent.rename(path.parent.with_name("renamed"))
        ingestd.stage_run("renamed/It_1.csv", tmp_path / "data")
        return write(ingest)

    monkeypatch.setattr(Ingest, "refresh_histories", move_first)
    row = ingestd.stage_run("day/It_1.csv", tmp_path / "data")
    assert row.source_file == "day/It_1.csv"
    assert ingestd.load_history("Alisson72", tmp_path / "data")["run_id"].to_list() == [row.run_id]
