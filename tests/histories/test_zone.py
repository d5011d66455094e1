"""Whether a history's dates and times are those of another time zone, or were edited."""

from __future__ import annotations

import pytest

from ingestd.histories.zone import is_of_another_zone

TZ = "America/Santiago"
HERE = ("2024-03-01,12:00:00", "2024-04-06,23:30:00", "2024-04-10,12:00:00")
"""Local times in Chile; its clocks showed the second twice: at 02:30 and at 03:30 UTC on 7 April."""


def history(*times: str, summary: str = "IVg", header: str = "seq,date,time_hms,proc") -> bytes:
    """Return a history with these times."""
    return "\n".join([header, *(f"{seq},{time},{summary}" for seq, time in enumerate(times, 1)), ""]).encode()


@pytest.mark.parametrize(
    ("second", "another"),
    [
        ("2024-04-07,02:30:00", True),
        ("2024-04-07,03:30:00", True),
        ("2024-04-07,05:30:00", False),
        ("7 April,2", False),
    ],
)
def test_a_time_that_was_shown_twice_is_either_of_two_elsewhere(second: str, another: bool) -> None:
    """Both are believed where one zone shows all of the file's times, and no other time is."""
    there = history("2024-03-01,15:00:00", second, "2024-04-10,16:00:00")
    assert is_of_another_zone(there, history(*HERE), TZ) is another


@pytest.mark.parametrize(
    "there",
    [
        history("2024-03-01,15:00:00", "2024-04-07,03:30:00", "2024-04-10,16:00:00", summary="edited"),
        history("2024-03-01,15:00:00", "2024-04-07,03:30:00", "2024-04-10,16:00:00", header="another"),
        history("2024-03-01,15:00:00", "2024-04-07,03:30:00"),
        history("2024-03-01,15:00:00", "2024-04-07,03:30:00", "2024-04-10,16:00:00").replace(b"\n2,", b"\n3,"),
        b"",
    ],
    ids=["summary", "header", "row", "seq", "empty"],
)
def test_a_history_that_differs_in_more_is_of_no_zone(there: bytes) -> None:
    """Only dates and times follow the zone."""
    assert not is_of_another_zone(there, history(*HERE), TZ)
