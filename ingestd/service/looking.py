"""Look at the files whose time has come: decided already, not over yet, or ready to be staged."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterable, Sequence

from ingestd.files import FileStat, retry_from, stat_of
from ingestd.ingest import Ingest
from ingestd.order import looking_order
from ingestd.raw.settling import Observation, Sample, State, Track, Verdict, judge_outside, next_look_s, observe, unaged
from ingestd.service.state import goes_on
from ingestd.service.waiting import WaitList
from ingestd.stage.run import StageTask, Waiting
from ingestd.writers import Writers, read_writers

POLL_WRITER_S = 5.0
"""How often a file that somebody has open is asked for, in seconds, should the hint of its closing be lost."""

HEAD_START_S = 0.02
"""The longest head start of a look, in seconds.

A look at all processes takes a while, so it begins as much earlier than a file will have stood still as the last one
took. The file is read when it has stood still, and only in the state in which it was looked at.
"""


class Looker:
    """Judges files from outside, and keeps on the wait list those that are not over."""

    def __init__(self, ingest: Ingest, waiting: WaitList) -> None:
        self._ingest = ingest
        self._list = waiting
        self._patience = ingest.context.patience
        self._look_s = 0.0
        self.gone: list[str] = []
        self.news: list[tuple[str, Verdict]] = []
        """Files that wait for another kind of reason than people were last told."""

    def tasks(self, names: Sequence[str]) -> list[StageTask]:
        """Return the tasks for those of `names` that are settled as far as can be told from outside.

        One look at all processes serves them: taken after their state was, and their state must be the same when they
        are read, so nobody wrote from the look on. `gone` and `news` tell what else was found.
        """
        self.gone = []
        found: dict[str, FileStat] = {}
        tracks: dict[str, Track] = {}
        for name in names:
            if (status := self._stat(name)) is not None:
                found[name], tracks[name] = status, self._track(name, status, time.monotonic())
        if not found:
            return []
        began = time.monotonic()
        writers = read_writers(found.values(), visible=self._ingest.settings.settle.writers_visible)
        self._look_s = min(HEAD_START_S, time.monotonic() - began)
        self._stand_still(tracks.values())
        order = looking_order(self._ingest.store.catalog, found)
        tasks = (self._task(name, found[name], tracks[name], writers) for name in order)
        return [task for task in tasks if task is not None]

    def _stand_still(self, tracks: Iterable[Track]) -> None:
        """Wait for the files that will have stood still in a moment: they were looked at by so much too early."""
        now = time.monotonic()
        rests = [self._patience.settle_s - track.unchanged_s(now) for track in tracks]
        if soon := [rest for rest in rests if 0 < rest <= HEAD_START_S]:
            time.sleep(max(soon) + 1e-4)  # a hair more than the difference of two clock readings is exact to

    def _stat(self, name: str) -> FileStat | None:
        path = self._ingest.layout.raw_file(name)
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            self._list.done(name)
            self.gone.append(name)
            return None
        except OSError as error:
            found = retry_from(error, path)
            self._list.retry(name, found.message, goes_on(found.next_step), time.monotonic())
            return None
        state = stat_of(status)
        decided = self._ingest.store.catalog.is_current(name, state.stamp)
        if decided or not stat.S_ISREG(status.st_mode):
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
        """Keep a file that turned out, when it was read, to be running; a queued one is decided and not waited for."""
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
