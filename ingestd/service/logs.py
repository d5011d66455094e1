"""The service's log: one line a decision, with a stable `event` name and its context as fields.

Ours (structlog) and the libraries' (standard logging, warnings, a thread that died) take one way: `Pipe` makes one
entry of each and gives it to every sink. Under systemd and in a pipe a line is one JSON object; on a terminal it is
what `ingestd tail` shows. The file, where there is one, always holds JSON.

What a line is made of: `ingestd.service.logline`. Lines to log with: `structlog.get_logger("ingestd")`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Protocol, TextIO

import structlog
from rich.console import Console

from ingestd.files import is_gone
from ingestd.service.logline import OLDER_SUFFIX, json_line, parse_line
from ingestd.service.stream import Stream
from ingestd.service.tail import render_line
from ingestd.service.throttle import Throttle
from ingestd.words import utc_text

OURS = "ingestd"
"""The logger of all our own lines: `structlog.get_logger("ingestd")`."""

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Syslog priorities; systemd takes `<N>` at the start of a line as its priority, see sd-daemon(3)."""

Entry = dict[str, Any]


def to_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Say whether a stream leads to systemd's journal: `JOURNAL_STREAM` names its device and inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def configure_logs(
    *,
    level: str,
    file: Path | None,
    stream: TextIO,
    journal: bool,
    terminal: bool,
    zone: tzinfo | None = None,
    max_bytes: int | None = None,
    below: Path | None = None,
    typed: Callable[[str], str] = str,
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    clock: Callable[[], float] = time.monotonic,
) -> Logs:
    """Set up structlog, standard logging and warnings; return what undoes it.

    `stream` gets lines for the journal, for a terminal (times in `zone`), or plain JSON. `file`, where given, gets
    JSON; it is opened again when logrotate renamed it, and renamed to `<file>.1` above `max_bytes` (None: never).
    A file in the folder `below` is begun when that has been made: what is logged before goes to the stream alone.
    `typed` makes a command in a `next_step` one to be typed as it stands by whoever reads the stream; whoever reads the
    file says by other options where things are. `level` holds for our own lines; a library's are written from warning
    on, from info on with `debug`.
    """
    sinks: list[Sink] = [_Terminal(stream, typed, zone) if terminal else _Lines(stream, typed, journal=journal)]
    if file is not None:
        # First, since it waits for nobody: a last word is there, whatever the stream does.
        sinks.insert(0, LogFile(file, max_bytes, below))
    logs = Logs(Pipe(sinks, wall=wall, clock=clock))
    logs.install(level)
    return logs


class Logs:
    """The log as configured."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._root, self._ours = logging.getLogger(), logging.getLogger(OURS)
        self._before = self._root.level, self._ours.level, threading.excepthook

    def install(self, level: str) -> None:
        """Send what is logged in this process through the pipe, until `close`."""
        threshold = logging.getLevelNamesMapping()[level.upper()]
        self._root.setLevel(max(threshold, logging.INFO if threshold == logging.DEBUG else logging.WARNING))
        self._ours.setLevel(threshold)
        self._root.addHandler(self._pipe)
        logging.captureWarnings(capture=True)
        threading.excepthook = _log_thread_death
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                structlog.processors.format_exc_info,
                _hand_to_pipe,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
            cache_logger_on_first_use=False,
        )

    def leave_terminal(self) -> None:
        """Write no more on a terminal, where there is one, for what a command tells there itself; the file goes on."""
        self._pipe.leave_terminal()

    def close(self) -> None:
        """Undo the set-up and let the file go."""
        level, our_level, hook = self._before
        self._root.removeHandler(self._pipe)
        self._root.setLevel(level)
        self._ours.setLevel(our_level)
        logging.captureWarnings(capture=False)
        threading.excepthook = hook
        structlog.reset_defaults()
        self._pipe.close()


def _hand_to_pipe(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> tuple[tuple[str], Entry]:
    return (str(fields.get("event")),), {"extra": {"fields": dict(fields)}}


def _log_thread_death(died: threading.ExceptHookArgs) -> None:
    if died.exc_type is not SystemExit and died.exc_value is not None:
        name = died.thread.name if died.thread is not None else "?"
        structlog.get_logger(OURS).critical("thread_died", thread=name, exc_info=died.exc_value)


# ---- from a record to the sinks -----------------------------------------------------------------------------------


class Sink(Protocol):
    """Where lines go."""

    def write(self, entry: Entry) -> None:
        """Write one line.

        Raises:
            OSError, ValueError: it could not be written.
        """

    def close(self) -> None:
        """Let go of what is open."""


class Pipe(logging.Handler):
    """The one handler: makes an entry of a record once, holds repeated warnings back, and gives it to every sink."""

    def __init__(self, sinks: list[Sink], *, wall: Callable[[], datetime], clock: Callable[[], float]) -> None:
        super().__init__()
        self._sinks = sinks
        self._wall = wall
        self._throttle = Throttle(clock)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; never raises."""
        try:
            entry = make_entry(record, self._wall())
            held_back = self._throttle.held_back(entry)
        except Exception:  # a value that cannot even be shown: the line is lost, the service is not
            return
        if held_back is not None:
            self._write(entry if held_back == 0 else entry | {"suppressed": held_back})

    def _write(self, entry: Entry) -> None:
        failed: list[tuple[Sink, Exception]] = []
        for sink in self._sinks:
            try:
                sink.write(entry)
            except Exception as error:  # whatever ails the sink, the service goes on
                failed.append((sink, error))
        for sink, problem in failed:
            self._tell_the_others(sink, problem)

    def _tell_the_others(self, failed: Sink, error: Exception) -> None:
        place = str(failed.path) if isinstance(failed, LogFile) else "the stream"
        entry = _head(self._wall(), "error", "log_not_written") | {"problem": str(error), "place": place}
        if self._throttle.held_back(entry) is None:
            return
        for sink in self._sinks:
            if sink is not failed:
                with contextlib.suppress(Exception):
                    sink.write(entry)

    def leave_terminal(self) -> None:
        """Give no more lines to a terminal."""
        self._sinks = [sink for sink in self._sinks if not isinstance(sink, _Terminal)]

    def close(self) -> None:
        """Close every sink."""
        for sink in self._sinks:
            sink.close()
        super().close()


def _head(moment: datetime, level: str, event: str) -> Entry:
    return {"time": utc_text(moment, "milliseconds"), "level": level, "event": event}


def make_entry(record: logging.LogRecord, moment: datetime) -> Entry:
    """Make the fields of one line from a log record, ours or a library's."""
    level = next((name for name, least in _SEVERITY if record.levelno >= least), "debug")
    fields = getattr(record, "fields", None)
    if not isinstance(fields, dict):
        return _head(moment, level, "library_message") | _library_fields(record)
    entry = _head(moment, level, str(fields.get("event")))
    for name, value in fields.items():
        if name != "event":
            entry[name + "_" if name in {"time", "level"} else name] = value
    return entry


_SEVERITY = [("critical", 50), ("error", 40), ("warning", 30), ("info", 20)]


def _library_fields(record: logging.LogRecord) -> Entry:
    try:
        message = record.getMessage()
    except Exception:  # the library's own mistake in a format string
        message = str(record.msg)
    fields: Entry = {"logger": record.name, "message": message}
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


# ---- sinks ----------------------------------------------------------------------------------------------------------


class _Lines:
    """A stream of JSON lines, with a syslog priority before each for the journal."""

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


class _Terminal:
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
    """Make the line of a stream: with its commands as they are to be typed, and how many lines were left out."""
    step = entry.get("next_step")
    to_type = {"next_step": typed(step)} if isinstance(step, str) else {}
    return entry | to_type | ({"left_out": stream.left_out} if stream.left_out else {})


class LogFile:
    """A file of JSON lines, each one write, so that a reader sees whole lines; opened anew when it was renamed.

    A line that a full disk cut short is ended before the next one. Never waits, even where the path is a pipe. Nothing
    is written before there is the folder `below` which it is to lie.
    """

    def __init__(self, path: Path, max_bytes: int | None, below: Path | None = None) -> None:
        self.path = path
        self._to_come = below if below is not None and path.is_relative_to(below) else None
        self._max_bytes = max_bytes
        self._descriptor: int | None = None
        self._torn = False

    def write(self, entry: Entry) -> None:
        """Append one line.

        Raises:
            OSError: it could not be written whole; or it was, into a file that is too long and cannot be renamed.
        """
        if self._to_come is not None and is_gone(self._to_come):
            return
        self._to_come = None  # should it go away from now on, that is told
        line = json_line(entry).encode() + b"\n"
        overlong = self._make_room(len(line))
        descriptor = self._at_hand()
        whole = b"\n" + line if self._torn else line
        self._torn = True
        if os.write(descriptor, whole) < len(whole):
            raise OSError(errno.ENOSPC, "only a part of the line could be written")
        self._torn = False
        if overlong is not None:
            raise overlong

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _make_room(self, more: int) -> OSError | None:
        """Rename the file that has no room for so many bytes; return why that was refused: then it grows on."""
        if self._descriptor is None or self._max_bytes is None:
            return None
        here = os.fstat(self._descriptor)
        if here.st_size > 0 and here.st_size + more > self._max_bytes and self._stands_at_path(here):
            try:
                self.path.replace(self.path.with_name(self.path.name + OLDER_SUFFIX))
            except OSError as error:
                return OSError(error.errno, f"it is full, goes on growing, and cannot be renamed: {error.strerror}")
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
        # One level only: where a whole disk is gone, its folders must not be made anew below the empty mount point.
        self.path.parent.mkdir(exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, 0o644)
        status = os.fstat(descriptor)
        regular = stat.S_ISREG(status.st_mode) and status.st_size > 0
        self._torn = regular and os.pread(descriptor, 1, status.st_size - 1) != b"\n"
        return descriptor
