"""File systems of a test's own, in a file or in memory. They need root, and a kernel that lets."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def command(*words: str | Path) -> None:
    """Run a command; skip the test, with what it said, where it is not allowed or not there."""
    try:
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"{words[0]} is not installed")
    if done.returncode != 0:
        pytest.skip(f"`{' '.join(map(str, words))}` is refused here: {done.stderr.strip() or done.returncode}")


@contextlib.contextmanager
def mounted(folder: Path, *words: str | Path) -> Iterator[Path]:
    """Mount something on `folder` for the block."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder.mkdir(exist_ok=True)
    command("mount", *words, folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk but for so many bytes; return the file that does it."""
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - leave)))
    return filler


def fill_up(disk: Path) -> Path:
    """Fill a disk to the last byte, also while others write to it; return the file that does it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return filler


def image(path: Path, mib: int, *make: str) -> Path:
    """Make a file that holds an empty file system, with a command such as `mkfs.ext4`."""
    with path.open("wb") as file:
        file.truncate(mib * 2**20)
    command(*make, path)
    return path


def ext4_image(path: Path, mib: int) -> Path:
    """Make a file that holds an empty ext4."""
    return image(path, mib, "mkfs.ext4", "-q", "-F")
