"""The ledger of a backfill under way: what has become so far of each file of its scan."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from ingestd.fate import Fate
from ingestd.files import Scan
from ingestd.report import FailedFile, RejectedFile, WaitingFile

Told = TypeVar("Told", WaitingFile, RejectedFile, FailedFile)


class Ledger:
    """One fate a file, and what people are told of it beside.

    Files without an entry are `Fate.KNOWN`: of 100,000 that are as they were, none costs anything.
    """

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._fates: dict[str, Fate] = {}
        self._told: dict[str, WaitingFile | RejectedFile | FailedFile] = {}

    def put(self, name: str, fate: Fate) -> None:
        """Give a file this fate in place of the one it had; what was told of that is told no more."""
        self._fates[name] = fate
        self._told.pop(name, None)

    def tell(self, fate: Fate, file: WaitingFile | RejectedFile | FailedFile) -> None:
        """Give a file a fate of which people are told more."""
        self.put(file.source_file, fate)
        self._told[file.source_file] = file

    def lose(self, name: str) -> None:
        """Call a file lost, unless something more pressing became of it, or was made of what it has now."""
        fate = self._fates.get(name, Fate.KNOWN)
        if not (fate.stages or fate in {Fate.FAILED, Fate.LEFT}):
            self.put(name, Fate.LOST_BEFORE if fate.unopened else Fate.LOST)

    def told(self, kind: type[Told]) -> list[Told]:
        """List what people are told of files of one kind, in the order in which it came up."""
        return [file for file in self._told.values() if isinstance(file, kind)]

    def names(self, *fates: Fate) -> list[str]:
        """List the files of these fates, which are not `Fate.KNOWN`, by name."""
        return sorted(name for name, its in self._fates.items() if its in fates)

    def sums(self) -> Counter[Fate]:
        """Count the files that the scan found, by fate; those it did not find may have an entry, and do not count."""
        sums = Counter(fate for name, fate in self._fates.items() if self._scan.saw(name))
        sums[Fate.KNOWN] = self._scan.count - sums.total()
        return sums
