"""The ledger of a backfill under way: what has become of each file of its scan so far."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from ingestd.backfill.fate import Fate
from ingestd.backfill.report import FailedFile, RejectedFile, WaitingFile
from ingestd.files import Scan

Told = TypeVar("Told", WaitingFile, RejectedFile, FailedFile)


class Ledger:
    """Keeps one fate for each file, and what else the report says about it.

    Files without an entry are `Fate.KNOWN`, so 100,000 unchanged files cost nothing.
    """

    def __init__(self) -> None:
        self._fates: dict[str, Fate] = {}
        self._told: dict[str, WaitingFile | RejectedFile | FailedFile] = {}

    def follow(self, scan: Scan) -> None:
        """Go on with a later scan: what it does not see has no fate any more."""
        for name in [name for name in self._fates if not scan.saw(name)]:
            del self._fates[name]
            self._told.pop(name, None)

    def put(self, name: str, fate: Fate) -> None:
        """Give a file this fate in place of the one it had, and drop what was to be said about that one."""
        self._fates[name] = fate
        self._told.pop(name, None)

    def tell(self, fate: Fate, file: WaitingFile | RejectedFile | FailedFile) -> None:
        """Give a file a fate that the report says more about."""
        self.put(file.source_file, fate)
        self._told[file.source_file] = file

    def lose(self, name: str) -> None:
        """Mark a file as lost, unless its present content was staged or something more pressing became of it."""
        fate = self._fates.get(name, Fate.KNOWN)
        if not (fate.stages or fate in {Fate.FAILED, Fate.LEFT}):
            self.put(name, Fate.LOST_BEFORE if fate.unopened else Fate.LOST)

    def told(self, kind: type[Told]) -> list[Told]:
        """List what the report says about files of one kind, in the order in which it came up."""
        return [file for file in self._told.values() if isinstance(file, kind)]

    def names(self, *fates: Fate) -> list[str]:
        """List the files with these fates, sorted by name; `Fate.KNOWN` must not be among the fates."""
        return sorted(name for name, its in self._fates.items() if its in fates)

    def sums(self, scan: Scan) -> Counter[Fate]:
        """Count the files that a scan found, by fate; entries of files that it did not find do not count."""
        sums = Counter(fate for name, fate in self._fates.items() if scan.saw(name))
        sums[Fate.KNOWN] = scan.count - sums.total()
        return sums
