"""The folder in which a repair keeps what it replaces or moves out of the way: nothing is deleted."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ingestd import files
from ingestd.layout import Layout


def aside_folder(layout: Layout, now: datetime) -> Path:
    """Return a folder in which only this repair sets things aside, even if another began in the same second."""
    with files.as_retry(layout.aside_root):
        return files.free_path(layout.aside_root / now.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ"))


def set_aside(layout: Layout, paths: Sequence[Path], folder: Path) -> list[tuple[Path, Path]]:
    """Move files or folders below `folder`, under their path relative to the data root; return (from, to) pairs.

    What was moved there before stays: a number is appended to the name of the later one.
    """
    moved = []
    with files.as_retry(folder):
        for path in paths:
            if not files.is_taken(path):
                continue
            target = _aside(layout, path, folder)
            files.make_folders(target.parent)
            shutil.move(path, target)
            moved.append((path, target))
        # A move to another disk copies: the bytes, and all folders below, must be made durable too.
        files.flush_file_systems(place for pair in moved for place in (pair[0].parent, pair[1].parent))
    return moved


def keep_copies(layout: Layout, paths: Sequence[Path], folder: Path) -> list[tuple[Path, Path]]:
    """Keep durable copies of files below `folder`; return (file, copy) pairs.

    A folder in the place of such a file is moved there instead.
    """
    set_aside(layout, [path for path in paths if files.is_dir(path)], folder)
    with files.as_retry(folder):
        present = [path for path in paths if files.exists(path)]
        copies = [(path, _aside(layout, path, folder)) for path in present]
        made = [folder for path, copy in copies for folder in files.preserve(path, copy)]
        files.flush_paths([*(copy.parent for _, copy in copies), *made])
    return copies


def _aside(layout: Layout, path: Path, folder: Path) -> Path:
    return files.free_path(folder / layout.relative(path).lstrip("/"))
