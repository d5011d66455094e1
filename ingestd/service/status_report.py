"""What `ingestd status` reports, as values: the command prints them, programs get them as JSON."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ingestd.service.state import Trouble

PENDING = "pending"
"""Settled, and not decided yet: the service or the next backfill takes it."""

RETRYING = "retrying"
"""It cannot be read or staged now, and is tried again."""


class Health(IntEnum):
    """Exit codes of `ingestd status`, for monitoring."""

    WELL = 0
    NEEDS_A_PERSON = 1
    SERVICE_DOWN = 3


class Part(BaseModel):
    """A part of the report; its JSON keys are stable."""

    model_config = ConfigDict(frozen=True)


class ServicePart(Part):
    """The service: `phase` is `down` when none holds the lock of this data root.

    `doing` then says what else holds it, such as a repair, or why a service may be waiting unseen; `pid` and `host` are
    those of a service. `changed_config` is the config file of a service on this machine if it is no longer what that
    read at its start. `backlog` counts the files it has yet to look at, except those that are tried again.
    """

    phase: Literal["down", "starting", "running", "stopping"]
    doing: str = ""
    watching: str = ""
    pid: int | None = None
    host: str = ""
    started_at: datetime | None = None
    changed_config: str = ""
    backlog: int = 0


class WaitingPart(Part):
    """A file that waits: `queued`, `running`, `pending` or `retrying`; `age_s` counts seconds since its last change.

    `code` is the kind of reason of a `queued` or `running` file, as in `Verdict`; `next_step` says what to do about the
    reason of a `retrying` one.
    """

    source_file: str
    state: str
    age_s: float
    reason: str
    code: str = ""
    rows: int | None = None
    next_step: str = ""


class RunPart(Part):
    """A run that was measured recently."""

    run_id: str
    source_file: str
    chip_name: str | None
    summary: str
    start_time_utc: datetime
    ingested_at_utc: datetime


class RejectPart(Part):
    """A rejected file that is still there, and its code; `ingestd rejects show` shows the rest.

    `run_id` is the run it was before it changed, which stays live; None if it was none.
    """

    source_file: str
    code: str
    run_id: str | None = None


class StatusReport(Part):
    """Everything `status` knows.

    `free_bytes` is None if the stage's disk cannot be asked (there is no stage yet, say), `runs_without_raw_file` if
    part of the raw root cannot be looked at.
    """

    service: ServicePart
    safe_to_power_off: bool
    safe_reason: str
    runs: int
    runs_without_raw_file: int | None
    waiting: list[WaitingPart]
    last_runs: list[RunPart]
    rejects: list[RejectPart]
    troubles: list[Trouble]
    log_records: int
    free_bytes: int | None

    @property
    def health(self) -> Health:
        """What a monitor should report: a fault that needs a person takes precedence over a service that is down."""
        if self.troubles or self.rejects or any(file.state == RETRYING for file in self.waiting):
            return Health.NEEDS_A_PERSON
        return Health.SERVICE_DOWN if self.service.phase == "down" else Health.WELL
