"""The folder in which a repair keeps what it replaces or moves out of the way: nothing is deleted."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ingestd import files
from ingestd.layout import Layout


class Aside:
    """What one repair sets aside, below a `folder` of its own, even if another began in the same second.

    Things keep their path relative to the data root. What was set aside before stays: a number is appended to the name
    of the later one. The folder is made with the first thing in it.
    """

    def __init__(self, layout: Layout, now: datetime) -> None:
        self._layout = layout
        with files.as_retry(layout.aside_root):
            self.folder = files.free_path(layout.aside_root / now.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ"))

    def move(self, *paths: Path) -> list[Path]:
        """Move files or folders, as far as they are there; return where they are now, durably."""
        moved = []
        with files.as_retry(self.folder):
            for path in filter(files.is_taken, paths):
                target = self._free(path)
                files.make_folders(target.parent)
                shutil.move(path, target)
                moved.append((path, target))
            # A move to another disk copies: the bytes, and all folders below, must be made durable too.
            files.flush_file_systems(place for pair in moved for place in (pair[0].parent, pair[1].parent))
        return [target for _, target in moved]

    def keep(self, paths: Sequence[Path]) -> list[Path]:
        """Keep durable copies of files, as far as they are there; return the copies.

        A folder in the place of such a file is moved instead.
        """
        self.move(*filter(files.is_dir, paths))
        with files.as_retry(self.folder):
            copies = {path: self._free(path) for path in paths if files.exists(path)}
            made = [folder for path, copy in copies.items() for folder in files.preserve(path, copy)]
            files.flush_paths([*(copy.parent for copy in copies.values()), *made])
        return list(copies.values())

    def _free(self, path: Path) -> Path:
        return files.free_path(self.folder / self._layout.relative(path).lstrip("/"))
