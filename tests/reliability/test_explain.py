"""explain: the whole story of a file or run, in whatever state it is."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import lived
import pytest
from archive import Archive
from measurement import BROKEN
from powerless import powerless

from ingestd.api import load_run
from ingestd.errors import UsageError
from ingestd.files import look
from ingestd.upkeep.explain import Story, explain


def story(archive: Archive, asked: str) -> Story:
    """Explain at the archive's own time."""
    return explain(archive.settings, asked, archive.now())


def test_an_ingested_run(archive: Archive) -> None:
    """Raw file, event, row, Parquet and history line all stand in the story; a path and a run id tell the same one."""
    told = story(archive, lived.PLAIN)
    row = archive.live()[lived.PLAIN]
    assert told.verdict == f"It is run {row.run_id}: 3 rows."
    assert told.raw.content is not None
    assert told.raw.content.sha256 == row.source_sha256
    assert [event["event"] for event in told.events] == ["ingested", "duplicate"]
    assert [one.run_id for one in told.rows] == [row.run_id]
    assert told.staged[0]["of_these_bytes"] is True
    assert told.history[0]["run_id"] == row.run_id
    assert story(archive, row.run_id) == told
    assert story(archive, row.run_id[:6].upper()) == told
    assert story(archive, str(archive.raw / lived.PLAIN)) == told


@pytest.mark.parametrize(
    ("name", "verdict", "events"),
    [
        (lived.EDITED, "It is run", ["ingested", "edited"]),
        (lived.GROWN, "It is run", ["ingested", "updated"]),
        (lived.TOUCHED, "It is run", ["ingested", "unchanged"]),
        (lived.MOVED, "It is run", ["ingested", "moved"]),
        (lived.MOVED_FROM, "It is no longer at this path: run", ["ingested", "moved"]),
        (lived.COPY, f"It is a copy of {lived.PLAIN}", ["ingested", "duplicate"]),
        (lived.REJECTED, "It was rejected (not-pymeasure)", ["rejected"]),
        (lived.QUEUED, "It is queued:", ["queued"]),
        (lived.DELETED, "Its raw file is gone; the staged data stays", ["ingested"]),
        (lived.RESTARTED, "It is run", ["ingested", "superseded"]),
    ],
)
def test_every_outcome_has_its_story(name: str, verdict: str, events: list[str], archive: Archive) -> None:
    """Whatever was decided about a file is told in one sentence, with the events that led there."""
    told = story(archive, name)
    assert verdict in told.verdict
    assert [event["event"] for event in told.events] == events


@pytest.mark.parametrize(
    "junk",
    [
        b'{"run_id":"%s',
        b'{"run_id":"%s"}',
        b'{"seq":"1","run_id":"%s"}',
        b'["%s"]',
        b"[" * 100_000 + b'"%s"',
        b'"%s"',
        b'{"seq":9,"event":"moved","at":"2026-01-01T00:00:00Z","source_file":"a.csv","rows":["%s"]}',
    ],
)
def test_an_event_of_another_kind_is_passed_over(junk: bytes, archive: Archive) -> None:
    """An event JSON that is cut, or was made by something else, hides no other and stops nothing."""
    run_id = archive.live()[lived.PLAIN].run_id
    junk_file = next(archive.layout.events_dir.glob("*/*")) / "999999999-ingested.json"
    junk_file.write_bytes(junk % run_id.encode())
    assert [event["event"] for event in story(archive, lived.PLAIN).events] == ["ingested", "duplicate"]


@pytest.mark.parametrize("column", ["proc", "date_local", "chip_name"])
def test_another_value_of_an_event_is_no_file(column: str, archive: Archive) -> None:
    """Events are found by the files and runs they name, not by a procedure, a day or a chip."""
    asked = str(getattr(archive.live()[lived.PLAIN], column))
    assert any(f'"{asked}"' in path.read_text() for path in archive.layout.events_dir.rglob("*.json"))
    with pytest.raises(UsageError, match=r"there is no such raw file|this is a folder"):
        story(archive, asked)


def test_a_superseded_run_names_its_successor(archive: Archive) -> None:
    """Asked for the old run id, the story holds both rows, and which is live."""
    old = next(row for row in archive.rows() if row.superseded_by)
    told = story(archive, old.run_id)
    assert {row.run_id: row.superseded_by for row in told.rows} == {
        old.run_id: old.superseded_by,
        old.superseded_by: None,
    }


def test_a_superseded_run_whose_successor_is_not_known_names_none(archive: Archive) -> None:
    """Manifest and events were lost when the successor's file had moved: the stage does not tell which run it is."""
    old = next(row for row in archive.rows() if row.superseded_by)
    assert story(archive, old.run_id).verdict == (
        f"It was run {old.run_id}, superseded by {old.superseded_by}, which counts in its place."
    )
    archive.move(lived.RESTARTED, "elsewhere/It_4.csv")
    lived.plain_start(archive)
    shutil.rmtree(archive.layout.manifest_path.parent)
    assert lived.mend(archive).left == []
    told = f"It was run {old.run_id}, superseded by a run that is not known any more."
    assert story(archive, old.run_id).verdict == told
    with pytest.raises(UsageError, match=f"run {old.run_id} was superseded") as refused:
        load_run(old.run_id, archive.root, config=archive.root.parent / "config.toml")
    assert refused.value.next_step == "look for it among the runs of `load_manifest()`"


def test_a_file_that_is_new_or_changed_or_running(archive: Archive) -> None:
    """A file not decided yet is told with its state: over, queued, or its last line incomplete."""
    archive.put("new/It_30.csv", lived.number(30).data)
    assert "over and not staged yet" in story(archive, "new/It_30.csv").verdict
    archive.put(lived.PLAIN, BROKEN)
    assert "takes it again, because it changed" in story(archive, lived.PLAIN).verdict
    archive.put("new/It_31.csv", lived.number(31, rows=0).data)
    assert story(archive, "new/It_31.csv").verdict.startswith("It is queued")
    with archive.put("new/It_32.csv", lived.number(32).data).open("ab"):
        assert story(archive, "new/It_32.csv").verdict.startswith("It is running")


def test_a_file_that_is_too_large_is_not_looked_into(tmp_path: Path) -> None:
    """Only its beginning would be seen: no row of it is counted, and the cut is not taken for that of its last line."""
    archive = Archive(tmp_path, stage={"max_file_mib": 0.01})
    changed = archive.put("large.csv", lived.number(1, rows=1000).data).stat().st_mtime
    told = explain(archive.settings, "large.csv", datetime.fromtimestamp(changed + 5, UTC))
    assert told.verdict.startswith("It is over and not staged yet")
    assert told.raw.content is not None
    assert (told.raw.content.state, told.raw.content.rows) == ("settled", None)
    assert told.raw.content.sha256 == hashlib.sha256(lived.number(1, rows=1000).data).hexdigest()


def test_unknown_files_and_runs_are_refused_with_the_nearest(archive: Archive) -> None:
    """A path or run id that nothing is known of is refused; the nearest known one is named."""
    with pytest.raises(UsageError, match=f"did you mean {lived.PLAIN}"):
        story(archive, lived.PLAIN.replace("It_1", "It_1x"))
    run_id = archive.live()[lived.PLAIN].run_id
    with pytest.raises(UsageError, match="nothing is known of it") as caught:
        story(archive, run_id[:5])
    assert "at least the first 6 digits" in caught.value.next_step
    with pytest.raises(UsageError, match=f"did you mean {run_id}"):
        story(archive, run_id[:-1] + ("0" if run_id[-1] != "0" else "1"))


def test_missing_parts_are_told_not_raised(archive: Archive) -> None:
    """Without its Parquet, history, reject JSON or whole event JSONs a story still comes, and says what is missing."""
    assert (story(archive, lived.REJECTED).reject or {})["code"] == "not-pymeasure"
    row = archive.live()[lived.PLAIN]
    archive.staged(row).unlink()
    archive.layout.history_file(row.chip_name or "").unlink()
    archive.layout.reject_file(lived.REJECTED).unlink()
    for path in archive.layout.events_dir.rglob("*-ingested.json"):
        path.write_bytes(b'{"seq": 1, "source_file": "' + lived.PLAIN.encode())
    told = story(archive, lived.PLAIN)
    assert "problem" in told.staged[0]
    assert "problem" in told.history[0]
    assert story(archive, lived.REJECTED).reject is None


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("photo.jpg", "It is passed over: only names that end in .csv count."),
        (".hidden.csv", "It is passed over: names that begin with a dot are not looked at."),
        (".git/It_1.csv", "It is passed over: names that begin with a dot are not looked at."),
        ("~$It_1.csv", "It is passed over: names that begin with ~$ are made by Office while a file is open."),
        ("#recycle/It_1.csv", "It is passed over: #recycle is a folder that systems make for themselves."),
        ("link.csv", "It is passed over: symbolic links are not followed."),
        ("linked/It_1.csv", "It is passed over: symbolic links are not followed."),
    ],
)
def test_what_no_scan_takes_is_told(name: str, verdict: str, archive: Archive) -> None:
    """A path that is never staged is not said to wait for the next backfill, nor to be gone."""
    for other in ("photo.jpg", ".hidden.csv", ".git/It_1.csv", "~$It_1.csv", "#recycle/It_1.csv"):
        archive.put(other, lived.number(30).data)
    (archive.raw / "link.csv").symlink_to(lived.PLAIN)
    (archive.raw / "linked").symlink_to(lived.DAY)
    assert story(archive, name).verdict == verdict
    archive.backfill()
    assert story(archive, name).verdict == verdict


@pytest.mark.parametrize("typed", ["odd\\xff.csv", os.fsdecode(b"odd\xff.csv")])
def test_a_name_that_no_table_can_hold_is_told(typed: str, archive: Archive) -> None:
    """It is found by its bytes, and as it is printed; it is not said to be nowhere."""
    archive.put(os.fsdecode(b"odd\xff.csv"), lived.number(30).data)
    told = story(archive, typed)
    assert (told.source_file, told.verdict) == ("odd\\xff.csv", "It is passed over: its name is not UTF-8: rename it.")


def test_a_file_is_found_by_its_name_as_it_is_printed(archive: Archive) -> None:
    """Characters that would drive a terminal are printed as escapes, and taken so."""
    archive.put("new\nline.csv", lived.number(30).data)
    archive.backfill()
    assert story(archive, "new\\nline.csv").source_file == "new\nline.csv"


def test_nothing_is_called_gone_while_the_raw_root_is_away(archive: Archive) -> None:
    """A share that is not mounted has lost no file."""
    archive.raw.rename(archive.raw.with_name("away"))
    for name in (lived.PLAIN, lived.REJECTED):
        told = story(archive, name)
        assert "gone" not in told.verdict
        assert told.raw.problem == "there is no such folder of raw files"
        assert "share" in told.raw.next_step
    assert story(archive, "never.csv").verdict.endswith("(`ingestd config show`); is the share mounted?")
    archive.raw.touch()
    assert story(archive, "never.csv").verdict == (
        "It cannot be read: this is a file, not a folder of raw files; "
        "check --data-root, --raw-root or paths.raw_root (`ingestd config show`)."
    )


@pytest.mark.parametrize("name", [lived.DAY, ".git"])
def test_a_folder_is_refused(name: str, archive: Archive) -> None:
    """A folder has no story: a file in it is to be named. One that stands where a known file was keeps that one's."""
    archive.put(".git/It_1.csv", lived.number(30).data)
    with pytest.raises(UsageError, match="this is a folder") as caught:
        story(archive, name)
    assert (caught.value.place, caught.value.next_step) == (str(archive.raw / name), "name a file in it")
    archive.delete(lived.PLAIN)
    (archive.raw / lived.PLAIN).mkdir()
    assert story(archive, lived.PLAIN).verdict.startswith("It is run")


def test_the_raw_file_is_read_once(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on a slow share is not read a second time for its hash."""
    opened: list[Path] = []
    open_raw = look.open_raw

    def noted(path: Path) -> int:
        opened.append(path)
        return open_raw(path)

    monkeypatch.setattr(look, "open_raw", noted)
    archive.put("new/It_30.csv", lived.number(30).data)
    told = story(archive, "new/It_30.csv").raw.content
    assert told is not None
    assert told.sha256 == hashlib.sha256(lived.number(30).data).hexdigest()
    assert opened == [archive.raw / "new/It_30.csv"]


@pytest.mark.parametrize("name", ["x" * 300 + ".csv", "x/" * 2500 + ".csv"])
def test_a_name_longer_than_any_file_has_is_unknown(name: str, archive: Archive) -> None:
    """Nothing is wrong with the disk when there can be no such file."""
    with pytest.raises(UsageError, match="there is no such raw file"):
        story(archive, name)


def test_parquet_that_may_not_be_read_is_told_not_raised(archive: Archive) -> None:
    """The rest of the story comes all the same."""
    row = archive.live()[lived.PLAIN]
    archive.staged(row).chmod(0)
    place = ["--data-root", str(archive.root), "--config", str(archive.root.parent / "config.toml")]
    done = subprocess.run(
        [*powerless(), sys.executable, "-m", "ingestd", "explain", row.run_id, *place],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("parquet ")]
    assert "Permission denied" in line
    assert f"It is run {row.run_id}: 3 rows." in done.stdout


def test_an_upper_case_csv_is_taken(archive: Archive) -> None:
    """`.CSV` counts as well: the next backfill takes it."""
    archive.put("It_30.CSV", lived.number(30).data)
    assert "over and not staged yet" in story(archive, "It_30.CSV").verdict


def test_a_run_whose_file_became_a_link(archive: Archive) -> None:
    """A link in the place of a run's raw file is not taken for it: the run stays, its file is not there."""
    (archive.raw / lived.PLAIN).rename(archive.root / "elsewhere.csv")
    (archive.raw / lived.PLAIN).symlink_to(archive.root / "elsewhere.csv")
    assert story(archive, lived.PLAIN).verdict.endswith(
        "Its raw file cannot be read: symbolic links are not followed; the staged data stays."
    )


def test_a_rejected_edit_of_a_run(archive: Archive) -> None:
    """The run that was staged from the earlier bytes stays live, and its story says so; `verify` too."""
    run_id = archive.live()[lived.PLAIN].run_id
    archive.put(lived.PLAIN, BROKEN)
    archive.backfill()
    stays = f"Run {run_id}, staged from its earlier bytes (3 rows), stays live."
    assert story(archive, lived.PLAIN).verdict == (
        "It was rejected (not-pymeasure); it stays rejected until its bytes change or "
        f"`ingestd rejects retry {lived.PLAIN}` succeeds. {stays}"
    )
    (told,) = [one.message for one in lived.findings(archive) if (one.kind, one.path) == ("rejected", lived.PLAIN)]
    assert told.endswith(f"; run {run_id}, staged from its earlier bytes, stays live")


def test_a_queued_file_that_is_gone(archive: Archive) -> None:
    """What is not there any more waits for nothing."""
    archive.delete(lived.QUEUED)
    assert story(archive, lived.QUEUED).verdict == "It was queued, and is gone now: it never became a run."


def test_an_edit_tells_where_the_old_data_is(archive: Archive) -> None:
    """The event of an edit names the Parquet it replaced by its path below the data root, and it is there."""
    (edited,) = [event for event in story(archive, lived.EDITED).events if event["event"] == "edited"]
    (kept,) = edited["kept"]
    assert (archive.root / kept).is_file()
