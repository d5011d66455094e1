"""What one backfill saw and did, as values: the commands print it, programs get it as JSON."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field

from ingestd.backfill.fate import Fate
from ingestd.errors import Corrupt, Retry
from ingestd.files import Scan, to_see
from ingestd.ingest.lost import LostFile
from ingestd.manifest.record import Event, Reason, Record
from ingestd.raw.settling import State


@dataclass(frozen=True, slots=True)
class WaitingFile:
    """A file that is not over yet: its state, the reason, seconds since its last change, complete rows so far.

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
    """A file that could not be staged for now; it is tried again next time."""

    source_file: str
    message: str
    place: str
    next_step: str


@dataclass(slots=True)
class Report:
    """What one backfill saw and did.

    `fates` counts the files found by what became of them; the lists say more about some of them. `events` counts
    decisions, of which a file may have several. Only a dry run sets `to_do`: file -> `new`, `changed` or, with `force`,
    `unchanged`. `rejected_before` lists files rejected earlier whose content is the same. `lost` lists raw files that
    were emptied or overwritten after their run was staged, whatever their fate. `warnings` maps each staged file to
    what people should know about its content. `passed_over` maps names that were passed over (links, devices,
    unreadable folders) to the reason; `unreachable` lists those that may hide a measurement.
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
        """How many of them were decided before and are unchanged, and so were not opened."""
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
        """Whether a stop, or a fault that concerns more than one file, ended it early."""
        return self.interrupted or self.stopped_by is not None

    def note_warnings(self, record: Record) -> None:
        """Keep the warnings of a decision that stages a file, in place of those of an earlier one."""
        if record.event.stages:
            texts = [text for row in record.rows if row.run_id == record.run_id for text in row.warnings]
            self.warnings.pop(record.source_file, None)
            if texts:
                self.warnings[record.source_file] = list(map(sys.intern, texts))  # many files have the same

    def name_passed_over(self, scan: Scan) -> None:
        """Name what a scan passed over."""
        reasons = (
            (scan.links, "a symbolic link; links are not followed"),
            (scan.specials, "not a regular file"),
            (scan.undecodable, "its name is not UTF-8: rename it"),
        )
        found = {name: reason for names, reason in reasons for name in names}
        closed = {name or ".": f"cannot be looked at: {why}; {to_see(why)}" for name, why in scan.unreadable}
        self.passed_over, self.unreachable = found | closed, sorted([*scan.undecodable, *closed])
