"""Identity under anything: random changes of raw files with backfills between them, checked by `archive.check`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from archive import Archive
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from measurement import BROKEN, Measurement

from ingestd.ingest import commit as ingest

KNOWN_AT_MOST = ingest.KNOWN_AT_MOST

NAMES = st.sampled_from(
    ["2025-09-23/It_1.csv", "2025-09-23/IT_1.csv", "2025-09-23/It_2.csv", "copies/It_1.csv", "x/It_3.csv"]
)
MEASUREMENTS = st.builds(
    Measurement,
    start=st.sampled_from([1758632155.25, 1758639999.5, None]),
    chip=st.sampled_from([67, 72]),
    rows=st.integers(0, 3),
    sample=st.integers(0, 2),
)
CHANGES = st.sampled_from([{"chip": 67}, {"chip": 72}, {"start": 1758639999.5}, {"start": None}])


class RawFiles(RuleBasedStateMachine):
    """A folder of raw files at the hands of people, scripts and an instrument."""

    @initialize(first=MEASUREMENTS, name=NAMES, known_at_most=st.sampled_from([0, KNOWN_AT_MOST]))
    def begin(self, first: Measurement, name: str, known_at_most: int) -> None:
        """Start with one measurement; with as few runs of one size as in a folder, or as many as in an archive."""
        self.folder = Path(tempfile.mkdtemp(prefix="ingestd-test-"))
        self.archive = Archive(self.folder)
        ingest.KNOWN_AT_MOST = known_at_most
        self.contents: dict[str, Measurement | None] = {}
        self.measure(name, first)

    def teardown(self) -> None:
        """Let a last backfill see whatever was done since the one before, and a second one find nothing to do."""
        ingest.KNOWN_AT_MOST = KNOWN_AT_MOST
        if hasattr(self, "archive"):
            self.archive.backfill()
            assert self.archive.backfill() == []
            shutil.rmtree(self.folder)

    def _one(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.contents)))

    @rule(name=NAMES, measurement=MEASUREMENTS)
    def measure(self, name: str, measurement: Measurement) -> None:
        """A new file, or one written over another."""
        self.contents[name] = measurement
        self.archive.put(name, measurement.data)

    @precondition(lambda self: self.contents)
    @rule(data=st.data(), changes=CHANGES)
    def edit(self, data: st.DataObject, changes: dict[str, object]) -> None:
        """A header corrected by hand; in a file that is no measurement any more this restores one."""
        name = self._one(data)
        self.measure(name, (self.contents[name] or Measurement()).but(**changes))

    @precondition(lambda self: self.contents)
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        """One row more."""
        name = self._one(data)
        if (measurement := self.contents[name]) is not None:
            self.measure(name, measurement.but(rows=measurement.rows + 1))

    @precondition(lambda self: self.contents)
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        """Another mtime, the same bytes."""
        self.archive.touch(self._one(data))

    @precondition(lambda self: self.contents)
    @rule(data=st.data())
    def spoil(self, data: st.DataObject) -> None:
        """Bytes that are no measurement."""
        name = self._one(data)
        self.contents[name] = None
        self.archive.put(name, BROKEN)

    @precondition(lambda self: self.contents)
    @rule(data=st.data(), to=NAMES)
    def copy(self, data: st.DataObject, to: str) -> None:
        """A copy, perhaps over another file."""
        name = self._one(data)
        if name != to:
            self.contents[to] = self.contents[name]
            self.archive.copy(name, to)

    @precondition(lambda self: self.contents)
    @rule(data=st.data(), to=NAMES)
    def move(self, data: st.DataObject, to: str) -> None:
        """A rename, perhaps over another file."""
        name = self._one(data)
        if name != to:
            self.contents[to] = self.contents.pop(name)
            self.archive.move(name, to)

    @precondition(lambda self: len(self.contents) > 1)
    @rule(data=st.data())
    def swap(self, data: st.DataObject) -> None:
        """Two files change names."""
        a, b = data.draw(st.permutations(sorted(self.contents)))[:2]
        self.archive.move(a, "swapping")
        self.archive.move(b, a)
        self.archive.move("swapping", b)
        self.contents[a], self.contents[b] = self.contents[b], self.contents[a]

    @precondition(lambda self: self.contents)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """A file is deleted."""
        name = self._one(data)
        del self.contents[name]
        self.archive.delete(name)

    @rule()
    def backfill(self) -> None:
        """A backfill, and what must hold after it."""
        self.archive.backfill()

    @rule()
    def backfill_by_force(self) -> None:
        """A backfill that stages everything again."""
        self.archive.backfill(force=True)


def test_no_sequence_of_changes_loses_a_measurement_or_counts_one_twice() -> None:
    """After any changes and backfills: one live row and one Parquet a measurement, histories and traces that agree."""
    run_state_machine_as_test(
        RawFiles,
        settings=settings(
            max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
