"""A process's own folder for Parquet that is not decided yet, and the sweep of what killed processes left behind."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ingestd.errors import LockHeld, Retry
from ingestd.files import Lock, as_retry, exists, is_dir, make_folders
from ingestd.stage.placing import is_under_way

LOCK_NAME = "owner.lock"
IN_HAND_NAME = "in_hand.json"
SWEEP_LOCK_NAME = "sweep.lock"

PROBED_S = 2.0
"""How long, in seconds, to wait for a lock of our own that another process may just be probing."""


class Workspace:
    """One process's `folder`, on the file system of the stage so that a rename moves data into the stage.

    A lock inside shows that its owner is alive.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock(folder / LOCK_NAME)
        self._inode = 0
        self._stage: tuple[int, int] | None = None

    def make(self) -> None:
        """Make the folder and hold its lock; nobody else may sweep meanwhile."""
        self._lock.release()
        self._lock.acquire(PROBED_S)
        self._inode = self._lock.path.stat().st_ino
        self._stage = self._stage or self._identity()

    def keep(self) -> None:
        """Make the folder again if it or its lock was deleted; what was in it must be staged again.

        Raises:
            Retry: the whole stage is gone. Its disk may not be mounted, so nothing is made in its place.
        """
        root = self.folder.parent
        with as_retry(root):
            if self._stands():
                return
            if self._identity() != self._stage:
                raise Retry(
                    "the stage is gone: is its disk or share mounted?",
                    place=str(root.parent),
                    next_step="mount it again; if it was replaced on purpose, restart ingestd",
                )
            make_folders(root)
            with sweep_lock(root).held():
                self.make()

    def remove(self) -> None:
        """Delete the folder and free its lock; with a batch under way, the folder is left to the next start."""
        if is_under_way(self.folder):
            self._lock.release()
        else:
            _remove(self.folder, self._lock)

    def _stands(self) -> bool:
        try:
            return os.stat(self._lock.path).st_ino == self._inode  # noqa: PTH116  # hot: once per batch
        except FileNotFoundError:
            return False

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.folder.parent.parent.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino


@contextmanager
def workspace(root: Path, on_dead: Callable[[Path], None] = lambda _: None) -> Iterator[Workspace]:
    """Make a folder below `root`, a folder of the stage, for the block.

    Folders whose owner died are deleted first, after `on_dead` is called with each: nothing in them was decided.
    """
    with as_retry(root):
        make_folders(root)
        with sweep_lock(root).held():
            _sweep(root, on_dead)
            own = Workspace(root / f"{os.getpid()}-{secrets.token_hex(4)}")
            own.make()
    try:
        yield own
    finally:
        own.remove()


def note_in_hand(folder: Path, names: Collection[str]) -> None:
    """Note the raw files whose staging may kill the process, for whoever sweeps its folder; no names remove the note.

    It is not flushed: it survives a kill, and a power cut makes no file a suspect. A disk that refuses it will refuse
    the Parquet as well, which is reported.
    """
    note = folder / IN_HAND_NAME
    with contextlib.suppress(OSError):
        if names:
            note.write_bytes(json.dumps(sorted(names)).encode("ascii"))
        else:
            note.unlink(missing_ok=True)


def read_in_hand(folder: Path) -> set[str]:
    """Read which raw files a dead process had in hand; a cut note was still being written, and accuses none."""
    try:
        found = json.loads((folder / IN_HAND_NAME).read_bytes())
    except (OSError, ValueError):
        return set()
    return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()


def sweep_lock(root: Path) -> Lock:
    """Return the lock held while dead processes' folders are swept, or a process makes its own."""
    return Lock(root / SWEEP_LOCK_NAME)


def dead_workspaces(root: Path) -> list[Path]:
    """List the folders whose owner died; nothing is touched."""
    with as_retry(root):
        return [folder for folder in sorted(root.iterdir()) if _is_dead(folder)] if is_dir(root) else []


def _is_dead(folder: Path) -> bool:
    if not is_dir(folder):
        return False
    lock = Lock(folder / LOCK_NAME)
    if not exists(lock.path):
        return False  # perhaps just being made
    try:
        lock.probe()
    except LockHeld:
        return False
    return True


def _sweep(root: Path, on_dead: Callable[[Path], None]) -> None:
    for folder in root.iterdir():
        if not is_dir(folder):
            continue
        lock = Lock(folder / LOCK_NAME)
        try:
            lock.acquire(0)
        except Retry:  # its owner lives, or has just ended and removed it
            continue
        try:
            on_dead(folder)
            _remove(folder, lock)
        finally:
            lock.release()


def _remove(folder: Path, lock: Lock) -> None:
    """Delete a folder and free its lock, which is held, as far as the disk lets.

    NFS and file systems in user space keep a deleted file in its folder under another name while it is open.
    """
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    with contextlib.suppress(OSError):
        folder.rmdir()
