"""What to do about a disk error: what is told is what hinders, and not the likeliest cause of such a number."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

import pytest

from ingestd import files
from ingestd.files import durable


@pytest.mark.parametrize(
    ("space", "inodes", "words"),
    [
        (1000, 0, "can hold no more files"),
        (0, 0, "free some space on that disk"),
        (1000, 1000, "free some space on that disk"),
    ],
)
def test_a_disk_without_inodes_is_told_from_one_without_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: int, inodes: int, words: str
) -> None:
    """Where only inodes are used up, freeing space would not help. The file need not be there."""
    looked: list[Path] = []
    whole = os.statvfs_result((4096, 4096, 10_000, space, space, 1000, inodes, inodes, 0, 255))

    def statvfs(path: Path) -> os.statvfs_result:
        looked.append(path)
        return whole

    monkeypatch.setattr(os, "statvfs", statvfs)
    for path in (tmp_path / "none" / "x.json", files.temporary_beside(tmp_path / "x.json")):
        error = durable.retry_from(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)), path)
        assert words in error.next_step
    assert looked == [tmp_path, tmp_path]


def test_the_disk_is_looked_at_only_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share that went away could keep whoever asks about it waiting; without a path there is nothing to ask about."""
    monkeypatch.setattr(os, "statvfs", lambda _: pytest.fail("asked"))
    for number in (errno.EIO, errno.ESTALE, errno.EDQUOT):
        assert durable.retry_from(OSError(number, os.strerror(number), str(tmp_path)), tmp_path).next_step
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert durable.retry_from(full, "").next_step == "free some space on that disk"


@pytest.mark.parametrize(("flags", "option"), [(0x80010, "-i"), (0x80020, "-a"), (0x80000, "")])
@pytest.mark.parametrize("locked", ["x.csv", "."])
def test_a_file_that_chattr_locked_is_told_to_be_unlocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, option: str, locked: str
) -> None:
    """A permission would not help there. The lock may be on the file, also one to be replaced, or on its folder."""
    path = tmp_path / "x.csv"
    path.touch()
    temporary = files.temporary_beside(path)
    temporary.touch()

    def flags_of(descriptor: int, *_: object) -> bytes:
        where = Path(f"/proc/self/fd/{descriptor}").readlink()
        return struct.pack("i4x", flags if where == tmp_path / locked else 0)

    monkeypatch.setattr(fcntl, "ioctl", flags_of)
    refused = PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(temporary), None, str(path))
    error = durable.retry_from(refused, path)
    told = f"`sudo chattr {option} {tmp_path / locked}`"
    assert (told in error.next_step) is bool(option)
    assert ("give the user who runs ingestd" in error.next_step) is not bool(option)
    other = durable.retry_from(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)), path)
    assert "sudo chattr" not in other.next_step


def test_a_path_that_is_too_long_is_to_be_shortened(tmp_path: Path) -> None:
    """No user could be let read it."""
    path = tmp_path / ("x" * 300)
    with pytest.raises(OSError, match="too long") as caught:
        path.open()
    assert durable.retry_from(caught.value, path).next_step.startswith("the path is longer than the system allows")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "let the user ingestd runs as read it"),
        (errno.ENAMETOOLONG, "shorten its names"),
        (errno.EIO, "look at `dmesg`"),
        (errno.ESTALE, "check that it is mounted"),
    ],
)
def test_what_cannot_be_looked_at_is_told_with_what_helps(number: int, words: str) -> None:
    """A scan keeps the system's text; what is to be done follows from it."""
    assert words in files.to_see(os.strerror(number))


def test_of_a_rename_the_folder_that_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary file that is written already is not at fault if the folder it belongs into takes no new file."""
    made, target = tmp_path / "made" / "1f.parquet", tmp_path / "place" / "part-000.parquet"
    for refusing, named, what in ((target, target, f"its folder: `ls -ld {target.parent}`"), (made, made, "it: ")):
        refusing.parent.mkdir()
        monkeypatch.setattr(os, "access", lambda path, _, closed=refusing.parent: Path(path) != closed)
        denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(made), None, str(target))
        error = durable.retry_from(denied, tmp_path)
        assert error.place == str(named)
        assert f"access to {what}" in error.next_step
