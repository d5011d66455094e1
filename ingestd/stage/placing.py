"""Put a batch's staged Parquet in its place: what its decisions move, keep aside and remove, done together.

A batch is put in place before it is recorded, so a kill in between leaves Parquet that no record mentions. Usually the
next start would stage the same files again, over it; but a raw file may have been deleted, or an edit taken back. So
while a batch is under way, a note in its process's folder says what to take back.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingestd import files
from ingestd.errors import Damaged, InDoubt, Retry
from ingestd.layout import Layout
from ingestd.manifest.row import ManifestRow, differing_fields
from ingestd.stage.run import Staged, discard

NOTE_NAME = "placing.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """Staged data that is replaced or removed, and the name it is kept under.

    `digest` is the SHA-256 of the raw file it was made from, if `aside` may hold an earlier staging of it; "" for an
    `aside` of this batch alone.
    """

    path: Path
    aside: Path
    digest: str = ""

    def preserve(self) -> list[Path]:
        """Give the data its second name; return the folders to flush.

        A kill before the record leaves newer data at `path`, which must not replace what an earlier try kept.
        """
        if not files.exists(self.path) or (files.exists(self.aside) and not self._is_old_version()):
            return []
        return [self.aside.parent, *files.preserve(self.path, self.aside)]

    def restore(self, workspace: Path) -> list[Path]:
        """Put the data back, in one step, if other data or none is in its place; return the folders to flush.

        `workspace` is on the disk of the place; that of `aside`, behind a link, may be another.
        """
        if not files.exists(self.aside) or (
            files.exists(self.path) and filecmp.cmp(self.path, self.aside, shallow=False)
        ):
            return []
        made = files.make_folders(self.path.parent)
        files.remove_leftovers(self.aside.parent)  # whoever copied it there may have been killed
        third = files.temporary_beside(workspace / self.path.name)
        files.preserve(self.aside, third)
        third.replace(self.path)
        return [self.path.parent, *made]

    def _is_old_version(self) -> bool:
        from ingestd.stage.parquet import read_row  # noqa: PLC0415  # loads pyarrow

        try:
            return read_row(self.path).source_sha256 == self.digest
        except Damaged:
            return False


@dataclass(slots=True)
class Placing:
    """What must be in place before a batch's records may be written, and what is removed once they are.

    `kept`: replaced data; `renamed`: new data and its place; `removed`: data whose run is staged elsewhere now; `made`:
    what was staged while the batch was decided.
    """

    kept: list[Kept] = field(default_factory=list)
    renamed: list[tuple[Path, Path]] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)
    made: list[Staged] = field(default_factory=list)

    @property
    def touched(self) -> list[Path]:
        """The places where the batch puts Parquet, or takes it away."""
        return [*(target for _, target in self.renamed), *self.removed]

    def parquet_for(self, place: Path) -> Path:
        """Locate the Parquet that is to be in a place: until the batch is there, it has a temporary name."""
        return next((temporary for temporary, target in reversed(self.renamed) if target == place), place)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Take back what the block added if it fails: half a decision puts nothing in place, and leaves no data."""
        lists: tuple[list[Any], ...] = (self.kept, self.renamed, self.removed, self.made)
        lengths = [len(one) for one in lists]
        try:
            yield
        except BaseException:
            discard(self.made[lengths[-1] :])
            for one, length in zip(lists, lengths, strict=True):
                del one[length:]
            raise

    @contextmanager
    def in_place(self, stage_root: Path, workspace: Path) -> Iterator[None]:
        """Put the batch's Parquet in place, durably, for the block; if the disk refuses, undo it.

        Any other interruption leaves the note, and so does a record in doubt: the next batch of this process, or else
        the next start, finds out from the log how far this one came (`take_back`).
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
                    os.replace(temporary, target)  # noqa: PTH105  # hot: once per run, and makes no new Path
                files.flush_paths(folders)
                yield
            except InDoubt:
                raise
            except (OSError, Retry):
                all_gone = _remove(fresh)
                with contextlib.suppress(OSError, Retry):  # the next try finds what is kept, and replaces it again
                    for kept in self.kept:
                        kept.restore(workspace)
                    if all_gone:
                        self._forget(workspace)
                raise
        with contextlib.suppress(OSError):  # it is recorded: the next batch or start can do the rest as well
            if _remove(self.removed):
                files.flush_paths(path.parent.parent for path in self.removed if files.is_dir(path.parent.parent))
                self._forget(workspace)

    def _leave_note(self, stage_root: Path, workspace: Path) -> None:
        """Note what is about to change, and keep what is replaced.

        Old data is durable under its second name before the first rename: a power cut must not lose it under both.
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
        """Remove the note, and what was kept for this batch alone, which would fill the disk of a service."""
        (workspace / NOTE_NAME).unlink(missing_ok=True)
        for kept in self.kept:
            if kept.aside.parent == workspace:
                kept.aside.unlink(missing_ok=True)


def _remove(parquets: Sequence[Path]) -> bool:
    """Remove staged Parquet with its runs' folders; return whether it is certain that none of it is left."""
    for path in parquets:
        shutil.rmtree(path.parent, ignore_errors=True)
    return all(map(files.is_gone, parquets))


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def is_under_way(workspace: Path) -> bool:
    """Tell whether this process's folder has, or may have, a batch that was neither recorded nor undone."""
    return not files.is_gone(workspace / NOTE_NAME)


def read_note(workspace: Path, stage_root: Path) -> Placing:
    """Read what the last batch of a killed process was about to change; an empty one if it left no note.

    A cut note was still being written: nothing had changed yet.
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


def take_back(
    layout: Layout,
    workspace: Path,
    recorded: Callable[[Sequence[str]], Mapping[str, ManifestRow]],
    remove: Callable[[Path], object] | None = None,
) -> None:
    """Take back what the last batch of a process put in place but did not record; finish what it did.

    The process was killed, or the disk refused both the record and to undo the batch.

    `recorded` finds the rows of runs; call this under the manifest's lock. Whatever the note says, only the Parquet of
    runs is touched: its folder is passed to `remove`, or else removed. An old version that is damaged is not put back;
    `verify` reports the run.

    Raises:
        Retry: the disk refused, and the note is still needed.
    """
    with files.as_retry(workspace):
        left = read_note(workspace, layout.stage_root)
    changed = {target: run_id for target in left.touched if (run_id := layout.run_of(target))}
    replaced = {kept: run_id for kept in left.kept if (run_id := layout.run_of(kept.path))}
    if not changed:
        return
    rows = recorded([*changed.values(), *replaced.values()])
    with files.as_retry(layout.stage_root):
        for target, run_id in changed.items():
            row = rows.get(run_id)
            if row is None or not row.live or layout.staged_file(row) != target:
                (remove or _remove_folder)(target.parent)
        for kept, run_id in replaced.items():
            row = rows.get(run_id)
            if row is not None and row.live and _is_version(kept.aside, row):
                files.flush_paths(kept.restore(workspace))


def _is_version(aside: Path, row: ManifestRow) -> bool:
    """Tell whether the Parquet kept aside is the one that the manifest's row was recorded with."""
    from ingestd.stage.parquet import read_row  # noqa: PLC0415  # loads pyarrow

    try:
        return not differing_fields(read_row(aside), row)
    except Damaged:  # gone, or damaged
        return False
