"""Event JSONs past their time are deleted, and nothing else; what is measured meanwhile does not wait for it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from running import put
from turning import until_turned

from ingestd.ingest.commit import Ingest, opened
from ingestd.service.messages import DeleteOldEvents, Hint, ScanAsked
from ingestd.service.retention import delete_some_events
from ingestd.service.worker import Worker
from ingestd.settings import Settings

EARLIER = [f"2026-01-{day}" for day in range(10, 23)]


def test_event_jsons_are_deleted_when_past_their_time(ingest: Ingest, tmp_path: Path) -> None:
    """The job deletes day folders older than `events.keep_days`, nothing else; the manifest keeps the runs."""
    raw, layout = ingest.layout.raw_root, ingest.layout
    worker = Worker(ingest)
    names = put(raw, 0, 2)
    worker.inbox.put(ScanAsked("start"))
    until_turned(worker, lambda: {run.source_file for run in ingest.store.catalog.rows.values()} == names, "the runs")
    today = ingest.clock().astimezone(ingest.settings.zone).date()
    (day,) = layout.events_dir.iterdir()
    old = layout.events_dir / (today - timedelta(days=31)).isoformat()
    day.rename(old)
    kept = layout.events_dir / (today - timedelta(days=30)).isoformat()
    kept.mkdir()
    (layout.events_dir / "notes of mine").mkdir()
    worker.inbox.put(DeleteOldEvents())
    until_turned(worker, lambda: not old.exists(), "the old events are gone")
    assert {path.name for path in layout.events_dir.iterdir()} == {kept.name, "notes of mine"}
    assert len(ingest.store.catalog.rows) == 2


def test_a_run_that_is_over_does_not_wait_until_years_of_events_are_deleted(ingest: Ingest) -> None:
    """They are deleted a thousand at most in a turn, and what is due meanwhile has its turn in between."""
    worker = Worker(ingest)
    days = [ingest.layout.events_dir / f"2020-01-0{day}" for day in (1, 2)]
    for day in days:
        for block in range(3):
            (day / f"{block}000").mkdir(parents=True)
    worker.inbox.put(DeleteOldEvents())
    worker.turn(0.0)
    assert sum(1 for _ in ingest.layout.events_dir.glob("*/*")) == 5
    put(ingest.layout.raw_root, 0, 1)
    worker.inbox.put(Hint("It_0.csv"))
    until_turned(worker, lambda: ingest.store.catalog.rows, "the run")
    until_turned(worker, lambda: not any(day.exists() for day in days), "the old events are gone")


def test_the_day_of_the_lab_tells_which_events_are_old(settings: Settings) -> None:
    """In the evening, when it is tomorrow already in UTC, no day is deleted before its time."""
    evening = datetime(2026, 1, 31, 1, tzinfo=UTC)  # 22:00 of the day before in the lab
    with opened(settings, lambda: evening) as ingest:
        old, kept = (ingest.layout.events_dir / day for day in ("2025-12-30", "2025-12-31"))
        for day in (old, kept):
            day.mkdir(parents=True)
        worker = Worker(ingest)
        worker.inbox.put(DeleteOldEvents())
        until_turned(worker, lambda: not old.exists(), "the old events are gone")
        assert kept.exists()


@pytest.mark.parametrize(
    ("keep_days", "deleted"),
    # some mean "for ever" by a large number
    [(0, []), (7, [*EARLIER, "2026-01-23/000000000", "2026-01-23"]), (10**6, []), (10**30, [])],
)
def test_retention_touches_dated_folders_only(tmp_path: Path, keep_days: int, deleted: list[str]) -> None:
    """Files, links and other folders stay; 0 days, and more than there have been, keep everything for ever.

    The oldest day goes first; a link in its folder goes with it, and what that leads to stays.
    """
    today = date(2026, 1, 31)
    for name in reversed(EARLIER):
        (tmp_path / name).mkdir()
    for name in ("2026-01-23", "2026-01-24", "20250101", "2025-13-01", "2025-W01-1", "old"):
        (tmp_path / name / "000000000").mkdir(parents=True)
    (tmp_path / "2020-01-01").write_text("a file")
    (tmp_path / "2020-01-02").symlink_to(tmp_path / "old")
    (tmp_path / EARLIER[0] / "link").symlink_to(tmp_path / "old")
    before = {path.name for path in tmp_path.iterdir()}
    gone = list(iter(lambda: delete_some_events(tmp_path, today, keep_days), None))
    assert [path.relative_to(tmp_path).as_posix() for path in gone] == deleted
    assert {path.name for path in tmp_path.iterdir()} == before - set(deleted)
    assert (tmp_path / "old" / "000000000").is_dir()
    assert delete_some_events(tmp_path / "nothing here", today, keep_days) is None
