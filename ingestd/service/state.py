"""What the running service says about itself: written to `_manifest/service.json`, read by `ingestd status`."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ingestd import __version__, files
from ingestd.errors import IngestdError, Retry
from ingestd.layout import Layout
from ingestd.raw_guard import Guard
from ingestd.settings import Settings

SERVICE = "the service"
"""What the service's lock file says the lock is held for while a service holds it."""

LOCK_WAIT_S = 2.0
"""How long a start waits for the lock of a service that is just ending, in seconds."""

Phase = Literal["starting", "running", "stopping", "stopped"]
"""Where in its life a service is."""


class Model(BaseModel):
    """A part of the state file; readers ignore unknown keys of a newer version."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Trouble(Model):
    """Something outside that keeps the service from its work; the service tries again by itself."""

    message: str
    place: str
    next_step: str
    since: datetime
    tries: int = 1

    @classmethod
    def of(cls, error: IngestdError, since: datetime, *, next_step: str | None = None, tries: int = 1) -> Trouble:
        """Make a trouble of an error that first occurred at `since`; `next_step` replaces the error's own."""
        step = error.next_step if next_step is None else next_step
        return cls(message=error.message, place=error.place, next_step=step, since=since, tries=tries)


class RetryingFile(Model):
    """One file that could not be staged for a reason outside it; the service tries it again by itself."""

    source_file: str
    message: str
    tries: int
    next_step: str = ""


class ServiceState(Model):
    """The service at one moment.

    `doing` is one plain sentence, the same as systemd's `STATUS=`. `backlog` counts the files not looked at yet, except
    those in `retrying`. `config_file` is absolute, None if there is none; `config_sha256` is its hash as it was read.
    """

    pid: int
    host: str
    version: str
    started_at: datetime
    updated_at: datetime
    phase: Phase
    doing: str
    watching: str
    config_file: Path | None = None
    config_sha256: str = ""
    backlog: int = 0
    troubles: list[Trouble] = []
    retrying: list[RetryingFile] = []


def goes_on(step: str) -> str:
    """Say what a person has to do, and that the service does the rest."""
    return f"{step}; the service goes on by itself" if step else "nothing: the service tries again by itself"


def waits_for(cause: IngestdError | Trouble) -> str:
    """Say that the service waits for a place; `status` knows these words, and tells the trouble only once."""
    return f"waiting for {cause.place}: {cause.message}"


def waits_out(trouble: Trouble) -> str:
    """Say that the service waits until a trouble is over; known to `status` in the same way."""
    return f"waiting: {trouble.message} ({trouble.place})"


def check_space(settings: Settings) -> None:
    """Check that the stage's disk has `service.free_mib` free, without which a service stages nothing.

    Raises:
        Retry: it has less.
    """
    root, wanted = settings.layout.stage_root, settings.service.free_mib
    with files.as_retry(root):
        free = files.free_bytes(root)
    if free < wanted * 2**20:
        raise Retry(  # without the free bytes, so that the message stays the same and is logged once
            f"less than service.free_mib = {wanted:.15g} MiB are free",
            place=str(root),
            next_step="free some space on that disk, or lower service.free_mib",
        )


def service_lock(layout: Layout, work: str = SERVICE) -> files.Lock:
    """Return the lock that a service holds for its life and a repair while it works: one of them per data root.

    `work` says what it is taken for: `SERVICE`, or the command beside which no service may run.
    """
    return files.Lock(
        layout.service_lock_path,
        refusal="another service or repair ({holder}) is at work on this data root",
        next_step="let that one run (`ingestd status` shows how a service is), or stop it first",
        work=work,
    )


def write_state(layout: Layout, state: ServiceState) -> None:
    """Replace the state file; not flushed, because nothing in it matters after a power cut."""
    files.write_atomic(layout.service_state_path, state.model_dump_json(indent=2).encode("utf-8") + b"\n", flush=False)


class StateFile:
    """The state file as kept by the process that holds the service's lock; made once the lock is taken.

    Pid and host are those of that moment, as in the lock file: a host may be renamed. `tell` is given each state that
    changed, before it is written: the disk may hang.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], datetime],
        started_at: datetime,
        tell: Callable[[ServiceState], None] = lambda _: None,
    ) -> None:
        self._layout = settings.layout
        self._config_file = settings.config_file and settings.config_file.absolute()
        self._config_sha256 = settings.config_sha256
        self._clock = clock
        self._started_at = started_at
        self._tell = tell
        self._pid, self._host = os.getpid(), socket.gethostname()
        self._guard = Guard(settings.layout)
        self._shown: ServiceState | None = None
        self._written: ServiceState | None = None

    def show(
        self,
        phase: Phase,
        doing: str,
        *,
        watching: str = "",
        backlog: int = 0,
        troubles: Iterable[Trouble] = (),
        retrying: Iterable[RetryingFile] = (),
    ) -> None:
        """Write the state if it changed or has not reached the disk yet.

        A disk that is full or away is ignored: log and `STATUS=` report it, and it must not end the service.
        """
        state = ServiceState(
            pid=self._pid,
            host=self._host,
            version=__version__,
            started_at=self._started_at,
            updated_at=self._started_at if self._shown is None else self._shown.updated_at,
            phase=phase,
            doing=doing,
            watching=watching,
            config_file=self._config_file,
            config_sha256=self._config_sha256,
            backlog=backlog,
            troubles=list(troubles),
            retrying=list(retrying),
        )
        if state != self._shown:
            self._shown = state = state.model_copy(update={"updated_at": self._clock()})
            self._tell(state)
        if state != self._written:
            with contextlib.suppress(Retry):
                self._guard.check()
                write_state(self._layout, state)
                self._written = state

    def check(self) -> None:
        """Have the state written again if its file was deleted; may be called from any thread, since it may hang."""
        if files.is_gone(self._layout.service_state_path):
            self._written = None


def read_state(layout: Layout) -> tuple[ServiceState | None, files.Holder | None]:
    """Read what a service last wrote, and who holds the service's lock now: that service, another process, or nobody.

    The state is None unless the holder wrote it: a state that a process left behind says nothing about the next one.

    Raises:
        Retry: the state file or the lock cannot be opened.
    """
    try:
        state = ServiceState.model_validate_json(layout.service_state_path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        state = None
    except OSError as error:
        raise files.retry_from(error, layout.service_state_path) from error
    writer = None if state is None else files.Holder(state.pid, state.host, SERVICE)
    lock = service_lock(layout)
    holder = lock.holder()
    nameless = not files.exists(lock.path) if holder is None else holder.pid is None  # its disk went away, or was full
    if nameless and _lives_here(state):
        return state, writer
    return state if holder == writer else None, holder


def _lives_here(state: ServiceState | None) -> bool:
    if state is None or state.phase == "stopped" or state.host != socket.gethostname():
        return False
    return files.exists(Path(f"/proc/{state.pid}"))
