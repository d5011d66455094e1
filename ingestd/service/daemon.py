"""The life of `ingestd run`: start, main loop, stop.

Threads: the main thread supervises; the worker decides; the observer and the scheduler put messages on the worker's
queue. A signal handler only sets a flag.

Stopping takes at most `service.stop_s`, whatever hangs: the worker takes nothing new; hints and jobs end; the worker
finishes the batch in hand, writes the histories and compacts; the state file says `stopped`; the lock is freed. A
thread of its own enforces the limit, also on the end after the worker failed. A second SIGTERM or SIGINT ends the
process at once, which is as safe as a power cut.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from types import FrameType

from apscheduler.schedulers.background import BackgroundScheduler

from ingestd import __version__, files
from ingestd.errors import Corrupt, IngestdError, Retry
from ingestd.ingest.commit import Clock, opened, utc_now
from ingestd.service.logline import cause
from ingestd.service.logs import our_log
from ingestd.service.messages import Hint, Message, ScanAsked
from ingestd.service.notify import Notifier
from ingestd.service.raw_root import wait_for_raw_root
from ingestd.service.schedule import ClockSteps, make_scheduler, on_job_error, rearm
from ingestd.service.state import LOCK_WAIT_S, Phase, ServiceState, StateFile, goes_on, service_lock, waits_for
from ingestd.service.watch import OVERFLOWED, Watch
from ingestd.service.worker import Worker
from ingestd.settings import Settings

CHECK_S = 1.0
"""How often watch, worker and scheduler are checked, in seconds."""

STUCK_S = 60.0
"""A worker or scheduler silent for this long is stuck: the watchdog is no longer fed, and systemd restarts the service.

The worker may be silent for another `manifest.lock_timeout_s` while another process holds the manifest's lock.
"""

STATE_EVERY_S = 0.5
"""Shortest interval between writes of the state file, in seconds; it is written only when something changed."""

LIMITED_SCAN_S = 10.0
"""Longest interval between scans while the kernel's limits leave folders unwatched, in seconds."""

COLLECT_FROM = 700
"""After this many new objects Python collects garbage among them: its own default, right for a long-lived process."""

LAST_WORD_S = 1.0
"""Time to log that a stop took too long, in seconds: the log itself may be what hangs."""


class Exit(IntEnum):
    """Exit codes of the service."""

    STOPPED = 0
    FAILED = 1
    COULD_NOT_RUN = 2


def tell_failure(error: BaseException | None) -> Exit:
    """Log what ends the service and return its exit code.

    Damage to ingestd's own files needs a person, so no restart is asked for. Anything else may be over by the next
    start: even an error of ingestd itself, since the system may have refused a thread. None is a thread's sudden end.
    """
    if isinstance(error, IngestdError):
        our_log().error("failed", **cause(error))
    else:
        our_log().error("failed", problem="ingestd itself failed", exc_info=error)
    return Exit.COULD_NOT_RUN if isinstance(error, Corrupt) else Exit.FAILED


@dataclass(slots=True)
class Signals:
    """What the signal handlers noted."""

    stop: threading.Event = field(default_factory=threading.Event)
    name: str = ""
    asked: bool = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Note a stop; a second SIGTERM or SIGINT ends the process at once.

        SIGHUP never does: a terminal that closes may send it more than once (kernel and shell), or SIGTERM as well.
        """
        if number != signal.SIGHUP:
            if self.asked:
                os._exit(128 + number)
            self.asked = True
        self.name = self.name or signal.Signals(number).name
        self.stop.set()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle SIGTERM, SIGINT and, unless `nohup` made it ignored, SIGHUP (a closed terminal) for the block."""
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        numbers = (signal.SIGTERM, signal.SIGINT, *(() if ignored else (signal.SIGHUP,)))
        before = {number: signal.signal(number, self.handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def limited_stop(signals: Signals, stop_s: float) -> Iterator[None]:
    """End the process as it is if the block goes on for `stop_s` seconds after a signal, wherever its threads hang."""
    over = threading.Event()

    def keep_limit() -> None:
        signals.stop.wait()
        if not over.wait(stop_s):
            _give_up(stop_s)

    threading.Thread(target=keep_limit, name="stop-limit", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _give_up(stop_s: float) -> None:
    def tell() -> None:
        our_log().error(
            "stop_took_too_long",
            problem=f"not done within service.stop_s = {stop_s:g} s; ending as it is",
            next_step="nothing: the next start finishes the work",
        )

    teller = threading.Thread(target=tell, name="last-word", daemon=True)
    try:
        teller.start()
        teller.join(LAST_WORD_S)
    finally:
        os._exit(Exit.FAILED)


def run_service(settings: Settings, clock: Clock = utc_now) -> Exit:
    """Run the service in the foreground until a signal ends it; return its exit code.

    If the raw root is missing (a share that is late at boot), the service waits for it before it makes any folder
    below the data root, which may be an empty mount point.

    Raises:
        LockHeld: another service works on this data root, or a process held the manifest's lock for too long.
        Corrupt: manifest or log is damaged; nothing was changed.
        Retry: the disk of the stage refused.
    """
    faulthandler.enable()  # systemd's watchdog ends a stuck service with SIGABRT: the log then shows every thread
    signals, notifier = Signals(), Notifier.from_environment()
    with signals.installed(), limited_stop(signals, settings.service.stop_s):
        if not wait_for_raw_root(settings, signals.stop, notifier, clock):
            return Exit.STOPPED
        lock = service_lock(settings.layout)
        lock.acquire(LOCK_WAIT_S)
        try:
            with opened(settings, clock) as ingest:
                gc.freeze()  # code and catalog never become garbage; what is made later may, over months
                gc.set_threshold(COLLECT_FROM)
                return Daemon(settings, Worker(ingest), signals, notifier, clock, lock=lock).run()
        finally:
            lock.release()


class Daemon:
    """One life of the service, while it holds `lock`."""

    def __init__(
        self,
        settings: Settings,
        worker: Worker,
        signals: Signals,
        notifier: Notifier,
        clock: Clock,
        *,
        lock: files.Lock,
    ) -> None:
        self._settings = settings
        self._lock = lock
        self._displaced = False
        self._worker = worker
        self._signals = signals
        self._notifier = notifier
        self._log = our_log()
        self._watch = self._make_watch()
        self._scheduler: BackgroundScheduler = make_scheduler(settings, worker.inbox.put, self._check, CHECK_S)
        self._thread = threading.Thread(target=worker.run, name="worker", daemon=True)
        self._steps = ClockSteps(clock)
        self._state = StateFile(settings, clock, started_at=clock(), tell=self._tell)
        self._watching = ""
        self._limited_scan_at = 0.0
        self._checked_at = 0.0
        self._fed_at = 0.0

    def _make_watch(self) -> Watch | None:
        if self._settings.watch.mode == "scan":
            return None
        put: Callable[[Message], None] = self._worker.inbox.put

        def on_doubt(reason: str) -> None:
            if reason == OVERFLOWED:  # the scan that follows may log another reason, which came first
                self._log.warning("hints_lost", problem=reason)
            put(ScanAsked(reason))

        return Watch(self._settings.layout.raw_root, on_hint=lambda name: put(Hint(name)), on_doubt=on_doubt)

    # ---- the life ---------------------------------------------------------------------------------------------------

    def run(self) -> Exit:
        """Start, supervise until asked to stop, stop."""
        self._start()
        while True:
            self._show("running")
            if self._displaced or not self._thread.is_alive():
                return self._end()
            self._heed_clock()
            self._feed_watchdog()
            if self._signals.stop.wait(STATE_EVERY_S):
                return self._stop()

    def _start(self) -> None:
        """Place the watch, then scan: what appears in between is seen twice rather than missed."""
        layout, settings = self._settings.layout, self._settings
        self._log.info(
            "started",
            version=__version__,
            pid=os.getpid(),
            raw_root=str(layout.raw_root),
            stage_root=str(layout.stage_root),
        )
        if self._watch is None:
            self._watching = f"by scanning every {settings.watch.rescan_s:g} s"
        elif self._place_watch(self._watch):
            self._describe_watch(self._watch)
        self._worker.inbox.put(ScanAsked("start"))
        on_job_error(self._scheduler, lambda job, error: self._log.error("job_failed", job=job, problem=error))
        self._checked_at = time.monotonic()
        self._scheduler.start()
        self._thread.start()
        self._show("running")  # who waited for systemd finds a state file
        self._notifier.ready(f"watching {layout.raw_root} {self._watching}")

    def _stop(self) -> Exit:
        self._worker.stop()  # first: the log and the watch may hang
        self._notifier.stopping()
        self._log.info("stopping", signal=self._signals.name)
        self._halt()
        self._show("stopping")
        self._join_worker()
        if self._worker.failure is not None:
            return tell_failure(self._worker.failure)
        self._show("stopped")
        self._log.info("stopped")
        return Exit.STOPPED

    def _end(self) -> Exit:
        """End without being asked to: the worker failed, or the data root is another service's to take."""
        self._signals.stop.set()  # the limit of a stop holds for this end too
        self._worker.stop()
        code = tell_failure(self._another_data_root() if self._displaced else self._worker.failure)
        self._halt()
        self._join_worker()
        return code

    def _another_data_root(self) -> Retry:
        return Retry(
            "this is not the lock that this service holds: was a disk mounted again, or replaced, while it ran?",
            place=str(self._lock.path),
            next_step="systemd starts the service again on what is there now; without systemd, start it again",
        )

    def _join_worker(self) -> None:
        while self._thread.is_alive():  # wait in turns: a signal delivered to another thread ends no wait
            self._thread.join(STATE_EVERY_S)

    def _halt(self) -> None:
        """End what puts messages on the worker's queue."""
        if self._watch is not None:
            self._watch.stop()
        self._scheduler.shutdown(wait=False)

    # ---- supervision ------------------------------------------------------------------------------------------------

    def _place_watch(self, watch: Watch) -> bool:
        """Place the watch; if that cannot be, log it once and return False: scans and checks go on."""
        try:
            watch.start()
        except Retry as error:
            watching = waits_for(error)
            if watching != self._watching:
                self._watching = watching
                self._log.error("watch_lost", **cause(error, goes_on(error.next_step)))
            return False
        return True

    def _check(self) -> None:
        """Check the watch, the state file and the lock, then leave a beat: the scheduler's thread lives.

        Not in the main thread: if a disk hangs there, signals are not heard.
        """
        self._check_watch()
        self._state.check()
        self._check_lock()
        self._checked_at = time.monotonic()

    def _check_lock(self) -> None:
        """Note that a whole data root came into the place of the one that was opened.

        Its lock is free, so `status` takes the service for ended and another may start beside it; and what this one
        holds open keeps a disk that is gone from being let go. An empty mount point is waited out, even with a lock in
        it.
        """
        if self._lock.is_displaced() and not files.is_gone(self._settings.layout.wal_dir):
            self._displaced = True

    def _check_watch(self) -> None:
        """Check that hints still come; if not, replace the watch and scan."""
        if self._watch is None or self._signals.stop.is_set():
            return
        problem = self._watch.check(self._worker.folders)
        if problem is not None:
            self._worker.inbox.put(ScanAsked(problem))
            if not self._place_watch(self._watch):
                return
            self._log.warning("watch_replaced", problem=problem)
            self._worker.inbox.put(ScanAsked("the watch was replaced"))
        self._describe_watch(self._watch)
        if self._watch.limited and time.monotonic() >= self._limited_scan_at:
            self._limited_scan_at = time.monotonic() + min(LIMITED_SCAN_S, self._settings.watch.rescan_s)
            self._worker.inbox.put(ScanAsked("routine", routine=True))

    def _describe_watch(self, watch: Watch) -> None:
        every = self._settings.watch.rescan_s
        watching = f"by inotify, and by scanning every {every:g} s"
        if watch.limited:
            watching = f"by scanning every {min(LIMITED_SCAN_S, every):g} s, because {watch.limited}"
        if watching == self._watching:
            return
        if watch.limited:
            self._log.warning("watch_limited", problem=watch.limited)
        elif self._watching:
            self._log.info("watch_restored")
        self._watching = watching

    def _heed_clock(self) -> None:
        """If the machine's clock was set, plan the jobs again and log it, since dates follow that clock."""
        step_s = self._steps.step_s()
        if step_s:
            rearm(self._scheduler)
            problem = f"the machine's clock was set {'forward' if step_s > 0 else 'back'}"
            self._log.warning("clock_stepped", problem=problem, seconds=round(step_s, 1))

    def _alive(self) -> bool:
        """Say whether worker and scheduler left a beat lately; only their own threads leave one."""
        now = time.monotonic()
        worker_s, check_s = now - self._worker.beat_at, now - self._checked_at
        return worker_s < STUCK_S + self._settings.manifest.lock_timeout_s and check_s < STUCK_S

    def _feed_watchdog(self) -> None:
        every = self._notifier.watchdog_s
        if every is None or time.monotonic() - self._fed_at < every:
            return
        if self._alive():
            self._notifier.watchdog()
            self._fed_at = time.monotonic()

    def _show(self, phase: Phase) -> None:
        """Write systemd's status line and the state file when something changed."""
        view = self._worker.view
        self._state.show(
            phase,
            view.doing if phase == "running" else phase,
            watching=self._watching,
            backlog=view.backlog,
            troubles=view.troubles,
            retrying=view.retrying,
        )

    def _tell(self, state: ServiceState) -> None:
        if state.phase == "running":
            self._notifier.status(state.doing)
