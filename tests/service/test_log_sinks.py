"""Where the log is written to: a file, a terminal, a pipe, the journal, whatever ails them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import resource
import threading
from pathlib import Path

import pytest
import structlog
from logged import Start, entries

from ingestd.service.logline import parse_line
from ingestd.service.logs import configure_logs, to_journal


def opened_below(folder: Path) -> list[str]:
    """List the files below a folder that this process has open."""
    found = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [path for path in found if path.startswith(f"{folder}/")]


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
    assert opened_below(tmp_path) == [str(path)]


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


def test_a_full_file_that_logrotate_renamed_is_not_lost_to_its_successor(start: Start, tmp_path: Path) -> None:
    """The new file has the old one's name: it is not renamed in turn, over what logrotate kept."""
    path = tmp_path / "ingestd.log"
    start(file=path, max_bytes=500)
    log = structlog.get_logger("ingestd")
    log.info("one", text="x" * 350)
    path.rename(tmp_path / "ingestd.log.1")
    path.touch()
    log.info("two", text="x" * 350)
    kept = [entries((tmp_path / name).read_text())[0]["event"] for name in ("ingestd.log.1", "ingestd.log")]
    assert kept == ["one", "two"]


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
    assert "it is full and keeps growing, as it cannot be renamed: Is a directory" in told["problem"]
    (tmp_path / "ingestd.log.1").rmdir()
    log.info("staged", number=20)
    assert [entry["number"] for entry in entries(path.read_text())] == [20]


def test_a_line_cut_short_does_not_spoil_the_next(start: Start, tmp_path: Path) -> None:
    """A line that an earlier life could write only in part is ended before the first new one; a whole one is not."""
    path = tmp_path / "ingestd.log"
    path.write_text('{"time": "2025-')
    logs, _, _ = start(file=path)
    structlog.get_logger("ingestd").info("staged")
    logs.close()
    start(file=path)
    structlog.get_logger("ingestd").info("moved")
    torn, whole, another = path.read_bytes().splitlines()
    assert parse_line(torn).event == ""
    assert [parse_line(line).event for line in (whole, another)] == ["staged", "moved"]


def test_a_line_that_the_disk_takes_in_part_is_told_and_ended(start: Start, tmp_path: Path) -> None:
    """The part is no line of the log, and the next one is whole."""
    path = tmp_path / "ingestd.log"
    _, stream, _ = start(file=path)
    log = structlog.get_logger("ingestd")
    log.info("one")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
    try:
        log.info("two")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.info("three")
    assert [entry["event"] for entry in entries(stream.getvalue())] == ["one", "two", "log_not_written", "three"]
    assert [parse_line(line).event for line in path.read_bytes().splitlines()] == ["one", "", "three"]


def test_a_log_that_can_be_written_nowhere_ends_nothing(start: Start) -> None:
    """Neither the stream nor the file takes a line, nor the word that the other does not."""
    stream = io.StringIO()
    start(file=Path("/dev/full"), stream=stream)
    stream.close()
    structlog.get_logger("ingestd").error("failed")


def test_lines_that_a_stream_left_out_are_counted_in_the_next(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that stopped for a while sees how many lines it missed, even one, and finds them in the file."""
    monkeypatch.setattr("ingestd.service.stream.ROOM_S", 0.0)
    read, write = os.pipe()
    os.set_blocking(read, False)
    with open(read, "rb") as reader, open(write, "w", encoding="utf-8") as stream:  # noqa: PTH123  # descriptors
        start(stream=stream, file=tmp_path / "ingestd.log")
        os.set_blocking(write, False)
        for missed in (1, 3):
            for size in (4096, 1):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        os.write(write, b"x" * size)
            for _ in range(missed):
                structlog.get_logger("ingestd").info("missed")
            reader.read()
            structlog.get_logger("ingestd").info("seen")
            structlog.get_logger("ingestd").info("seen")
            first, second = entries(reader.read().decode())
            assert (first["left_out"], "left_out" in second) == (missed, False)
        os.set_blocking(write, True)


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


def test_a_log_is_begun_when_the_folder_it_lies_in_was_made(start: Start, tmp_path: Path) -> None:
    """Before, nobody misses it; should the folder go away afterwards, that is told."""
    stage = tmp_path / "stage"
    path = stage / "_manifest" / "ingestd.log"
    _, stream, _ = start(file=path, below=stage)
    log = structlog.get_logger("ingestd")
    log.info("one")
    assert not stage.exists()
    stage.mkdir()
    log.info("two")
    assert [entry["event"] for entry in entries(path.read_text())] == ["two"]
    stage.rename(tmp_path / "away")
    log.info("three")
    assert [entry["event"] for entry in entries(stream.getvalue())] == ["one", "two", "three", "log_not_written"]


def test_a_log_elsewhere_is_missed_at_once(start: Start, tmp_path: Path) -> None:
    """A slip in `log.file` is told, whatever folder is still to be made."""
    _, stream, _ = start(file=tmp_path / "lgo" / "below" / "ingestd.log", below=tmp_path / "stage")
    structlog.get_logger("ingestd").info("one")
    assert [entry["event"] for entry in entries(stream.getvalue())] == ["one", "log_not_written"]


@pytest.mark.parametrize("terminal", [False, True])
def test_commands_are_typed_as_whoever_reads_the_stream_types_them(
    start: Start, tmp_path: Path, terminal: bool
) -> None:
    """A next step on the stream repeats the options of this process; `tail` puts its own into those of the file."""
    path = tmp_path / "ingestd.log"
    typed = lambda text: text.replace("show", "show --data-root x")  # noqa: E731  # told by one line
    _, stream, _ = start(file=path, typed=typed, terminal=terminal)
    structlog.get_logger("ingestd").error("x", next_step="see `ingestd config show`")
    assert "`ingestd config show --data-root x`" in stream.getvalue()
    assert entries(path.read_text())[0]["next_step"] == "see `ingestd config show`"


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


def test_closing_leaves_logging_as_it_was(tmp_path: Path) -> None:
    """Handlers, levels and hooks of the process are as before, and the file is closed."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("ingestd").level, threading.excepthook
    path = tmp_path / "ingestd.log"
    logs = configure_logs(level="debug", file=path, stream=io.StringIO(), journal=False, terminal=False)
    structlog.get_logger("ingestd").info("x")
    assert (root.handlers != before[0], opened_below(tmp_path)) == (True, [str(path)])
    logs.close()
    assert not opened_below(tmp_path)
    assert before == (root.handlers, root.level, logging.getLogger("ingestd").level, threading.excepthook)
    assert not structlog.is_configured()


def test_a_line_is_written_though_its_command_cannot_be_completed(start: Start) -> None:
    """To complete a command loads code, which an upgrade under the running service may have taken away."""

    def typed(text: str) -> str:
        raise ModuleNotFoundError(text)

    _, stream, _ = start(typed=typed)
    structlog.get_logger("ingestd").warning("rejected", next_step="`ingestd rejects show x`")
    (line,) = entries(stream.getvalue())
    assert (line["event"], line["next_step"]) == ("rejected", "`ingestd rejects show x`")
