"""What to do about a disk error whose number alone does not tell: access, room, too long names, locked files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import shlex
import stat
import struct
from pathlib import Path
from typing import Final

SHORTEN: Final = "the path is longer than the system allows: shorten its names, or move it nearer to the root"
BACK_UP: Final = "check the server, if this is a share; if it is a disk, look at `dmesg` and back it up"
MOUNT: Final = "the network share went away: check that it is mounted"
REMOUNT: Final = (
    "the file system is mounted read-only: see why (`dmesg`), then remount it for writing; if only the service cannot "
    "write here, because the folder was deleted or replaced while it ran, restart it (`sudo systemctl restart ingestd`)"
)
"""The unit makes writable for the service only those folders that are there at its start."""
_UNSEEN: Final = {
    os.strerror(errno.ENAMETOOLONG): SHORTEN,
    os.strerror(errno.EIO): BACK_UP,
    **dict.fromkeys(map(os.strerror, (errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT)), MOUNT),
}
_GET_FLAGS: Final = 0x80086601
"""`FS_IOC_GETFLAGS` of `linux/fs.h`, on every 64-bit machine but a few that no lab has."""
_LOCKED: Final = {0x10: "i", 0x20: "a"}
"""`FS_IMMUTABLE_FL` and `FS_APPEND_FL`, and what `chattr` calls them."""


def to_see(why: str, usual: str = "let the user ingestd runs as read it") -> str:
    """Say what to do so that a raw file or folder can be looked at; `why` is the system's text for what hinders it.

    `usual` is the answer to all that has none of its own, such as a permission that is missing.
    """
    return _UNSEEN.get(why, usual)


def to_get_access(path: Path, what: str) -> str:
    """Say how to get access to `path`, called `what`: by a permission, or as the user who owns it."""
    who = f"`ls -ld {shlex.quote(str(_there(path)))}` shows who has it"
    step = f"give the user who runs ingestd (uid {os.geteuid()}) access to {what}: {who}"
    owner = next(filter(None, map(_owner, (path, *path.parents))), None)
    return f"{step}; or run ingestd as its owner: `sudo -u {owner} ...`" if owner else step


def takes_files(path: str | bytes) -> bool:
    """Tell whether the folder of `path` lets this process make files in it."""
    return os.access(os.path.dirname(path), os.W_OK | os.X_OK)  # noqa: PTH120  # the system gives texts, or bytes


def to_get_room(path: object) -> str:
    """Say what the full disk of `path` lacks: space, or inodes, of which every file takes one. Any value is taken."""
    named = path if isinstance(path, str) else str(path) if isinstance(path, Path) else ""
    with contextlib.suppress(OSError, ValueError):
        disk = os.statvfs(_there(Path(named))) if named else None
        if disk and disk.f_files and not disk.f_favail and disk.f_bavail:
            return "that disk has space, but can hold no more files (`df -i` shows it): delete or move away many files"
    return "free some space on that disk"


def to_unlock(*paths: str | Path) -> str:
    """Say how to unlock the first of these files, or of their folders, that `chattr` made unchangeable; "" if none."""
    for path in map(Path, paths):
        for place in (path, path.parent):
            if flag := _lock_on(place):
                name = shlex.quote(str(place))
                return f"`chattr` made it unchangeable: `sudo chattr -{flag} {name}`, if that was not meant"
    return ""


def _there(path: Path) -> Path:
    """Return what exists of a path: itself, or the nearest folder above it."""
    return next((place for place in (path, *path.parents) if os.path.lexists(place)), Path("/"))


def _owner(path: Path) -> str | None:
    """Name the user who owns a file; None for root, who should not run ingestd, for us, and if unknown."""
    try:
        uid = path.stat().st_uid
        return None if uid in {0, os.geteuid()} else pwd.getpwuid(uid).pw_name
    except (OSError, ValueError, KeyError):
        return None


def _lock_on(place: Path) -> str:
    """Return the flag that keeps a file or folder from being changed, as `chattr` calls it; "" if there is none."""
    try:
        if not stat.S_ISREG(kind := place.stat().st_mode) and not stat.S_ISDIR(kind):
            return ""
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    try:
        (flags,) = struct.unpack("i4x", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)))
    except OSError:  # not every file system has flags
        return ""
    finally:
        os.close(descriptor)
    return next((name for flag, name in _LOCKED.items() if flags & flag), "")
