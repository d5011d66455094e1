"""Files for people, written a few hundred at a time: a flush of the disk for each would take most of the time."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

from ingestd import files
from ingestd.errors import Retry

FILES_TOGETHER: Final = 256
"""How many files are in memory, and flushed to the disk, together."""


def write_together(contents: Iterable[tuple[Path, bytes]]) -> tuple[set[Path], dict[Path, Retry]]:
    """Replace each path, atomically, with its bytes; return those that did not already hold them.

    Also return why the others could not be written whose place refuses; a folder is in it, say.

    Raises:
        Retry: the disk refuses writes, wherever.
    """
    changed: set[Path] = set()
    problems: dict[Path, Retry] = {}
    left = iter(contents)
    while group := dict(islice(left, FILES_TOGETHER)):
        try:
            files.write_all_atomic(group, replaced=changed)
        except Retry as error:
            if not files.is_of_one_place(error):
                raise
            for path, data in group.items():
                _write_alone(path, data, changed, problems)
    return changed, problems


def _write_alone(path: Path, data: bytes, changed: set[Path], problems: dict[Path, Retry]) -> None:
    """Write one file of a group in which a place refused; note what became of it."""
    try:
        if files.write_atomic(path, data):
            changed.add(path)
    except Retry as error:
        if not files.is_of_one_place(error):
            raise
        problems[path] = error
