"""Staged Parquet on its way to its place: what a batch of decisions moves, keeps aside and removes, done together."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ingestd import files
from ingestd.errors import Retry


@dataclass(slots=True)
class Placing:
    """What must be in place before a batch's records may be written.

    `kept`: replaced data and the name it is kept under; `renamed`: new data and its place; `removed`: data whose run is
    staged elsewhere now.
    """

    kept: list[tuple[Path, Path]] = field(default_factory=list)
    renamed: list[tuple[Path, Path]] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)

    @contextmanager
    def done(self, stage_root: Path) -> Iterator[None]:
        """Put the batch's Parquet in place, durably, for the block; take new files away again when it fails."""
        touched: list[Path] = []
        fresh: list[Path] = []
        with files.world(stage_root):
            for path, aside in self.kept:
                if path.exists():
                    files.preserve(path, aside)
                    touched.append(aside.parent)
            try:
                for temporary, target in self.renamed:
                    touched += [target.parent, *files.make_folders(target.parent)]
                    if not target.exists():
                        fresh.append(target)
                    temporary.replace(target)
                for path in self.removed:
                    shutil.rmtree(path.parent, ignore_errors=True)
                    touched.append(path.parent.parent)
                files.flush_paths(path for path in touched if path.is_dir())
                yield
            except (OSError, Retry):
                for path in fresh:
                    path.unlink(missing_ok=True)
                raise
