"""What can become of one raw file in one backfill."""

from __future__ import annotations

from enum import StrEnum


class Fate(StrEnum):
    """What became of a raw file: each one that a backfill found has exactly one fate, and the sums count them.

    The fate of a decided file is its last decision, under the name of the event.
    """

    INGESTED = "ingested"
    UPDATED = "updated"
    EDITED = "edited"
    SUPERSEDED = "superseded"
    RESTAGED = "restaged"

    MOVED = "moved"
    DUPLICATE = "duplicate"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"

    STILL_REJECTED = "still-rejected"
    """Rejected before and looked at again: its content is the same."""

    WAITING = "waiting"
    """Not over yet: queued or running."""

    FAILED = "failed"
    """It could not be staged for now."""

    LOST = "lost"
    """It was the raw file of a run and has been emptied or overwritten; nothing was staged from it."""

    KNOWN = "known"
    """Decided before and unchanged, so not opened. So are the next three, but the report names their files again."""

    WAITING_BEFORE = "waiting-before"
    REJECTED_BEFORE = "rejected-before"
    LOST_BEFORE = "lost-before"

    TO_DO = "to-do"
    """Still to be looked at. Only a dry run leaves it at that; the next two are for files not decided here."""

    LEFT = "left"
    """An early end left it for the next backfill."""

    OVERTAKEN = "overtaken"
    """Another process decided it meanwhile, or it has gone since."""

    @property
    def stages(self) -> bool:
        """Whether the file's content was put into the stage."""
        return self in {Fate.INGESTED, Fate.UPDATED, Fate.EDITED, Fate.SUPERSEDED, Fate.RESTAGED}

    @property
    def unopened(self) -> bool:
        """Whether the file needed no look, since it was decided before and has not changed."""
        return self in {Fate.KNOWN, Fate.WAITING_BEFORE, Fate.REJECTED_BEFORE, Fate.LOST_BEFORE}
