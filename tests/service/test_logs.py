"""The lines of the log: every value on one line, to journal, terminal and file; the same warning once a minute."""

from __future__ import annotations

import json
import logging
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from logged import MOMENT, STAMP, Clock, Start, entries

from ingestd.service.logline import json_line
from ingestd.service.logs import Pipe, make_entry
from ingestd.service.throttle import REMEMBERED, REPEAT_S

# ---- lines ----------------------------------------------------------------------------------------------------------


def test_a_decision_is_one_json_line_with_its_context(start: Start) -> None:
    """Time in UTC, level and event come first, then the bound and the given fields."""
    _, stream, _ = start()
    log = structlog.get_logger("ingestd").bind(chip="Alisson67")
    log.info("staged", source_file="d/It_1.csv", took_ms=12.5)
    assert stream.getvalue() == (
        f'{{"time": "{STAMP}", "level": "info", "event": "staged", "chip": "Alisson67", '
        '"source_file": "d/It_1.csv", "took_ms": 12.5}\n'
    )


def test_under_the_journal_each_line_carries_its_priority(start: Start) -> None:
    """systemd takes <N> as the priority of the line, so `journalctl -p warning` works."""
    _, stream, _ = start(level="debug", journal=True)
    log = structlog.get_logger("ingestd")
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)("x", at=level)
    assert [line[:4] for line in stream.getvalue().splitlines()] == ["<7>{", "<6>{", "<4>{", "<3>{", "<2>{"]


def test_a_terminal_shows_local_time_and_words_in_colour(start: Start) -> None:
    """On a terminal the line is for people: local time, the event in words, ANSI colours."""
    _, stream, _ = start(terminal=True)
    structlog.get_logger("ingestd").warning("watch_lost", problem="the share went away")
    text = stream.getvalue()
    assert "\x1b[" in text
    assert "2025-09-23 10:05:07" in text
    assert "watch lost" in text
    assert "the share went away" in text


def test_a_terminal_is_not_steered_by_a_file_name(start: Start) -> None:
    """Escape sequences, line breaks and bytes that are no UTF-8 are shown, not obeyed."""
    _, stream, _ = start(terminal=True)
    structlog.get_logger("ingestd").info("staged", source_file="a\x1b]0;owned\x07\n\x9b2J\udcff[bold].csv")
    assert stream.getvalue().count("\n") == 1
    assert "a\\x1b]0;owned\\x07\\n\\x9b2J\\xff[bold].csv" in stream.getvalue()


def test_lines_below_the_level_are_not_written(start: Start) -> None:
    """`log.level` holds for our lines."""
    _, stream, _ = start(level="warning")
    log = structlog.get_logger("ingestd")
    log.info("staged")
    log.warning("retrying")
    assert [entry["event"] for entry in entries(stream.getvalue())] == ["retrying"]


def test_libraries_and_warnings_take_the_same_way(start: Start) -> None:
    """Standard logging and warnings come out as `library_message`, from warning on."""
    _, stream, _ = start()
    logging.getLogger("apscheduler.scheduler").warning("Run time of %s was missed", "job")
    logging.getLogger("apscheduler.scheduler").info("Added job")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old\nfashion", DeprecationWarning, stacklevel=1)
    first, second = entries(stream.getvalue())
    assert (first["event"], first["logger"], first["level"]) == ("library_message", "apscheduler.scheduler", "warning")
    assert first["message"] == "Run time of job was missed"
    assert second["logger"] == "py.warnings"
    assert "old\nfashion" in second["message"]


@pytest.mark.parametrize(
    ("level", "told"),
    [("debug", ["info", "warning", "error"]), ("info", ["warning", "error"]), ("error", ["error"])],
)
def test_a_librarys_lines_follow_the_level(start: Start, level: str, told: list[str]) -> None:
    """They come from warning on, with `debug` from info on, and never below the level of our own."""
    _, stream, _ = start(level=level)
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("watchdog"), name)("x")
    assert [entry["level"] for entry in entries(stream.getvalue())] == told


def test_what_cannot_be_shown_costs_its_line_alone() -> None:
    """A library's value that fails when it is shown does no harm to whoever logged it."""

    class Shy:
        def __str__(self) -> str:
            raise ValueError("not me")

    record = logging.LogRecord("watchdog", logging.WARNING, __file__, 1, Shy(), (), None)
    Pipe([], wall=lambda: MOMENT, clock=Clock()).emit(record)


def test_a_librarys_broken_message_is_shown_as_it_is() -> None:
    """A format string that does not fit its values is no reason to lose the line."""
    record = logging.LogRecord("watchdog", logging.WARNING, __file__, 1, "%d files", ("many",), None)
    assert make_entry(record, MOMENT)["message"] == "%d files"


def test_a_traceback_shows_no_local_variables(start: Start) -> None:
    """Tracebacks are text without the values of variables, in ours and in libraries' lines."""
    _, stream, _ = start()

    def fail() -> None:
        password = "hunter" + str(2)
        raise ValueError(f"no luck, {len(password)}")

    for tell in (structlog.get_logger("ingestd").exception, logging.getLogger("x").exception):
        try:
            fail()
        except ValueError:
            tell("failed")
    assert "hunter2" not in stream.getvalue()
    for entry in entries(stream.getvalue()):
        assert entry["exception"].startswith("Traceback")
        assert entry["exception"].endswith("ValueError: no luck, 7")


def test_a_thread_that_dies_is_logged(start: Start) -> None:
    """An exception that ends a thread becomes a critical line, not stray text on the stream."""
    _, stream, _ = start()

    def die() -> None:
        raise RuntimeError("oh")

    thread = threading.Thread(target=die, name="worker")
    thread.start()
    thread.join()
    (entry,) = entries(stream.getvalue())
    assert (entry["event"], entry["thread"], entry["level"]) == ("thread_died", "worker", "critical")
    assert "RuntimeError: oh" in entry["exception"]


def test_a_field_cannot_pose_as_the_time_or_level(start: Start) -> None:
    """A field named like a part of the line is kept under another name."""
    _, stream, _ = start()
    structlog.get_logger("ingestd").info("x", time="never", level="none")
    assert entries(stream.getvalue()) == [
        {"time": STAMP, "level": "info", "event": "x", "time_": "never", "level_": "none"}
    ]


TEXT = st.text(st.characters(codec=None))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary() | st.datetimes() | st.just(Path("a")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3) | st.frozensets(TEXT),
    max_leaves=8,
)


@given(fields=st.dictionaries(TEXT, VALUES, max_size=4))
def test_any_values_make_one_printable_line_of_strict_json(fields: dict[str, Any]) -> None:
    """No value breaks a line, is not UTF-8, or makes JSON that only Python reads."""
    line = json_line({"event": "x", "fields": fields})
    assert line.isprintable()
    line.encode("utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(line, parse_constant=refuse)["event"] == "x"


@given(text=st.text())
def test_text_comes_back_from_a_line_unchanged(text: str) -> None:
    """What is escaped for the eye is the same text for a program."""
    assert json.loads(json_line({"problem": text})) == {"problem": text}


def test_a_value_that_refers_to_itself_is_cut(start: Start) -> None:
    """A circle of values is a line, not an error."""
    circle: list[object] = []
    circle.append(circle)
    _, stream, _ = start()
    structlog.get_logger("ingestd").info("x", circle=circle)
    assert [entry["event"] for entry in entries(stream.getvalue())] == ["x"]


# ---- repeated warnings ----------------------------------------------------------------------------------------------


def test_the_same_warning_is_written_once_a_minute_with_a_count(start: Start) -> None:
    """Numbers may differ; text must not. The next one through says how many were held back."""
    _, stream, clock = start()
    log = structlog.get_logger("ingestd")
    for second in range(int(REPEAT_S) + 1):
        clock.now = float(second)
        log.warning("watch_lost", problem="share gone", wait_s=second)
        log.warning("watch_lost", problem="another")
    lost = [entry for entry in entries(stream.getvalue()) if entry["problem"] == "share gone"]
    assert [entry.get("suppressed") for entry in lost] == [None, int(REPEAT_S) - 1]
    assert [entry["wait_s"] for entry in lost] == [0, int(REPEAT_S)]
    assert len(entries(stream.getvalue())) == 4


def test_warnings_that_differ_in_a_list_are_not_the_same(start: Start) -> None:
    """What a file's content is warned of stands in a list: other warnings of the same file are told at once."""
    _, stream, _ = start()
    log = structlog.get_logger("ingestd")
    for told in (["no laser"], ["no laser"], ["no laser", "an odd row"], ["an odd row"], []):
        log.warning("content_warnings", source_file="a.csv", warnings=told)
    assert [entry["warnings"] for entry in entries(stream.getvalue())] == [
        ["no laser"],
        ["no laser", "an odd row"],
        ["an odd row"],
        [],
    ]


def test_decisions_and_information_are_never_held_back(start: Start) -> None:
    """A line with the number of its record, and every line below warning, is always written."""
    _, stream, _ = start()
    log = structlog.get_logger("ingestd")
    for number in range(5):
        log.warning("rejected", seq=number, source_file="a.csv")
        log.info("scanned", reason="start")
    assert len(stream.getvalue().splitlines()) == 10


def test_the_memory_of_warnings_is_bounded(start: Start) -> None:
    """The oldest warning is forgotten first, so that it may be written again; a recent one is still held back."""
    _, stream, _ = start()
    log = structlog.get_logger("ingestd")
    for number in range(REMEMBERED + 1):
        log.warning("x", problem=str(number))
    log.warning("x", problem="0")
    log.warning("x", problem=str(REMEMBERED))
    assert len(stream.getvalue().splitlines()) == REMEMBERED + 2
