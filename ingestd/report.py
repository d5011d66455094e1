"""What one backfill saw and did, as values: the commands print it, programs get it as JSON."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field

from ingestd.errors import Corrupt, Retry
from ingestd.fate import Fate
from ingestd.lost import LostFile
from ingestd.manifest.record import Event, Reason, Record
from ingestd.raw.settling import State


@dataclass(frozen=True, slots=True)
class WaitingFile:
    """A file that is not over yet: its state, why, seconds since its last change, complete rows so far.

    `code` is the kind of reason, as in `Verdict`.
    """

    source_file: str
    state: State
    reason: str
    code: str
    age_s: float
    rows: int = 0


@dataclass(frozen=True, slots=True)
class RejectedFile:
    """A file whose content was refused."""

    source_file: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class FailedFile:
    """A file that the world kept from being staged; it is tried again next time."""

    source_file: str
    message: str
    place: str
    next_step: str


@dataclass(slots=True)
class Report:
    """What one backfill saw and did.

    `fates` counts the files that were found by what became of each; the lists below tell of some of them. `events`
    counts decisions: there may be several of one file. `to_do` is set by a dry run only: file -> `new`, `changed`, or
    with `force` `unchanged`. `rejected_before` was refused by an earlier run and has not changed. `lost` are raw files
    of runs that were emptied or overwritten, whatever their fate. `warnings` has what people should know about the
    content of what was staged, by file. `passed_over` maps names that are no raw files (links, devices, unreadable
    folders) to the reason; `unreachable` are those of them that may hide a measurement.
    """

    fates: Counter[Fate] = field(default_factory=Counter)
    events: Counter[Event] = field(default_factory=Counter)
    to_do: dict[str, str] = field(default_factory=dict)
    waiting: list[WaitingFile] = field(default_factory=list)
    rejected: list[RejectedFile] = field(default_factory=list)
    rejected_before: list[str] = field(default_factory=list)
    failed: list[FailedFile] = field(default_factory=list)
    lost: list[LostFile] = field(default_factory=list)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)
    unreachable: list[str] = field(default_factory=list)
    histories: list[str] = field(default_factory=list)
    interrupted: bool = False
    stopped_by: Retry | Corrupt | None = None

    @property
    def scanned(self) -> int:
        """How many raw files were found."""
        return self.fates.total()

    @property
    def known(self) -> int:
        """How many of them were decided before and are unchanged, so that they were not opened."""
        return sum(number for fate, number in self.fates.items() if fate.unopened)

    @property
    def staged(self) -> int:
        """How many of them had their content staged."""
        return sum(number for fate, number in self.fates.items() if fate.stages)

    @property
    def left(self) -> int:
        """How many of them an early end left for the next run."""
        return self.fates[Fate.LEFT]

    @property
    def ended_early(self) -> bool:
        """Whether a stop, or something that ailed more than one file, ended it."""
        return self.interrupted or self.stopped_by is not None

    def note_warnings(self, record: Record) -> None:
        """Take in what a decision that stages a file warns of, in place of what an earlier one did."""
        if record.event.stages:
            texts = [text for row in record.rows if row.run_id == record.run_id for text in row.warnings]
            self.warnings.pop(record.source_file, None)
            if texts:
                self.warnings[record.source_file] = list(map(sys.intern, texts))  # in an archive many have the same
