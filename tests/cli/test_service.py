"""What `status` says to people, on the sample data with the service down."""

from __future__ import annotations

import re
from datetime import datetime
from zoneinfo import ZoneInfo

from commands import Folder


def test_status_tells_the_time_of_staging_in_local_time(staged: Folder) -> None:
    """The last runs stand with the local time at which they were staged; the JSON has UTC."""
    done = staged.run("status", "--local-tz", "Asia/Tokyo")
    told = re.findall(r"^last run  staged (\S+ \S+)  \S", done.out, re.MULTILINE)
    runs = staged.run("status", "--json").json["last_runs"]
    times = [datetime.fromisoformat(run["ingested_at_utc"]).astimezone(ZoneInfo("Asia/Tokyo")) for run in runs]
    assert told == [f"{time:%Y-%m-%d %H:%M:%S}" for time in times]


def test_status_of_a_service_that_is_down_says_what_that_means(staged: Folder) -> None:
    """Whoever reads that the service is not running also reads what becomes of new runs."""
    first, *_ = staged.run("status").out.splitlines()
    assert first == "service   is not running: new runs wait for it, or for an `ingestd backfill`"
