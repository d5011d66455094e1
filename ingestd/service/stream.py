"""A stream that people read, or have stopped reading: it never holds up the one who writes."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable
from typing import TextIO

ROOM_S = 1.0
"""How long a line waits for room, in seconds: a reader that is only slow gets every line."""

_LOOK_S = 0.01
"""How often it is tried meanwhile. To ask the system first is no help: room for a byte is not room for a line."""


class Stream:
    """Text for a terminal, pipe or socket whose reader may have stopped: Ctrl-S, a pager, a journal that is stuck.

    A line that finds no room within `ROOM_S` is left out; so are those after it, without waiting, until there is room.
    None is cut: the rest of one that was begun goes before the next. Only where the system does not let us open a
    terminal a second time (after `su`), a line waits as long as it must.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._take, self._let_go = _at_once(stream)
        self._rest = b""
        self.left_out = 0
        """How many lines in a row had no room, the last one counted; 0 after one that had."""

    def write(self, text: str) -> None:
        """Write whole lines, the characters that the stream has no bytes for with a backslash.

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
        """Write what is left; say whether all of it had room in time."""
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
    """Find what takes bytes or refuses them at once, None where nobody would be waited for, and what lets go of it.

    The stream itself stays as it is: others have it too, and may want to wait.
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
    except (OSError, ValueError):  # no file of the system, or one that cannot be opened again
        pass
    return None, lambda: None
