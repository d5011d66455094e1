"""A lock between processes, freed by the kernel."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ingestd.errors import LockHeld, Retry
from ingestd.files.durable import as_retry, make_folders, retry_from

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
"""A link in a lock's place could lead to a measurement, which the holder's name would overwrite."""
_HOLDER = re.compile(r"pid (?P<pid>\d+) on (?P<host>.+)\n(?:(?P<work>.+)\n)?")
"""The content of a lock's file: its holder and, below, what it is held for, if the lock says so."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock, and what for; `pid` is None if a full disk kept it from being written."""

    pid: int | None = None
    host: str = ""
    work: str = ""

    def __str__(self) -> str:
        """Name the process."""
        return "another process" if self.pid is None else f"pid {self.pid} on {self.host}"


class Lock:
    """An exclusive `flock` on a file of its own, freed by the kernel when its holder dies; never deleted.

    The file holds the holder's pid and host, and `work`, what the lock is held for; `holder` reads them. A process that
    is refused shows `refusal`, with `{holder}` filled in, and `next_step`.
    """

    def __init__(
        self,
        path: Path,
        *,
        refusal: str = "{holder} holds this lock",
        next_step: str = "wait for it to finish, or stop it",
        work: str = "",
    ) -> None:
        self.path = path
        self._work = work
        self._refusal = refusal
        self._next_step = next_step
        self._descriptor: int | None = None
        self._held_by = Holder()  # at the last refusal

    def acquire(self, timeout_s: float) -> None:
        """Take the lock, waiting up to `timeout_s` seconds.

        Raises:
            LockHeld: another process holds it; the message names its pid and host.
            Retry: the disk refused.
        """
        try:
            self._note_holder(self._take(timeout_s))
        except BaseException:
            self.release()  # nobody would free it while this process lives
            raise

    def _note_holder(self, descriptor: int) -> None:
        work = f"{self._work}\n" if self._work else ""
        holder = f"pid {os.getpid()} on {socket.gethostname()}\n{work}".encode()
        with contextlib.suppress(OSError):  # on a full disk the lock holds as well, only without its holder's name
            if os.pread(descriptor, 200, 0) != holder:  # a change would make the next flush take longer
                os.pwrite(descriptor, holder, 0)
                os.ftruncate(descriptor, len(holder))

    def _take(self, timeout_s: float) -> int:
        with as_retry(self.path):
            try:
                descriptor = self._open()
            except FileNotFoundError:
                make_folders(self.path.parent)
                descriptor = self._open()
        return self._wait(descriptor, fcntl.LOCK_EX, timeout_s)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o644)

    def _wait(self, descriptor: int, kind: int, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    self._held_by = _read_holder(descriptor)
                    os.close(descriptor)
                    message = self._refusal.format(holder=self._held_by)
                    raise LockHeld(message, place=str(self.path), next_step=self._next_step) from None
                time.sleep(0.002)
            except OSError as error:
                os.close(descriptor)
                raise retry_from(error, self.path) from error
            else:
                self._descriptor = descriptor
                if kind == fcntl.LOCK_SH or self._is_there():
                    return descriptor
                self.release()  # it was deleted while we waited, and another process may hold the one made since
                with as_retry(self.path):
                    descriptor = self._open()

    def _is_there(self) -> bool | None:
        """Tell whether others find the file that is held; None if none is held, or they find none, or cannot look."""
        if self._descriptor is None:
            return None
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))  # noqa: PTH116  # once per decision
        except OSError:
            return None

    def check(self) -> None:
        """Check, before changing what the lock guards, that others find the same lock: its file may have been deleted.

        Raises:
            Retry: they do not.
        """
        if not self._is_there():
            raise Retry(
                "this lock was deleted while it was held: two processes may be at work",
                place=str(self.path),
                next_step="delete nothing in the folder of the manifest",
            )

    def is_displaced(self) -> bool:
        """Tell whether others find another file here than the one held: of another disk, or made anew."""
        return self._is_there() is False

    def release(self) -> None:
        """Free the lock; the file stays, because deleting it would let a second holder in."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def probe(self) -> None:
        """Raise `LockHeld`, naming the holder, if another process holds the lock; write nothing.

        The lock is shared for an instant: a process that wants it just then waits a moment longer, or is refused if it
        does not wait.
        """
        with self.shared(0.0):
            pass

    def holder(self) -> Holder | None:
        """Tell which other process holds the lock now; None when none does. Like `probe`, it writes nothing."""
        try:
            self.probe()
        except LockHeld:
            return self._held_by
        return None

    @contextlib.contextmanager
    def shared(self, timeout_s: float) -> Iterator[None]:
        """Keep others from taking the lock for the block, alongside any number of other readers; write nothing.

        If there is no lock file yet, nothing is held. Errors as `acquire`.
        """
        with as_retry(self.path):
            try:
                descriptor = os.open(self.path, os.O_RDONLY | _FLAGS)
            except FileNotFoundError:
                descriptor = None
        try:
            if descriptor is not None:
                self._wait(descriptor, fcntl.LOCK_SH, timeout_s)
            yield
        finally:
            self.release()

    @contextlib.contextmanager
    def held(self, timeout_s: float = 60.0) -> Iterator[None]:
        """Hold the lock for the block."""
        self.acquire(timeout_s)
        try:
            yield
        finally:
            self.release()


def _read_holder(descriptor: int) -> Holder:
    found = _HOLDER.match(os.pread(descriptor, 400, 0).decode("utf-8", "replace"))
    return Holder() if found is None else Holder(int(found["pid"]), found["host"], found["work"] or "")
