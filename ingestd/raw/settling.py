"""Tell whether a run is really over: queued, running or settled, from what was observed. Pure: no clock, no disk.

Neither "closed" nor "quiet" means finished: PyMeasure closes a file when the run is queued and again after the header
is rewritten, and rows may be minutes apart. So a file is settled only when it holds a complete row, nobody has it open
for writing, and it has not changed for a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ingestd.raw.header import Glance


class State(StrEnum):
    """Where a raw file is in its life, before it is decided."""

    QUEUED = "queued"
    RUNNING = "running"
    SETTLED = "settled"


UNSEEN_S = 1.0
"""Seconds between two attempts to see who has a file open, while that cannot be seen."""

AGED_S = 86400.0
"""A file at least this old, in seconds, is part of a backlog, however far off a clock is."""

QUEUED_REASONS = {
    "empty": "empty so far: no header yet",
    "cut": "its first row (or its header) is not complete yet",
    "no-rows": "header only, no data row yet: it waits for its turn, or never ran",
}
"""Why a file counts as queued: it follows from its bytes alone, so that unchanged files need not be opened again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A state and the reason for it, in words for people; empty for `settled`.

    `code` is the kind of reason: a key of `QUEUED_REASONS` for `queued`; `writer`, `unseen` (writers
    cannot be seen), `settling`, `cut-line` or `changed` (while it was read) for `running`.
    """

    state: State
    reason: str = ""
    code: str = ""


def queued(code: str | None) -> Verdict:
    """Return the verdict `queued` of this kind; None, for files noted without a kind, means `no-rows`."""
    known = code or "no-rows"
    return Verdict(State.QUEUED, QUEUED_REASONS[known], known)


@dataclass(frozen=True, slots=True)
class Patience:
    """The waiting times in force, in seconds: see `[settle]` in `docs/configuration.md`."""

    settle_s: float
    quiet_s: float


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a file from outside: for how long its size and mtime have not changed, and who writes to it.

    `writer` names the process that has it open for writing, "" when nobody has, None when that cannot be seen here.
    """

    unchanged_s: float
    writer: str | None


def judge_outside(seen: Observation, patience: Patience) -> Verdict:
    """Judge a file without opening it: `running`, or `settled` as far as can be told from outside."""
    if seen.writer:
        return Verdict(State.RUNNING, f"{seen.writer} has it open for writing", "writer")
    if seen.writer is None and seen.unchanged_s < patience.quiet_s:
        return Verdict(
            State.RUNNING,
            f"changed {seen.unchanged_s:.1f} s ago, and who has it open cannot be seen here: "
            f"waiting for {patience.quiet_s:g} s without a change",
            "unseen",
        )
    if seen.unchanged_s < patience.settle_s:
        return Verdict(State.RUNNING, f"changed {seen.unchanged_s:.1f} s ago", "settling")
    return Verdict(State.SETTLED)


def judge(seen: Observation, glance: Glance, size: int, patience: Patience) -> Verdict:
    """Judge a file by what was seen from outside and by a look at its bytes.

    Bytes that cannot become a measurement file are `settled`: they are to be rejected, not waited for.
    """
    outside = judge_outside(seen, patience)
    if outside.state is not State.SETTLED or not glance.plausible:
        return outside
    if not glance.rows:
        return queued("empty" if size == 0 else "cut" if glance.incomplete_tail else "no-rows")
    if glance.incomplete_tail and seen.unchanged_s < patience.quiet_s:
        return Verdict(
            State.RUNNING,
            f"its last line is incomplete; waiting for {patience.quiet_s:g} s without a change",
            "cut-line",
        )
    return Verdict(State.SETTLED)


# ---- over time: what the service notes of a file it waits for -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """One stat of a file: what changes when somebody writes, replaces or touches it."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Track:
    """A file under observation: its last sample, and since when (monotonic seconds) it has stood still."""

    sample: Sample
    steady_since: float

    def unchanged_s(self, now: float) -> float:
        """Tell for how many seconds the file has stood still at monotonic time `now`."""
        return max(0.0, now - self.steady_since)


def observe(track: Track | None, sample: Sample, now: float, age_s: float) -> Track:
    """Update a file's track with a sample taken at monotonic time `now`.

    At first sight the file's age by the wall clock is believed (`age_s`; of an mtime in the future, the distance), so
    that a backlog does not wait. From then on only the monotonic clock counts: a change seen restarts the wait.
    """
    if track is None:
        return Track(sample, now - abs(age_s))
    return track if track.sample == sample else Track(sample, now)


def unaged(track: Track, now: float) -> Track:
    """Treat a file at first sight as changed just now, unless it is a day old by the wall clock.

    For files whose writers cannot be seen. Mostly they are on a share, whose clock may differ from ours by more than
    `quiet_s`: a file that is being written could seem unchanged.
    """
    return track if track.unchanged_s(now) >= AGED_S else Track(track.sample, now)


def next_look_s(seen: Observation, verdict: Verdict, patience: Patience, poll_s: float) -> float:
    """Tell in how many seconds a `running` file is worth another look, if no hint comes first.

    A file that somebody has open is looked at every `poll_s`; one that only has to stand still, once it can have done
    so. Who has it open may be hidden only for a moment, while the recorder's process ends, hence `UNSEEN_S`.
    """
    if seen.writer:
        return poll_s
    waits = [patience.quiet_s if seen.writer is None else patience.settle_s]
    if verdict.code == "cut-line":
        waits.append(patience.quiet_s)
    rest_s = max(0.0, max(waits) - seen.unchanged_s)
    return min(UNSEEN_S, rest_s) if seen.writer is None else rest_s
