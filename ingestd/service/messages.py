"""What observer and scheduler may ask of the worker: the messages on its one queue."""

from __future__ import annotations

from dataclasses import dataclass


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


Message = Hint | ScanAsked | Compact | DeleteOldEvents
