"""When a run started: from its header, else from a date in its path, else from the file's mtime. Always UTC."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import PurePosixPath
from typing import Final
from zoneinfo import ZoneInfo

from ingestd.errors import Reject, RejectCode, UsageError
from ingestd.manifest.row import StartTimeOrigin
from ingestd.raw.header_json import read_header_json
from ingestd.words import shown, utc_text

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PLAUSIBLE_FROM: Final = datetime(2000, 1, 1, tzinfo=UTC)
_YEARS: Final = range(1900, 9999)  # beyond them a local date may not exist, or is no four-digit year
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,2})?")
_PATH_DATE: Final = re.compile(r"(?<![0-9])(?:(\d{4})-(\d{2})-(\d{2})|(\d{4})(\d{2})(\d{2}))(?![0-9])", re.ASCII)
_PATH_YEARS: Final = range(1970, 2100)
_EIGHT_DIGITS: Final = re.compile(r"[0-9]{8}")
_ABSENT: Final = frozenset({"", "none", "nan"})


@dataclass(frozen=True, slots=True)
class StartTime:
    """A run's start in UTC (microseconds), where it was taken from, and warnings for people."""

    utc: datetime
    origin: StartTimeOrigin
    warnings: tuple[str, ...]


def start_time(header_text: str | None, source_file: str, mtime_ns: int, tz: ZoneInfo, now: datetime) -> StartTime:
    """Find the start of a run: header, else date in the path (local midnight), else mtime.

    `header_text` is the header's `Start time` as written (epoch seconds or ISO 8601), None if there is none;
    `source_file` is the POSIX path below the raw root; `tz` is the lab's zone; `now` is the clock, with a zone. Raises
    Reject `bad-start-time` if the header's text, or the mtime used for want of it, is not a time.
    """
    warnings: list[str] = []
    origin: StartTimeOrigin = "header"
    if header_text is not None and _is_told(header_text):
        utc, notes = _from_text(header_text.strip(), tz)
        warnings += notes
    else:
        lacking = "no start time" if header_text is None else "an empty start time"
        found = date_in(source_file)
        if found is not None:
            origin = "path"
            warnings.append(f"the header has {lacking}; midnight of the date in the path is used")
            utc, notes = _from_local(datetime(found.year, found.month, found.day), tz)  # noqa: DTZ001 - local midnight
            warnings += notes
        else:
            origin = "mtime"
            utc = _from_mtime(mtime_ns)
            warnings.append(
                f"the header has {lacking} and the path no date; the modification time is used, which copies may lose"
            )
    told = f"the start time {utc_text(utc, 'seconds')} is"
    if utc < _PLAUSIBLE_FROM:
        warnings.append(f"{told} before the year 2000; was the instrument PC's clock set?")
    elif utc - now > timedelta(days=1):
        warnings.append(f"{told} more than a day ahead of the clock; is a clock wrong?")
    return StartTime(utc, origin, tuple(warnings))


def tells_start(parameters: str) -> bool:
    """Tell whether a header has a start time; `parameters` is the manifest's, as `header_json` writes it."""
    text = read_header_json(parameters).start_text
    return text is not None and _is_told(text)


def _is_told(header_text: str) -> bool:
    """Tell whether a header's `Start time` says anything: PyMeasure writes `None` for what was not set."""
    return header_text.strip().lower() not in _ABSENT


def ensure_start_time_utc(value: datetime | float | str, local_tz: ZoneInfo | str = "America/Santiago") -> datetime:
    """Return `value` as an aware UTC datetime, by the rules of a header's `Start time`.

    `value` is a datetime, epoch seconds, or the text of either (ISO 8601). One without a zone is in `local_tz`: if
    it occurs twice, the earlier one counts; if it does not exist, the instant after the gap. Raises Reject
    `bad-start-time`, and UsageError if there is no zone of that name.
    """
    tz = _zone_named(local_tz) if isinstance(local_tz, str) else local_tz
    if isinstance(value, datetime):
        return _from_datetime(value, tz, str(value))[0]
    return _from_text(str(value).strip(), tz, given_as_number=not isinstance(value, str))[0]


def _zone_named(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise no_zone_named(name) from None


def no_zone_named(name: str) -> UsageError:
    """Return the error for a name that is not a time zone."""
    return UsageError(
        f"there is no time zone named {shown(name)}",
        place="local_tz",
        next_step="write a zone of the IANA database, such as America/Santiago",
    )


def _from_text(text: str, tz: ZoneInfo, *, given_as_number: bool = False) -> tuple[datetime, list[str]]:
    # ISO 8601 may leave out the hyphens of a date: 20251013, which as seconds would be in 1970.
    is_date = not given_as_number and _EIGHT_DIGITS.fullmatch(text) and date_in(text)
    if _NUMBER.fullmatch(text) and not is_date:
        try:
            return _in_range(datetime.fromtimestamp(float(text), UTC), text), []
        except (OverflowError, ValueError, OSError):
            raise _refused(text) from None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise _refused(text) from None
    return _from_datetime(parsed, tz, text)


def _from_datetime(value: datetime, tz: ZoneInfo, text: str) -> tuple[datetime, list[str]]:
    try:
        if value.tzinfo is not None:
            return _in_range(value.astimezone(UTC), text), []
        utc, warnings = _from_local(value, tz)
        return _in_range(utc, text), warnings
    except (OverflowError, ValueError):  # a table of times may have pandas' NaT, which calls itself a datetime
        raise _refused(text) from None


def _from_local(local: datetime, tz: ZoneInfo) -> tuple[datetime, list[str]]:
    """Return the UTC instant of a naive local time, and a warning if it occurs twice or never in the zone."""
    earlier, later = (local.replace(tzinfo=tz, fold=fold).astimezone(UTC) for fold in (0, 1))
    if earlier == later:
        return earlier, []
    if earlier < later:  # the clock was set back
        return earlier, [f"{local} occurred twice in {tz.key} (clock set back); the earlier is taken"]
    instant = _first_showing(local, tz, later, earlier)
    return instant, [f"{local} did not exist in {tz.key} (clock set forward); {utc_text(instant, 'seconds')} is taken"]


def _first_showing(local: datetime, tz: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """Return the first whole second in (`low`, `high`] at which the wall clock shows `local` or later.

    The clock is set on whole seconds, once between the two, so the answer is the instant it was set forward.
    """
    low, high = low.replace(microsecond=0), high.replace(microsecond=0)
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        if middle.astimezone(tz).replace(tzinfo=None) >= local:
            high = middle
        else:
            low = middle
    return high


def date_in(source_file: str) -> date | None:
    """Return the date in the file name of a path, else in the nearest folder that has one; None if there is none."""
    path = PurePosixPath(source_file)
    for name in (path.name, *(folder.name for folder in path.parents)):
        for found in _dates_in(name):
            return found
    return None


def _dates_in(name: str) -> Iterator[date]:
    for match in _PATH_DATE.finditer(name):
        year, month, day = (int(digits) for digits in match.groups() if digits is not None)
        if year in _PATH_YEARS:
            try:
                yield date(year, month, day)
            except ValueError:
                continue


def _from_mtime(mtime_ns: int) -> datetime:
    try:
        return _in_range(_EPOCH + timedelta(microseconds=mtime_ns // 1000), "")
    except (OverflowError, Reject):
        raise Reject(
            RejectCode.BAD_START_TIME,
            "neither header nor path gives a start time, and the file's modification time is not a plausible date",
            expected="a modification time between 1900 and 9998",
            found=f"{mtime_ns} ns",
            next_step="`touch` the file, then `ingestd rejects retry --all`",
        ) from None


def _in_range(utc: datetime, text: str) -> datetime:
    if utc.year not in _YEARS:
        raise _refused(text)
    return utc


def _refused(text: str) -> Reject:
    digits = text.partition(".")[0].lstrip("+-")
    hint = " (milliseconds, perhaps?)" if digits.isdecimal() and len(digits) in (12, 13) else ""
    return Reject(
        RejectCode.BAD_START_TIME,
        f"the header's start time is not a time between the years 1900 and 9998{hint}",
        expected="epoch seconds such as 1758632155.28, or ISO 8601 such as 2025-09-23T09:55:55",
        found=shown(text),
        next_step="correct the line 'Start time' in the file's header",
    )
