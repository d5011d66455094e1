"""A disk that forgets: what of one cycle's changes is there after a power cut, if only what was flushed survives.

POSIX promises a file's bytes after `fsync` of the file, a name in a folder after `fsync` of the folder, and both after
`syncfs`; of all else any part may be there or not. `record` follows one cycle, change by change.
"""

from __future__ import annotations

import copy
import os
import pickle
import random
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import lived
from hooks import Hooks

from ingestd.backfill.run import backfill
from ingestd.manifest.record import Record

Inode = int
Loss = Literal["all", "bytes", "some"]
"""What of the unflushed changes is lost: all; all bytes but no name (delayed allocation); or any part, at random."""


@dataclass(slots=True)
class State:
    """Folders by inode, each name -> inode, and files by inode."""

    folders: dict[Inode, dict[str, Inode]] = field(default_factory=dict)
    files: dict[Inode, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Cut:
    """The moment before one change: what is flushed, what is there, and which rows were acknowledged."""

    change: str
    flushed: State
    live: State
    acknowledged: dict[str, Any]


class Disk:
    """Follows the folders below `root` but `01_raw`, which nothing writes to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cuts: list[Cut] = []
        self.acknowledged: dict[str, Any] = {}
        self._held: dict[Inode, int] = {}
        self.flushed = self._look()

    def told(self, name: str, about: tuple[Any, ...]) -> None:
        """Take a change in, before it happens."""
        live = self._look()
        what = f"{name} {' '.join(str(one) for one in about)}".replace(str(self.root), "")
        self.cuts.append(Cut(what, copy.copy(self.flushed), live, dict(self.acknowledged)))
        if name == "syncfs":
            self.flushed = live
        elif name in {"fsync", "fdatasync"}:
            inode = os.fstat(about[0]).st_ino
            files, folders = dict(self.flushed.files), dict(self.flushed.folders)
            if inode in live.files:
                files[inode] = live.files[inode]
            elif inode in live.folders:
                folders[inode] = live.folders[inode]
            self.flushed = State(folders, files)

    def acknowledge(self, record: Record) -> None:
        """Note what a caller was told is ingested."""
        self.acknowledged |= {row.run_id: row.model_dump(exclude={"ingested_at_utc"}) for row in record.rows}

    def _look(self) -> State:
        state = State()
        for folder, names, leaves in os.walk(self.root):
            if folder == str(self.root):
                names.remove("01_raw")
            entries = {name: Path(folder, name).stat().st_ino for name in [*names, *leaves]}
            state.folders[self._hold(folder)] = entries
            for name in leaves:
                self._hold(f"{folder}/{name}")
                state.files[entries[name]] = Path(folder, name).read_bytes()
        return state

    def _hold(self, path: str) -> Inode:
        """Keep a file open, so that its inode number is never given to another one."""
        inode = Path(path).stat().st_ino
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_RDONLY)
        return inode


def after(cut: Cut, root: Inode, loss: Loss, chance: random.Random) -> dict[str, bytes | None]:
    """Return the paths there are after the cut: bytes of files, None for folders."""
    found: dict[str, bytes | None] = {}
    pending = [("", root)]
    while pending:
        prefix, folder = pending.pop()
        for name, inode in _entries(cut, folder, loss, chance).items():
            path = prefix + name
            if inode in cut.live.folders or inode in cut.flushed.folders:
                found[path] = None
                pending.append((path + "/", inode))
            else:
                found[path] = _bytes(cut, inode, loss, chance)
    return found


def _entries(cut: Cut, folder: Inode, loss: Loss, chance: random.Random) -> dict[str, Inode]:
    flushed, live = cut.flushed.folders.get(folder, {}), cut.live.folders.get(folder, {})
    if loss == "all" or folder not in cut.live.folders:
        return flushed
    if loss == "bytes":
        return live
    picked = {name: chance.choice((flushed, live)).get(name) for name in sorted({*flushed, *live})}
    return {name: inode for name, inode in picked.items() if inode is not None}


def _bytes(cut: Cut, inode: Inode, loss: Loss, chance: random.Random) -> bytes:
    flushed = cut.flushed.files.get(inode, b"")
    live = cut.live.files.get(inode, flushed)  # of a file whose name went, the bytes did not change
    if loss != "some" or flushed == live:
        return flushed
    if len(live) < len(flushed):
        return chance.choice((flushed, live))
    size = chance.randint(len(flushed), len(live))
    return chance.choice((flushed, live, live[:size], live[:size] + bytes(len(live) - size)))


def record() -> None:
    """Record one cycle in the archive named; write its cuts and the root's inode to the second path."""
    root = Path(sys.argv[1])
    archive = lived.reopened(root)
    disk = Disk(archive.root)
    Hooks(root, disk.told).install()
    backfill(archive.settings, replace(lived.options(archive), on_record=disk.acknowledge))
    disk.told("end", ())
    Path(sys.argv[2]).write_bytes(pickle.dumps((archive.root.stat().st_ino, disk.cuts)))
