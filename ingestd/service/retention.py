"""Delete event JSONs older than `events.keep_days`. Log and manifest hold what counts; events are for people."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path

from ingestd import files


def delete_some_events(events_dir: Path, today: date, keep_days: int) -> Path | None:
    """Delete one part of the oldest day folder dated more than `keep_days` days before `today` (0: none).

    A part is one of its folders, of at most `layout.EVENTS_PER_FOLDER` events; the day folder itself is the last part.
    So years of events go piece by piece, and what else is to be done can be done in between. Only folders named as a
    date are touched. Return what was deleted, None if nothing is left to delete.

    Raises:
        Retry: the disk refused.
    """
    if keep_days <= 0:
        return None
    oldest = today - timedelta(days=min(keep_days, (today - date.min).days))
    with files.as_retry(events_dir):
        for folder in sorted(events_dir.iterdir()) if files.is_dir(events_dir) else ():
            day = _day_of(folder.name)
            if day is not None and day < oldest and files.is_dir(folder) and not folder.is_symlink():
                part = next((path for path in folder.iterdir() if files.is_dir(path) and not path.is_symlink()), folder)
                shutil.rmtree(part)
                return part
    return None


def _day_of(name: str) -> date | None:
    try:
        day = date.fromisoformat(name)
    except ValueError:
        return None
    return day if day.isoformat() == name else None
