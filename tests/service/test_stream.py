"""A stream whose reader stops: lines are left out, counted, and never cut."""

from __future__ import annotations

import contextlib
import os
import pty
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestd.service import stream
from ingestd.service.stream import Stream


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for room only a moment."""
    monkeypatch.setattr(stream, "ROOM_S", 0.05)


def _read(descriptor: int) -> bytes:
    os.set_blocking(descriptor, False)
    found = b""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(descriptor, 1 << 16):
            found += data
    return found


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal: the end that is read, and the one that is written."""
    reader, writer = pty.openpty()
    tty.setraw(writer)
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


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_lines_without_room_are_left_out_whole_and_counted(kind: str, request: pytest.FixtureRequest) -> None:
    """What is read is whole lines in order; those left out are a stretch, and their count is what the stream says."""
    reader, writer = request.getfixturevalue(kind)
    with open(writer, "w", closefd=False) as text:
        lines = Stream(text)
        left_out = []
        for number in range(2000):
            try:
                lines.write(f"{number} {'x' * 300}\n")
            except TimeoutError:
                left_out.append(number)
        assert left_out
        assert lines.left_out == len(left_out)
        read = _read(reader)
        lines.write("2000 again\n")
        assert lines.left_out == 0
        read += _read(reader)
    numbers = [int(line.split()[0]) for line in read.decode().splitlines() if line.endswith(("x" * 300, "again"))]
    assert numbers == [number for number in range(2001) if number not in left_out]
    cut = [line for line in read.splitlines() if not line.endswith((b"x" * 300, b"again"))]
    assert len(cut) <= 1, "at most one line had room for a part of it, and was ended"


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
    assert _read(reader) == b"goes on\n"


def test_a_line_of_any_length_and_any_character_arrives(tmp_path: Path) -> None:
    """A file always has room; what its encoding cannot say is written with a backslash."""
    with (tmp_path / "log").open("w", encoding="ascii") as text:
        Stream(text).write(f"λ {'x' * 100_000}\n")
    assert (tmp_path / "log").read_text("ascii") == f"\\u03bb {'x' * 100_000}\n"
