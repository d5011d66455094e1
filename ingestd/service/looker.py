"""Look at the files that are due: decided already, not over yet, or ready to be staged."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from ingestd.errors import Retry
from ingestd.files import FileStat, retry_from, state_below
from ingestd.ingest.commit import Ingest
from ingestd.ingest.order import looking_order
from ingestd.raw.settling import Observation, Sample, State, Track, Verdict, judge_outside, next_look_s, observe, unaged
from ingestd.service.waiting import WaitList
from ingestd.stage.run import StageTask, Waiting
from ingestd.writers import Writers, read_writers

POLL_WRITER_S = 5.0
"""How often a file that somebody has open is looked at, in seconds, in case the hint of its closing is lost."""

HEAD_START_S = 0.02
"""The longest head start of a look, in seconds.

A look at all processes takes a while, so it starts that much before a file will have been unchanged for `settle_s`; the
last look's duration is the estimate. The file is read only then, and only in the state in which it was looked at.
"""


class Looker:
    """Judges files from outside and keeps those that are not over on the wait list."""

    def __init__(self, ingest: Ingest, waiting: WaitList) -> None:
        self._ingest = ingest
        self._list = waiting
        self._patience = ingest.context.patience
        self._look_s = 0.0
        self.gone: list[str] = []
        self.news: list[tuple[str, Verdict | Retry | None]] = []
        """What is to be logged of a file: why it waits, what keeps it from being looked at, or None: it is gone."""

    def tasks(self, names: Sequence[str]) -> list[StageTask]:
        """Return the tasks for those of `names` that are settled as far as can be seen from outside.

        One look at all processes serves them all. It is taken after their state was noted, and their state must be the
        same when they are read, so nobody has written since the look. `gone` and `news` hold what else was found.
        """
        self.gone = []
        found: dict[str, FileStat] = {}
        tracks: dict[str, Track] = {}
        for name in names:
            if (status := self._stat(name)) is not None:
                found[name], tracks[name] = status, self._track(name, status, time.monotonic())
        began = time.monotonic()
        for name in [name for name, track in tracks.items() if self._is_too_early(name, track, began)]:
            seen = Observation(tracks[name].unchanged_s(began), "")
            self._wait(name, judge_outside(seen, self._patience), seen, tracks.pop(name))
            del found[name]
        if not found:
            return []
        for name in found:
            self._list.asked(name, began)
        writers = read_writers(found.values(), visible=self._ingest.settings.settle.writers_visible)
        self._look_s = min(HEAD_START_S, time.monotonic() - began)
        self._stand_still(tracks.values())
        order = looking_order(self._ingest.store.catalog, found)
        tasks = (self._task(name, found[name], tracks[name], writers) for name in order)
        return [task for task in tasks if task is not None]

    def _is_too_early(self, name: str, track: Track, now: float) -> bool:
        """Tell whether a file changed so lately that it cannot have settled, and who writes to it was asked lately too.

        Some programs open and close a file for every row, perhaps a hundred times a second, and each close is a hint. A
        look at all processes each time would take the processor from the measurement.
        """
        settle_s = self._patience.settle_s
        return track.unchanged_s(now) < settle_s - HEAD_START_S and now - self._list.entries[name].asked_at < settle_s

    def _stand_still(self, tracks: Iterable[Track]) -> None:
        """Wait out the head start of the files that will have been unchanged long enough in a moment."""
        now = time.monotonic()
        rests = [self._patience.settle_s - track.unchanged_s(now) for track in tracks]
        if soon := [rest for rest in rests if 0 < rest <= HEAD_START_S]:
            time.sleep(max(soon) + 1e-4)  # more than the rounding error of the difference of two clock readings

    def _stat(self, name: str) -> FileStat | None:
        layout = self._ingest.layout
        try:
            state = state_below(layout.raw_root, name)
        except OSError as error:
            found = retry_from(error, layout.raw_file(name))
            if self._list.retry(name, found, time.monotonic()):
                self.news.append((name, found))
            return None
        if state is None:
            if self._list.done(name):
                self.news.append((name, None))
            self.gone.append(name)
            return None
        if self._ingest.store.catalog.is_current(name, state.stamp):
            self._list.done(name)
            return None
        return state

    def _task(self, name: str, status: FileStat, track: Track, writers: Writers) -> StageTask | None:
        now, writer = time.monotonic(), writers.writer_of(status)
        if writer is None and self._list.entries[name].track is None:
            track = unaged(track, now)
        seen = Observation(track.unchanged_s(now), writer)
        verdict = judge_outside(seen, self._patience)
        if verdict.state is State.SETTLED:
            self._list.keep_track(name, track)
            return self._ingest.task_for(name, status, seen)
        self._wait(name, verdict, seen, track)
        return None

    def _track(self, name: str, status: FileStat, seen_at: float) -> Track:
        sample = Sample(status.size, status.mtime_ns, status.inode)
        return observe(self._list.entries[name].track, sample, seen_at, status.age_s(self._ingest.clock()))

    def not_over(self, outcome: Waiting) -> None:
        """Keep a file that turned out to be running when it was read; a queued one is decided and need not wait."""
        name = outcome.task.source_file
        entry = self._list.entries.get(name)
        if entry is not None and entry.track is not None:
            self._wait(name, outcome.verdict, outcome.task.seen, entry.track)

    def _wait(self, name: str, verdict: Verdict, seen: Observation, track: Track) -> None:
        wait_s = next_look_s(seen, verdict, self._patience, POLL_WRITER_S)
        if verdict.code == "settling":
            wait_s -= self._look_s
        if self._list.wait(name, verdict, track, due=time.monotonic() + max(0.01, wait_s)):
            self.news.append((name, verdict))
