"""One measurement, one row: every line of the identity table, on real files. `archive.check` runs after each step."""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import islice
from pathlib import Path

import pytest
from archive import Archive, digest16
from measurement import BROKEN, Measurement

from ingestd.errors import UsageError
from ingestd.settings import load_settings
from ingestd.stage.identity import compute_run_id, distinct_run_ids
from ingestd.stage.parquet import read_row, read_run

RUN = Measurement()
OTHER = Measurement(start=1758639999.5, chip=67, sample=1)
A, B, C = "2025-09-23/It_1.csv", "2025-09-23/It_2.csv", "2025-09-24/It_3.csv"


# ---- the run id ------------------------------------------------------------------------------------------------------


def test_the_run_id_is_the_documented_hash() -> None:
    """20 hex digits of SHA-1 over the lower-cased path and UTC start with microseconds."""
    start = datetime(2025, 9, 23, 12, 55, 55, 282112, tzinfo=UTC)
    expected = hashlib.sha1(b"2025-09-23/it_1.csv|2025-09-23t12:55:55.282112z").hexdigest()[:20]
    assert compute_run_id(A, start) == expected
    assert compute_run_id(A.upper(), start) == expected
    assert compute_run_id(A, start.astimezone(timezone(timedelta(hours=-3)))) == expected


def test_the_ids_of_case_twins_are_the_same_whenever_they_are_computed() -> None:
    """A rebuild must find the ids of before: the digest of the content is added, and from the second on a number."""
    start = datetime(2025, 9, 23, 12, 55, 55, 282112, tzinfo=UTC)
    text = f"2025-09-23/it_1.csv|2025-09-23t12:55:55.282112z|{'0' * 64}"
    expected = [hashlib.sha1(f"{text}{more}".encode()).hexdigest()[:20] for more in ("", "|2", "|3")]
    assert list(islice(distinct_run_ids(A.upper(), start, "0" * 64), 3)) == expected


def test_a_start_without_a_zone_has_no_run_id() -> None:
    """A naive time would give another id on another machine; it is refused."""
    with pytest.raises(UsageError, match="zone"):
        compute_run_id(A, datetime(2025, 9, 23))  # noqa: DTZ001  # the very mistake


# ---- the table -------------------------------------------------------------------------------------------------------


def test_a_new_file_is_ingested(archive: Archive) -> None:
    """A settled file becomes one row with the documented id, one Parquet and one line of its chip's history."""
    archive.put(A, RUN.data)
    assert archive.backfill() == [("ingested", A)]
    row = archive.live()[A]
    assert row.run_id == compute_run_id(A, datetime.fromtimestamp(1758632155.25, UTC))
    assert (row.date_local, row.rows, row.chip_name, row.file_idx) == (date(2025, 9, 23), 3, "Alisson72", 1)
    assert row.source_sha256 == hashlib.sha256(RUN.data).hexdigest()
    assert archive.history(72) == [A]


def test_nothing_happened(archive: Archive) -> None:
    """A file with the path, size and mtime of before is no decision."""
    archive.put(A, RUN.data)
    archive.backfill()
    assert archive.backfill() == []
    assert archive.report.known == 1


def test_touched(archive: Archive) -> None:
    """Another mtime over the same bytes refreshes the stat in the row; the Parquet is left alone."""
    archive.put(A, RUN.data)
    archive.backfill()
    before = archive.live()[A]
    staged = archive.staged(before).stat()
    archive.touch(A)
    assert archive.backfill() == [("unchanged", A)]
    after = archive.live()[A]
    assert after == before.model_copy(update={"source_mtime_ns": (archive.raw / A).stat().st_mtime_ns})
    assert after.source_mtime_ns != before.source_mtime_ns
    assert archive.staged(after).stat() == staged


def test_grew(archive: Archive) -> None:
    """Rows added at the end are staged under the same run; nothing is kept aside, because nothing is lost."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put(A, RUN.but(rows=5).data)
    assert archive.backfill() == [("updated", A)]
    assert archive.live()[A].rows == read_run(archive.staged(archive.live()[A])).num_rows == 5
    assert archive.aside() == []


def test_edited_chip(archive: Archive) -> None:
    """A corrected chip number keeps the run id and moves the run from the old chip's history to the new one's."""
    archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    archive.backfill()
    run_id = archive.live()[A].run_id
    archive.put(A, RUN.but(chip=67).data)
    assert archive.backfill() == [("edited", A)]
    assert archive.live()[A].run_id == run_id
    assert (archive.history(72), archive.history(67)) == ([], [A, B])
    assert archive.report.histories == ["Alisson67", "Alisson72"]
    assert archive.aside() == [digest16(RUN)]


def test_the_version_kept_aside_is_the_old_one(archive: Archive) -> None:
    """What lies in `_superseded` after an edit is the Parquet of before, named in the event."""
    archive.put(A, RUN.data)
    archive.backfill()
    old = archive.live()[A]
    staged = archive.staged(old).read_bytes()
    archive.put(A, RUN.but(chip=67).data)
    archive.backfill()
    (aside,) = archive.layout.superseded_root.rglob("*.parquet")
    assert aside.read_bytes() == staged
    assert read_row(aside) == old
    (record,) = (record for record in archive.records if record.event.value == "edited")
    assert [archive.layout.stage_root / name for name in record.superseded_parquet] == [aside]


def test_start_time_edited(archive: Archive) -> None:
    """Another start time is another run: the old row stays, names its successor, and is in no history."""
    archive.put(A, RUN.data)
    archive.backfill()
    old = archive.live()[A]
    archive.put(A, RUN.but(start=1758700000.0).data)
    assert archive.backfill() == [("superseded", A)]
    rows = {row.run_id: row for row in archive.rows()}
    new = archive.live()[A]
    assert rows[old.run_id] == old.model_copy(update={"superseded_by": new.run_id})
    assert (len(rows), archive.history(72), archive.aside()) == (2, [A], [digest16(RUN)])


def test_start_time_edited_before_an_older_manifest_was_put_back(archive: Archive, tmp_path: Path) -> None:
    """Of the run that the manifest knows only the version kept aside is left: that tells that the file was edited."""
    archive.put(A, RUN.data)
    archive.backfill()
    manifest, before = archive.layout.manifest_path.parent, tmp_path / "before"
    old = archive.live()[A]
    shutil.copytree(manifest, before)
    archive.put(A, RUN.but(start=1758700000.0).data)
    assert archive.backfill() == [("superseded", A)]
    shutil.rmtree(manifest)
    shutil.copytree(before, manifest)
    assert archive.backfill_amid() == [("superseded", A)]
    rows = {row.run_id: row for row in archive.rows()}
    assert rows[old.run_id].superseded_by == archive.live()[A].run_id
    assert len(rows) == 2


def test_start_time_edited_after_the_procedure_got_another_column(archive: Archive) -> None:
    """The version staged before has one column fewer; it is the same measurement all the same."""
    with_volts = RUN.data.replace(b"Clock (ms)", b"Clock (ms),Gate (V)").replace(b"nan\r\n", b"nan,0.5\r\n")
    archive.put(A, with_volts)
    archive.backfill()
    old = archive.live()[A]
    columns = {"gate_v": {"accepts": ["Gate (V)"], "required": False}}
    archive.settings = load_settings(
        None,
        {
            "paths": {"data_root": archive.root},
            "stage": {"workers": 1},
            "procedures": {"ITS": {"columns": columns}},
        },
    )
    archive.put(A, with_volts.replace(b"1758632155.25", b"1758700000.0"))
    assert archive.backfill() == [("superseded", A)]
    assert read_run(archive.staged(archive.live()[A]))["gate_v"].to_pylist() == [0.5] * RUN.rows
    assert {row.run_id: row.superseded_by for row in archive.rows()}[old.run_id] == archive.live()[A].run_id


def test_start_time_edited_and_edited_back(archive: Archive) -> None:
    """The first run is live again, the second names it as its successor."""
    archive.put(A, RUN.data)
    archive.backfill()
    first = archive.live()[A].run_id
    archive.put(A, RUN.but(start=1758700000.0).data)
    archive.backfill()
    second = archive.live()[A].run_id
    archive.put(A, RUN.data)
    assert archive.backfill() == [("superseded", A)]
    assert {row.run_id: row.superseded_by for row in archive.rows()} == {first: None, second: first}


def test_moved(archive: Archive) -> None:
    """A renamed file keeps its run; path, file number and summary are those of the new name."""
    archive.put(A, RUN.data)
    archive.backfill()
    run_id = archive.live()[A].run_id
    archive.move(A, "elsewhere/It_19.csv")
    assert archive.backfill() == [("moved", "elsewhere/It_19.csv")]
    (row,) = archive.rows()
    assert (row.run_id, row.source_file, row.file_idx) == (run_id, "elsewhere/It_19.csv", 19)
    assert row.summary.endswith("#19")
    assert archive.history(72) == ["elsewhere/It_19.csv"]


def test_folder_renamed(archive: Archive) -> None:
    """A renamed folder moves all its runs and makes no new one."""
    for number in range(5):
        archive.put(f"day/It_{number}.csv", RUN.but(sample=number, start=1758632155.25 + number).data)
    archive.backfill()
    ids = {row.run_id for row in archive.rows()}
    archive.move("day", "2025-09-23")
    assert archive.backfill() == [("moved", f"2025-09-23/It_{number}.csv") for number in range(5)]
    assert {row.run_id for row in archive.rows()} == ids


def test_copied(archive: Archive) -> None:
    """A copy beside its original is no run; it is remembered and not looked at again."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.copy(A, C)
    assert archive.backfill() == [("duplicate", C)]
    assert list(archive.live()) == [A]
    assert archive.notes()[C].run_id == archive.live()[A].run_id


def test_deleted(archive: Archive) -> None:
    """The row of a deleted file stays, in the manifest and in the history."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.delete(A)
    assert archive.backfill() == []
    assert (list(archive.live()), archive.history(72)) == ([A], [A])


# ---- start time from path or mtime -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "origin"), [("2025-09-23/It_1.csv", "path"), ("day/It_1.csv", "mtime")])
def test_a_touch_never_makes_a_new_run(archive: Archive, name: str, origin: str) -> None:
    """Without a start time in the header the row that exists decides: touch and growth change neither id nor start."""
    run = RUN.but(start=None)
    archive.put(name, run.data)
    archive.backfill()
    before = archive.live()[name]
    assert before.start_time_origin == origin
    archive.touch(name)
    assert archive.backfill() == [("unchanged", name)]
    archive.put(name, run.but(rows=4).data)
    assert archive.backfill() == [("updated", name)]
    archive.put(name, run.but(rows=4, chip=67).data)
    assert archive.backfill() == [("edited", name)]
    after = archive.live()[name]
    assert (after.run_id, after.start_time_utc) == (before.run_id, before.start_time_utc)


def test_a_move_to_a_dated_folder_keeps_the_start(archive: Archive) -> None:
    """A run whose start was its mtime keeps it when it moves below a date."""
    archive.put("day/It_1.csv", RUN.but(start=None).data)
    archive.backfill()
    before = archive.live()["day/It_1.csv"]
    archive.move("day", "2025-09-23")
    assert archive.backfill() == [("moved", A)]
    after = archive.live()[A]
    assert (after.run_id, after.start_time_utc, after.start_time_origin) == (
        before.run_id,
        before.start_time_utc,
        "mtime",
    )


# ---- rejects ---------------------------------------------------------------------------------------------------------


def test_rejected_touched_fixed_and_broken(archive: Archive) -> None:
    """A reject stands until its bytes change; a fixed file is ingested; one that breaks again keeps its row."""
    archive.put(A, BROKEN)
    assert archive.backfill() == [("rejected", A)]
    assert archive.backfill() == []
    archive.touch(A)
    assert archive.backfill() == [("unchanged", A)]
    archive.put(A, RUN.data)
    assert archive.backfill() == [("ingested", A)]
    archive.put(A, BROKEN)
    assert archive.backfill() == [("rejected", A)]
    assert (list(archive.live()), archive.history(72)) == ([A], [A])
    archive.put(A, RUN.data)
    assert archive.backfill() == [("unchanged", A)]


def test_a_reject_names_its_code_and_what_to_do(archive: Archive) -> None:
    """The reject JSON lies under the raw file's path and says code, words, what was found and what to type."""
    archive.put(A, RUN.data.replace(b"3.1", b"3.x", 1))
    archive.backfill()
    reject = json.loads((archive.layout.rejects_dir / f"{A}.json").read_text("utf-8"))
    assert (reject["code"], reject["source_file"], reject["line"]) == ("bad-cell", A, 11)
    assert "3.x" in reject["found"]
    assert reject["next_step"]
    assert A in reject["after_a_change_of_settings"]


# ---- force -------------------------------------------------------------------------------------------------


def test_force_stages_again_under_the_same_run(archive: Archive) -> None:
    """`--force` writes the Parquet anew and changes no id; a copy stays a copy, a reject a reject."""
    archive.put(A, RUN.data)
    archive.copy(A, B)
    archive.put(C, BROKEN)
    archive.backfill()
    (before,) = archive.rows()
    assert sorted(archive.backfill(force=True)) == [("rejected", C), ("restaged", A), ("unchanged", B)]
    (after,) = archive.rows()
    assert after.model_dump(exclude={"ingested_at_utc"}) == before.model_dump(exclude={"ingested_at_utc"})


def test_force_after_a_change_of_the_zone(archive: Archive) -> None:
    """A start time without a zone is another instant in another zone: the run is replaced, as it is on the way back."""
    archive.put(A, RUN.data.replace(b"Start time: 1758632155.25", b"Start time: 2025-09-23T09:55:55.25"))
    archive.put(B, RUN.but(start=1758639999.5).data)
    archive.backfill()
    first, other = archive.live()[A], archive.live()[B]
    for zone, hours in (("Europe/Madrid", -5), ("America/Santiago", 0)):
        archive.settings = load_settings(
            None, {"paths": {"data_root": archive.root}, "stage": {"workers": 1}, "time": {"local_tz": zone}}
        )
        assert sorted(archive.backfill(force=True)) == [("restaged", B), ("superseded", A)]
        assert archive.live()[B].run_id == other.run_id
        assert archive.backfill() == []
        assert archive.live()[A].start_time_utc - first.start_time_utc == timedelta(hours=hours)
    assert archive.live()[A].run_id == first.run_id
    assert len(archive.rows()) == 3


def test_force_in_another_zone_needs_no_parquet_to_know_the_run(archive: Archive) -> None:
    """The bytes are the same, so the measurement is, though what was staged of it is gone."""
    archive.put(A, RUN.data.replace(b"Start time: 1758632155.25", b"Start time: 2025-09-23T09:55:55.25"))
    archive.backfill()
    archive.staged(archive.live()[A]).unlink()
    archive.settings = load_settings(
        None, {"paths": {"data_root": archive.root}, "stage": {"workers": 1}, "time": {"local_tz": "Europe/Madrid"}}
    )
    assert archive.backfill_amid(force=True) == [("superseded", A)]
    assert [row.source_file for row in archive.rows() if row.live] == [A]


def test_force_mends_a_damaged_parquet(archive: Archive) -> None:
    """A staged file that was overwritten is whole again after `--force`."""
    archive.put(A, RUN.data)
    archive.backfill()
    staged = archive.staged(archive.live()[A])
    good = staged.read_bytes()
    staged.write_bytes(b"rubbish")
    archive.backfill(force=True)
    assert staged.read_bytes() == good


def test_a_distinct_id_that_has_moved_on_is_not_taken_again(archive: Archive) -> None:
    """Two runs of one path and start have moved away and been edited: the third gets an id of its own."""
    first, other = RUN.but(start=None), RUN.but(start=None, chip=70)
    for measurement, to in ((first, C), (other, "x/It_5.csv")):
        archive.put(A, measurement.data)
        archive.backfill()
        archive.move(A, to)
        archive.backfill()
    archive.put("x/It_5.csv", other.but(chip=71).data)
    archive.backfill()
    archive.delete("x/It_5.csv")
    before = {row.run_id: row for row in archive.rows()}
    archive.put(A, other.data)
    assert archive.backfill() == [("ingested", A)]
    assert len(archive.rows()) == 3
    assert before.items() <= {row.run_id: row for row in archive.rows()}.items()


def test_a_run_that_moves_keeps_its_start_whatever_the_zone_is_now(archive: Archive) -> None:
    """The zone was set anew, and only `--force` takes runs there: a renamed file starts when it did."""
    archive.put(A, RUN.data.replace(b"Start time: 1758632155.25", b"Start time: 2025-09-23T09:55:55.25"))
    archive.backfill()
    before = archive.live()[A]
    zone = {"local_tz": "Europe/Madrid"}
    archive.settings = load_settings(
        None, {"paths": {"data_root": archive.root}, "stage": {"workers": 1}, "time": zone}
    )
    archive.move(A, C)
    assert archive.backfill_amid() == [("moved", C)]
    now = archive.live()[C]
    assert (now.run_id, now.start_time_utc) == (before.run_id, before.start_time_utc)
