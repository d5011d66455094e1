"""Who has a file open for writing, read from `/proc`, and whether that answer can be trusted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ingestd.files import FileStat

PROC = Path("/proc")

INIT = "1"
"""Process 1 starts programs and records no measurement: that it hides its files takes no certainty away."""

SESSION_KEEPER = "(sd-pam)"
"""systemd's helper in every login session: it hides its files even from its own user, and never opens one."""

KERNEL_PARENT = "2"
"""The kernel's threads are children of this process, where it is a kernel thread itself (in a container it is not)."""

PF_KTHREAD = 0x00200000
"""The flag of a kernel thread in `/proc/PID/stat` (include/linux/sched.h)."""

_NO_FILES = ("/dev/", "/proc/", "/sys/", "/memfd:")
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "glusterfs", "lustre", "beegfs", "ncpfs", "virtiofs"}
)


@dataclass(frozen=True, slots=True)
class Writers:
    """One look at all processes: who has which file (device, inode) open for writing, and which users hid theirs."""

    by_file: dict[tuple[int, int], str]  # pids
    hidden_uids: frozenset[int]
    remote_devices: frozenset[int]
    uid: int = field(default_factory=os.geteuid)
    available: bool = True

    def writer_of(self, status: FileStat) -> str | None:
        """Name the process that has the file open for writing; "" when nobody has; None when that cannot be seen.

        It can be seen on a local file system, as root or for files of the user ingestd runs as, unless a process of the
        file's owner hides its open files.
        """
        if pid := self.by_file.get((status.device, status.inode)):
            return f"{_name(pid)} (pid {pid})"
        if not self.available or status.device in self.remote_devices:
            return None
        visible = self.uid in {0, status.uid} and status.uid not in self.hidden_uids
        return "" if visible else None


def read_writers() -> Writers:
    """Look at every process's open files now. Never raises: what cannot be read makes the answer less certain."""
    by_file: dict[tuple[int, int], str] = {}
    hidden: set[int] = set()
    try:
        kernel = _kernel_threads()
        pids = [name for name in os.listdir(PROC) if name.isdigit() and name not in kernel]
    except OSError:
        return Writers({}, frozenset(), frozenset(), available=False)
    for pid in pids:
        try:
            for number in os.listdir(f"{PROC}/{pid}/fd"):
                _enter(pid, number, by_file)
        except PermissionError:
            if pid != INIT and not _ended(pid) and _name(pid) != SESSION_KEEPER:
                hidden |= _owner(pid)
        except OSError:
            continue  # the process ended while we looked
    return Writers(by_file, frozenset(hidden), frozenset(_remote_devices()))


def _kernel_threads() -> frozenset[str]:
    """Name the kernel's threads, mostly the larger part of all processes: none has a file open. Empty when unknown."""
    try:
        flags = int((PROC / KERNEL_PARENT / "stat").read_bytes().rpartition(b")")[2].split()[6])
        children = (PROC / KERNEL_PARENT / "task" / KERNEL_PARENT / "children").read_text("ascii").split()
    except (OSError, ValueError, IndexError):
        return frozenset()
    return frozenset([KERNEL_PARENT, *children]) if flags & PF_KTHREAD else frozenset()


def _enter(pid: str, number: str, by_file: dict[tuple[int, int], str]) -> None:
    link = f"{PROC}/{pid}/fd/{number}"
    try:
        target = os.readlink(link)
        if not target.startswith("/") or target.startswith(_NO_FILES) or not _for_writing(pid, number):
            return
        status = os.stat(link)
    except FileNotFoundError:
        return
    by_file[status.st_dev, status.st_ino] = pid


def _for_writing(pid: str, number: str) -> bool:
    descriptor = os.open(f"{PROC}/{pid}/fdinfo/{number}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        flags = os.read(descriptor, 4096).partition(b"flags:")[2].split(None, 1)
    finally:
        os.close(descriptor)
    return not flags or int(flags[0], 8) & os.O_ACCMODE != os.O_RDONLY


def _name(pid: str) -> str:
    try:
        return (PROC / pid / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return "a process"


def _ended(pid: str) -> bool:
    """Tell whether a process is over and only waits for its parent to ask how it ended: it has nothing open."""
    try:
        return (PROC / pid / "stat").read_bytes().rpartition(b")")[2].split()[0] in {b"Z", b"X"}
    except (OSError, IndexError):
        return False


def _owner(pid: str) -> set[int]:
    try:
        return {(PROC / pid).stat().st_uid}
    except OSError:
        return set()


def _remote_devices() -> Iterator[int]:
    """List the device numbers of mounted network and user-space file systems."""
    try:
        lines = (PROC / "self" / "mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        left, _, right = line.partition(" - ")
        kind = right.split(" ", 1)[0]
        if kind in _NETWORK or kind.startswith("fuse"):
            major, _, minor = left.split(" ")[2].partition(":")
            yield os.makedev(int(major), int(minor))
