"""A stream whose reader may have stopped reading: it never holds up the writer."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable
from typing import TextIO

ROOM_S = 1.0
"""How long a line waits for room, in seconds: a reader that is merely slow gets every line."""

_LOOK_S = 0.01
"""Interval between tries, in seconds. Polling would not help: room for a byte is not room for a line."""


class Stream:
    """Text for a terminal, pipe or socket whose reader may have stopped: Ctrl-S, a pager, a journal that is stuck.

    A line that finds no room within `ROOM_S` is left out; so are the next ones, without waiting, until there is room.
    None is cut: the rest of one that was begun is written before the next. Only if the system does not let us open a
    terminal a second time (after `su`) does a line wait as long as it must.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._take, self._let_go = _at_once(stream)
        self._rest = b""
        self.left_out = 0
        """How many lines in a row, up to the last, had no room; 0 after one that had."""

    def write(self, text: str) -> None:
        """Write whole lines, with backslash escapes for characters that the stream cannot encode.

        Raises:
            OSError, ValueError: they could not be written.
        """
        encoding = self._stream.encoding or "utf-8"
        data = text.encode(encoding, "backslashreplace")
        if self._take is None:
            self._stream.write(data.decode(encoding))
            self._stream.flush()
            return
        until = time.monotonic() + (0 if self.left_out else ROOM_S)
        if not self._rest or self._push(self._take, until):
            self._rest = data
            if self._push(self._take, until) or len(self._rest) < len(data):
                self.left_out = 0
                return
            self._rest = b""
        self.left_out += 1
        raise TimeoutError("nobody reads it")

    def _push(self, take: Callable[[bytes], int], until: float) -> bool:
        """Write what is left; return whether all of it had room in time."""
        while self._rest:
            try:
                self._rest = self._rest[take(self._rest) :]
            except BlockingIOError:
                if time.monotonic() >= until:
                    return False
                time.sleep(_LOOK_S)
        return True

    def close(self) -> None:
        """Leave the stream to its owner."""
        self._let_go()


def _at_once(stream: TextIO) -> tuple[Callable[[bytes], int] | None, Callable[[], None]]:
    """Return what takes bytes or refuses them at once, and what closes it.

    The first is None if the stream never blocks or cannot be opened again. The stream itself stays as it is: others use
    it too, and may want to wait.
    """
    try:
        descriptor = stream.fileno()
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            ours = socket.socket(fileno=os.dup(descriptor))
            return (lambda data: ours.send(data, socket.MSG_DONTWAIT)), ours.close
        if stat.S_ISFIFO(mode) or os.isatty(descriptor):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            again = os.open(f"/proc/self/fd/{descriptor}", flags)
            return (lambda data: os.write(again, data)), (lambda: os.close(again))
    except (OSError, ValueError):  # it has no descriptor, or one that cannot be opened again
        pass
    return None, lambda: None
