"""Delete event JSONs older than `events.keep_days`. Log and manifest hold what counts; events are for people."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path

from ingestd import files


def delete_old_events(events_dir: Path, today: date, keep_days: int) -> list[str]:
    """Delete the day folders dated more than `keep_days` days before `today` (0: none); return their names.

    Only folders named as a date are touched.

    Raises:
        Retry: the disk refused.
    """
    if keep_days <= 0:
        return []
    oldest = today - timedelta(days=min(keep_days, (today - date.min).days))
    gone: list[str] = []
    with files.as_retry(events_dir):
        if not files.is_dir(events_dir):
            return gone
        for folder in sorted(events_dir.iterdir()):
            day = _day_of(folder.name)
            if day is not None and day < oldest and files.is_dir(folder) and not folder.is_symlink():
                shutil.rmtree(folder)
                gone.append(folder.name)
    return gone


def _day_of(name: str) -> date | None:
    try:
        day = date.fromisoformat(name)
    except ValueError:
        return None
    return day if day.isoformat() == name else None
