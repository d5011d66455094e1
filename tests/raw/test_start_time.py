"""Start times: header before path before mtime, and every minute of the days on which clocks are set."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd  # type: ignore[import-untyped]  # the library has no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.errors import Reject, RejectCode
from ingestd.raw.header import parse_header
from ingestd.raw.start_time import StartTime, ensure_start_time_utc, start_time

SANTIAGO = ZoneInfo("America/Santiago")
NOW = datetime(2026, 6, 1, tzinfo=UTC)
MTIME = datetime(2025, 9, 25, 17, 12, 4, 123456, tzinfo=UTC)
MTIME_NS = 1758820324123456789
MINUTE = timedelta(minutes=1)
wall = datetime.fromisoformat  # for local times, which have no zone yet

# The local dates around which Chile set its clocks: back at 24:00 of an April Saturday, forward in September.
SET_BACK = (date(2024, 4, 6), date(2025, 4, 5), date(2026, 4, 4))
SET_FORWARD = (date(2024, 9, 8), date(2025, 9, 7), date(2026, 9, 6))


def found(text: str | None = None, source_file: str = "day/run.csv", mtime_ns: int = MTIME_NS) -> StartTime:
    """Return the start time in Chile, on 1 June 2026."""
    return start_time(text, source_file, mtime_ns, SANTIAGO, NOW)


@cache
def showings(zone: ZoneInfo, day: date) -> dict[datetime, list[datetime]]:
    """Return wall minute -> the instants it was shown at, around `day`, found by walking UTC minute by minute."""
    first = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=2)
    shown: dict[datetime, list[datetime]] = {}
    for count in range(5 * 24 * 60):
        instant = first + count * MINUTE
        shown.setdefault(instant.astimezone(zone).replace(tzinfo=None), []).append(instant)
    return shown


def expected_instant(zone: ZoneInfo, local: datetime) -> datetime:
    """Return the first instant at which the wall clock shows `local`, else the first at which it shows later."""
    shown = showings(zone, local.date())
    return shown[local][0] if local in shown else min(at[0] for minute, at in shown.items() if minute > local)


def test_every_real_header_starts_on_its_files_date(lab: Path) -> None:
    """Each real run's header time falls, in Chile, on the date in its own file name, without a warning."""
    for file in (lab / "01_raw").rglob("*.csv"):
        text = parse_header(file.read_bytes()).metadata.get("Start time")
        if text is None:
            continue
        run = found(text, file.name)
        assert (run.origin, run.warnings) == ("header", ())
        assert run.utc.astimezone(SANTIAGO).date().isoformat() in file.name


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("1758632155.2821116", datetime(2025, 9, 23, 12, 55, 55, 282112, tzinfo=UTC)),
        (" 1758632155 ", datetime(2025, 9, 23, 12, 55, 55, tzinfo=UTC)),
        ("1.758632155e9", datetime(2025, 9, 23, 12, 55, 55, tzinfo=UTC)),
        ("2025-09-23T12:55:55Z", datetime(2025, 9, 23, 12, 55, 55, tzinfo=UTC)),
        ("2025-09-23T12:55:55.25+02:00", datetime(2025, 9, 23, 10, 55, 55, 250000, tzinfo=UTC)),
        ("2025-09-23 09:55:55", datetime(2025, 9, 23, 12, 55, 55, tzinfo=UTC)),
        ("2025-09-23", datetime(2025, 9, 23, 3, tzinfo=UTC)),
        ("20250923", datetime(2025, 9, 23, 3, tzinfo=UTC)),
        ("20250923T095555", datetime(2025, 9, 23, 12, 55, 55, tzinfo=UTC)),
    ],
)
def test_header_times_as_instruments_write_them(text: str, utc: datetime) -> None:
    """Epoch seconds and ISO 8601, with or without offset, are understood; without one the lab's zone counts."""
    assert found(text, "2020-01-01.csv") == StartTime(utc, "header", ())


@given(st.datetimes(min_value=wall("2000-01-01"), max_value=wall("2026-01-01"), timezones=st.just(UTC)))
def test_epoch_and_iso_text_of_one_instant_agree(instant: datetime) -> None:
    """An instant written as epoch seconds, as UTC and with any offset is that instant, to the microsecond."""
    eastern = instant.astimezone(timezone(timedelta(hours=5, minutes=45)))
    for text in (repr(instant.timestamp()), instant.isoformat(), eastern.isoformat()):
        assert found(text).utc == instant


@pytest.mark.parametrize("day", [*SET_BACK, *SET_FORWARD], ids=str)
def test_every_minute_of_a_change_day_in_chile(day: date) -> None:
    """On the days Chile's clocks change, a time shown twice is its earlier instant, a skipped one the gap's end."""
    midnight = wall(day.isoformat())
    counts = Counter[int]()
    for local in (midnight + count * MINUTE for count in range(24 * 60)):
        times = len(showings(SANTIAGO, day).get(local, []))
        run = start_time(local.isoformat(), "a.csv", MTIME_NS, SANTIAGO, datetime(2027, 1, 1, tzinfo=UTC))
        assert run.utc == expected_instant(SANTIAGO, local), local
        assert bool(run.warnings) == (times != 1), local
        counts[times] += 1
    assert counts == ({1: 1380, 2: 60} if day in SET_BACK else {0: 60, 1: 1380})


ZONES = ("America/Asuncion", "America/Havana", "Australia/Lord_Howe", "Europe/Berlin", "Asia/Beirut", "Asia/Kolkata")


@given(
    zone=st.sampled_from(ZONES).map(ZoneInfo),
    local=st.datetimes(min_value=wall("2019-01-02"), max_value=wall("2023-12-30")).map(
        lambda time: time.replace(second=0, microsecond=0)
    ),
)
def test_every_local_minute_of_any_zone(zone: ZoneInfo, local: datetime) -> None:
    """In zones with half-hour changes, changes at midnight and none, a local minute is the first showing of it."""
    assert ensure_start_time_utc(local, zone) == expected_instant(zone, local)


@pytest.mark.parametrize(
    ("zone", "local"),
    [
        ("America/Havana", wall("2023-03-12T00:00")),
        ("America/Havana", wall("2023-11-05T00:30")),
        ("Australia/Lord_Howe", wall("2023-10-01T02:15")),
        ("Australia/Lord_Howe", wall("2023-04-02T01:45")),
        ("Asia/Beirut", wall("2022-03-27T00:00")),
        ("Pacific/Apia", wall("2011-12-30T12:00")),
    ],
)
def test_odd_clock_changes(zone: str, local: datetime) -> None:
    """Skipped midnights, repeated midnights, half-hour changes and a skipped whole day follow the same rule."""
    assert ensure_start_time_utc(local, ZoneInfo(zone)) == expected_instant(ZoneInfo(zone), local)
    assert ensure_start_time_utc(local.isoformat(), zone) == expected_instant(ZoneInfo(zone), local)


def test_a_repeated_time_keeps_its_fraction_and_says_which_is_taken() -> None:
    """Where the clock was set back, the earlier showing is taken to the microsecond, and people are told why."""
    run = found("2025-04-05T23:30:00.25")
    assert run.utc == datetime(2025, 4, 6, 2, 30, 0, 250000, tzinfo=UTC)
    assert run.warnings == (
        "2025-04-05 23:30:00.250000 occurred twice in America/Santiago (clock set back); the earlier is taken",
    )


@pytest.mark.parametrize("text", ["2025-09-07T00:00:00.5", "2025-09-07T00:59:59.999999"])
def test_a_skipped_time_with_a_fraction_is_the_gaps_end(text: str) -> None:
    """A fraction of a second inside the gap moves nothing: the instant the clock was set forward is taken."""
    run = found(text)
    assert run.utc == datetime(2025, 9, 7, 4, tzinfo=UTC)
    assert "did not exist" in run.warnings[-1]


@pytest.mark.parametrize(
    ("source_file", "day"),
    [
        ("Alisson_25_sept/It2025-09-25_10.csv", date(2025, 9, 25)),
        ("2025-10-18/IVg_3.csv", date(2025, 10, 18)),
        ("20251018/IVg_3.csv", date(2025, 10, 18)),
        ("2025-10-18/IVg2025-10-19_3.csv", date(2025, 10, 19)),
        ("2025-01-01/2025-10-18/deep/IVg_3.csv", date(2025, 10, 18)),
        ("2025-10-18/IVg20251399_3.csv", date(2025, 10, 18)),
        ("2025-02-30_2025-03-01/a.csv", date(2025, 3, 1)),
        ("2025-10-18/serial12345678901_3.csv", date(2025, 10, 18)),
        ("2025-10-18/serial10101010.csv", date(2025, 10, 18)),
        ("2025-10-18/1970-01-01.csv", date(1970, 1, 1)),
        ("2025-10-18/1969-12-31.csv", date(2025, 10, 18)),
        ("2025-10-18/2099-12-31.csv", date(2099, 12, 31)),
        ("2025-10-18/2100-01-01.csv", date(2025, 10, 18)),
        ("2025-10-18/٢٠٢٥-١٠-١٩.csv", date(2025, 10, 18)),
    ],
)
def test_a_date_in_the_path_is_local_midnight(source_file: str, day: date) -> None:
    """Without a header time the file name's date counts, then the nearest folder's; impossible dates are no dates."""
    run = found(None, source_file)
    assert run.origin == "path"
    assert run.utc == datetime(day.year, day.month, day.day, tzinfo=SANTIAGO).astimezone(UTC)


def test_a_path_date_whose_midnight_was_skipped_starts_after_the_gap() -> None:
    """7 September 2025 began at 01:00 in Chile, so a run with that date in its path starts then, with a warning."""
    run = found(None, "2025-09-07/IVg_1.csv")
    assert run.utc == datetime(2025, 9, 7, 4, tzinfo=UTC)
    assert run.utc.astimezone(SANTIAGO).date() == date(2025, 9, 7)
    assert "did not exist" in run.warnings[-1]


def test_the_mtime_comes_last_and_is_floored() -> None:
    """With no time in header or path the mtime counts, cut to microseconds, before 1970 too."""
    run = found(None, "a/b.csv")
    assert (run.utc, run.origin) == (MTIME, "mtime")
    assert run.warnings == (
        "the header has no start time and the path no date; the modification time is used, which copies may lose",
    )
    assert found(None, "a/b.csv", -1).utc == datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "  ", "None", "nan"])
def test_an_empty_header_time_falls_through_with_a_warning(text: str) -> None:
    """A `Start time` line without a time is passed over, and people are told."""
    run = found(text, "2025-10-18/a.csv")
    assert run.origin == "path"
    assert "empty" in run.warnings[0]


@pytest.mark.parametrize(
    "text",
    [
        *("yesterday", "18/10/2025 12:00", "2025-13-01", "2025-10-18T25:00", "1e99", "-1e12", "99999999999999999999"),
        *("9999-12-31T23:59", "0001-01-01T00:00+14:00", "1899-12-31T00:00Z", "0x10", "1_000", "١٢٣"),
    ],
)
def test_a_header_time_that_is_no_time_is_refused(text: str) -> None:
    """A time that cannot be read, or lies where no local date can follow it, is a reject that shows it."""
    with pytest.raises(Reject) as raised:
        found(text)
    assert raised.value.code == RejectCode.BAD_START_TIME
    assert raised.value.found == text or not text.isascii()
    assert "1758632155.28" in raised.value.expected


@pytest.mark.parametrize(
    ("text", "suspected"),
    [
        ("1758632155282", True),
        ("+946684800000.5", True),
        ("17586321552820", False),
        ("-99999999999", False),
        ("next tuesday", False),
    ],
)
def test_milliseconds_are_suspected(text: str, suspected: bool) -> None:
    """Epoch milliseconds since 2000 are refused with a hint at what they are; what cannot be such has no hint."""
    with pytest.raises(Reject) as raised:
        found(text)
    hint = " (milliseconds, perhaps?)" if suspected else ""
    assert raised.value.message == f"the header's start time is not a time between the years 1900 and 9998{hint}"


def test_an_impossible_mtime_is_refused_with_the_command_that_helps() -> None:
    """An mtime beyond the calendar, where nothing else tells the start, is a reject that says how to set it."""
    with pytest.raises(Reject) as raised:
        found(None, "a.csv", 10**21)
    assert "touch" in raised.value.next_step


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("1999-12-31T23:59:59Z", "before the year 2000"),
        ("2000-01-01T00:00:00Z", ""),
        ("2026-06-02T00:00:00Z", ""),
        ("2026-06-02T00:00:01Z", "ahead of the clock"),
        ("0", "before the year 2000"),
    ],
)
def test_implausible_times_warn(text: str, warning: str) -> None:
    """Before 2000 or more than a day ahead of the clock warns; a day ahead exactly does not."""
    assert (warning in "".join(found(text).warnings)) if warning else found(text).warnings == ()


@given(st.text(max_size=30), st.text(max_size=40), st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_any_input_is_a_time_or_a_reject(text: str, source_file: str, mtime_ns: int) -> None:
    """No header text, path or mtime raises anything but a reject, and every result has a date in every zone."""
    for header_text in (text, None):
        try:
            run = found(header_text, source_file, mtime_ns)
        except Reject:
            continue
        for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
            assert run.utc.astimezone(ZoneInfo(zone)).date()


@pytest.mark.parametrize(
    "value",
    [
        wall("2025-09-23T09:55:55"),
        datetime(2025, 9, 23, 12, 55, 55, tzinfo=UTC),
        1758632155,
        1758632155.0,
        "1758632155",
        " 2025-09-23T09:55:55\n",
        "2025-09-23T14:55:55+02:00",
    ],
)
def test_the_public_form_takes_what_programs_have(value: datetime | float | str) -> None:
    """A datetime, a number and their texts all become the same aware UTC datetime; the lab's zone is the default."""
    assert ensure_start_time_utc(value) == datetime(2025, 9, 23, 12, 55, 55, tzinfo=UTC)
    assert ensure_start_time_utc(value).tzinfo is UTC


def test_a_date_without_hyphens_is_no_number_of_seconds() -> None:
    """Only as a text is it a date; eight digits that are none stay seconds, and a program's number always does."""
    assert ensure_start_time_utc("20250923") == datetime(2025, 9, 23, 3, tzinfo=UTC)
    assert ensure_start_time_utc("20259923") == datetime(1970, 8, 23, 11, 45, 23, tzinfo=UTC)
    assert ensure_start_time_utc(20250923) == datetime(1970, 8, 23, 9, 15, 23, tzinfo=UTC)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, 10**400, wall("9999-12-31T23:59"), "", pd.NaT])
def test_the_public_form_refuses_what_is_no_time(value: float | datetime | str) -> None:
    """A value that is no time raises the same reject as in a header."""
    with pytest.raises(Reject) as raised:
        ensure_start_time_utc(value)
    assert raised.value.code == RejectCode.BAD_START_TIME
