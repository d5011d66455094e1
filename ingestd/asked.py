"""What a person or a program names, found: a run by its id, a raw file by its path, the manifest at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ingestd.errors import UsageError
from ingestd.layout import Layout
from ingestd.words import shown

_BEGINNING = re.compile(r"[0-9a-f]{6,20}")
"""What may be the beginning of a run id: fewer digits are too easily another run's."""


def is_run_id(asked: str) -> bool:
    """Tell whether a text may be a run id or the beginning of one; no raw file is called so."""
    return _BEGINNING.fullmatch(asked.strip().lower()) is not None


def run_id_of(asked: str, known: Iterable[str]) -> str:
    """Find the run id that is, or begins with, what was asked for: 6 digits or more, in any case.

    Raises:
        UsageError: no run, or more than one, has that id; near ones are named.
    """
    wanted, ids = asked.strip().lower(), list(known)
    found = [run_id for run_id in ids if run_id.startswith(wanted)] if is_run_id(wanted) else []
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{len(found)} runs have an id that begins with {wanted}",
            next_step="give more digits: " + ", ".join(sorted(found)[:_NAMED]) + (", ..." if found[_NAMED:] else ""),
        )
    from ingestd.histories.runs import unknown  # noqa: PLC0415  # loads the exports, for a mistake alone

    raise unknown("id", wanted, ids)


_NAMED = 10


def source_file_of(layout: Layout, given: str) -> str:
    """Turn a path, or a path relative to the raw root, into the name a raw file has in the manifest.

    Raises:
        UsageError: it leads to no file below the raw root.
    """
    root, real = layout.raw_root, layout.raw_root.resolve()
    pairs = ((root, root / given), (root, Path(given).absolute()), (real, Path(given).resolve()))
    below = [(base, Path(os.path.normpath(path))) for base, path in pairs]
    names = [path.relative_to(base).as_posix() for base, path in below if path.is_relative_to(base) and path != base]
    for name in names:
        if os.path.lexists(root / name):
            return name
    raise UsageError(
        "this is no file below the raw root",
        place=shown(given, 200),
        next_step=f"give its path below {layout.raw_root}, or check --data-root and --raw-root",
    )


def require_raw_root(layout: Layout) -> None:
    """Check that there is a raw root before anything is made in a data root that may be a slip of the pen.

    Raises:
        UsageError: there is none.
    """
    root = layout.raw_root
    if not root.is_dir():
        raise UsageError(
            "there is no such folder of raw files",
            place=str(root),
            next_step="check --data-root, --raw-root or paths.raw_root (`ingestd config show`); is the share mounted?",
        )


def require_manifest(layout: Layout) -> None:
    """Check that something was staged before it is read.

    Raises:
        UsageError: neither manifest nor log are there.
    """
    if not layout.manifest_path.exists() and not layout.wal_dir.is_dir():
        raise UsageError(
            "there is no manifest here",
            place=str(layout.manifest_path),
            next_step="check the data root (`ingestd config show` lists the paths), or make it: `ingestd backfill`",
        )
