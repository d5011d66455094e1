"""A stream whose reader stops: lines are left out, counted, and never cut."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestd.service import stream
from ingestd.service.stream import Stream


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for room only a moment."""
    monkeypatch.setattr(stream, "ROOM_S", 0.05)


def _read(descriptor: int, most: int = 1 << 30) -> bytes:
    os.set_blocking(descriptor, False)
    found = b""
    with contextlib.suppress(BlockingIOError):
        while len(found) < most and (data := os.read(descriptor, min(most, 1 << 16))):
            found += data
    return found


def _read_to(descriptor: int, end: bytes) -> bytes:
    """Read on until that has come: a terminal hands on what was written when the kernel comes to it, not at once."""
    until, found = time.monotonic() + 30, b""
    while end not in found:
        assert time.monotonic() < until, f"{end!r} never came"
        found += _read(descriptor)
    return found


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal: the end that is read, and the one that is written."""
    reader, writer = pty.openpty()
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: the end that is read, and the one that is written."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def journal() -> Iterator[tuple[int, int]]:
    """A socket such as systemd's journal has: the end that is read, and the one that is written."""
    one, other = socket.socketpair()
    with one, other:
        yield one.fileno(), other.fileno()


@pytest.mark.parametrize("kind", ["pipe", "terminal", "journal"])
def test_lines_without_room_are_left_out_whole_and_counted(kind: str, request: pytest.FixtureRequest) -> None:
    """What is read is whole lines in order, all but those of which it was said, also by a reader that is too slow."""
    reader, writer = request.getfixturevalue(kind)
    left_out, read, count, long = [], b"", 1500, "x" * 700
    with open(writer, "w", closefd=False) as text:
        lines = Stream(text)
        for number in range(count):
            try:
                lines.write(f"{number} {long * (number % 20)} end\n")
            except TimeoutError:
                left_out.append(number)
            if number > count / 2:  # then somebody reads, but too slowly
                read += _read(reader, 500)
        assert 0 < len(left_out) < count
        taken, until = False, time.monotonic() + 30
        while b"again end" not in read:  # a terminal has room for a line some time after others were read
            assert time.monotonic() < until, "there never was room again"
            read += _read(reader)
            with contextlib.suppress(TimeoutError):
                lines.write("" if taken else "again end\n")
                taken = True
        assert lines.left_out == 0
        assert os.get_blocking(writer), "whoever else has it may want to wait"
        lines.close()
    expected = [f"{number} {long * (number % 20)} end" for number in range(count) if number not in left_out]
    assert read.decode().splitlines() == [*expected, "again end"]


@pytest.mark.parametrize("kind", ["pipe", "journal"])
def test_a_reader_that_is_merely_slow_gets_every_line(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines longer than there is room for, read bit by bit: each waits for its room."""
    reader, writer = request.getfixturevalue(kind)
    monkeypatch.setattr(stream, "ROOM_S", 60.0)
    expected, found = "".join(f"{number} {'x' * 300_000}\n" for number in range(5)).encode(), bytearray()

    waiting, sleep = threading.Event(), time.sleep

    def wait_and_tell(seconds: float) -> None:
        waiting.set()
        sleep(seconds)

    def read_slowly() -> None:
        waiting.wait(60)
        while len(found) < len(expected) and (data := os.read(reader, 50_000)):
            found.extend(data)

    monkeypatch.setattr(time, "sleep", wait_and_tell)
    thread = threading.Thread(target=read_slowly, daemon=True)
    with open(writer, "w", closefd=False) as text:
        lines = Stream(text)
        thread.start()
        for line in expected.decode().splitlines(keepends=True):
            lines.write(line)
        thread.join(60)
        lines.close()
    assert found == expected


def test_a_terminal_that_is_stopped_takes_no_line_until_it_goes_on(terminal: tuple[int, int]) -> None:
    """Ctrl-S stops a terminal's output: the writer goes on, and so does the output after Ctrl-Q."""
    reader, writer = terminal
    with open(writer, "w", closefd=False) as text:
        lines = Stream(text)
        termios.tcflow(writer, termios.TCOOFF)
        with pytest.raises(TimeoutError, match="nobody reads it"):
            lines.write("stopped\n")
        termios.tcflow(writer, termios.TCOON)
        lines.write("goes on\n")
        assert _read_to(reader, b"\n") == b"goes on\r\n"


def test_a_line_of_any_length_and_any_character_arrives(tmp_path: Path) -> None:
    """A file always has room; what its encoding cannot say is written with a backslash."""
    with (tmp_path / "log").open("w", encoding="ascii") as text:
        lines = Stream(text)
        for written in (f"λ {'x' * 100_000}\n", "λ\n"):
            lines.write(written)
            there = (tmp_path / "log").read_text("ascii")
            assert there.endswith(written.replace("λ", "\\u03bb")), "it is there at once"


@pytest.mark.parametrize("kind", ["terminal", "pipe", "journal"])
def test_a_stream_that_is_closed_leaves_the_descriptor_to_its_owner(kind: str, request: pytest.FixtureRequest) -> None:
    """It gives back what it opened for itself, and nothing else."""
    _, writer = request.getfixturevalue(kind)
    with os.fdopen(writer, "w", closefd=False) as file:
        before = set(Path("/proc/self/fd").iterdir())
        ours = Stream(file)
        assert len(set(Path("/proc/self/fd").iterdir())) == len(before) + 1
        ours.close()
        assert set(Path("/proc/self/fd").iterdir()) == before
