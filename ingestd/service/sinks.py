"""Where the log's lines go: a stream of JSON, a terminal, a file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from datetime import tzinfo
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console

from ingestd.files import is_gone
from ingestd.raw_guard import leads_into
from ingestd.service.logline import OLDER_SUFFIX, json_line, parse_line
from ingestd.service.stream import Stream
from ingestd.service.tail import render_line

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Syslog priorities; systemd reads `<N>` at the start of a line as its priority, see sd-daemon(3)."""

Entry = dict[str, Any]
"""The fields of one line."""


class Sink(Protocol):
    """Where lines go."""

    def write(self, entry: Entry) -> None:
        """Write one line.

        Raises:
            OSError, ValueError: it could not be written.
        """

    def close(self) -> None:
        """Close what is open."""


class Lines:
    """A stream of JSON lines; for the journal, each begins with its syslog priority."""

    def __init__(self, stream: TextIO, typed: Callable[[str], str], *, journal: bool) -> None:
        self._stream = Stream(stream)
        self._typed = typed
        self._journal = journal

    def write(self, entry: Entry) -> None:
        prefix = f"<{PRIORITIES[entry['level']]}>" if self._journal else ""
        self._stream.write(f"{prefix}{json_line(_streamed(entry, self._stream, self._typed))}\n")

    def close(self) -> None:
        """Leave the stream to its owner."""
        self._stream.close()


class Terminal:
    """A terminal: the lines that `ingestd tail` shows."""

    def __init__(self, stream: TextIO, typed: Callable[[str], str], zone: tzinfo | None) -> None:
        self._stream = Stream(stream)
        self._typed = typed
        self._zone = zone
        self._console = Console(force_terminal=True, highlight=False)

    def write(self, entry: Entry) -> None:
        line = parse_line(json_line(_streamed(entry, self._stream, self._typed)).encode())
        with self._console.capture() as shown:
            self._console.print(render_line(line, self._zone), soft_wrap=True)
        self._stream.write(shown.get())

    def close(self) -> None:
        """Leave the stream to its owner."""
        self._stream.close()


def _streamed(entry: Entry, stream: Stream, typed: Callable[[str], str]) -> Entry:
    """Add what the line of a stream needs: commands as they are to be typed, and how many lines were left out."""
    step, to_type = entry.get("next_step"), {}
    if isinstance(step, str):
        with contextlib.suppress(Exception):  # it loads the commands, which an upgrade may just be replacing
            to_type = {"next_step": typed(step)}
    return entry | to_type | ({"left_out": stream.left_out} if stream.left_out else {})


class LogFile:
    """A file of JSON lines, each one write, so that a reader sees whole lines; opened again when it was renamed.

    A line that a full disk cut short is ended before the next one. Never blocks, even if the path is a pipe. If the
    file is to lie in the folder `below`, nothing is written until that folder exists. Nothing is ever written below
    `raw_root`, whatever links lead there.
    """

    def __init__(
        self, path: Path, max_bytes: int | None, *, below: Path | None = None, raw_root: Path | None = None
    ) -> None:
        self.path = path
        self._to_come = below if below is not None and path.is_relative_to(below) else None
        self._max_bytes = max_bytes
        self._raw_root = raw_root
        self._descriptor: int | None = None
        self._torn = False

    def write(self, entry: Entry) -> None:
        """Append one line.

        Raises:
            OSError: it could not be written whole; or it was, but the file is too long and cannot be renamed.
        """
        if self._to_come is not None and is_gone(self._to_come):
            return
        self._to_come = None  # if it goes away after this, writing fails
        line = json_line(entry).encode() + b"\n"
        overlong = self._make_room(len(line))
        descriptor = self._at_hand()
        whole = b"\n" + line if self._torn else line
        self._torn = True
        if os.write(descriptor, whole) < len(whole):
            raise OSError(errno.ENOSPC, "only part of the line could be written")
        self._torn = False
        if overlong is not None:
            raise overlong

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _make_room(self, more: int) -> OSError | None:
        """Rename the file if it has no room for `more` bytes; return why that failed: the file then keeps growing."""
        if self._descriptor is None or self._max_bytes is None:
            return None
        here = os.fstat(self._descriptor)
        if here.st_size > 0 and here.st_size + more > self._max_bytes and self._stands_at_path(here):
            try:
                self.path.replace(self.path.with_name(self.path.name + OLDER_SUFFIX))
            except OSError as error:
                return OSError(error.errno, f"it is full and keeps growing, as it cannot be renamed: {error.strerror}")
        return None

    def _at_hand(self) -> int:
        if self._descriptor is not None and not self._stands_at_path(os.fstat(self._descriptor)):
            self.close()
        if self._descriptor is None:
            self._descriptor = self._open()
        return self._descriptor

    def _stands_at_path(self, here: os.stat_result) -> bool:
        try:
            return os.path.samestat(here, self.path.stat())
        except FileNotFoundError:
            return False

    def _open(self) -> int:
        if self._raw_root is not None and leads_into(self.path, self._raw_root):
            raise OSError(errno.ELOOP, "a link leads from here into paths.raw_root, where ingestd never writes")
        # One level only: if a whole disk is gone, its folders must not be made again below the empty mount point.
        self.path.parent.mkdir(exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, 0o644)
        status = os.fstat(descriptor)
        regular = stat.S_ISREG(status.st_mode) and status.st_size > 0
        self._torn = regular and os.pread(descriptor, 1, status.st_size - 1) != b"\n"
        return descriptor
