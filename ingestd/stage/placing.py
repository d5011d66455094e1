"""Staged Parquet on its way to its place: what a batch of decisions moves, keeps aside and removes, done together.

A batch is put in place before it is recorded, so a kill in between leaves Parquet that no record tells of. Mostly the
next start stages the same files again, over it. Where it does not, because a raw file was deleted or an edit taken back
meanwhile, the note that stands in its process's folder while a batch is under way tells what to take back.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingestd import files
from ingestd.errors import Corrupt, Retry

NOTE_NAME = "placing.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """Staged data that is replaced or removed, and the name it is kept under.

    `digest` is the SHA-256 of the raw file it was made from, where `aside` may hold an earlier staging of it; "" for an
    `aside` of this batch alone.
    """

    path: Path
    aside: Path
    digest: str = ""

    def preserve(self) -> list[Path]:
        """Give the data its second name; return the folders to flush.

        A kill before the record leaves newer data at `path`. What an earlier try kept is then not to be replaced by it.
        """
        if not files.exists(self.path) or (files.exists(self.aside) and not self._is_old_version()):
            return []
        return [self.aside.parent, *files.preserve(self.path, self.aside)]

    def restore(self) -> list[Path]:
        """Put the data back, at once, where other data or none is in its place; return the folders to flush."""
        if not files.exists(self.aside) or (
            files.exists(self.path) and filecmp.cmp(self.path, self.aside, shallow=False)
        ):
            return []
        made = files.make_folders(self.path.parent)
        third = files.temporary_beside(self.aside)
        files.preserve(self.aside, third)
        third.replace(self.path)
        return [self.path.parent, *made]

    def _is_old_version(self) -> bool:
        from ingestd.stage.parquet import read_row  # noqa: PLC0415  # loads pyarrow

        try:
            return read_row(self.path).source_sha256 == self.digest
        except Corrupt:
            return False


@dataclass(slots=True)
class Placing:
    """What must be in place before a batch's records may be written, and what goes when they are.

    `kept`: replaced data; `renamed`: new data and its place; `removed`: data whose run is staged elsewhere now.
    """

    kept: list[Kept] = field(default_factory=list)
    renamed: list[tuple[Path, Path]] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)

    @property
    def touched(self) -> list[Path]:
        """The places where the batch puts Parquet, or takes it away."""
        return [*(target for _, target in self.renamed), *self.removed]

    def parquet_for(self, place: Path) -> Path:
        """Locate the Parquet that stands in a place once the batch is there: until then it has a temporary name."""
        return next((temporary for temporary, target in reversed(self.renamed) if target == place), place)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Take back what the block added when it fails: half a decision puts nothing in place."""
        lists: tuple[list[Any], ...] = (self.kept, self.renamed, self.removed)
        lengths = [len(one) for one in lists]
        try:
            yield
        except BaseException:
            for one, length in zip(lists, lengths, strict=True):
                del one[length:]
            raise

    @contextmanager
    def in_place(self, stage_root: Path, workspace: Path) -> Iterator[None]:
        """Put the batch's Parquet in place, durably, for the block; when the disk refuses, undo it.

        Whatever else breaks it off leaves its note: how far it came is for the next start to find out from the log.
        """
        folders: list[Path] = []
        fresh: list[Path] = []
        with files.as_retry(stage_root):
            self._leave_note(stage_root, workspace)
            try:
                for temporary, target in self.renamed:
                    made = files.make_folders(target.parent)
                    folders += [target.parent, *made]
                    if made or not files.exists(target):
                        fresh.append(target)
                    os.replace(temporary, target)  # noqa: PTH105  # hot: one a run, and no new Path of it
                files.flush_paths(folders)
                yield
            except (OSError, Retry):
                for path in fresh:
                    shutil.rmtree(path.parent, ignore_errors=True)
                with contextlib.suppress(OSError, Retry):  # then the next try finds it kept, and replaces it again
                    for kept in self.kept:
                        kept.restore()
                    self._forget(workspace)
                raise
        with contextlib.suppress(OSError):  # it is recorded: what is left to do here, the next start does as well
            for path in self.removed:
                shutil.rmtree(path.parent, ignore_errors=True)
            files.flush_paths(path.parent.parent for path in self.removed if files.is_dir(path.parent.parent))
            self._forget(workspace)

    def _leave_note(self, stage_root: Path, workspace: Path) -> None:
        """Note what is about to change, and keep what is replaced.

        Old data is durable under its second name before the first rename: a power cut may not find it gone under both.
        """
        if not self.touched:
            return
        below = f"{stage_root}/"
        content = {
            "placed": [str(target).removeprefix(below) for _, target in self.renamed],
            "removed": [str(path).removeprefix(below) for path in self.removed],
            "kept": [[str(path).removeprefix(below) for path in (one.path, one.aside)] for one in self.kept],
        }
        note = workspace / NOTE_NAME
        try:
            note.write_bytes(json.dumps(content).encode("ascii"))
            if folders := [folder for kept in self.kept for folder in kept.preserve()]:
                files.flush_paths([note, workspace, *folders])
        except (OSError, Retry):
            self._forget(workspace)  # nothing has changed yet
            raise

    def _forget(self, workspace: Path) -> None:
        """Remove the note, and what was kept for this batch alone: a service would fill the disk with it."""
        (workspace / NOTE_NAME).unlink(missing_ok=True)
        for kept in self.kept:
            if kept.aside.parent == workspace:
                kept.aside.unlink(missing_ok=True)


def is_under_way(workspace: Path) -> bool:
    """Tell whether a batch of this process's folder was neither recorded nor undone."""
    return os.path.exists(workspace / NOTE_NAME)  # noqa: PTH110  # answers on a disk that is in trouble as well


def read_note(workspace: Path, stage_root: Path) -> Placing:
    """Read what the last batch of a killed process was about to change; an empty one where it left no note.

    A note that is cut was being written: nothing had changed yet.
    """
    try:
        content = json.loads((workspace / NOTE_NAME).read_bytes())
        return Placing(
            kept=[Kept(stage_root / path, stage_root / aside) for path, aside in content["kept"]],
            renamed=[(Path(), stage_root / target) for target in content["placed"]],
            removed=[stage_root / path for path in content["removed"]],
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Placing()
