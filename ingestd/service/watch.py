"""The kernel's hints about the raw root: "this path may have changed", "look at everything again".

Hints only ever shorten the wait for the next scan; they are never the truth. watchdog loses some silently (its observer
or emitter may die, the root may be renamed or unmounted, a subfolder may go unwatched when the kernel's limits are
reached), so `Watch.check` looks for each of these. Only this module and `limits` know watchdog.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import (
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
)

from ingestd import files
from ingestd.errors import Retry
from ingestd.service.limits import LIMIT_ERRORS, limit_at_hand, limit_value, limits_message
from ingestd.words import shown

EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileAttribEvent,  # a permission was restored, a file was touched
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]
"""What the kernel is asked for: no reads, so that our own make no events; no writes, because a running measurement
writes row after row and only its end matters, which is a close."""

OVERFLOWED = "the kernel's event queue overflowed"
"""The one reason to look at everything that means hints were lost."""

STOP_S = 5.0
"""How long `stop` waits for watchdog's threads, in seconds; they are daemon threads and may be left behind."""

MISSES = 3
"""How many checks in a row must find the same folders unwatched before that counts."""

PROBE_EVERY = 30
"""While a limit is reached, every this many checks try whether one more folder could be watched."""

OnHint = Callable[[str], None]
"""Takes a path relative to the raw root (POSIX) that may have changed."""

OnDoubt = Callable[[str], None]
"""Takes the reason, in words, why everything must be looked at."""


class Watch:
    """Watches the raw root and everything below it, without following symbolic links below it.

    `on_hint` is called for whatever may concern a regular `*.csv` (any case, UTF-8, not `files.is_hidden`): made,
    written and closed, touched, deleted, and both names of a rename. `on_doubt` is called when a folder appears,
    goes or moves (unless it is hidden), when the kernel lost events, and when a file system was unmounted. Both are
    called from watchdog's threads, may be called repeatedly, must only note what they are given, and are never called
    after `stop` returned.

    The methods may be called from any thread and run one at a time. Nothing happens before `start`.
    """

    def __init__(self, root: Path, *, on_hint: OnHint, on_doubt: OnDoubt) -> None:
        self.root = root
        self._on_hint = on_hint
        self._on_doubt = on_doubt
        self._lock = threading.RLock()
        self._running: _Running | None = None
        self._limit: str | None = None
        self._limit_value = 0
        self._probe_in = 0
        self._satisfied: tuple[int | None, int] | None = None
        self._missing: object = None
        self._misses = 0
        self._accepted: tuple[int, int] | None = None

    @property
    def limited(self) -> str | None:
        """Say which kernel limit leaves folders unwatched and the command that raises it; None if all are watched.

        While it is reached, `check` does not report it, and the caller finds files by scanning.
        """
        return None if self._limit is None else limits_message(self._limit)

    def start(self) -> None:
        """Place a watch, instead of the one there is; what happens below the root after this returned is hinted at.

        After `check` gave a reason, scan once it is placed: hints were lost. Reaching a kernel limit is no error:
        `limited` reports it.

        Raises:
            Retry: the root is missing, cannot be listed, or cannot be watched. There is no watch then, and `check` goes
                on saying why.
        """
        with self._lock:
            self.stop()
            self._start()

    def stop(self) -> None:
        """Remove the watch, within a few seconds whatever watchdog's threads do. Does nothing if there is none."""
        with self._lock:
            if self._running is not None:
                self._running.stop()
                self._running = None

    def check(self, folders: int | None = None) -> str | None:
        """Say why hints cannot be trusted now and `start` is needed again; None if they can, or `limited` says why not.

        Call it every second or so. `folders` is how many folders the last scan could list, including the root. That the
        kernel watches fewer counts at the `MISSES`-th call, because a new folder is watched a moment after it appears
        and a scan may be behind. The same shortfall is reported once.
        """
        with self._lock:
            trouble = self._root_trouble() or (self._running.trouble() if self._running is not None else None)
            if trouble is not None:
                return trouble
            if self._limit is not None:
                raised = self._limit_raised(self._limit)
                return "the kernel's limit on watched folders leaves room again" if raised else None
            if self._running is None:
                return "no watch is placed"
            return self._shortfall(self._running, folders)

    def _start(self) -> None:
        self._limit, self._satisfied = None, None
        # watchdog warns when it meets a folder twice, as it does with nested new folders; nothing is wrong then.
        warnings.filterwarnings("ignore", r"Callback with id '\d+' already exists", RuntimeWarning)
        logging.getLogger(InotifyEmitter.__module__).addFilter(_is_news)
        identity = self._identity()
        try:
            running = _Running(os.path.realpath(self.root), identity, self._on_hint, self._on_doubt)
            running.start()
            self._running = running
        except OSError as error:
            if error.errno not in LIMIT_ERRORS:
                raise files.retry_from(error, self.root) from error
            self._reach_limit(LIMIT_ERRORS[error.errno])
            return
        try:
            same = self._identity() == identity
        except Retry:
            self.stop()
            raise
        if not same:
            self.stop()
            raise Retry(
                "this folder was replaced while its watch was placed",
                place=str(self.root),
                next_step="nothing to do: the watch is placed again in a moment",
            )

    def _identity(self) -> tuple[int, int]:
        files.try_root(self.root)
        with files.as_retry(self.root):
            status = self.root.stat()
        return status.st_dev, status.st_ino

    def _root_trouble(self) -> str | None:
        try:
            identity = self._identity()
        except Retry as error:
            return f"the folder {shown(str(self.root), 200)} cannot be read: {error.message}"
        if self._running is not None and identity != self._running.identity:
            return f"the folder {shown(str(self.root), 200)} was replaced by another (renamed, remounted or recreated)"
        return None

    def _shortfall(self, running: _Running, folders: int | None) -> str | None:
        seen = (folders, running.hints.folder_events)
        if folders is None or seen == self._satisfied:
            return None  # a watch ends only with its folder or its file system, and both make an event
        watched = running.watched_folders()
        if watched is None or watched >= folders:
            self._satisfied = seen
            return None
        self._misses = self._misses + 1 if self._missing == (seen, watched) else 1
        self._missing = (seen, watched)
        if self._misses < MISSES:
            return None
        self._misses = 0
        limit = limit_at_hand(self.root)
        if limit is not None:
            self._reach_limit(limit)
            return None
        if self._accepted == (watched, folders):
            return None  # another watch did not change it: perhaps one folder is mounted at two places
        self._accepted = (watched, folders)
        return f"the kernel watches {watched} of {folders} folders"

    def _reach_limit(self, name: str) -> None:
        self._limit, self._limit_value, self._probe_in = name, limit_value(name), PROBE_EVERY

    def _limit_raised(self, limit: str) -> bool:
        self._probe_in -= 1
        if self._probe_in > 0:
            return limit_value(limit) > self._limit_value
        self._probe_in = PROBE_EVERY  # another program may have freed watches
        return limit_at_hand(self.root) is None


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether a message of watchdog is more than the error it logs if a watch is stopped while an event comes."""
    return "called when the thread is inactive" not in str(record.msg)


class _Running:
    """One placed watch: the kernel's event queue, watchdog's observer and the handler of its events."""

    def __init__(self, root: str, identity: tuple[int, int], on_hint: OnHint, on_doubt: OnDoubt) -> None:
        self.identity = identity
        self.hints = _Hints(root, on_hint, on_doubt)
        self._queue = _KernelQueue(self.hints)
        self._observer = BaseObserver(_Emitter, inotify_fd=self._queue)
        self._root = root

    def start(self) -> None:
        self._queue.start()
        try:
            self._observer.schedule(self.hints, self._root, recursive=True, event_filter=EVENTS)
            self._observer.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self.hints.close()
        # watchdog joins its threads without a limit, and one of them may be held up in a caller's function.
        stopper = threading.Thread(target=self._release, name="watch-stop", daemon=True)
        stopper.start()
        stopper.join(STOP_S)

    def _release(self) -> None:
        self._observer.stop()
        if self._observer.is_alive():
            self._observer.join()
        self._queue.stop()
        self._queue.join()

    def trouble(self) -> str | None:
        emitters = list(self._observer.emitters)
        if not self._observer.is_alive():
            return "the observer of the kernel's events has died"
        if not self._queue.is_alive() or not emitters or not all(emitter.is_alive() for emitter in emitters):
            return "the reader of the kernel's events has ended (was the folder deleted?)"
        return self.hints.trouble

    def watched_folders(self) -> int | None:
        """Count the kernel's watches; None if /proc does not show them."""
        try:
            lines = Path(f"/proc/self/fdinfo/{self._queue.descriptor}").read_bytes()
        except OSError:
            return None
        return lines.count(b"inotify wd:")


class _Emitter(InotifyEmitter):
    """Asks the kernel for changes of permission too, which watchdog asks for only together with every write."""

    def get_event_mask_from_filter(self) -> Mask:
        """Return the kernel's mask for `EVENTS`."""
        return Mask(super().get_event_mask_from_filter() | InotifyConstants.IN_ATTRIB)


class _KernelQueue(InotifyFD):
    """The kernel's event queue, read by its own thread; reports lost events, which watchdog only logs."""

    def __init__(self, hints: _Hints) -> None:
        super().__init__()
        self._hints = hints
        self.descriptor = self._inotify_fd

    def handle_event(self, event: InotifyEvent) -> None:
        """Pass an event on; if events were lost, say so afterwards, when watchdog has rebuilt its watches."""
        super().handle_event(event)
        if event.is_queue_overflow:
            self._hints.doubt(OVERFLOWED)
        elif event.mask & InotifyConstants.IN_UNMOUNT:
            self._hints.trouble = "a file system below it was unmounted"
            self._hints.doubt(self._hints.trouble)


class _Hints(FileSystemEventHandler):
    """Turns watchdog's events into the caller's two calls; lets no exception out, as that would end the observer."""

    def __init__(self, root: str, on_hint: OnHint, on_doubt: OnDoubt) -> None:
        self._prefix = root.rstrip("/") + "/"
        self._on_hint = on_hint
        self._on_doubt = on_doubt
        self._open = True
        self.folder_events = 0
        self.trouble: str | None = None

    def close(self) -> None:
        """Begin no call from now on; the threads that may be in one are waited for elsewhere."""
        self._open = False

    def dispatch(self, event: FileSystemEvent) -> None:
        """Pass one event on."""
        try:
            paths = [os.fsdecode(path) for path in (event.src_path, event.dest_path) if path]
            if event.is_directory:
                self.folder_events += 1
                if any(self._is_looked_at(path) for path in paths):
                    self.doubt(self._folder_words(event))
            else:
                for path in paths:
                    self._hint_at(path)
        except Exception as error:  # whatever it was, the hint is lost and the observer must live
            self.trouble = f"a hint was lost: {error!r}"

    def doubt(self, reason: str) -> None:
        """Ask for a scan."""
        try:
            if self._open:
                self._on_doubt(reason)
        except Exception as error:  # called from watchdog's reader, which must live
            self.trouble = f"a hint was lost: {error!r}"

    def _hint_at(self, path: str) -> None:
        name = path.removeprefix(self._prefix)
        if self._open and name != path and files.may_be_csv(name):
            self._on_hint(name)

    def _is_looked_at(self, folder: str) -> bool:
        name = folder.removeprefix(self._prefix)
        return name == folder or not files.is_hidden(name)  # the root itself may be below a hidden folder

    def _folder_words(self, event: FileSystemEvent) -> str:
        name = shown(os.fsdecode(event.src_path).removeprefix(self._prefix), 200)
        if isinstance(event, DirMovedEvent):
            new = shown(os.fsdecode(event.dest_path).removeprefix(self._prefix), 200)
            return f"the folder {name} was moved to {new}"
        return f"the folder {name} {'appeared' if isinstance(event, DirCreatedEvent) else 'went away'}"
