"""A process's own folder for Parquet that is not decided yet, and the sweep of what killed processes left behind."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ingestd.errors import LockHeld, Retry
from ingestd.files import Lock, make_folders, world
from ingestd.stage.placing import is_under_way

LOCK_NAME = "owner.lock"
SWEEP_LOCK_NAME = "sweep.lock"


@contextmanager
def workspace(root: Path, on_dead: Callable[[Path], None] = lambda _: None) -> Iterator[Path]:
    """Make a folder below `root` for the block, on the file system of the stage so that a rename moves data into it.

    A lock inside tells that its owner lives. Folders whose owner died are deleted first, `on_dead` being called with
    each: nothing in them was decided. A block that was broken off in the middle of a batch leaves its folder to that.
    """
    with world(root):
        make_folders(root)
        with Lock(root / SWEEP_LOCK_NAME).held():
            _sweep(root, on_dead)
            folder = root / f"{os.getpid()}-{secrets.token_hex(4)}"
            folder.mkdir()
            lock = Lock(folder / LOCK_NAME)
            lock.acquire(0)
    try:
        yield folder
    finally:
        if not is_under_way(folder):
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def dead_workspaces(root: Path) -> list[Path]:
    """List the folders whose owner died; nothing is touched."""
    with world(root):
        return [folder for folder in sorted(root.iterdir()) if _is_dead(folder)] if root.is_dir() else []


def _is_dead(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    lock = Lock(folder / LOCK_NAME)
    if not lock.path.exists():
        return False  # perhaps just being made
    try:
        lock.probe()
    except LockHeld:
        return False
    return True


def _sweep(root: Path, on_dead: Callable[[Path], None]) -> None:
    for folder in root.iterdir():
        if not folder.is_dir():
            continue
        lock = Lock(folder / LOCK_NAME)
        try:
            lock.acquire(0)
        except (LockHeld, Retry):  # its owner lives, or ended and took it away just now
            continue
        try:
            on_dead(folder)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            lock.release()
