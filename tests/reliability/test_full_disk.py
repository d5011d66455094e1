"""The disk is full, or refuses otherwise: no file is rejected for it, nothing is torn, and all goes on by itself."""

from __future__ import annotations

import errno
import pickle
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import lived
import pytest
from crash_cases import chosen, crash
from lived import FULL
from mounts import fill

CHANGES = 230
CODES = {"full": errno.ENOSPC, "broken": errno.EIO, "read-only": errno.EROFS}
DEFAULT_CASES = 6


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", CODES)
def test_a_disk_that_refuses_from_some_change_on(
    kind: str, template: Path, tmp_path: Path, figure: Callable[[str, int], None]
) -> None:
    """From any change of the disk on it refuses: nothing is rejected or lost, and the next start makes all good."""
    # In a full run every change is met by one of the three errors: the code tells them apart in words only.
    numbers = chosen(CHANGES, DEFAULT_CASES)
    cases = [str(number) for number in (numbers[list(CODES).index(kind) :: len(CODES)] if FULL else numbers)]
    found = crash(template, tmp_path, cases, fault=str(int(CODES[kind])))
    assert [one for one in found if (one["ended"], one["well"]) != ([0], 0)] == []
    figure(f"disk {kind} (of {CHANGES} changes)", len(found))


@pytest.mark.timeout(7200)
def test_files_that_may_not_grow(template: Path, tmp_path: Path, figure: Callable[[str, int], None]) -> None:
    """With a limit to the size of a file, whichever write meets it, nothing is rejected, and all goes on without it."""
    cases = [str(size) for size in chosen(12_000, 80 if FULL else DEFAULT_CASES, every=False)]
    found = crash(template, tmp_path, cases, fault="limit")
    assert [one for one in found if (one["ended"], one["well"]) != ([0], 0)] == []
    figure("limit to file sizes", len(found))


@pytest.mark.timeout(7200)
def test_a_small_disk_filled_to_the_brim(template: Path, small_disk: Path, figure: Callable[[str, int], None]) -> None:
    """On a disk with only so much space left nothing is rejected or torn; with space again all is staged."""
    chance, turns = random.Random(3), 60 if FULL else 4
    want = pickle.loads((template.parent / "expected").read_bytes())
    for _ in range(turns):
        root = small_disk / "root"
        subprocess.run(["cp", "-a", template, root], check=True)
        filler = fill(small_disk, leave=chance.randrange(0, 300) * 1024)
        archive = lived.reopened(root)
        known = set(lived.manifest(archive))
        lived.start_on_a_bad_disk(archive)
        assert known <= set(lived.manifest(archive))
        filler.unlink()
        lived.plain_start(archive)
        lived.check_sound(archive)
        lived.check_traces(archive)
        assert lived.manifest(archive) == want["rows"]
        assert lived.tree(archive.raw) == want["raw"]
        subprocess.run(["rm", "-rf", root], check=True)
    figure("small disk filled", turns)
