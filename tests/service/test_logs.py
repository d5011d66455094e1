"""The log is written: every value on one line, to journal, terminal and file, whatever ails them."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from ingestd.service.logline import json_line, parse_line
from ingestd.service.logs import REMEMBERED, REPEAT_S, Logs, configure_logs, make_entry, to_journal

MOMENT = datetime(2025, 9, 23, 13, 5, 7, 250_000, tzinfo=UTC)
STAMP = "2025-09-23T13:05:07.250Z"


class Clock:
    """A clock the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


Start = Callable[..., tuple[Logs, io.StringIO, Clock]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Configure the log into a text stream; undone at the end."""
    started: list[Logs] = []

    def begin(
        *,
        level: str = "info",
        file: Path | None = None,
        journal: bool = False,
        terminal: bool = False,
        max_bytes: int | None = None,
        stream: Any = None,
    ) -> tuple[Logs, io.StringIO, Clock]:
        stream, clock = stream or io.StringIO(), Clock()
        logs = configure_logs(
            level=level,
            file=file,
            stream=stream,
            journal=journal,
            terminal=terminal,
            zone=ZoneInfo("America/Santiago"),
            max_bytes=max_bytes,
            wall=lambda: MOMENT,
            clock=clock,
        )
        started.append(logs)
        return logs, stream, clock

    yield begin
    for logs in reversed(started):
        logs.close()


def entries(text: str) -> list[dict[str, Any]]:
    """Every line as its object."""
    return [json.loads(line) for line in text.splitlines()]


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


# ---- the file and other sinks ---------------------------------------------------------------------------------------


def test_the_file_survives_logrotate(start: Start, tmp_path: Path) -> None:
    """After a rename, and after a deletion, lines go to a new file of the old name; none is lost."""
    path = tmp_path / "log" / "ingestd.log"
    start(file=path)
    log = structlog.get_logger("ingestd")
    log.info("one")
    path.rename(path.with_suffix(".1"))
    log.info("two")
    path.unlink()
    log.info("three")
    assert parse_line(path.with_suffix(".1").read_bytes()).event == "one"
    assert parse_line(path.read_bytes()).event == "three"


def test_the_file_is_renamed_above_its_limit(start: Start, tmp_path: Path) -> None:
    """With `max_bytes` nobody needs logrotate: two files at most, each within the limit, the newest lines kept."""
    path = tmp_path / "ingestd.log"
    start(file=path, max_bytes=500)
    log = structlog.get_logger("ingestd")
    for number in range(40):
        log.info("x", number=number)
    sizes = {entry.name: entry.stat().st_size for entry in tmp_path.iterdir()}
    assert set(sizes) == {"ingestd.log", "ingestd.log.1"}
    assert max(sizes.values()) <= 500
    kept = [
        entry["number"] for name in ("ingestd.log.1", "ingestd.log") for entry in entries((tmp_path / name).read_text())
    ]
    assert kept == list(range(kept[0], 40))


def test_what_a_command_tells_on_its_terminal_is_left_to_it(start: Start, tmp_path: Path) -> None:
    """From then on lines go into the file alone; a stream that is no terminal goes on."""
    path = tmp_path / "ingestd.log"
    for terminal in (True, False):
        logs, stream, _ = start(file=path, terminal=terminal)
        logs.leave_terminal()
        structlog.get_logger("ingestd").error("failed", problem="no room", on_terminal=terminal)
        assert ("no room" in stream.getvalue()) is not terminal
        logs.close()
    assert [entry["on_terminal"] for entry in entries(path.read_text())] == [True, False]


def test_a_full_disk_is_told_and_ends_nothing(start: Start) -> None:
    """`/dev/full` takes nothing: the stream says so once, and the service goes on."""
    _, stream, _ = start(file=Path("/dev/full"))
    log = structlog.get_logger("ingestd")
    for number in range(3):
        log.info("staged", number=number)
    told = [entry for entry in entries(stream.getvalue()) if entry["event"] == "log_not_written"]
    assert [entry["place"] for entry in told] == ["/dev/full"]
    assert "No space left" in told[0]["problem"]
    assert [entry["number"] for entry in entries(stream.getvalue()) if entry["event"] == "staged"] == [0, 1, 2]


def test_a_full_log_that_cannot_be_renamed_grows_on(start: Start, tmp_path: Path) -> None:
    """No line is lost to a folder that stands in the older one's place, and the stream tells of it."""
    path = tmp_path / "ingestd.log"
    (tmp_path / "ingestd.log.1").mkdir()
    _, stream, _ = start(file=path, max_bytes=500)
    log = structlog.get_logger("ingestd")
    for number in range(20):
        log.info("staged", number=number)
    assert [entry["number"] for entry in entries(path.read_text())] == list(range(20))
    (told,) = [entry for entry in entries(stream.getvalue()) if entry["event"] == "log_not_written"]
    assert "it is full, goes on growing, and cannot be renamed: Is a directory" in told["problem"]
    (tmp_path / "ingestd.log.1").rmdir()
    log.info("staged", number=20)
    assert [entry["number"] for entry in entries(path.read_text())] == [20]


def test_a_line_cut_short_does_not_spoil_the_next(start: Start, tmp_path: Path) -> None:
    """A line that an earlier life could write only in part is ended before the first new one."""
    path = tmp_path / "ingestd.log"
    path.write_text('{"time": "2025-')
    start(file=path)
    structlog.get_logger("ingestd").info("staged")
    torn, whole = path.read_bytes().splitlines()
    assert parse_line(torn).event == ""
    assert parse_line(whole).event == "staged"


def test_a_pipe_nobody_reads_does_not_hold_the_service(start: Start, tmp_path: Path) -> None:
    """Where the file's path is a FIFO, a full one costs lines, never time."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    _, stream, _ = start(file=path)
    log = structlog.get_logger("ingestd")
    while "log_not_written" not in stream.getvalue():
        log.info("x", text="y" * 4096)


def test_folders_of_a_lost_disk_are_not_made_anew(start: Start, tmp_path: Path) -> None:
    """Below an empty mount point nothing is made: the log waits for its disk."""
    _, stream, _ = start(file=tmp_path / "mount" / "stage" / "ingestd.log")
    structlog.get_logger("ingestd").info("x")
    assert [entry["event"] for entry in entries(stream.getvalue())] == ["x", "log_not_written"]
    assert not (tmp_path / "mount").exists()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_closed_stream_is_told_and_the_file_goes_on(start: Start, tmp_path: Path, terminal: bool) -> None:
    """A stream that went away (a closed pipe or terminal) takes neither the service nor the file with it."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as stream:  # noqa: PTH123  # a descriptor
        path = tmp_path / "ingestd.log"
        start(file=path, stream=stream, terminal=terminal)
        structlog.get_logger("ingestd").info("staged")
        assert {entry["event"] for entry in entries(path.read_text())} == {"log_not_written", "staged"}
        with open(os.devnull, "w", encoding="utf-8") as nothing:  # noqa: PTH123  # what is buffered must go somewhere
            os.dup2(nothing.fileno(), write)


def test_a_stream_of_a_narrow_encoding_gets_every_line(start: Start) -> None:
    """Under LANG=C a chip's λ is escaped, the line is not lost."""
    raw = io.BytesIO()
    start(stream=io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    structlog.get_logger("ingestd").info("staged", summary="λ=850 → 💡")
    assert b"\\u03bb=850 \\u2192 \\U0001f4a1" in raw.getvalue()


def test_the_journal_is_known_by_its_device_and_inode(tmp_path: Path) -> None:
    """JOURNAL_STREAM counts only when it names this very stream: the service's stderr may be redirected."""
    with (tmp_path / "a").open("w") as stream:
        status = os.fstat(stream.fileno())
        named = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert to_journal(stream, named)
        assert not to_journal(stream, {"JOURNAL_STREAM": "8:1"})
        assert not to_journal(stream, {})
    assert not to_journal(io.StringIO(), named)


def test_closing_leaves_logging_as_it_was() -> None:
    """Handlers, levels and hooks of the process are as before."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("ingestd").level, threading.excepthook
    logs = configure_logs(level="debug", file=None, stream=io.StringIO(), journal=False, terminal=False)
    assert root.handlers != before[0]
    logs.close()
    assert before == (root.handlers, root.level, logging.getLogger("ingestd").level, threading.excepthook)
    assert not structlog.is_configured()
