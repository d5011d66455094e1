"""Several processes, files that change under them, clocks that jump: one row a measurement, none lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import lived
import polars as pl
import pytest
from archive import Archive
from crash_cases import PYTHONPATH
from inline import inline
from lived import FULL
from measurement import Measurement

from ingestd.backfill.run import Options, backfill
from ingestd.histories import chip as chip_histories
from ingestd.stage.parquet import read_run

FILES = 2000 if FULL else 300
LONG_AGO = 1764600000


def start(archive: Archive, *words: str) -> subprocess.Popen[bytes]:
    """Begin a command on an archive."""
    config = archive.root.parent / "config.toml"
    with (archive.root.parent / f"{words[0]}.err").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "ingestd", *words, "--config", str(config), "--data-root", str(archive.root)],
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
            stdout=subprocess.DEVNULL,
            stderr=said,
        )


@pytest.mark.timeout(1800)
def test_two_backfills_and_a_service_at_once(empty: Archive, figure: Callable[[str, int], None]) -> None:
    """On the same files at once they make one row a measurement; verify beside them calls nothing under way damage."""
    for sample in range(FILES):
        name = f"2025-09-{1 + sample % 28:02d}/It2025_{sample}.csv"
        path = empty.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lived.number(sample, chip=60 + sample % 7).data)
        if sample % 10 == 0:
            (empty.raw / f"{name[:-4]}-copy.csv").write_bytes(path.read_bytes())
    for path in empty.raw.rglob("*.csv"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    service = start(empty, "run")
    backfills = [start(empty, "backfill", "--workers", "1") for _ in range(2)]
    looks = 0
    while any(one.poll() is None for one in backfills):
        assert lived.damages(empty, deep=bool(looks % 2)) == set()
        looks += 1
    assert looks
    assert [one.wait() for one in backfills] == [0, 0]
    service.send_signal(signal.SIGTERM)
    assert service.wait(120) == 0
    rows = empty.rows()
    assert len(rows) == FILES
    assert max(Counter(row.source_sha256 for row in rows).values()) == 1
    assert len([note for note in empty.notes().values() if note.outcome == "duplicate"]) == FILES // 10
    events = [json.loads(path.read_text("utf-8")) for path in empty.layout.events_dir.rglob("[0-9]*.json")]
    assert Counter(event["event"] for event in events)["ingested"] == FILES
    assert sorted(event["seq"] for event in events) == sorted({event["seq"] for event in events})
    lived.check_sound(empty)
    figure("files of two backfills and a service", FILES)


@pytest.mark.timeout(600)
def test_files_that_change_while_they_are_staged(empty: Archive) -> None:
    """Files that grow, move and go between the scan, the look and the commit are decided as they are in the end."""
    chance = random.Random(4)
    names = [f"day/It_{sample}.csv" for sample in range(60 if FULL else 20)]
    runs = {name: lived.number(sample) for sample, name in enumerate(names)}
    for name, run in runs.items():
        empty.put(name, run.data)
    gone: set[str] = set()

    def meddle(_: object) -> None:
        # A file that both moved and grew since it was last seen is a new run: nothing tells what it was.
        name = chance.choice(sorted(runs))
        grows = int(name[-5]) % 2
        match chance.randrange(4):
            case 0 if grows:
                runs[name] = runs[name].but(rows=runs[name].rows + 1)
                empty.put(name, runs[name].data)
            case 1 if not grows:
                to = name.replace("day/", "night/") if name.startswith("day/") else name.replace("night/", "day/")
                runs[to] = runs.pop(name)
                empty.move(name, to)
            case 2:
                empty.touch(name)
            case 3 if not grows and len(gone) < 5:
                gone.add(str(runs.pop(name).start))
                empty.delete(name)

    for _ in range(6):
        backfill(empty.settings, replace(lived.options(empty), on_record=meddle, on_progress=meddle))
        empty._ticks += 60
    for _ in range(2):
        lived.plain_start(empty)
    lived.check_sound(empty)
    live = [row for row in empty.rows() if row.live]
    by_path = {row.source_file: row for row in live if (empty.raw / row.source_file).exists()}
    assert by_path.keys() == runs.keys()
    assert {name: row.rows for name, row in by_path.items()} == {name: run.rows for name, run in runs.items()}
    starts = Counter(row.start_time_utc for row in live)
    assert max(starts.values()) == 1, "one measurement counts twice"


# ---- clocks ----------------------------------------------------------------------------------------------------------


def test_a_clock_set_back_an_hour_loses_nothing(empty: Archive) -> None:
    """Files with times in the future, and decisions that are older than those before them, are taken all the same."""
    empty.put("a/It_1.csv", lived.number(1).data)
    lived.plain_start(empty)
    empty.now = lambda: datetime(2025, 12, 30, 23, 0, tzinfo=UTC)  # type: ignore[method-assign]
    future = datetime(2025, 12, 31, 0, 0, tzinfo=UTC).timestamp()
    empty.put("a/It_2.csv", lived.number(2).data)
    empty.put("a/It_1.csv", lived.number(1, chip=67).data)
    for name in ("a/It_1.csv", "a/It_2.csv"):
        os.utime(empty.raw / name, (future, future))
    lived.plain_start(empty)
    assert {name: row.chip_number for name, row in empty.live().items()} == {"a/It_1.csv": 67, "a/It_2.csv": 72}
    lived.check_sound(empty)
    assert lived.mend(empty).left == []
    assert {name: row.chip_number for name, row in empty.live().items()} == {"a/It_1.csv": 67, "a/It_2.csv": 72}


def test_a_file_from_a_moment_ahead_of_the_clock_is_not_forgotten(empty: Archive) -> None:
    """An mtime a minute ahead (another machine's clock) does not keep a file waiting for ever."""
    empty.put("a/It_1.csv", lived.number(1).data)
    ahead = empty.now() + timedelta(seconds=60)
    os.utime(empty.raw / "a/It_1.csv", (ahead.timestamp(), ahead.timestamp()))
    lived.plain_start(empty)
    assert "a/It_1.csv" in empty.live()


SANTIAGO = ZoneInfo("America/Santiago")


@pytest.mark.parametrize(
    ("written", "utc", "warned"),
    [
        ("2025-04-05T23:30:00", "2025-04-06T02:30:00", True),  # set back at midnight: it occurs twice, the earlier
        ("2025-09-07T00:30:00", "2025-09-07T04:00:00", True),  # does not exist: the instant after the gap
        ("2025-09-06T23:59:59", "2025-09-07T03:59:59", False),
        ("2025-09-07T01:00:00", "2025-09-07T04:00:00", False),
    ],
)
def test_clock_change_days_of_santiago(written: str, utc: str, warned: bool, empty: Archive) -> None:
    """A naive time that occurs twice or never becomes one instant, with a warning; dates are local ones."""
    data = Measurement(start=0.0).data.replace(b"Start time: 0.0", b"Start time: " + written.encode())
    empty.put("a/It_1.csv", data)
    empty.backfill()
    row = empty.live()["a/It_1.csv"]
    assert row.start_time_utc == datetime.fromisoformat(utc).replace(tzinfo=UTC)
    assert bool(row.warnings) is warned
    assert row.date_local == row.start_time_utc.astimezone(SANTIAGO).date()


@pytest.mark.parametrize("day", ["2025-04-05", "2025-04-06", "2025-09-06", "2025-09-07"])
def test_histories_of_clock_change_days_are_in_order(day: str, empty: Archive) -> None:
    """Over the hour that occurs twice or never, `seq` follows the instants, and a rebuild gives the same bytes."""
    noon = datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=UTC).timestamp()
    for step in range(24):
        empty.put(f"{day}/It_{step}.csv", Measurement(start=noon + 3600.0 * step, sample=step).data)
    empty.backfill()
    assert empty.history(72) == [f"{day}/It_{step}.csv" for step in range(24)]
    before = lived.histories(empty)
    lived.rebuild(empty, "stage")
    assert lived.histories(empty) == before


def test_a_new_column_in_one_file_changes_nothing_for_the_others(archive: Archive) -> None:
    """A column no procedure knows goes into `extra` of that run alone; the other runs' Parquet keeps its bytes."""
    before = {path: path.read_bytes() for path in archive.layout.staged_root.rglob("*.parquet")}
    data = lived.number(40).data.replace(b"Clock (ms)\r\n", b"Clock (ms),Humidity (%)\r\n")
    data = data.replace(b"nan,nan,nan\r\n", b"nan,nan,nan,41\r\n")
    archive.put("new/It_40.csv", data)
    archive.backfill()
    assert {path: path.read_bytes() for path in before} == before
    staged = read_run(archive.staged(archive.live()["new/It_40.csv"]))
    assert staged["extra"].to_pylist()[0] == [("Humidity (%)", "41")]
    assert {path: read_run(path).schema.equals(staged.schema) for path in before} == dict.fromkeys(before, True)


def test_a_history_is_never_replaced_by_an_older_one(empty: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is ingested and its history written while another process, which has not seen it, writes that history."""
    first, second = (lived.number(sample, chip=60) for sample in range(2))
    empty.put("a/It_1.csv", first.data)
    write, ingested, both = chip_histories.write_histories, threading.Event(), threading.Event()
    other = Options(engine=inline, on_record=lambda _: ingested.set())

    def another() -> None:
        backfill(empty.settings, other)
        both.set()

    def late(rows: pl.DataFrame, *rest: Any, **names: Any) -> list[chip_histories.HistoryChange]:
        if "a/It_2.csv" not in rows["source_file"]:
            empty.put("a/It_2.csv", second.data)
            thread.start()
            assert ingested.wait(60)
            both.wait(0.5)  # it would be done by now, if nothing kept it from writing
        return write(rows, *rest, **names)

    thread = threading.Thread(target=another)
    monkeypatch.setattr(chip_histories, "write_histories", late)
    backfill(empty.settings, replace(other, on_record=lambda _: None))
    thread.join(60)
    assert both.is_set()
    assert empty.history(60) == ["a/It_1.csv", "a/It_2.csv"]
    assert lived.damages(empty) == set()
