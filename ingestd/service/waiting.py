"""The files the service waits for: each with its state, the reason, and when it is looked at again."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace

from ingestd.errors import Retry
from ingestd.raw.settling import State, Track, Verdict
from ingestd.service.state import goes_on

WORTH_TELLING = frozenset({"writer", "unseen", "cut-line"})
"""Kinds of reasons to wait that are logged; that every file has to be unchanged for `settle_s` is no news."""

PUT_OFF_S = 1.0
"""How soon to look again at a run whose raw file a waiting one may be, in seconds; that one may take hours."""

OVERTAKEN_S = 0.02
"""How soon a file is looked at again if another process's decision came first, in seconds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file that the service knows of and has not decided yet.

    `due` is in monotonic seconds. `problem` is set while something outside keeps the file from being staged,
    `next_step` says what a person has to do about it, and `tries` counts the attempts. `state` is None before the first
    look; `told` is the kind of reason that was last logged; `asked_at` is when all processes were last looked at for
    it, in monotonic seconds; `overtakings` counts how often in a row another process's decision came first.
    """

    due: float
    state: State | None = None
    track: Track | None = None
    told: str = ""
    asked_at: float = -math.inf
    problem: str = ""
    next_step: str = ""
    tries: int = 0
    overtakings: int = 0


class WaitList:
    """Which files to look at, and when. Only the worker touches it."""

    def __init__(self, *, retry_s: float, retry_max_s: float) -> None:
        self._retry_s = retry_s
        self._retry_max_s = retry_max_s
        self._times: list[tuple[float, str]] = []  # a heap; a pair that is no longer an entry's `due` is skipped
        self.entries: dict[str, Entry] = {}

    def hint(self, name: str, now: float) -> None:
        """Take a hint that a file may have changed: look at it now. A file in retry keeps its backoff."""
        entry = self.entries.get(name)
        if entry is None:
            self._set(name, Entry(due=now))
        elif not entry.problem and entry.due > now:
            self._set(name, replace(entry, due=now))

    def due(self, now: float, limit: int) -> list[str]:
        """Take at most `limit` files that are due, longest due first; another call must settle each."""
        ready: dict[str, None] = {}  # a file that was given the same time twice is on the heap twice
        while self._times and len(ready) < limit and self._times[0][0] <= now:
            due, name = heapq.heappop(self._times)
            if self._is_current(due, name):
                ready[name] = None
        return list(ready)

    def next_due(self) -> float | None:
        """Return when the next file is to be looked at, in monotonic seconds."""
        while self._times and not self._is_current(*self._times[0]):
            heapq.heappop(self._times)
        return self._times[0][0] if self._times else None

    def wait(self, name: str, verdict: Verdict, track: Track, due: float) -> bool:
        """Note that a file is not over yet; return whether the kind of reason is new and worth logging."""
        entry = self.entries[name]
        news = verdict.code in WORTH_TELLING and verdict.code != entry.told
        told = verdict.code if news else entry.told
        self._set(name, Entry(due, verdict.state, track, told, entry.asked_at))
        return news

    def asked(self, name: str, now: float) -> None:
        """Note that all processes are looked at for a file."""
        self.entries[name] = replace(self.entries[name], asked_at=now)

    def keep_track(self, name: str, track: Track) -> None:
        """Keep the track of a file that is being staged."""
        self.entries[name] = replace(self.entries[name], track=track)

    def again(self, name: str, due: float) -> None:
        """Look at a file, known or new, at `due`."""
        self._set(name, replace(self.entries.get(name, Entry(due)), due=due))

    def overtaken(self, name: str, now: float) -> None:
        """Look at a file again because another process's decision came first: soon, and later each time."""
        entry = self.entries[name]
        due = now + backoff_s(entry.overtakings, OVERTAKEN_S, self._retry_max_s)
        self._set(name, replace(entry, due=due, overtakings=entry.overtakings + 1))

    def retry(self, name: str, error: Retry, now: float) -> bool:
        """Note what kept a file, known or new, from being staged; it waits twice as long as the last time.

        Return whether this problem is new.
        """
        entry, step = self.entries.get(name, Entry(now)), goes_on(error.next_step)
        due = now + backoff_s(entry.tries, self._retry_s, self._retry_max_s)
        self._set(name, replace(entry, problem=error.message, next_step=step, tries=entry.tries + 1, due=due))
        return entry.problem != error.message

    def done(self, name: str) -> bool:
        """Forget a file that was decided or is gone; return whether a reason why it waits had been logged."""
        entry = self.entries.pop(name, None)
        return entry is not None and bool(entry.told or entry.problem)

    def _set(self, name: str, entry: Entry) -> None:
        self.entries[name] = entry
        heapq.heappush(self._times, (entry.due, name))

    def _is_current(self, due: float, name: str) -> bool:
        entry = self.entries.get(name)
        return entry is not None and entry.due == due


def backoff_s(tries: int, first_s: float, most_s: float) -> float:
    """Return how long to wait after the `tries`-th failure in a row (0 for the first): doubling, up to `most_s`."""
    return min(most_s, first_s * 2.0 ** min(tries, 30))
