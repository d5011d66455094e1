"""Event and reject JSONs: what people read of single decisions, and that it can always be made anew."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from archive import Archive
from inline import inline
from measurement import BROKEN, Measurement

from ingestd import files
from ingestd.backfill.run import Options, backfill
from ingestd.errors import Corrupt, Retry, UsageError
from ingestd.ingest.traces import parse_event, read_reject, write_traces
from ingestd.layout import EVENTS_PER_FOLDER, Layout
from ingestd.manifest.record import Event, FileNote, Reason, Record
from ingestd.settings import load_settings

RUN = Measurement()
A = "2025-09-23/It_1.csv"
SANTIAGO = ZoneInfo("America/Santiago")
REASON = {
    "code": "bad-cell",
    "message": "no number",
    "line": 9,
    "expected": "a number",
    "found": "3.x",
    "next_step": "correct it",
}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The paths of an empty data root."""
    (tmp_path / "config.toml").write_text("")
    return load_settings(tmp_path / "config.toml", {"paths": {"data_root": tmp_path / "data"}}).layout


def rejected(source_file: str = A, seq: int = 1, **changes: Any) -> Record:
    """The record of a reject."""
    note = FileNote(
        source_file=source_file,
        source_size=5,
        source_mtime_ns=7,
        source_sha256="0" * 64,
        outcome="rejected",
        code="bad-cell",
    )
    reason = Reason.model_validate(REASON)
    at = datetime(2025, 9, 24, 2, 30, tzinfo=UTC)
    record = Record(seq=seq, at=at, event=Event.REJECTED, source_file=source_file, files=[note], reason=reason)
    return record.model_copy(update=changes)


def written(folder: Path) -> list[str]:
    """Return the files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def notes_of(record: Record) -> dict[str, FileNote]:
    """Return the notes as they are after the record."""
    return {note.source_file: note for note in record.files if note.outcome != "forgotten"}


def test_an_event_lies_in_the_folder_of_its_local_day(layout: Layout) -> None:
    """Half past two in UTC is the day before in Santiago; at most a thousand events lie in one folder."""
    for seq in (1, EVENTS_PER_FOLDER - 1, EVENTS_PER_FOLDER):
        record = rejected(seq=seq)
        write_traces(layout, SANTIAGO, [record], notes_of(record))
    assert written(layout.events_dir) == [
        "2025-09-23/000000000/000000001-rejected.json",
        "2025-09-23/000000000/000000999-rejected.json",
        "2025-09-23/000001000/000001000-rejected.json",
    ]


def test_an_event_has_the_keys_of_its_record(layout: Layout) -> None:
    """What was noted of the file and the whole reason stand in it; what the record leaves empty does not."""
    record = rejected()
    write_traces(layout, SANTIAGO, [record], notes_of(record))
    (path,) = layout.events_dir.rglob("*.json")
    assert json.loads(path.read_text("utf-8")) == {
        "seq": 1,
        "at": "2025-09-24T02:30:00Z",
        "event": "rejected",
        "source_file": A,
        "rows": [],
        "files": [
            {
                "source_file": A,
                "source_size": 5,
                "source_mtime_ns": 7,
                "source_sha256": "0" * 64,
                "outcome": "rejected",
                "code": "bad-cell",
            }
        ],
        "reason": REASON,
    }
    short = rejected(seq=2, reason=Reason(code="bad-cell", message="no number"))
    write_traces(layout, SANTIAGO, [short], notes_of(short))
    (path,) = layout.events_dir.rglob("*2-rejected.json")
    assert json.loads(path.read_text("utf-8"))["reason"] == {"code": "bad-cell", "message": "no number"}


def test_an_event_tells_the_whole_decision(archive: Archive) -> None:
    """File, run, row with its header as JSON, and where the Parquet is."""
    archive.put(A, RUN.data)
    archive.backfill()
    (path,) = archive.layout.events_dir.rglob("*.json")
    event = json.loads(path.read_text("utf-8"))
    (row,) = event["rows"]
    assert (event["event"], event["source_file"], event["run_id"]) == ("ingested", A, row["run_id"])
    assert row["parameters"]["parameters"]["Chip number"] == "72"
    assert (archive.root / row["parquet"]).is_file()


def test_an_edit_names_what_it_replaced(archive: Archive) -> None:
    """Where the replaced data is kept, and which run a new one supersedes, stand in the event."""
    archive.put(A, RUN.data)
    archive.backfill()
    old = archive.live()[A].run_id
    archive.put(A, RUN.but(start=1758700000.0).data)
    archive.backfill()
    (path,) = archive.layout.events_dir.rglob("*-superseded.json")
    event = json.loads(path.read_text("utf-8"))
    assert old in event["note"]
    assert [row["run_id"] for row in event["rows"]] == [old, archive.live()[A].run_id]
    assert "parquet" not in event["rows"][0]
    (kept,) = event["superseded_parquet"]
    assert (archive.layout.stage_root / kept).is_file()


@pytest.mark.parametrize("junk", [b"", b'{"code": "bad', b"[]", b"[" * 100_000])
def test_a_damaged_reject_json_is_named(junk: bytes, layout: Layout) -> None:
    """A reject JSON that a power cut tore, or a hand changed into something else, is damage with a way out."""
    record = rejected()
    write_traces(layout, SANTIAGO, [record], notes_of(record))
    path = layout.reject_file(record.source_file)
    path.write_bytes(junk)
    with pytest.raises(Corrupt, match="this reject JSON is damaged") as caught:
        read_reject(layout, record.source_file)
    assert caught.value.place == str(path)
    assert "`ingestd repair`" in caught.value.next_step


@pytest.mark.parametrize("changed", [{"source_file": 5}, {"rejected_at": None}, {"code": "no-such"}, {"message": 5}])
def test_a_reject_json_of_other_values_is_damaged(changed: dict[str, Any], layout: Layout) -> None:
    """It says which file was rejected, why and when, or it is of no use."""
    record = rejected()
    write_traces(layout, SANTIAGO, [record], notes_of(record))
    path = layout.reject_file(A)
    path.write_text(json.dumps({**read_reject(layout, A), **changed}))
    with pytest.raises(Corrupt, match="this reject JSON is damaged"):
        read_reject(layout, A)


@pytest.mark.parametrize(
    "changed",
    [
        {"at": "yesterday"},
        {"at": "2025-09-23T10:00:00"},
        {"at": 5},
        {"seq": "1"},
        {"reason": "x"},
        {"superseded_parquet": [1]},
        {"superseded_parquet": 3},
        {"source_file": None},
        {"event": 5},
        {"rows": {}},
        {"rows": [1]},
        {"files": ""},
        {"files": [[]]},
    ],
)
def test_what_is_no_event_of_ours_is_told_from_one(changed: dict[str, Any], layout: Layout) -> None:
    """Whoever reads events meets those alone whose values are what the commands expect."""
    record = rejected()
    write_traces(layout, SANTIAGO, [record], notes_of(record))
    (path,) = layout.events_dir.rglob("*.json")
    event = parse_event(path.read_bytes())
    assert event["seq"] == record.seq
    with pytest.raises(ValueError, match=r"no event of ingestd|Invalid isoformat"):
        parse_event(json.dumps({**event, **changed}).encode())


def test_an_event_that_is_there_is_left_alone(layout: Layout) -> None:
    """Writing the traces of a record twice changes no byte and no mtime."""
    record = rejected()
    write_traces(layout, SANTIAGO, [record], notes_of(record))
    before = {path: path.stat() for path in layout.data_root.rglob("*.json")}
    write_traces(layout, SANTIAGO, [record], notes_of(record), durable=True)
    assert {path: path.stat().st_mtime_ns for path in before} == {path: s.st_mtime_ns for path, s in before.items()}


def test_lost_traces_of_another_process_are_made_anew_before_its_records_go(archive: Archive) -> None:
    """Records without their JSONs, as a kill leaves them, have them after the next compaction."""
    archive.put(A, RUN.data)
    archive.put("day/broken.csv", BROKEN)

    def given(**options: Any) -> Options:
        return Options(engine=inline, clock=archive.now, **options)

    backfill(archive.settings, given(compact=False))
    expected = written(archive.layout.events_dir)
    reject = read_reject(archive.layout, "day/broken.csv")
    shutil.rmtree(archive.layout.events_dir)
    shutil.rmtree(archive.layout.rejects_dir)
    backfill(archive.settings, given())
    assert written(archive.layout.events_dir) == expected
    assert read_reject(archive.layout, "day/broken.csv") == reject


# ---- rejects ---------------------------------------------------------------------------------------------------------


def test_a_reject_says_everything_a_person_needs(layout: Layout) -> None:
    """Code, words, line, expected, found, what to do, and the state of the file it is about."""
    record = rejected("Lab notes/it's_1.csv")
    write_traces(layout, SANTIAGO, [record], notes_of(record))
    reject = read_reject(layout, "Lab notes/it's_1.csv")
    assert {key: reject[key] for key in REASON} == REASON
    assert (reject["source_size"], reject["source_mtime_ns"], reject["event"]) == (5, 7, 1)
    assert reject["after_the_fix"].startswith("the service, or the next `ingestd backfill`, looks at the file again")
    assert shlex.split(reject["after_a_change_of_settings"])[-1] == "Lab notes/it's_1.csv"


def test_a_reject_goes_when_its_file_is_no_reject_any_more(layout: Layout) -> None:
    """Fixed or forgotten: its JSON is deleted, those of other files stay."""
    first, other = rejected(), rejected("2025-09-23/It_2.csv", seq=2)
    write_traces(layout, SANTIAGO, [first, other], {**notes_of(first), **notes_of(other)})
    gone = first.files[0].model_copy(update={"outcome": "forgotten", "code": None})
    forgotten = rejected(seq=3, event=Event.FORGOTTEN, files=[gone], reason=None)
    write_traces(layout, SANTIAGO, [forgotten], notes_of(other))
    assert written(layout.rejects_dir) == ["2025-09-23/It_2.csv.json"]
    with pytest.raises(UsageError, match="not among the rejects") as caught:
        read_reject(layout, A)
    assert "ingestd rejects list" in caught.value.next_step


def test_a_reject_goes_when_its_file_is_a_copy(layout: Layout) -> None:
    """A file that is noted as something else than rejected has no reject JSON."""
    record = rejected()
    write_traces(layout, SANTIAGO, [record], notes_of(record))
    copy = record.files[0].model_copy(update={"outcome": "duplicate", "code": None, "run_id": "0" * 20})
    decided = rejected(seq=2, event=Event.DUPLICATE, files=[copy], reason=None)
    write_traces(layout, SANTIAGO, [decided], notes_of(decided))
    assert written(layout.rejects_dir) == []


def test_a_reject_that_was_only_touched_keeps_its_words(layout: Layout) -> None:
    """The record of a touch gives no reason, and takes none away."""
    record = rejected()
    write_traces(layout, SANTIAGO, [record], notes_of(record))
    before = layout.reject_file(A).read_bytes()
    note = record.files[0].model_copy(update={"source_mtime_ns": 8})
    touched = rejected(seq=2, event=Event.UNCHANGED, files=[note], reason=None)
    write_traces(layout, SANTIAGO, [touched], notes_of(touched))
    assert layout.reject_file(A).read_bytes() == before


def test_traces_written_late_do_not_bring_an_old_reject_back(layout: Layout) -> None:
    """A reject's record whose file has been fixed since leaves no reject JSON."""
    write_traces(layout, SANTIAGO, [rejected()], {})
    assert written(layout.rejects_dir) == []


def test_a_reject_touched_since_is_made_anew_all_the_same(layout: Layout) -> None:
    """A reject JSON lost to a kill comes back from the reject's record, though the file has another mtime by now."""
    record = rejected()
    touched = record.files[0].model_copy(update={"source_mtime_ns": 8})
    write_traces(layout, SANTIAGO, [record], {A: touched})
    assert read_reject(layout, A)["source_mtime_ns"] == 8
    other = touched.model_copy(update={"source_sha256": "1" * 64})
    layout.reject_file(A).unlink()
    write_traces(layout, SANTIAGO, [record], {A: other})
    assert written(layout.rejects_dir) == []


@pytest.mark.parametrize("name", ["../../../evil.csv", "/etc/evil.csv", "a/../../evil.csv", "CON.csv", ".hidden/x.csv"])
def test_no_name_leads_out_of_the_rejects(layout: Layout, name: str) -> None:
    """Whatever a raw file is called, its reject lies below the folder of rejects, and is found again."""
    record = rejected(name)
    write_traces(layout, SANTIAGO, [record], notes_of(record))
    (found,) = written(layout.rejects_dir)
    assert ".." not in found.split("/")
    assert read_reject(layout, name)["source_file"] == name


def test_a_disk_that_refuses_is_a_retry(layout: Layout) -> None:
    """A folder that cannot be made is the world's fault, with the place."""
    layout.events_dir.parent.mkdir(parents=True)
    layout.events_dir.write_text("a file where a folder belongs")
    record = rejected()
    with pytest.raises(Retry) as caught:
        write_traces(layout, SANTIAGO, [record], notes_of(record))
    assert str(layout.events_dir) in caught.value.place


def test_a_full_disk_is_no_fault_of_one_reject(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing then is written once there is room; only a place that is taken is passed over."""
    write = files.write_atomic

    def refuse(path: Path, *_: object, **__: object) -> None:
        with files.as_retry(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    record = rejected()
    monkeypatch.setattr(files, "write_atomic", refuse)
    with pytest.raises(Retry, match="No space left"):
        write_traces(layout, SANTIAGO, [record], notes_of(record))
    monkeypatch.setattr(files, "write_atomic", write)
    assert write_traces(layout, SANTIAGO, [record], notes_of(record)) == []
    assert layout.reject_file(A).exists()


def test_a_reject_for_a_start_time_names_its_line(archive: Archive) -> None:
    """The line is the header's own; what stands in the table is never taken for it."""
    bad = RUN.data.replace(b"Start time: 1758632155.25", b"Start time: yesterday")
    archive.put(A, bad)
    assert archive.backfill() == [("rejected", A)]
    (record,) = archive.records
    assert record.reason is not None
    assert (record.reason.code, record.reason.line) == ("bad-start-time", 8)
    assert bad.splitlines()[7] == b"#\tStart time: yesterday"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EACCES])
def test_a_reject_json_that_is_out_of_reach_for_a_moment_goes_all_the_same(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """When its file is no longer rejected, that it could not be looked at does not mean that it was not there."""
    archive.put(A, BROKEN)
    archive.backfill()
    reject, errors, lstat = archive.layout.reject_file(A), [number], os.lstat
    assert reject.exists()
    archive.put(A, RUN.data)

    def fail_once(path: str | Path, **given: Any) -> os.stat_result:
        if Path(path) == reject and errors:
            raise OSError(errors[0], os.strerror(errors.pop()), str(path))
        return lstat(path, **given)

    monkeypatch.setattr(os, "lstat", fail_once)
    assert archive.backfill() == [("ingested", A)]
    assert not errors
    assert not reject.exists()
