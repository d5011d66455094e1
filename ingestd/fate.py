"""What can become of one raw file in one backfill."""

from __future__ import annotations

from enum import StrEnum


class Fate(StrEnum):
    """What became of a raw file: each one that a backfill found has exactly one fate, and the sums count them.

    Of a decided file it is the last decision, by the name of its event.
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
    """Rejected before, and looked at again: its content is the same."""

    WAITING = "waiting"
    """Not over yet: queued or running."""

    FAILED = "failed"
    """The world kept it from being staged."""

    LOST = "lost"
    """It was the raw file of a run, and is emptied or overwritten; nothing was staged from it."""

    KNOWN = "known"
    """Decided before and unchanged, as are the next three, of which people are told again; none of them is opened."""

    WAITING_BEFORE = "waiting-before"
    REJECTED_BEFORE = "rejected-before"
    LOST_BEFORE = "lost-before"

    TO_DO = "to-do"
    """It is to be looked at. Only a dry run leaves a file so; the next two are what else may come of it."""

    LEFT = "left"
    """An early end left it for the next backfill."""

    OVERTAKEN = "overtaken"
    """Another process decided it meanwhile, or it is gone since."""

    @property
    def stages(self) -> bool:
        """Whether the file's content was put into the stage."""
        return self in {Fate.INGESTED, Fate.UPDATED, Fate.EDITED, Fate.SUPERSEDED, Fate.RESTAGED}

    @property
    def unopened(self) -> bool:
        """Whether the file needed no look, since it was decided before and has not changed."""
        return self in {Fate.KNOWN, Fate.WAITING_BEFORE, Fate.REJECTED_BEFORE, Fate.LOST_BEFORE}
