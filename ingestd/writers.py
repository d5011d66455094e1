"""Who has a file open for writing, read from `/proc`, and whether that answer can be trusted."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ingestd.files import FileStat

PROC = Path("/proc")

INIT = "1"
"""Process 1 starts programs and records no measurement: that it hides its open files does not matter."""

SESSION_KEEPER = "(sd-pam)"
"""systemd's helper in every login session: it hides its open files even from its own user, and opens no raw file."""

KERNEL_PARENT = "2"
"""The kernel's threads are children of this process, if it is a kernel thread itself (in a container it is not)."""

PF_KTHREAD = 0x00200000
"""The flag of a kernel thread in `/proc/PID/stat` (include/linux/sched.h)."""

_NO_FILE = re.compile(r"/dev/(?!shm/)|/proc/|/sys/|/memfd:|[^/]")
"""Begins the target of an open file that is none of a disk; /dev/shm is one, in memory."""

_NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "virtiofs", "vboxsf", "prl_fs", "hgfs"),
        *("ceph", "glusterfs", "lustre", "beegfs", "gpfs", "ocfs2", "gfs2", "orangefs", "panfs"),
    }
)


@dataclass(frozen=True, slots=True)
class Writers:
    """One look at all processes: who has which file (device, inode) open for writing, and which users hide theirs."""

    by_file: dict[tuple[int, int], str]  # pids
    hidden_uids: frozenset[int]
    remote_devices: frozenset[int]
    uid: int = field(default_factory=os.geteuid)
    available: bool = True

    def writer_of(self, status: FileStat) -> str | None:
        """Name the process that has the file open for writing; "" if nobody has; None if that cannot be seen.

        It can be seen on a local file system, as root or for files of the user ingestd runs as, unless a process of the
        file's owner hides its open files.
        """
        if pid := self.by_file.get((status.device, status.inode)):
            return f"{_name(pid)} (pid {pid})"
        if not self.available or status.device in self.remote_devices:
            return None
        visible = self.uid in {0, status.uid} and status.uid not in self.hidden_uids
        return "" if visible else None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The files asked for, by device and inode, and what is mounted: mount id -> device of a share, 0 for a local disk.

    `whole` tells whether every mount is known.
    """

    devices: frozenset[int]
    inodes: frozenset[int]
    mounts: dict[int, int]
    whole: bool

    @classmethod
    def of(cls, asked: Iterable[FileStat]) -> _Wanted:
        files = {(status.device, status.inode) for status in asked}
        return cls(frozenset(device for device, _ in files), frozenset(inode for _, inode in files), *_mounts())

    def may_be(self, known: Mapping[bytes, int]) -> bool:
        """Tell, from what the kernel knows of a descriptor, whether its file needs a look.

        On a mount that only other processes see, its inode must be one asked for, if the kernel gives it (since Linux
        5.14).
        """
        device = self.mounts.get(known.get(b"mnt_id", -1))
        if device is None:
            return b"ino" not in known or known[b"ino"] in self.inodes
        return device == 0 or device in self.devices


def read_writers(asked: Iterable[FileStat], *, visible: bool = True) -> Writers:
    """Look at every process's open files now, and find who writes to a file asked for.

    If writers are not `visible`, because files come from other machines, it cannot be said that nobody writes.

    Never raises: what cannot be read makes the answer less certain. A share that holds none of the files asked for is
    not touched: it may no longer answer.
    """
    if not (asked := list(asked)):  # an idle PC has hundreds of processes to look at
        return Writers({}, frozenset(), frozenset(), available=visible)
    look = _Look(_Wanted.of(asked))
    try:
        kernel = _kernel_threads()
        pids = [name for name in os.listdir(PROC) if name.isdigit() and name not in kernel]
    except OSError:
        return Writers({}, frozenset(), frozenset(), available=False)
    for pid in pids:
        look.at(pid)
    remote = frozenset(device for device in look.wanted.mounts.values() if device)
    whole = look.whole and look.wanted.whole
    return Writers(look.by_file, frozenset(look.hidden), remote, available=visible and whole)


@dataclass(slots=True)
class _Look:
    """One look at all processes; `whole` while every file that may be one asked for could be identified."""

    wanted: _Wanted
    by_file: dict[tuple[int, int], str] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)
    whole: bool = True

    def at(self, pid: str) -> None:
        """Look at the open files of a process."""
        try:
            numbers = os.listdir(f"{PROC}/{pid}/fd")
            for number in numbers:
                self._enter(pid, number)
            if not numbers and _ended(pid):
                self._at_threads(pid)
        except PermissionError:
            if _ended(pid):
                self._at_threads(pid)
            elif pid != INIT and _name(pid) != SESSION_KEEPER:
                self.hidden |= _owner(pid)
        except OSError:
            return  # the process ended while we looked

    def _at_threads(self, pid: str) -> None:
        """Look at the open files of a process whose first thread has ended: its other threads may still have them."""
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"{PROC}/{pid}/task"):
                with contextlib.suppress(OSError):
                    for number in os.listdir(f"{PROC}/{pid}/task/{thread}/fd"):
                        self._enter(f"{pid}/task/{thread}", number)

    def _enter(self, process: str, number: str) -> None:
        link = f"{PROC}/{process}/fd/{number}"
        try:
            target = os.readlink(link)
            if _NO_FILE.match(target):
                return
            known = _known_of(f"{PROC}/{process}/fdinfo/{number}")
            if known.get(b"flags", os.O_RDWR) & os.O_ACCMODE == os.O_RDONLY or not self.wanted.may_be(known):
                return
            status = os.stat(link)
        except (FileNotFoundError, ProcessLookupError):
            return  # closed while we looked
        except PermissionError:
            raise
        except OSError:  # its disk does not answer: it may be a file asked for; go on with the others
            self.whole = False
            return
        self.by_file[status.st_dev, status.st_ino] = process.partition("/")[0]


def _kernel_threads() -> frozenset[str]:
    """List the kernel's threads, often most of all processes: none has a file open. Empty if unknown."""
    try:
        flags = int((PROC / KERNEL_PARENT / "stat").read_bytes().rpartition(b")")[2].split()[6])
        children = (PROC / KERNEL_PARENT / "task" / KERNEL_PARENT / "children").read_text("ascii").split()
    except (OSError, ValueError, IndexError):
        return frozenset()
    return frozenset([KERNEL_PARENT, *children]) if flags & PF_KTHREAD else frozenset()


def _known_of(fdinfo: str) -> dict[bytes, int]:
    """Read what the kernel knows of a descriptor: `flags`, `mnt_id`, `ino` (see proc_pid_fdinfo(5))."""
    descriptor = os.open(fdinfo, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(descriptor, 4096).splitlines()
    finally:
        os.close(descriptor)
    pairs = (line.partition(b":") for line in lines[:_FIRST_LINES])
    return {name: int(value, 8 if name == b"flags" else 10) for name, _, value in pairs if value.strip().isdigit()}


_FIRST_LINES = 4
"""`pos`, `flags`, `mnt_id` and `ino` come first; what follows belongs to special files."""


def _name(pid: str) -> str:
    try:
        return (PROC / pid / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return "a process"


def _ended(pid: str) -> bool:
    """Tell whether the first thread of a process has ended; others may go on and have files open."""
    try:
        return (PROC / pid / "stat").read_bytes().rpartition(b")")[2].split()[0] in {b"Z", b"X"}
    except (OSError, IndexError):
        return False


def _owner(pid: str) -> set[int]:
    try:
        return {(PROC / pid).stat().st_uid}
    except OSError:
        return set()


def _mounts() -> tuple[dict[int, int], bool]:
    """Find what is mounted: mount id -> device number of a network or user-space file system, 0 for any other.

    Also return whether every mount is among them: a share that is not must not pass for a local disk.
    """
    found: dict[int, int] = {}
    try:
        text = (PROC / "self" / "mountinfo").read_bytes().decode("utf-8", "replace")
    except OSError:
        return found, False
    whole = True
    for line in text.removesuffix("\n").split("\n"):  # of all line ends, the kernel escapes only this one in names
        try:
            mount, device = _mount(line)
        except ValueError:
            whole = False
        else:
            found[mount] = device
    return found, whole


def _mount(line: str) -> tuple[int, int]:
    """Read a line of mountinfo (see proc_pid_mountinfo(5)); any other line raises a ValueError."""
    left, right = line.split(" - ", 1)
    kind = right.split(" ", 1)[0]
    mount, _, device, *_ = left.split(" ")
    major, minor = device.split(":")
    remote = kind in _NETWORK or kind.startswith("fuse")
    return int(mount), os.makedev(int(major), int(minor)) if remote else 0
