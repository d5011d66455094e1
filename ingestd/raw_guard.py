"""Keep what ingestd writes, and the folders it tidies up, apart from the raw files, which are only ever read.

Links are followed, and a folder is known by its identity on the disk, so another name for it (a bind mount, or other
case on a share that ignores case) makes no difference. A link that somebody puts later in the place of one of ingestd's
folders is noticed before the next piece of work (`Guard`), one further down only by what calls `check_outside_raw`. Not
noticed: a bind mount of a folder inside the raw root.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ingestd import files
from ingestd.errors import Retry, UsageError
from ingestd.layout import METADATA_NAME, Layout, is_day


class Clash(NamedTuple):
    """A setting that would break this promise: its key, its place as shown to people, and what is wrong with it."""

    key: str
    place: str
    fault: str


def find_clash(layout: Layout) -> Clash | None:
    """Find the first setting that leads a write into the raw root, or puts the raw root where files are deleted."""
    raw, look = layout.raw_root, _Look()
    for key, path in _written(layout):
        if look.leads_into(path, raw):
            return Clash(key, _shown(path), f"it lies in paths.raw_root = {_shown(raw)}, where ingestd never writes")
    for key, path in _tidied(layout):
        if look.leads_into(raw, path):
            fault = f"paths.raw_root = {_shown(raw)} lies in it, and ingestd writes, moves and deletes files there"
            return Clash(key, _shown(path), fault)
    return None


def find_own_clash(layout: Layout) -> Clash | None:
    """Find the first setting that puts something of ingestd's own where its own work would delete or replace it.

    Every start empties the stage's `_tmp`; old days are deleted from the events; the manifest has files beside it; and
    a repair sets aside what is among runs or rejects and is none.
    """
    look, manifest = _Look(), layout.manifest_path
    _, *beside = (path for _, path in _files(layout))
    log = layout.log_file
    if manifest in {*beside, log, log.with_name(f"{log.name}.1")}:
        return Clash("paths.manifest_path", _shown(manifest), "this is the name of another file beside the manifest")
    temporary = layout.temporary_root
    for key, path in _folders(layout):
        if key != "paths.stage_root" and look.leads_into(path, temporary):
            return Clash(key, _shown(path), f"it lies in {_shown(temporary)}, which every start empties")
    for folder in (layout.staged_root, layout.superseded_root):
        if look.leads_into(manifest.parent, folder):
            fault = f"it lies in {_shown(folder)}, where every Parquet file is taken for that of a run"
            return Clash("paths.manifest_path", _shown(manifest), fault)
    for key, path in (("paths.rejects_dir", layout.rejects_dir), ("paths.metadata_dir", layout.metadata_dir)):
        if look.leads_into(path, layout.events_dir) and look.leads_into(layout.events_dir, path):
            return Clash(key, _shown(path), "it is paths.events_dir as well, where events.keep_days deletes old days")
    rejects = layout.rejects_dir
    for path in (layout.events_dir, manifest.parent, temporary):
        if look.leads_into(path, rejects):
            fault = f"the JSON files in {_shown(path)} are in it as well, and would be taken for rejects"
            return Clash("paths.rejects_dir", _shown(rejects), fault)
    return None


def find_log_clash(layout: Layout) -> Clash | None:
    """Find out whether the log would be written over a file of ingestd's own, or among such files.

    Beside the manifest, where it lies unless set, it may have any name that is not taken.
    """
    log, look = layout.log_file, _Look()
    if any(look.leads_into(log, path) for _, path in _files(layout)):
        return Clash("log.file", _shown(log), "it is a file of ingestd's own, which a log would spoil")
    for key, path in (("paths.histories_dir", layout.histories_dir), *_tidied(layout)):
        if look.leads_into(log, path):
            return Clash("log.file", _shown(log), f"it lies in {key} = {_shown(path)}, which is ingestd's own")
    return None


def check_export(path: Path, option: str, layout: Layout) -> None:
    """Check that a file that a command is asked to write is neither among the raw files nor among ingestd's own.

    Nor may it be the file of a day, which would then no longer hold its whole day. Its folder must exist, except below
    the metadata folder, where folders are made. If the file exists, it must be a plain file: no device or link is
    replaced.

    Raises:
        UsageError: one of these does not hold.
    """
    own = (place for place in _written(layout) if place[0] != "paths.metadata_dir")  # exports are at home there
    for key, place in (("paths.raw_root", layout.raw_root), *own):
        if leads_into(path, place):
            why = "where ingestd never writes" if key == "paths.raw_root" else "which is ingestd's own"
            step = f"name a file elsewhere, such as {option} {path.name}"
            raise UsageError(f"{option} lies in {key} = {_shown(place)}, {why}", place=str(path), next_step=step)
    folder = Path(os.path.realpath(path.parent))
    if (
        path.name == METADATA_NAME
        and str(folder.parent) == os.path.realpath(layout.metadata_dir)
        and is_day(folder.name)
    ):
        raise UsageError(
            f"{option} names the file of a day, which holds the whole day",
            place=str(path),
            next_step=f"name another file, or leave {option} out",
        )
    _check_target(path, option, layout)


def _check_target(path: Path, option: str, layout: Layout) -> None:
    if not files.is_dir(path.parent) and not leads_into(path, layout.metadata_dir):  # whose folders are made
        raise UsageError(
            f"{option} names a file in a folder that is not there",
            place=str(path),
            next_step=f"make it (`mkdir -p {shlex.quote(str(path.parent))}`), or name a file elsewhere",
        )
    if files.is_taken(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise UsageError(
            f"{option} names something that is no plain file (a folder, a link or a device) and would be replaced",
            place=str(path),
            next_step=f"name a file, such as {option} {path.name}.csv",
        )


def check_outside_raw(path: Path, layout: Layout) -> None:
    """Check that a file about to be written or deleted is not among the raw files, whatever links lead to it now.

    Raises:
        Retry: it is, and nothing was written.
    """
    if leads_into(path, layout.raw_root):
        raise Retry(
            f"a link leads from here into paths.raw_root = {_shown(layout.raw_root)}, where ingestd never writes",
            place=str(path.parent),
            next_step="move the link away",
        )


class Guard:
    """Notices that one of ingestd's folders, or the raw root, was replaced by a link since the settings were read."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._folders = [layout.raw_root, *dict.fromkeys(path for _, path in _folders(layout))]
        self._seen: list[tuple[int, int] | None] = []

    def check(self) -> None:
        """Check that nothing written now is among the raw files: a dozen `stat`s, unless a folder is another one.

        Raises:
            Retry: a link leads there; nothing was written.
        """
        now = [_identity(folder) for folder in self._folders]
        if now == self._seen:
            return
        if (clash := find_clash(self._layout)) is not None:
            raise Retry(clash.fault, place=clash.place, next_step="move the link away")
        self._seen = now


def leads_into(path: Path, folder: Path) -> bool:
    """Tell whether `path` is `folder` or below it, by its own name or by where links lead. Neither need exist."""
    return _Look().leads_into(path, folder)


class _Look:
    """One look at where places lie: most are in the same few folders, which are looked up once."""

    def __init__(self) -> None:
        self._real = cache(lambda path: Path(os.path.realpath(path)))
        self._identity = cache(_identity)

    def leads_into(self, path: Path, folder: Path) -> bool:
        """See `leads_into`."""
        root = self._real(folder)
        identity = self._identity(root)
        for real in {self._real(path), self._real(path.parent) / path.name}:
            if real.is_relative_to(root):
                return True
            if identity is not None and any(self._identity(place) == identity for place in (real, *real.parents)):
                return True
        return False


def _written(layout: Layout) -> Iterator[tuple[str, Path]]:
    """List what is written, each with the setting it belongs to: folders, and files outside them."""
    yield "paths.stage_root", layout.stage_root
    yield from _files(layout)
    yield "log.file", layout.log_file
    yield from _folders(layout)


def _files(layout: Layout) -> Iterator[tuple[str, Path]]:
    """List the files that are written beside the manifest, but the log."""
    yield "paths.manifest_path", layout.manifest_path
    yield "paths.manifest_path", layout.known_files_path
    for path in (layout.lock_path, layout.service_lock_path, layout.histories_lock_path, layout.service_state_path):
        yield "paths.manifest_path", path


def _folders(layout: Layout) -> Iterator[tuple[str, Path]]:
    """List the folders in which something is written."""
    yield "paths.manifest_path", layout.manifest_path.parent
    yield "paths.histories_dir", layout.histories_dir
    yield from _tidied(layout)


def _tidied(layout: Layout) -> Iterator[tuple[str, Path]]:
    """List the folders in which whole trees are made, moved aside or deleted: a raw root inside could be lost."""
    for folder in (layout.staged_root, layout.superseded_root, layout.temporary_root):
        yield "paths.stage_root", folder
    yield "paths.manifest_path", layout.aside_root
    yield "paths.wal_dir", layout.wal_dir
    yield "paths.events_dir", layout.events_dir
    yield "paths.rejects_dir", layout.rejects_dir
    yield "paths.metadata_dir", layout.metadata_dir


def _identity(place: Path) -> tuple[int, int] | None:
    try:
        status = place.stat()
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else None


def _shown(path: Path) -> str:
    real = os.path.realpath(path)
    return str(path) if real == str(path) else f"{path} (a link to {real})"
