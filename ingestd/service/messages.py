"""What observer, scheduler and the thread of the suspects may tell the worker: the messages on its one queue."""

from __future__ import annotations

from dataclasses import dataclass

from ingestd.stage.run import Outcome


@dataclass(frozen=True, slots=True)
class Hint:
    """A hint: something happened to this path (relative to the raw root)."""

    name: str


@dataclass(frozen=True, slots=True)
class ScanAsked:
    """Look at everything; the reason is logged, a routine one for debugging only."""

    reason: str
    routine: bool = False


@dataclass(frozen=True, slots=True)
class Compact:
    """Compact the log."""


@dataclass(frozen=True, slots=True)
class DeleteOldEvents:
    """Delete event JSONs that are past their time."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A suspect was staged in a process of its own, or that process died; `began` is in monotonic seconds."""

    outcome: Outcome
    began: float


Message = Hint | ScanAsked | Compact | DeleteOldEvents | Answered
