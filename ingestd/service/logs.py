"""The service's log: one line per decision, with a stable `event` name and its context as fields.

Our own lines (structlog) and the libraries' (standard logging, warnings, a thread that died) go the same way: `Pipe`
makes one entry of each and gives it to every sink. Under systemd and in a pipe a line is one JSON object; on a terminal
it is what `ingestd tail` shows. The log file, if there is one, always holds JSON.

`ingestd.service.logline` defines what a line is, `ingestd.service.sinks` where it goes. To log, use `our_log`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, TextIO

import structlog

from ingestd.service.sinks import Entry, Lines, LogFile, Sink, Terminal
from ingestd.service.throttle import Throttle
from ingestd.words import utc_text

OURS = "ingestd"
"""Names the logger of all our own lines."""


def our_log() -> structlog.stdlib.BoundLogger:
    """Return what all our own lines are written with, whether or not `configure_logs` was called yet."""
    log: structlog.stdlib.BoundLogger = structlog.get_logger(OURS)
    return log


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
    raw_root: Path | None = None,
    typed: Callable[[str], str] = str,
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    clock: Callable[[], float] = time.monotonic,
) -> Logs:
    """Set up structlog, standard logging and warnings; return what undoes it.

    `stream` gets lines for the journal, for a terminal (times in `zone`), or plain JSON. `file`, if given, gets JSON;
    it is opened again when logrotate renamed it, and renamed to `<file>.1` above `max_bytes` (None: never). A file in
    the folder `below` is created only once that folder exists; what is logged before goes only to the stream. None is
    written below `raw_root`. `typed`
    turns a command in a `next_step` into one that whoever reads the stream can type as it stands; whoever reads the
    file may need other options. `level` applies to our own lines; a library's are written from warning on, with
    `debug` from info on.
    """
    sinks: list[Sink] = [Terminal(stream, typed, zone) if terminal else Lines(stream, typed, journal=journal)]
    if file is not None:
        # First, since it never blocks: the last line is in the file, whatever the stream does.
        sinks.insert(0, LogFile(file, max_bytes, below=below, raw_root=raw_root))
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
                structlog.processors.format_exc_info,
                _hand_to_pipe,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
            cache_logger_on_first_use=False,
        )

    def leave_terminal(self) -> None:
        """Stop writing to a terminal, if there is one, so that a command can write there itself; the file goes on."""
        self._pipe.leave_terminal()

    def close(self) -> None:
        """Undo the set-up and close the file."""
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
        our_log().critical("thread_died", thread=name, exc_info=died.exc_value)


# ---- from a record to the sinks -----------------------------------------------------------------------------------


class Pipe(logging.Handler):
    """The one handler: makes one entry of a record, holds back repeated warnings, and gives it to every sink."""

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
        except Exception:  # a value that cannot even be shown: only this line is lost
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
        """Stop giving lines to a terminal."""
        self._sinks = [sink for sink in self._sinks if not isinstance(sink, Terminal)]

    def close(self) -> None:
        """Close every sink."""
        for sink in self._sinks:
            sink.close()
        super().close()


def _head(moment: datetime, level: str, event: str) -> Entry:
    return {"time": utc_text(moment, "milliseconds"), "level": level, "event": event}


def make_entry(record: logging.LogRecord, moment: datetime) -> Entry:
    """Make the fields of one line from a log record, our own or a library's."""
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
