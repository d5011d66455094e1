"""A stream that people read, or have stopped reading: it never holds up the one who writes."""

from __future__ import annotations

import os
import select
from typing import TextIO

ROOM_S = 1.0
"""How long a line waits for room, in seconds: a reader that is only slow gets every line."""

_TERMINAL_TAKES = 256
"""So many bytes a terminal with room for any takes without waiting; a pipe or socket takes `PIPE_BUF`."""


class Stream:
    """Text for a terminal, pipe or socket whose reader may have stopped: Ctrl-S, a pager, a journal that is stuck.

    A line that finds no room within `ROOM_S` is left out; so are those after it, without waiting, until there is room.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._takes = _TERMINAL_TAKES if stream.isatty() else select.PIPE_BUF
        self._torn = False
        self.left_out = 0
        """How many lines in a row had no room, the last one counted; 0 after one that had."""

    def write(self, text: str) -> None:
        """Write whole lines, the characters that the stream has no bytes for with a backslash.

        Raises:
            OSError, ValueError: they could not be written. A part that was is ended before the next line.
        """
        encoding = self._stream.encoding or "utf-8"
        data = text.encode(encoding, "backslashreplace")
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError):  # no file of the system, which has room or is closed
            self._stream.write(data.decode(encoding))
            self._stream.flush()
            return
        self._send(descriptor, b"\n" + data if self._torn else data)

    def _send(self, descriptor: int, data: bytes) -> None:
        poll, sent = select.poll(), 0
        poll.register(descriptor, select.POLLOUT)
        while sent < len(data):
            if not poll.poll(0 if self.left_out else ROOM_S * 1e3):
                self._torn = self._torn or sent > 0
                self.left_out += 1
                raise TimeoutError("nobody reads it")
            sent += os.write(descriptor, data[sent : sent + self._takes])
        self._torn, self.left_out = False, 0
