"""Data roots on other file systems than ext4: a life with everything, and SIGKILL amid a cycle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from archive import Archive
from crash_cases import chosen, crash, make_template
from lived import FULL, live_through_everything
from mounts import image, mounted

CASES = 60 if FULL else 3

FILE_SYSTEMS = [
    pytest.param(("mkfs.btrfs", "-q"), "btrfs", id="btrfs"),
    pytest.param(("mkfs.xfs", "-q"), "xfs", id="xfs"),
    # Has no hard links, no modes and coarse times. In user space, a deleted file stays in its folder while it is open.
    pytest.param(("mkfs.exfat",), "exfat-fuse", id="exfat"),
]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("make", "kind"), FILE_SYSTEMS)
def test_a_data_root_on_another_file_system(
    tmp_path: Path, figure: Callable[[str, int], None], make: tuple[str, ...], kind: str
) -> None:
    """Every kind of change is taken in, nothing is left behind, and a kill at any change of the disk costs nothing."""
    made = image(tmp_path / "disk", 512, *make)
    with mounted(tmp_path / "mnt", "-t", kind, "-o", "loop,noatime", made) as disk:
        for name in ("lived", "template", "work"):
            (disk / name).mkdir()
        lived_in = Archive(disk / "lived")
        live_through_everything(lived_in)
        template = make_template(lived_in, disk / "template")
        (undisturbed,) = crash(template, disk / "work", [str(10**9)])
        assert (undisturbed["ended"], undisturbed["well"]) == ([0], 0)
        cases = [str(number) for number in chosen(undisturbed["calls"], CASES, every=False)]
        found = crash(template, disk / "work", cases)
    assert [one for one in found if one["ended"] != [-9] or one["well"] != 0] == []
    figure("kill, on another file system", len(found))
