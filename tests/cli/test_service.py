"""What `status` says to people, on the sample data with the service down."""

from __future__ import annotations

import os
import re
import socket
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from commands import Folder

from ingestd.service.state import ServiceState, write_state
from ingestd.settings import load_settings


def test_status_tells_the_time_of_staging_in_local_time(staged: Folder) -> None:
    """The last runs stand with the local time at which they were staged; the JSON has UTC."""
    done = staged.run("status", "--local-tz", "Asia/Tokyo")
    told = re.findall(r"^last run  \S+  staged (\S+ \S+)$", done.out, re.MULTILINE)
    runs = staged.run("status", "--json").json["last_runs"]
    times = [datetime.fromisoformat(run["ingested_at_utc"]).astimezone(ZoneInfo("Asia/Tokyo")) for run in runs]
    assert told == [f"{time:%Y-%m-%d %H:%M:%S}" for time in times]


def test_status_of_a_service_that_is_down_says_what_that_means(staged: Folder) -> None:
    """Whoever reads that the service is not running also reads what becomes of new runs."""
    first, *_ = staged.run("status").out.splitlines()
    assert first == "service   is not running: new runs wait for it, or for an `ingestd backfill`"


def test_status_tells_the_last_runs_apart(staged: Folder) -> None:
    """Each of the last runs stands with its source file, and its summary below it, within 100 columns."""
    done = staged.run("status")
    runs = staged.run("status", "--json").json["last_runs"]
    told = re.findall(r"^last run  (\S+)  staged .*\n {10}(.*)$", done.out, re.MULTILINE)
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
