"""Who has a file open for writing: real processes, and the logic of when the answer can be trusted."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from ingestd import writers
from ingestd.files import FileStat, stat_of
from ingestd.writers import Writers, read_writers

HOLD = """
import os, sys
file = os.open(sys.argv[1], getattr(os, sys.argv[2]))
print("open", flush=True)
sys.stdin.readline()
os.close(file)
print("closed", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(path: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    """Have another process hold the file open; a line on its stdin makes it close the file."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.communicate("\n")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw file."""
    path = tmp_path / "It_1.csv"
    path.write_text("t (s),I (A)\n")
    return path


def writer_of(path: Path) -> str | None:
    """Look now."""
    status = stat_of(path.lstat())
    return read_writers([status]).writer_of(status)


@pytest.mark.parametrize("mode", ["O_WRONLY", "O_RDWR"])
def test_a_process_that_has_it_open_for_writing_is_named(raw: Path, mode: str) -> None:
    """Name and pid while it is open; nobody as soon as it is closed, though the process lives on."""
    with holding(raw, mode) as process:
        found = writer_of(raw)
        assert found is not None
        assert f"(pid {process.pid})" in found
        assert found.startswith("python")
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "closed\n"
        assert writer_of(raw) == ""


def test_a_writer_on_the_disk_in_memory_is_seen() -> None:
    """Files below /dev/shm are no devices: a measurement that is written there is running."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        pytest.skip("there is no /dev/shm to write to")
    with tempfile.NamedTemporaryFile(dir=shared, suffix=".csv") as file:
        found = writer_of(Path(file.name))
        assert found is not None
        assert f"(pid {os.getpid()})" in found


def test_a_reader_is_no_writer(raw: Path) -> None:
    """A process that only reads, a plotter or a copy, does not hold a run up."""
    with holding(raw, "O_RDONLY"):
        assert writer_of(raw) == ""


def test_another_name_of_the_file_is_the_same_file(raw: Path) -> None:
    """Opened through a hard link it is open all the same."""
    other = raw.with_name("other.csv")
    os.link(raw, other)
    with holding(other, "O_WRONLY") as process:
        assert f"(pid {process.pid})" in (writer_of(raw) or "")


def test_a_file_replaced_under_its_writer_is_another_file(raw: Path) -> None:
    """Who writes to a file that was renamed away does not write to the one that took its place."""
    with holding(raw, "O_WRONLY"):
        raw.rename(raw.with_name("moved.csv"))
        raw.write_text("another")
        assert writer_of(raw) == ""


ME, OTHER, ROOT = 1000, 1001, 0
LOCAL, SHARE = 5, 9


def status(uid: int, device: int = LOCAL) -> FileStat:
    """The state of a file of this owner on this file system."""
    return FileStat(size=1, mtime_ns=1, inode=7, device=device, uid=uid)


@pytest.mark.parametrize(
    ("seen_by", "owner", "hidden", "device", "expected"),
    [
        (ME, ME, frozenset(), LOCAL, ""),
        (ME, OTHER, frozenset(), LOCAL, None),
        (ME, ME, frozenset({ME}), LOCAL, None),
        (ME, ME, frozenset({OTHER}), LOCAL, ""),
        (ROOT, OTHER, frozenset(), LOCAL, ""),
        (ROOT, OTHER, frozenset({OTHER}), LOCAL, None),
        (ROOT, ROOT, frozenset(), SHARE, None),
        (ME, ME, frozenset(), SHARE, None),
    ],
)
def test_when_nobody_can_be_said(
    seen_by: int, owner: int, hidden: frozenset[int], device: int, expected: str | None
) -> None:
    """Nobody writes: this is said on a local disk, as root or of own files, unless a process of the owner hides."""
    seen = Writers({}, hidden, frozenset({SHARE}), uid=seen_by)
    assert seen.writer_of(status(owner, device)) == expected


def test_a_writer_that_is_seen_counts_everywhere() -> None:
    """A process found with the file open is believed, whoever owns the file and wherever it lies."""
    seen = Writers({(SHARE, 7): str(os.getpid())}, frozenset({OTHER}), frozenset({SHARE}), uid=ME, available=True)
    assert f"(pid {os.getpid()})" in (seen.writer_of(status(OTHER, SHARE)) or "")


def test_a_writer_that_ended_since_is_believed_too() -> None:
    """It wrote at the moment of the look; what it was called cannot be told any more."""
    seen = Writers({(SHARE, 7): str(2**22 + 1)}, frozenset(), frozenset(), uid=ME, available=True)
    assert seen.writer_of(status(ME, SHARE)) == f"a process (pid {2**22 + 1})"


def test_without_proc_nothing_can_be_said(monkeypatch: pytest.MonkeyPatch, raw: Path, tmp_path: Path) -> None:
    """On a system without /proc the answer is unknown, never "nobody"."""
    monkeypatch.setattr(writers, "PROC", tmp_path / "no-proc")
    assert writer_of(raw) is None


DISK = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
"""A line of mountinfo: a local file system."""


def fake_mounts(proc: Path, text: str = DISK) -> None:
    """Make the list of what is mounted."""
    (proc / "self").mkdir(parents=True, exist_ok=True)
    (proc / "self" / "mountinfo").write_text(text, "utf-8", newline="")


def fake_process(proc: Path, pid: int, flags: int, opened: Path | None = None) -> None:
    """Make the entry of a process, with the kernel's flags of it and a file it has open for writing."""
    fake_mounts(proc)
    folder = proc / str(pid)
    for name in ("fd", "fdinfo", f"task/{pid}"):
        (folder / name).mkdir(parents=True)
    (folder / "comm").write_text("process\n")
    (folder / "stat").write_text(f"{pid} (a process) S 1 1 1 0 -1 {flags} 0 0\n")
    if opened is not None:
        (folder / "fd" / "3").symlink_to(opened)
        (folder / "fdinfo" / "3").write_text("pos:\t0\nflags:\t0100001\n")


@pytest.mark.parametrize(
    ("flags", "skipped"), [(writers.PF_KTHREAD, True), (0x400100, False)], ids=["host", "container"]
)
def test_only_the_kernels_own_threads_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, raw: Path, tmp_path: Path, flags: int, skipped: bool
) -> None:
    """The children of process 2 are where that is a kernel thread; in a container it may be a recorder's parent."""
    proc = tmp_path / "proc"
    fake_process(proc, 2, flags)
    fake_process(proc, 30, flags, raw)
    (proc / "2" / "task" / "2" / "children").write_text("30 ")
    monkeypatch.setattr(writers, "PROC", proc)
    assert writer_of(raw) == ("" if skipped else "process (pid 30)")


def test_an_ended_process_hides_nothing() -> None:
    """A process that ended and was not waited for keeps its entry in /proc, unreadable; it has nothing open."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert writers._ended(str(process.pid))
        assert not writers._ended(str(os.getpid()))
    assert not writers._ended(str(process.pid))


@pytest.mark.parametrize(
    ("pid", "name", "life", "expected"),
    [
        (40, "recorder", "S", None),
        (40, "recorder", "Z", ""),
        (40, "(sd-pam)", "S", ""),
        (1, "systemd", "S", ""),
    ],
    ids=["recorder", "ended", "session", "init"],
)
def test_who_hides_open_files_may_have_any_open(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: int, name: str, life: str, expected: str | None
) -> None:
    """Of its user's files it cannot be said that nobody writes, unless it is one that never records a measurement."""
    proc, real = tmp_path / "proc", os.listdir
    fake_process(proc, pid, 0)
    (proc / str(pid) / "comm").write_text(f"{name}\n")
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {life} 1 1 1 0 -1 0 0 0\n")

    def refuse(path: Any) -> list[str]:
        if str(path) == f"{proc}/{pid}/fd":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(writers, "PROC", proc)
    monkeypatch.setattr(os, "listdir", refuse)
    assert writer_of(raw) == expected


def test_where_writers_are_elsewhere_nobody_can_be_said(raw: Path) -> None:
    """A process that is seen is believed; that none is seen says nothing, as the settings tell."""
    status = stat_of(raw.lstat())
    assert read_writers([status], visible=False).writer_of(status) is None
    with holding(raw, "O_WRONLY") as process:
        assert f"(pid {process.pid})" in (read_writers([status], visible=False).writer_of(status) or "")


THREADS = """
import ctypes, os, sys, threading
file = os.open(sys.argv[1], os.O_WRONLY)
def rest():
    print("open", flush=True)
    sys.stdin.readline()
    os._exit(0)
threading.Thread(target=rest).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the files of a process without its first thread are root's to see")
def test_a_process_whose_first_thread_has_ended_is_seen(raw: Path) -> None:
    """Its entry is that of a zombie; another thread of it goes on writing."""
    with subprocess.Popen(
        [sys.executable, "-c", THREADS, str(raw)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        wait_until(lambda: writers._ended(str(process.pid)), "the end of the first thread")
        assert f"(pid {process.pid})" in (writer_of(raw) or "")
        process.communicate("\n")
        assert writer_of(raw) == ""


def test_no_file_of_a_share_is_touched_that_nobody_asks_for(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share that answers no more stops whoever looks at a file on it: none is looked at, on a mount known or not."""
    proc, share = tmp_path / "proc", tmp_path / "share"
    status = stat_of(raw.lstat())
    for pid, (mount, inode) in {40: (7, status.inode), 41: (99, status.inode + 1), 42: (1, status.inode)}.items():
        fake_process(proc, pid, 0, raw if pid == 42 else share)
        (proc / str(pid) / "fdinfo" / "3").write_text(f"pos:\t0\nflags:\t0100001\nmnt_id:\t{mount}\nino:\t{inode}\n")
    fake_mounts(proc, DISK + "7 1 0:55 / /mnt/nas rw - nfs4 nas:/lab rw\n")
    touched: list[str] = []
    real = os.stat

    def noted(path: Any, **how: Any) -> os.stat_result:
        if str(path).endswith("fd/3"):
            touched.append(str(path))
        return real(path, **how)

    monkeypatch.setattr(writers, "PROC", proc)
    monkeypatch.setattr(os, "stat", noted)
    assert read_writers([status]).writer_of(status) == "process (pid 42)"
    assert touched == [f"{proc}/42/fd/3"]


SHARED = os.makedev(0, 55)


@pytest.mark.parametrize(
    ("text", "local", "share"),
    [
        (DISK, "", ""),
        (DISK + "7 1 0:55 / /mnt/nas rw - nfs4 nas:/lab rw\n", "", None),
        (DISK + "7 1 0:55 / /mnt/nas rw shared:3 master:1 - fuse.sshfs lab: rw\n", "", None),
        *((f"{DISK}7 1 0:55 / /mnt/a{end}b rw - nfs4 nas:/lab rw\n", "", None) for end in "\f\v\r\x85\u2028\x1c"),
        (DISK + "7 1 0:55 / /mnt/a\\012b rw - nfs4 nas:/lab rw", "", None),
        (DISK + "7 1 0:55 / /mnt/nas rw\n", None, None),
        (DISK + "seven 1 0:55 / /mnt/nas rw - nfs4 nas:/lab rw\n", None, None),
        (DISK + "7 1 55 / /mnt/nas rw - nfs4 nas:/lab rw\n", None, None),
        (DISK + "\n", None, None),
        ("", None, None),
    ],
)
def test_what_is_mounted(
    text: str, local: str | None, share: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the name of a mount, its share is known as one; what is no line leaves it open, and stops nothing."""
    fake_mounts(tmp_path, text)
    monkeypatch.setattr(writers, "PROC", tmp_path)
    found = read_writers([status(ME)])
    assert found.writer_of(status(found.uid)) == local
    assert found.writer_of(status(found.uid, SHARED)) == share


def test_without_a_list_of_mounts_nobody_can_be_said(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may lie on a share then, where other machines write."""
    monkeypatch.setattr(writers, "PROC", tmp_path)
    assert writer_of(raw) is None


def test_a_descriptor_that_cannot_be_looked_at_hides_no_other(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not answer for one open file: the process's other files are seen, and certainty is gone."""
    proc, status, real = tmp_path / "proc", stat_of(raw.lstat()), os.stat
    fake_process(proc, 40, 0, raw)
    (proc / "40" / "fd" / "2").symlink_to(tmp_path / "elsewhere")
    (proc / "40" / "fdinfo" / "2").write_text("pos:\t0\nflags:\t0100001\n")

    def refuse(path: Any, **how: Any) -> os.stat_result:
        if str(path).endswith("40/fd/2"):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, **how)

    monkeypatch.setattr(writers, "PROC", proc)
    monkeypatch.setattr(os, "stat", refuse)
    assert read_writers([status]).writer_of(status) == "process (pid 40)"
    (proc / "40" / "fd" / "3").unlink()
    assert read_writers([status]).writer_of(status) is None


def test_nobody_is_looked_at_where_no_file_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle PC has hundreds of processes; the answer is the same without a look at them."""
    monkeypatch.setattr(writers, "PROC", tmp_path / "not mounted")
    assert read_writers([]).available
    assert not read_writers([], visible=False).available
