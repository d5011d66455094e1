"""Staged Parquet on its way to its place: what a batch of decisions moves, keeps aside and removes, done together."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ingestd import files
from ingestd.errors import Corrupt, Retry
from ingestd.stage.parquet import read_row


@dataclass(frozen=True, slots=True)
class Kept:
    """Staged data that is replaced, the name it is kept under, and the SHA-256 of the raw file it was made from."""

    path: Path
    aside: Path
    digest: str

    def preserve(self) -> list[Path]:
        """Give the data its second name; return the folders to flush.

        A kill before the record leaves newer data at `path`. What an earlier try kept is then not to be replaced by it.
        """
        if not self.path.exists() or (self.aside.exists() and not self._stands()):
            return []
        return [self.aside.parent, *files.preserve(self.path, self.aside)]

    def restore(self) -> None:
        """Put the data back that is kept, when its replacement does not count after all."""
        if self.aside.exists() and not (self.path.exists() and self._stands()):
            files.preserve(self.aside, self.path)

    def _stands(self) -> bool:
        try:
            return read_row(self.path).source_sha256 == self.digest
        except Corrupt:
            return False


@dataclass(slots=True)
class Placing:
    """What must be in place before a batch's records may be written.

    `kept`: replaced data; `renamed`: new data and its place; `removed`: data whose run is staged elsewhere now.
    """

    kept: list[Kept] = field(default_factory=list)
    renamed: list[tuple[Path, Path]] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)

    @contextmanager
    def done(self, stage_root: Path) -> Iterator[None]:
        """Put the batch's Parquet in place, durably, for the block; when it fails, undo what can be undone."""
        touched: list[Path] = []
        fresh: list[Path] = []
        with files.world(stage_root):
            # Durable before the first rename: a power cut may not find the old data gone under both names.
            files.flush_paths([folder for kept in self.kept for folder in kept.preserve()])
            try:
                for temporary, target in self.renamed:
                    made = files.make_folders(target.parent)
                    touched += [target.parent, *made]
                    if made or not target.exists():
                        fresh.append(target)
                    os.replace(temporary, target)  # noqa: PTH105  # hot: one a run, and no new Path of it
                for path in self.removed:
                    shutil.rmtree(path.parent, ignore_errors=True)
                    touched.append(path.parent.parent)
                files.flush_paths(path for path in touched if not self.removed or path.is_dir())
                yield
            except (OSError, Retry):
                for path in fresh:
                    path.unlink(missing_ok=True)
                with contextlib.suppress(OSError, Retry):  # then the next try finds it kept, and replaces it again
                    for kept in self.kept:
                        kept.restore()
                raise
