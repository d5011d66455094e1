"""The service's log for people: each JSON line is shown as one coloured line.

Whatever is not such an object (a crash report, a line cut short by a full disk) is shown as it is.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import BinaryIO

from rich.text import Text

from ingestd import files
from ingestd.errors import UsageError
from ingestd.service.logline import LEVELS, OLDER_SUFFIX, LogLine, parse_line
from ingestd.words import quoted, shown

BLOCK = 1 << 16
LINE_LIMIT = 1 << 20
"""Longest line that is kept together, in bytes; anything longer is not a line of ours."""

STYLES = {"debug": "dim", "warning": "yellow", "error": "bold red", "critical": "bold white on red"}
_FIRST = ("source_file", "chip")
_QUIET = frozenset({"time", "level", "event", "logger", "exception", "seq", "took_ms", *_FIRST})
"""Fields that are shown elsewhere in the line, or are only for programs."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines to show: at least this severe, about this chip. Lines not ours are shown unless a chip is given."""

    level: str | None = None
    chip: str | None = None

    def admits(self, line: LogLine) -> bool:
        """Say whether a line is wanted."""
        if self.chip is not None and self.chip.lower() not in _chips(line):
            return False
        return self.level is None or not line.event or LEVELS.index(line.level) >= LEVELS.index(self.level)


def _chips(line: LogLine) -> set[str]:
    named = [line.fields.get("chip"), line.fields.get("old_chip"), line.fields.get("chips")]
    chips = (chip for value in named for chip in (value if isinstance(value, list) else [value]))
    return {str(chip).lower() for chip in chips if chip is not None}


def read_log(path: Path, *, last: int, level: str | None = None, chip: str | None = None) -> Iterator[LogLine]:
    """Yield the last `last` wanted lines, oldest first, reading backwards from the end and on into `<path>.1`.

    Raises:
        Retry: the log cannot be read. A log that does not exist counts as empty.
        UsageError: no line is about this chip, or the log is no plain file.
    """
    found = 0
    for found, line in enumerate(_last_lines(path, last, Wanted(level, chip)), start=1):  # noqa: B007  # used below
        yield line
    if chip is not None and last and not found:
        severe = "" if level is None else f" at level {level} or above"
        raise UsageError(
            f"no line of the log is about chip {shown(chip)}{severe}",
            place=str(path),
            next_step="check the name, or see the lines of all chips: `ingestd tail`",
        )


def _last_lines(path: Path, last: int, wanted: Wanted, end: int | None = None) -> Iterator[LogLine]:
    found: deque[LogLine] = deque()
    for source, until in ((path, end), (path.with_name(path.name + OLDER_SUFFIX), None)):
        for raw in _lines_backwards(source, until):
            if len(found) >= last:
                break
            line = parse_line(raw)
            if wanted.admits(line):
                found.appendleft(line)
    yield from found


def _lines_backwards(path: Path, until: int | None) -> Iterator[bytes]:
    """Yield the lines of a file before byte `until`, last first; an incomplete last line is a line too."""
    with files.as_retry(path):
        try:
            log = _opened(path)
        except FileNotFoundError:
            return
        with log:
            end, rest = log.seek(0, os.SEEK_END) if until is None else until, b""
            while end > 0:
                start = max(0, end - BLOCK)
                log.seek(start)
                lines = (log.read(end - start) + rest).split(b"\n")
                end, rest = start, lines[0]
                yield from (line for line in reversed(lines[1:]) if line)
                if len(rest) > LINE_LIMIT:
                    yield rest
                    rest = b""
            if rest:
                yield rest


def _opened(path: Path) -> BinaryIO:
    """Open a log; a pipe or a device is refused, as opening it could wait for ever, and it has no last lines."""
    kind = path.stat().st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # the system refuses a folder by itself
        what = "a named pipe (FIFO)" if stat.S_ISFIFO(kind) else "a device or a socket"
        raise UsageError(
            f"the log is {what} and cannot be read back",
            place=str(path),
            next_step="read it where it leads, or name a plain file as log.file and restart the service",
        )
    return path.open("rb")


def follow_log(
    path: Path,
    *,
    last: int,
    level: str | None = None,
    chip: str | None = None,
    wait: Callable[[], bool],
) -> Iterator[LogLine]:
    """Yield the last lines as `read_log` does, then what is added, as long as `wait` returns True.

    `wait` is called when there is nothing new: it waits a moment and returns False to end. The log may be rotated
    (renamed; the rest of the old file is shown first), truncated, deleted, or not exist yet. Only whole lines are
    shown.

    Raises:
        Retry: the log cannot be read.
        UsageError: it is no plain file.
    """
    wanted = Wanted(level, chip)
    with files.as_retry(path):
        follower = _Follower(path)
        try:
            yield from _last_lines(path, last, wanted, follower.open_at_end())
            while True:
                yield from filter(wanted.admits, map(parse_line, follower.new_lines()))
                if not wait():
                    return
        finally:
            follower.close()


class _Follower:
    """The position reached in a log that is being written, and the open file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log: BinaryIO | None = None
        self._part = b""

    def open_at_end(self) -> int:
        """Start after the last whole line that is there now; return its position in bytes."""
        self._open()
        if self._log is None:
            return 0
        size = os.fstat(self._log.fileno()).st_size
        start = max(0, size - LINE_LIMIT)
        self._log.seek(start)
        ends = self._log.read(size - start).rfind(b"\n") + 1
        return self._log.seek(start + ends if ends or start == 0 else size)

    def new_lines(self) -> Iterator[bytes]:
        """Yield whole lines added since the last call, across a rotation."""
        if self._log is not None:
            if os.fstat(self._log.fileno()).st_size < self._log.tell():
                self._log.seek(0)
                self._part = b""
            yield from self._read()
        if self._replaced():
            if self._log is not None:
                yield from self._read()  # written between the last read and the rename
            self.close()
            self._open()
            yield from self._read()

    def close(self) -> None:
        """Close the file."""
        if self._log is not None:
            self._log.close()
        self._log, self._part = None, b""

    def _open(self) -> None:
        try:
            self._log = _opened(self._path)
        except FileNotFoundError:
            self._log = None

    def _replaced(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False  # rotated, with nothing written since
        if self._log is None:
            return True
        return not os.path.samestat(os.fstat(self._log.fileno()), there)

    def _read(self) -> Iterator[bytes]:
        while self._log is not None and (block := self._log.read(BLOCK)):
            *lines, self._part = (self._part + block).split(b"\n")
            yield from filter(None, lines)
            if len(self._part) > LINE_LIMIT:
                yield self._part
                self._part = b""


def render_line(line: LogLine, zone: tzinfo | None = None) -> Text:
    """Show one line: local time in `zone` (None: the machine's), level, event in words, file, chip, the rest.

    The rest is `key=value`, a value with blanks in quotes. Control characters are escaped, so that a file's name cannot
    control the terminal.
    """
    if line.time is None:
        return Text(shown(line.raw, LINE_LIMIT))
    style = STYLES.get(line.level, "")
    text = Text()
    text.append(line.time.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S"), "dim")
    text.append(f"  {line.level:<8}", style)
    text.append(f" {shown(line.event.replace('_', ' '), 200):<16}", style or "bold")
    for name, colour in (("source_file", "cyan"), ("chip", "magenta")):
        if line.fields.get(name) is not None:
            text.append("  " + _value(line.fields[name]), colour)
    for name, value in line.fields.items():
        if name not in _QUIET and value is not None:
            text.append(f"  {shown(name, 200)}=", "dim")
            text.append(_quoted(_next_step(line) if name == "next_step" else _value(value)))
    text.rstrip()
    for row in str(line.fields.get("exception") or "").splitlines():
        text.append("\n    " + shown(row, 500), "dim")
    return text


def _next_step(line: LogLine) -> str:
    """Say what to do in one line: `rejects show` prints a step of several lines, such as a table to paste."""
    step, source_file = line.fields["next_step"], line.fields.get("source_file")
    if isinstance(step, str) and "\n" in step and isinstance(source_file, str):
        return f"see `ingestd rejects show {shown(quoted(source_file), 500)}`"
    return _value(step)


def _quoted(value: str) -> str:
    """Quote a value that could otherwise be mistaken for more than one."""
    return value if value and not re.search(r'[\s="]', value) else '"' + value.replace('"', r"\"") + '"'


def _value(value: object) -> str:
    return ", ".join(map(_item, value)) if isinstance(value, list) else _item(value)


def _item(value: object) -> str:
    try:
        return shown(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), 500)
    except RecursionError:  # lists within lists, hundreds deep
        return "..."
