"""What `status` says to people, on the sample data with the service down."""

from __future__ import annotations

import os
import re
import socket
import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from commands import Folder
from measurement import BROKEN, Measurement

from ingestd.cli.output import LONG_LIST
from ingestd.service.state import ServiceState, service_lock, write_state
from ingestd.settings import load_settings


def test_status_tells_the_runs_measured_last_in_local_time(staged: Folder) -> None:
    """The last runs stand with their local start time and the zone below them; the JSON has UTC.

    A file that was renamed is decided again, and no later run for it.
    """
    (staged.raw / "2026-03-12" / "IV2026-03-12_1.csv").rename(staged.raw / "renamed_1.csv")
    staged.run("backfill", "--workers", "1")
    done = staged.run("status", "--local-tz", "Asia/Tokyo")
    told = re.findall(r"^last run  \S+  measured (\S+ \S+)$", done.out, re.MULTILINE)
    runs = staged.run("status", "--json").json["last_runs"]
    times = [datetime.fromisoformat(run["start_time_utc"]).astimezone(ZoneInfo("Asia/Tokyo")) for run in runs]
    assert told == [f"{time:%Y-%m-%d %H:%M:%S}" for time in times] == sorted(told, reverse=True)
    assert len(told) == 5
    assert "renamed_1.csv" not in done.out
    assert done.out.endswith("\n          times in Asia/Tokyo\n")


def test_a_run_of_a_wrong_clock_is_not_the_last(folder: Folder) -> None:
    """One that starts years ahead counts, and does not stand before those measured last; an hour ahead is no matter."""
    for name, start in {"It_1.csv": 1758632155.25, "It_2.csv": 4e9, "It_3.csv": time.time() + 3600}.items():
        folder.put(name, Measurement(start=start).data)
    assert folder.run("backfill", "--workers", "1").code == 0
    told = folder.run("status", "--json").json
    assert (told["runs"], [run["source_file"] for run in told["last_runs"]]) == (3, ["It_3.csv", "It_1.csv"])


def test_status_names_the_file_first(staged: Folder) -> None:
    """Of a waiting file it says how long ago it changed; of a trouble, and of a reject, which file is meant."""
    now = time.time()
    for name, data, age_s in (("It_1.csv", Measurement().data, 60), ("It_2.csv", Measurement().data[:-3], 10)):
        staged.put(name, data)
        os.utime(staged.raw / name, (now - age_s,) * 2)
    edited = staged.raw / "2026-03-12" / "IV2026-03-12_1.csv"
    edited.write_bytes(edited.read_bytes() + b"1,2,3,4,5,6,7,8,9\n")
    os.utime(edited, (now - 86400,) * 2)
    staged.run("backfill", "--workers", "1")
    os.utime(staged.put("It_3.csv", Measurement().but(rows=2).data), (now - 3600,) * 2)
    staged.put(b"It_\xff.csv", b"")
    told = staged.run("status").out
    assert re.search(r"^waiting   It_2\.csv  running, 2 rows so far, last change \d+ s ago: its last line", told, re.M)
    assert re.search(r"^waiting   It_3\.csv  pending, last change 60 min ago: over", told, re.M)
    assert re.search(r"^waiting   \S+  queued for \d+ d: header only", told, re.M)
    assert re.search(r"^trouble   /\S+\\xff\.csv: the name of this file is not UTF-8", told, re.M), told
    earlier = r"\(run [0-9a-f]{20}, staged from it before, stays live\)"
    assert re.search(rf"^rejected  \S+_1\.csv  row-too-long  {earlier}$", told, re.M), told
    assert "safe to power off: no (a measurement may be running: It_2.csv: its last line is incomplete;" in told


def test_status_of_an_archive_tells_what_matters_first(raw: Folder) -> None:
    """Files that are only to be staged stand in one line, below what is measured and what is queued."""
    now = time.time()
    os.utime(raw.put("zzz_1.csv", Measurement().data[:-3]), (now, now))
    told = re.findall(r"^waiting   (\S+(?: files)?)  ([a-z]+)", raw.run("status").out, re.MULTILINE)
    assert told == [("zzz_1.csv", "running"), ("2026-03-13/It2026-03-13_5.csv", "queued"), ("21 files", "pending")]


def test_what_is_years_old_hides_nothing_new(folder: Folder) -> None:
    """Of many files that are queued or rejected, the list begins with those that changed last."""
    header = Measurement(rows=0).data
    for number in range(LONG_LIST + 2):
        folder.put(f"queued_{number}.csv", header.replace(b"72", b"%d" % number))
        folder.put(f"bad_{number}.csv", BROKEN)
    now = time.time()
    os.utime(folder.put("zzz_bad.csv", BROKEN), (now - 3600,) * 2)
    os.utime(folder.put("zzz_queued.csv", header.replace(b"72", b"99")), (now - 3600,) * 2)
    cut = Measurement().data[:-3]
    os.utime(folder.put("zzz_running.csv", cut), (now, now))
    told = folder.run("backfill", "--workers", "1").out
    assert re.findall(r"^(?:running|queued) +(\S+)$", told, re.MULTILINE)[:2] == ["zzz_running.csv", "zzz_queued.csv"]
    told = folder.run("status").out
    assert re.findall(r"^waiting +(\S+)", told, re.MULTILINE)[:2] == ["zzz_running.csv", "zzz_queued.csv"]
    assert re.findall(r"^rejected +(\S+)", told, re.MULTILINE)[0] == "zzz_bad.csv"


def test_tail_says_which_zone_it_speaks_and_when_there_is_nothing_to_say(staged: Folder) -> None:
    """The zone is named once, on stderr; a level that no line has is told, and no error."""
    log = staged.path / "data" / "02_stage" / "_manifest" / "ingestd.log"
    log.write_text('{"time": "2025-09-23T13:05:07.250Z", "level": "info", "event": "started"}\n' * 2)
    done = staged.run("tail", "--local-tz", "Asia/Tokyo")
    assert done.out.splitlines() == ["2025-09-23 22:05:07  info     started"] * 2
    assert (done.err, done.code) == ("times in Asia/Tokyo\n", 0)
    done = staged.run("tail", "--level", "error")
    assert (done.out, done.err, done.code) == ("", "no line of the log is at level error or above\n", 0)


def test_tail_that_follows_no_log_says_where_it_waits(folder: Folder) -> None:
    """A slip in --data-root is no silence; a service that is started afterwards is followed."""
    tail = folder.start("tail", "-f", "--data-root", "dta")
    assert tail.stderr is not None
    assert tail.stdout is not None
    log = folder.path / "dta" / "02_stage" / "_manifest" / "ingestd.log"
    said = "the service has not logged anything here yet; waiting for its first line"
    assert tail.stderr.readline() == f"{log}: {said} (if a service is running, check --data-root)\n"
    log.parent.mkdir(parents=True)
    log.write_text('{"time": "2025-09-23T13:05:07.250Z", "level": "info", "event": "started"}\n')
    assert tail.stdout.readline().endswith("started\n")
    tail.terminate()
    tail.communicate(timeout=60)


def test_status_of_a_service_that_is_down_says_what_that_means(staged: Folder) -> None:
    """Whoever reads that the service is not running also reads what becomes of new runs."""
    first, *_ = staged.run("status").out.splitlines()
    assert first == "service   is not running: new runs wait for it, or for an `ingestd backfill`"


def test_status_names_a_repair_that_holds_the_data_root(staged: Folder) -> None:
    """No service runs, and why none can be started is told, with the process to wait for."""
    layout = load_settings(flags={"paths": {"data_root": str(staged.path / "data")}}).layout
    with service_lock(layout, "`ingestd repair --apply`").held(0.0):
        told = staged.run("status").out
    named = f"service   is not running: `ingestd repair --apply` (pid {os.getpid()} on {socket.gethostname()}) holds"
    assert told.startswith(named)


def test_status_tells_the_last_runs_apart(staged: Folder) -> None:
    """Each of the last runs stands with its source file, and its summary below it, within 100 columns."""
    done = staged.run("status")
    runs = staged.run("status", "--json").json["last_runs"]
    told = re.findall(r"^last run  (\S+)  measured .*\n {10}(.*)$", done.out, re.MULTILINE)
    assert told == [(run["source_file"], run["summary"]) for run in runs]
    assert max(len(line) for line in done.out.partition("last run")[2].splitlines()) <= 100


@pytest.mark.parametrize(
    ("watching", "line"),
    [
        ("by scanning every 10 s", "          watching by scanning every 10 s"),
        ("waiting for /lab/01_raw: No such file", "          waiting for /lab/01_raw: No such file"),
    ],
)
def test_status_says_how_the_service_watches_or_what_it_waits_for(staged: Folder, watching: str, line: str) -> None:
    """A service whose raw root is away waits for it, and is not said to watch."""
    now = datetime.now(UTC)
    state = ServiceState(
        pid=os.getpid(),
        host=socket.gethostname(),
        version="0",
        started_at=now,
        updated_at=now,
        phase="running",
        doing="at rest",
        watching=watching,
    )
    settings = load_settings(flags={"paths": {"data_root": str(staged.path / "data")}})
    write_state(settings.layout, state)
    assert staged.run("status").out.splitlines()[1] == line
