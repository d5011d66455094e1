"""The lock between processes: one holder, named; freed when it dies, however it dies."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ingestd.errors import LockHeld, Retry
from ingestd.files import Holder, Lock
from ingestd.service.state import service_lock
from ingestd.settings import load_settings

HOLDER = """
import sys
from pathlib import Path
from ingestd.files import Lock
with Lock(Path(sys.argv[1])).held(5):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_told_who_holds_it(tmp_path: Path) -> None:
    """While another process holds the lock, taking or probing it is an error naming pid, host and file."""
    path = tmp_path / "_manifest" / "lock"
    with _holder(path) as holder:
        attempts: list[Callable[[], None]] = [lambda: Lock(path).acquire(0.01), Lock(path).probe]
        for attempt in attempts:
            with pytest.raises(LockHeld, match=rf"pid {holder.pid} on .+ holds this lock") as caught:
                attempt()
            assert caught.value.place == str(path)
            assert caught.value.next_step


def test_a_lock_may_say_what_it_guards(tmp_path: Path) -> None:
    """The service's lock tells that another service or a repair is at work, with its pid and host, and what to do."""
    lock = service_lock(load_settings(None, {"paths": {"data_root": tmp_path}}).layout)
    with _holder(lock.path) as holder, pytest.raises(LockHeld) as caught:
        lock.acquire(0.01)
    assert caught.value.message.startswith(f"another service or repair (pid {holder.pid} on ")
    assert caught.value.message.endswith(") is at work on this data root")
    assert "`ingestd status`" in caught.value.next_step


def test_a_lock_tells_its_holder_and_what_it_is_held_for(tmp_path: Path) -> None:
    """Pid, host and work of the process that holds it now; None when none does, whatever stands in the file."""
    lock = Lock(tmp_path / "lock", work="a test")
    with lock.held():
        assert Lock(lock.path).holder() == Holder(os.getpid(), socket.gethostname(), "a test")
    assert Lock(lock.path).holder() is None
    with Lock(lock.path).held():
        assert Lock(lock.path).holder() == Holder(os.getpid(), socket.gethostname(), "")
        lock.path.write_bytes(b"")
        assert Lock(lock.path).holder() == Holder()


def test_a_killed_holder_frees_it(tmp_path: Path) -> None:
    """SIGKILL of the holder frees the lock at once; the file stays."""
    path = tmp_path / "lock"
    with _holder(path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with Lock(path).held(5):
            assert path.read_text().startswith(f"pid {os.getpid()} on ")
    assert path.exists()


def test_a_waiting_process_gets_it_when_it_is_freed(tmp_path: Path) -> None:
    """Within the timeout, the lock is had as soon as its holder lets go."""
    path = tmp_path / "lock"
    with _holder(path) as holder:
        assert holder.stdin is not None
        holder.stdin.close()
        with Lock(path).held(30):
            pass


def test_it_is_freed_after_the_block_and_after_an_error(tmp_path: Path) -> None:
    """A lock can be taken again after its block, however the block ended; two locks on one file exclude each other."""
    lock, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    with pytest.raises(ZeroDivisionError), lock.held(1):
        raise ZeroDivisionError
    with lock.held(1), pytest.raises(LockHeld):
        other.acquire(0.0)
    other.probe()
    with other.held(1):
        pass


def test_readers_share_it_and_keep_a_holder_out(tmp_path: Path) -> None:
    """Two readers hold it at once; nobody takes it meanwhile; the file is not written; none is made for a reader."""
    path = tmp_path / "lock"
    with Lock(path).shared(0.0):
        assert not path.exists()
    path.write_text("pid 7 on it\n")
    with Lock(path).shared(0.0), Lock(path).shared(0.0), pytest.raises(LockHeld, match="pid 7 on it holds this lock"):
        Lock(path).acquire(0.01)
    assert path.read_text() == "pid 7 on it\n"
    with Lock(path).held(0.0):
        pass


def test_a_longer_name_of_an_earlier_holder_leaves_no_rest(tmp_path: Path) -> None:
    """The file names its present holder alone."""
    path = tmp_path / "lock"
    path.write_text("pid 4194304 on a-host-with-a-very-long-name-indeed-that-nobody-would-choose\n")
    with Lock(path).held(1):
        assert path.read_text().count("\n") == 1
        assert path.read_text().startswith(f"pid {os.getpid()} on ")


def test_a_full_disk_does_not_keep_it_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even the holder's name can be written, the lock works, and is free again after the block."""
    lock = Lock(tmp_path / "lock")

    def refuse(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "pwrite", refuse)
    with lock.held(1), pytest.raises(LockHeld, match="another process holds this lock"):
        Lock(tmp_path / "lock").acquire(0.0)
    with Lock(tmp_path / "lock").held(0.0):
        pass


@pytest.mark.parametrize("error", [OSError(errno.ESTALE, os.strerror(errno.ESTALE)), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fstat", "pread"])
def test_an_error_while_it_is_taken_leaves_it_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    """A process that lives on must not shut itself out: a lock that it does not know it holds is never freed."""
    errors, real = [error], getattr(os, call)

    def fail_once(*given: Any) -> Any:
        if errors:
            raise errors.pop()
        return real(*given)

    monkeypatch.setattr(os, call, fail_once)
    with suppress(KeyboardInterrupt), Lock(tmp_path / "lock").held(0.0):
        pass
    assert not errors
    with Lock(tmp_path / "lock").held(0.0):
        pass


def test_a_lock_that_the_file_system_cannot_give_is_a_retry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, or a folder that cannot be made, is the world's fault; nothing stays open."""

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(Retry, match="No locks available"):
        Lock(tmp_path / "lock").acquire(0.0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Retry):
        Lock(tmp_path / "file" / "lock").acquire(0.0)


def test_a_lock_deleted_while_it_is_held_is_noticed(tmp_path: Path) -> None:
    """Its holder finds out before it changes anything, and the next one holds the file that others find."""
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    with first.held(0.0):
        first.check()
        (tmp_path / "lock").unlink()
        with pytest.raises(Retry, match="this lock was deleted while it was held"):
            first.check()
        with second.held(0.0):
            second.check()
            with pytest.raises(Retry, match="deleted"):
                first.check()


def test_who_waited_for_a_deleted_lock_takes_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before the deletion, free after it: no lock any more, since others hold the file made since."""
    lock, real = Lock(tmp_path / "lock"), fcntl.flock
    calls: list[int] = []

    def deleted_meanwhile(descriptor: int, kind: int) -> None:
        real(descriptor, kind)
        if not calls:
            (tmp_path / "lock").unlink()
        calls.append(descriptor)

    monkeypatch.setattr("fcntl.flock", deleted_meanwhile)
    with lock.held(0.0):
        lock.check()
    assert len(calls) == 2
