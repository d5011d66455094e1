"""Wait at the start for a raw root that is late: a share, or a disk that is not mounted yet.

Nothing is made below the data root meanwhile, which may be an empty mount point. If an earlier start has made the
manifest's folder, the waiting service is visible: it holds the service's lock, and its state says what it waits for.
"""

from __future__ import annotations

import contextlib
import threading

from ingestd import files
from ingestd.errors import LockHeld, Retry, UsageError
from ingestd.ingest.commit import Clock
from ingestd.layout import Layout
from ingestd.lookup import require_raw_root
from ingestd.service.logline import cause
from ingestd.service.logs import our_log
from ingestd.service.notify import Notifier
from ingestd.service.state import LOCK_WAIT_S, Phase, StateFile, Trouble, service_lock, waits_for
from ingestd.settings import Settings

LOOK_S = 1.0
"""How often to look whether the raw root is there, in seconds."""


def wait_for_raw_root(settings: Settings, stop: threading.Event, notifier: Notifier, clock: Clock) -> bool:
    """Wait, visibly, until there is a raw root; return False if a stop ended the wait.

    The lock is free afterwards: a disk mounted meanwhile may have brought another lock file, which others find.

    Raises:
        LockHeld: another service, or a repair, works on this data root.
    """
    layout = settings.layout
    missing = _without_raw_root(layout)
    if missing is None:
        return True
    log = our_log()
    with contextlib.closing(_Presence(settings, clock)) as presence:
        presence.show(missing)  # first: if another service is at work, the log belongs to it
        log.error("waiting_for_raw_root", **cause(missing))
        notifier.ready(waits_for(missing))
        while not stop.wait(LOOK_S):
            notifier.watchdog()
            missing = _without_raw_root(layout)
            presence.show(missing)
            if missing is None:
                log.info("raw_root_is_there", place=str(layout.raw_root))
                return True
        notifier.stopping()
        presence.show(None, phase="stopped")
        log.info("stopped")
    return False


def _without_raw_root(layout: Layout) -> UsageError | Retry | None:
    """Say why there is no raw root to look at (a dead share, or not mounted yet); None where there is one."""
    try:
        require_raw_root(layout)
    except (UsageError, Retry) as error:
        return error
    return None


class _Presence:
    """What others see of a service that waits: its lock and its state, where there is a folder for them."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = service_lock(settings.layout)
        self._started_at = clock()
        self._state: StateFile | None = None  # while the lock is held

    def show(self, missing: UsageError | Retry | None, phase: Phase = "starting") -> None:
        """Take the lock unless it is held, and write the state if it changed.

        Raises:
            LockHeld: another process holds it.
        """
        try:
            state = self._under_lock()
        except LockHeld:
            raise
        except Retry:  # the stage's disk is away too: the state cannot be written
            return
        if state is None:
            return
        if missing:
            state.show(phase, waits_for(missing), troubles=[Trouble.of(missing, self._started_at)])
        else:
            state.show(phase, "reading the manifest" if phase == "starting" else phase)

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def _under_lock(self) -> StateFile | None:
        """Return what to write the state to; None where there is no folder for it."""
        try:
            self._lock.check()
        except Retry:  # not taken yet; or its disk went away, or another was mounted over it
            self._lock.release()
        else:
            return self._state
        folder = self._settings.layout.service_lock_path.parent
        with files.as_retry(folder):
            if not files.is_dir(folder):
                return None
        self._lock.acquire(LOCK_WAIT_S)
        self._state = StateFile(self._settings, self._clock, self._started_at)
        return self._state
