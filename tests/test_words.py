"""Texts as people read them: counts, times, and whatever a file or a person wrote, safe to print."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.words import count, nearest, quoted, shown, shown_value, utc_text


def test_a_count_has_its_noun() -> None:
    """One is one, none are many, thousands are parted, and an odd plural is given."""
    assert [count(number, "file") for number in (0, 1, 2, 12345)] == ["0 files", "1 file", "2 files", "12,345 files"]
    assert [count(number, "history", "histories") for number in (1, 2)] == ["1 history", "2 histories"]


def test_a_time_is_in_utc_and_ends_with_z() -> None:
    """Whatever zone it is in, with as many digits as asked for."""
    moment = datetime(2025, 9, 23, 9, 55, 55, 250_000, tzinfo=timezone(timedelta(hours=-3)))
    assert (utc_text(moment), utc_text(moment, "seconds")) == ("2025-09-23T12:55:55.250000Z", "2025-09-23T12:55:55Z")
    assert utc_text(datetime(2025, 9, 23, tzinfo=UTC)) == "2025-09-23T00:00:00Z"


@given(text=st.text(st.characters(codec=None), max_size=40), limit=st.integers(1, 30))
def test_what_is_shown_is_printable_and_no_longer_than_the_limit(text: str, limit: int) -> None:
    """Text that is both already stays as it is; what was cut ends with an ellipsis."""
    safe = shown(text, limit)
    assert safe.isprintable()
    assert len(safe) <= limit
    if text.isprintable():
        assert safe == (text if len(text) <= limit else f"{text[: limit - 1]}…")


@pytest.mark.parametrize(
    ("name", "typed"),
    [("day/It_1.csv", "day/It_1.csv"), ("-f.csv", "./-f.csv"), ("a b.csv", "'a b.csv'"), ("-a b.csv", "'./-a b.csv'")],
)
def test_a_name_is_quoted_as_it_is_typed(name: str, typed: str) -> None:
    """It is one word of the shell and never looks like an option."""
    assert quoted(name) == typed
    assert len(shlex.split(quoted(name))) == 1


def test_the_name_that_was_meant_is_asked_for_else_all_are_told() -> None:
    """The end of a sentence about a name that is not known."""
    assert nearest("Workers", ["engine", "workers"]) == "; did you mean 'workers'?"
    assert nearest("zzz", ["engine", "workers"]) == "; known are engine, workers"


def test_a_value_that_python_cannot_show_is_named_by_its_type() -> None:
    """A number of more digits than Python writes, and lists in lists without end."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert [shown_value(value) for value in (10**5000, 7, "x")] == ["a int too large to show", "7", "'x'"]
    assert shown_value(deep) == "a list too large to show"
