"""The messages that observer, scheduler and the suspects' thread put on the worker's one queue."""

from __future__ import annotations

from dataclasses import dataclass

from ingestd.stage.run import Outcome


@dataclass(frozen=True, slots=True)
class Hint:
    """Something may have happened to this path, relative to the raw root."""

    name: str


@dataclass(frozen=True, slots=True)
class ScanAsked:
    """Look at everything; the reason is logged, that of a routine scan that finds nothing new only at level debug."""

    reason: str
    routine: bool = False


@dataclass(frozen=True, slots=True)
class Compact:
    """Compact the log."""


@dataclass(frozen=True, slots=True)
class DeleteOldEvents:
    """Delete event JSONs older than `events.keep_days`."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A suspect was staged in its own process, or that process died; `began` is in monotonic seconds."""

    outcome: Outcome
    began: float


Message = Hint | ScanAsked | Compact | DeleteOldEvents | Answered
