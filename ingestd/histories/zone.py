"""Whether the dates and times of a history file are those of another time zone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from zoneinfo import ZoneInfo, available_timezones


def is_of_another_zone(actual: bytes, expected: bytes, tz: str) -> bool:
    """Tell whether a history file is the one expected in the zone `tz`, except for dates and times of another zone.

    One zone must show all of its times, so an edited time does not pass for one.
    """
    ours, theirs = (text.split(b"\n") for text in (expected, actual))
    if len(ours) != len(theirs) or (ours[0], ours[-1]) != (theirs[0], theirs[-1]):
        return False
    begun: list[tuple[set[datetime], datetime]] = []
    for our, their in zip(ours[1:-1], theirs[1:-1], strict=True):
        (seq, *local, rest), cells = our.split(b",", 3), their.split(b",", 3)
        if (cells[:1], cells[3:]) != ([seq], [rest]):
            return False
        try:
            begun.append((_moments(_time(local), ZoneInfo(tz)), _time(cells[1:3])))
        except ValueError:
            return False
    return any(all(_shows(zone, moments, time) for moments, time in begun) for zone in _all_zones())


def _time(cells: Sequence[bytes]) -> datetime:
    """Read the cells `date` and `time_hms`."""
    return datetime.strptime(" ".join(cell.decode() for cell in cells), "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007  # local


def _moments(local: datetime, zone: ZoneInfo) -> set[datetime]:
    """List the moments at which a zone shows a local time: two where its clocks are set back."""
    return {local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}


def _shows(zone: ZoneInfo, moments: set[datetime], local: datetime) -> bool:
    return any(moment.astimezone(zone).replace(tzinfo=None) == local for moment in moments)


@cache
def _all_zones() -> list[ZoneInfo]:
    return [ZoneInfo(name) for name in sorted(available_timezones())]
