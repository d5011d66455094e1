"""The log is read for people: the last lines, what is added, across rotation, whatever stands in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.errors import Retry, UsageError
from ingestd.service import tail
from ingestd.service.logline import LogLine, json_line, parse_line
from ingestd.service.tail import follow_log, read_log, render_line


def line(event: str, level: str = "info", **fields: object) -> str:
    """One line of the log."""
    return json_line({"time": "2025-09-23T13:05:07.250Z", "level": level, "event": event, **fields}) + "\n"


def events(lines: list[LogLine]) -> list[str]:
    """What they say, or the line itself where it is none of ours."""
    return [line.event or line.raw for line in lines]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the log is."""
    return tmp_path / "ingestd.log"


# ---- one line -------------------------------------------------------------------------------------------------------


@given(raw=st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_line_that_can_be_shown(raw: bytes) -> None:
    """Nothing that stands in the file stops `tail`; what is shown has no control character but our line breaks."""
    shown = render_line(parse_line(raw.replace(b"\n", b" ")), ZoneInfo("America/Santiago")).plain
    assert all(part.isprintable() for part in shown.split("\n"))


def test_lists_within_lists_are_shown() -> None:
    """Python can read them a little deeper than it can write them: some depth of these is such a one."""
    for deep in range(400, 1000):
        raw = line("x").rstrip("}\n") + ', "a": ' + "[" * deep + "]" * deep + "}"
        parsed = parse_line(raw.encode())
        assert parsed.event in {"x", ""}
        assert render_line(parsed).plain


def test_no_text_of_a_line_controls_the_terminal() -> None:
    """Neither an event's name nor a field's, nor a raw file's in the command that is told for it."""
    step = "add this:\n\n[a]\n"
    raw = line("b\x1b[2J", source_file="c\x1b[2J", next_step=step) + line("b", next_step=step, **{"\x1b[2Ja": "1"})
    for one in raw.splitlines():
        assert render_line(parse_line(one.encode())).plain.isprintable()


@pytest.mark.parametrize(
    "raw",
    [
        b"Traceback (most recent call last):",
        b"[1, 2]",
        b"{}",
        b'{"time": "soon", "level": "info", "event": "x"}',
        b'{"time": "2025-09-23T10:00:00", "level": "info", "event": "x"}',
        b'{"time": "0001-01-01T00:00:00+14:00", "level": "info", "event": "x"}',
        b'{"time": "2025-09-23T10:00:00Z", "level": "loud", "event": "x"}',
        b'{"time": "2025-09-23T10:00:00Z", "level": "info", "event": 3}',
        b'{"time": "2025-09-23T10:00:00Z", "level": "info"',
        b"[" * 100_000,
        b"caf\xe9",
    ],
)
def test_a_line_that_is_none_of_ours_is_shown_as_it_is(raw: bytes) -> None:
    """Crash reports, half lines and other programs' JSON are passed on."""
    parsed = parse_line(raw)
    assert parsed == LogLine(raw.decode("utf-8", "backslashreplace"))
    assert render_line(parsed).plain[:50] == parsed.raw[:50]


def test_a_line_of_the_journal_is_read_too() -> None:
    """The syslog prefix is passed over, so that a saved journal can be read."""
    assert parse_line(b"<4>" + line("watch_lost", "warning").encode()).event == "watch_lost"


def test_a_line_shows_local_time_level_words_file_chip_and_the_rest() -> None:
    """Time in the lab's zone, level, event, file, chip, then the other fields; not what programs alone ask for."""
    raw = line(
        "duplicate", chip="Alisson67", took_ms=2.5, source_file="d/a.csv", proc="IV", run_id=None, chips=["A1", "B2"]
    )
    text = render_line(parse_line(raw.encode()), ZoneInfo("America/Santiago")).plain
    assert text == '2025-09-23 10:05:07  info     duplicate         d/a.csv  Alisson67  proc=IV  chips="A1, B2"'


def test_a_step_of_several_lines_is_left_to_rejects_show() -> None:
    """A table to paste is of no use in one line; a step of one line is shown."""
    for step, said in (("add this:\n\n[a]\n", "see `ingestd rejects show 'd/a b.csv'`"), ('edit "it"', r"edit \"it\"")):
        raw = line("rejected", "warning", source_file="d/a b.csv", next_step=step)
        assert render_line(parse_line(raw.encode()), UTC).plain.endswith(f'  next_step="{said}"')


def test_an_empty_text_is_shown_as_one() -> None:
    """Left out, the next field could be taken for the value."""
    assert render_line(parse_line(line("x", old="", new="b").encode())).plain.endswith('old=""  new=b')


def test_a_line_that_ends_with_its_event_has_no_blanks_after_it() -> None:
    """Columns are filled up only where something follows."""
    assert render_line(parse_line(line("stopped").encode()), UTC).plain.endswith(" stopped")


def test_a_traceback_is_shown_below_its_line() -> None:
    """Each row of a traceback is indented on a row of its own."""
    shown = render_line(parse_line(line("failed", "error", exception="Traceback:\n  x\x1b[2J").encode())).plain
    assert shown.split("\n")[1:] == ["    Traceback:", "      x\\x1b[2J"]


# ---- the last lines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [7, 64, 1 << 16])
def test_the_last_lines_come_oldest_first(log: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the blocks read backwards, the last lines are the same."""
    monkeypatch.setattr(tail, "BLOCK", block)
    log.write_text("".join(line(f"e{number}") for number in range(20)) + "half a li")
    assert events(list(read_log(log, last=4))) == ["e17", "e18", "e19", "half a li"]
    assert len(list(read_log(log, last=1000))) == 21


def test_level_and_chip_choose_before_the_lines_are_counted(log: Path) -> None:
    """`last` counts wanted lines; a chip is found in `chip`, `old_chip` and `chips`, whatever its case."""
    log.write_text(
        line("a", chip="Alisson67")
        + line("b", "warning", chip="Alisson7")
        + line("c", "error", chips=["Mike1", "Alisson67"])
        + line("x", chip="Alisson6", old_chip="Alisson68")
        + "crash\n"
        + line("d", "debug")
    )
    assert events(list(read_log(log, last=2, level="warning"))) == ["c", "crash"]
    assert events(list(read_log(log, last=9, chip="alisson67"))) == ["a", "c"]
    assert events(list(read_log(log, last=9, chip="Alisson68"))) == ["x"]
    with pytest.raises(UsageError, match="about chip None"):  # a line about no chip is not about a chip of that name
        list(read_log(log, last=9, chip="None"))


def test_a_chip_that_no_line_is_about_is_told(log: Path) -> None:
    """A slip in the chip's name is no silence; nor is a level that none of its lines has. Following waits for it."""
    log.write_text(line("a", chip="Alisson67"))
    with pytest.raises(UsageError, match=r"no line of the log is about chip Nope\n"):
        list(read_log(log, last=5, chip="Nope"))
    with pytest.raises(UsageError, match="about chip Alisson67 at level error or above"):
        list(read_log(log, last=5, chip="Alisson67", level="error"))
    assert list(read_log(log, last=0, chip="Nope")) == []
    assert list(follow_log(log, last=5, chip="Nope", wait=lambda: False)) == []


def test_the_older_file_is_read_where_the_newer_is_short(log: Path) -> None:
    """After a rotation the lines before it are still shown, once."""
    log.with_name("ingestd.log.1").write_text(line("a") + line("b"))
    log.write_text(line("c"))
    assert events(list(read_log(log, last=2))) == ["b", "c"]


def test_a_missing_log_is_empty_and_an_unreadable_one_is_a_retry(log: Path) -> None:
    """No log yet is no error; a log that cannot be read says why."""
    assert list(read_log(log, last=5)) == []
    log.mkdir()
    with pytest.raises(Retry, match="Is a directory"):
        list(read_log(log, last=5))


def test_a_huge_line_costs_no_more_than_its_limit(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without line breaks is cut into pieces instead of being kept in memory."""
    monkeypatch.setattr(tail, "BLOCK", 64)
    monkeypatch.setattr(tail, "LINE_LIMIT", 256)
    log.write_bytes(b"x" * 10_000)
    assert max(len(piece.raw) for piece in read_log(log, last=1000)) <= 256 + 64
    pieces = follow(log, append(log, "y" * 10_000), append(log, "\n" + line("a")))
    assert (max(map(len, pieces)) <= 256 + 64, "".join(pieces)) == (True, "y" * 10_000 + "a")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [read_log, lambda path, last: follow_log(path, last=last, wait=lambda: False)])
def test_a_pipe_is_told_and_not_waited_for(log: Path, read: Callable[..., Iterator[LogLine]]) -> None:
    """Opening a pipe that nobody writes to would wait for ever; so would one in the place of the older log."""
    os.mkfifo(log)
    with pytest.raises(UsageError, match=r"a named pipe \(FIFO\)") as caught:
        list(read(log, last=5))
    assert caught.value.place == str(log)
    assert "log.file" in caught.value.next_step
    log.rename(log.with_name(log.name + ".1"))
    log.write_text(line("a"))
    with pytest.raises(UsageError, match="FIFO"):
        list(read(log, last=5))


# ---- following ------------------------------------------------------------------------------------------------------


def follow(log: Path, *steps: Callable[[], object], last: int = 0, level: str | None = None) -> list[str]:
    """Follow the log, doing one step whenever it has nothing new; what was shown."""
    left = list(steps)

    def wait() -> bool:
        if not left:
            return False
        left.pop(0)()
        return True

    return events(list(follow_log(log, last=last, level=level, wait=wait)))


def append(log: Path, text: str) -> Callable[[], object]:
    """A step that appends."""

    def step() -> None:
        with log.open("a") as file:
            file.write(text)

    return step


def test_what_is_added_is_shown_when_its_line_is_whole(log: Path) -> None:
    """The last lines first, then each new one; half a line waits for its other half."""
    log.write_text(line("a") + line("b"))
    half = line("c")
    shown = follow(
        log, append(log, half[:10]), append(log, half[10:]), append(log, line("d", "debug")), last=1, level="info"
    )
    assert shown == ["b", "c"]


def test_a_first_line_that_is_being_written_is_shown_once_it_is_whole(log: Path) -> None:
    """Following may begin in the middle of it, while the log has no whole line yet."""
    whole = line("first")
    log.write_text(whole[:20])
    assert follow(log, append(log, whole[20:]), append(log, line("b"))) == ["first", "b"]


def test_a_rotation_loses_no_line(log: Path) -> None:
    """What was written before the rename and after it is shown in order."""

    def rotate() -> None:
        append(log, line("b"))()
        log.rename(log.with_name("ingestd.log.1"))
        append(log, line("c"))()

    log.write_text(line("a"))
    assert follow(log, rotate, append(log, line("d"))) == ["b", "c", "d"]


def test_a_line_written_just_before_the_rename_is_not_lost(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading to the end and seeing that the file was renamed, the service may write once more."""
    look, left = tail._Follower._replaced, ["b"]

    def race(follower: tail._Follower) -> bool:
        if left:
            append(log, line(left.pop()))()
            log.rename(log.with_name("ingestd.log.1"))
            append(log, line("c"))()
        return look(follower)

    monkeypatch.setattr(tail._Follower, "_replaced", race)
    log.write_text(line("a"))
    assert follow(log, lambda: None) == ["b", "c"]


def test_a_truncated_log_is_read_from_its_start(log: Path) -> None:
    """`copytruncate` and an emptied log are followed on; a line that was cut off with it spoils none."""
    log.write_text(line("a") * 3)
    steps = append(log, "half a li"), lambda: log.write_text(line("b")), append(log, line("c"))
    assert follow(log, *steps) == ["b", "c"]


def test_a_log_that_comes_later_is_waited_for(log: Path) -> None:
    """Following may begin before the service does, and outlives a deleted log."""
    assert follow(log, lambda: None, append(log, line("a")), log.unlink, append(log, line("b"))) == ["a", "b"]


def test_the_time_of_a_line_is_aware() -> None:
    """Programs get an instant in UTC, not a local reading."""
    assert parse_line(line("x").encode()).time == datetime(2025, 9, 23, 13, 5, 7, 250_000, tzinfo=UTC)
