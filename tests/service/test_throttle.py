"""Which warnings are the same one told again, and for how long they are held back."""

from __future__ import annotations

from typing import Any

import pytest
from logged import Clock

from ingestd.service.throttle import REMEMBERED, REPEAT_S, Throttle


def warning(**fields: Any) -> dict[str, Any]:
    """Return the line of a warning."""
    return {"time": "now", "level": "warning", "event": "x", **fields}


@pytest.mark.parametrize(
    ("first", "then", "same"),
    [
        ({"exception": "Traceback 1"}, {"exception": "Traceback 2"}, True),
        ({"files": ["a.csv", 1, {"b": 2}]}, {"files": ["a.csv", 2, {"b": 3}]}, True),
        ({"files": ("a.csv",)}, {"files": ("b.csv",)}, False),
        ({"time": "then"}, {"time": "later"}, True),
        ({"level": "error"}, {"level": "warning"}, False),
    ],
    ids=["traceback", "what is no text in a list", "a text in a tuple", "time", "level"],
)
def test_what_makes_two_warnings_the_same(first: dict[str, Any], then: dict[str, Any], same: bool) -> None:
    """All texts do, in lists too, but for the time and a traceback; numbers and other values do not count."""
    throttle = Throttle(Clock())
    assert throttle.held_back(warning(**first)) == 0
    assert throttle.held_back(warning(**then)) == (None if same else 0)


def test_the_lines_held_back_are_counted_anew_after_each_that_is_written() -> None:
    """`suppressed` says how many were left out since the last one, not since the first."""
    clock = Clock()
    throttle = Throttle(clock)
    told = []
    for repeat in range(3):
        clock.now = repeat * REPEAT_S
        told += [throttle.held_back(warning()) for _ in range(3)]
    assert told == [0, None, None, 2, None, None, 2, None, None]


def test_a_warning_that_was_written_again_is_remembered_as_a_new_one() -> None:
    """When memory is full the one that was silent for longest is forgotten, not the one that comes every minute."""
    clock = Clock()
    throttle = Throttle(clock)
    for number in range(REMEMBERED):
        throttle.held_back(warning(problem=str(number)))
    clock.now = REPEAT_S
    for problem in ("1", "one more", "two more"):
        assert throttle.held_back(warning(problem=problem)) == 0
    assert throttle.held_back(warning(problem="1")) is None


def test_a_warning_that_keeps_coming_is_written_once_in_each_span() -> None:
    """One that is held back does not begin the span anew: a fault told every few seconds never falls silent."""
    clock = Clock()
    throttle = Throttle(clock)
    told = []
    for repeat in range(9):
        clock.now = repeat * REPEAT_S / 4
        told.append(throttle.held_back(warning()))
    assert told == [0, None, None, None, 3, None, None, None, 3]


def test_a_decision_is_never_held_back() -> None:
    """Two rejects alike but for their number are two decisions, and the log has both."""
    throttle = Throttle(Clock())
    assert [throttle.held_back(warning(seq=number)) for number in (1, 2)] == [0, 0]
