"""When hints cannot be trusted, the watch says so: dead threads, a lost root, the kernel's limits, mounts."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_watch import FakeWatch
from hints import LIMIT_S, Heard
from short_queue import short_queue
from waiting import wait_until
from watchdog.observers.inotify import InotifyWatchGroup

from ingestd.service.limits import LIMITS, limits_message
from ingestd.service.watch import MISSES, Watch

# ---- health ---------------------------------------------------------------------------------------------------------


def test_a_healthy_watch_has_nothing_to_say(watch: Watch) -> None:
    """With as many watches as folders there is no reason, however often one asks."""
    assert [watch.check(2) for _ in range(2 * MISSES)] == [None] * 2 * MISSES
    assert watch.limited is None


def test_a_stop_while_an_event_comes_is_no_error(
    root: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its reader may be handing an event over when the watch is stopped, which watchdog logs as an error."""
    reading, stopped = threading.Event(), threading.Event()

    def event_when_stopped(_group: InotifyWatchGroup) -> object:
        reading.set()
        assert stopped.wait(LIMIT_S)
        return object()

    monkeypatch.setattr(InotifyWatchGroup, "read_event", event_when_stopped)
    monkeypatch.setattr(InotifyWatchGroup, "deactivate", lambda group: stopped.set())
    watch = Watch(root, on_hint=heard.on_hint, on_doubt=heard.on_doubt)
    watch.start()
    assert reading.wait(LIMIT_S)
    watch.stop()
    assert not caplog.records


def test_a_renamed_and_recreated_root_is_noticed(root: Path, watch: Watch, heard: Heard) -> None:
    """The kernel goes on telling of the old folder under the new one's name; the inode tells them apart."""
    root.rename(root.with_name("old"))
    assert "cannot be read" in (watch.check() or "")
    root.mkdir()
    assert "was replaced by another" in (watch.check() or "")
    watch.start()
    assert watch.check(1) is None
    (root / "new.csv").write_text("x")
    heard.until(lambda: "new.csv" in heard.hints)


def test_a_deleted_and_recreated_root_is_noticed(root: Path, watch: Watch, heard: Heard) -> None:
    """Even where the new folder got the old one's inode number, the ended reader tells."""
    shutil.rmtree(root)
    root.mkdir()
    wait_until(lambda: watch.check() is not None, "a doubt of the check")
    watch.start()
    assert watch.check(1) is None
    (root / "new.csv").write_text("x")
    heard.until(lambda: "new.csv" in heard.hints)


def test_an_exception_of_the_caller_is_told_by_check(root: Path, heard: Heard) -> None:
    """A hint that could not be handed over does not end the observer, and is not forgotten."""
    refused: list[str] = []

    def refuse(name: str) -> None:
        if name == "bad.csv":
            refused.append(name)
            raise ValueError("full")
        heard.on_hint(name)

    watch = Watch(root, on_hint=refuse, on_doubt=heard.on_doubt)
    watch.start()
    (root / "bad.csv").write_text("x")
    (root / "good.csv").write_text("x")
    heard.until(lambda: "good.csv" in heard.hints)
    assert refused
    assert watch.check() == "a hint was lost: ValueError('full')"
    watch.start()
    assert watch.check() is None
    watch.stop()


def test_a_dead_observer_is_told_by_check(
    root: Path, watch: Watch, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception inside watchdog ends its thread without a word; `check` finds it and `start` mends it."""
    monkeypatch.setattr(threading, "excepthook", lambda _died: None)
    assert watch._running is not None
    watch._running._observer.event_queue.put("no event at all")
    wait_until(lambda: watch.check() is not None, "a doubt of the check")
    assert watch.check() == "the observer of the kernel's events has died"
    watch.start()
    assert watch.check(2) is None
    (root / "a.csv").write_text("x")
    heard.until(lambda: "a.csv" in heard.hints)


@pytest.mark.parametrize("dies", ["queue", "emitter"])
def test_a_dead_reader_is_told_by_check(root: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, dies: str) -> None:
    """An exception in a thread that reads or passes on the kernel's events leaves the others alive and deaf."""
    monkeypatch.setattr(threading, "excepthook", lambda _died: None)

    def fail(_event: object) -> None:
        raise MemoryError

    assert watch._running is not None
    if dies == "queue":
        monkeypatch.setattr(watch._running._queue, "handle_event", fail)
    else:
        (emitter,) = watch._running._observer.emitters
        monkeypatch.setattr(emitter, "build_and_queue_event", fail)
    (root / "a.csv").write_text("x")
    wait_until(lambda: watch.check() is not None, "a doubt of the check")
    assert "the reader of the kernel's events has ended" in (watch.check() or "")


def test_unwatched_folders_are_told_after_some_checks_and_once(watch: Watch) -> None:
    """A scan that finds more folders than the kernel watches is believed at the third check, and told once."""
    answers = [watch.check(5) for _ in range(3 * MISSES)]
    assert answers == [None] * (MISSES - 1) + ["the kernel watches 2 of 5 folders"] + [None] * 2 * MISSES


def test_a_folder_that_appears_is_no_shortfall(root: Path, watch: Watch, heard: Heard) -> None:
    """Every folder event starts the count anew: the watch is placed a moment after the folder appears."""
    assert [watch.check(3) for _ in range(MISSES - 1)] == [None] * (MISSES - 1)
    (root / "new").mkdir()
    heard.until(lambda: heard.doubts)
    assert [watch.check(3) for _ in range(3 * MISSES)] == [None] * 3 * MISSES


# ---- the kernel's limits --------------------------------------------------------------------------------------------


def test_an_overflow_asks_for_a_scan(root: Path, heard: Heard) -> None:
    """When the kernel drops events, watchdog only logs it; the service is told, and hints come again after it."""
    watch = Watch(root, on_hint=heard.on_hint, on_doubt=heard.on_doubt)
    with short_queue(4):
        watch.start()
    deadline, number = time.monotonic() + LIMIT_S, 0
    while "the kernel's event queue overflowed" not in heard.doubts:
        assert time.monotonic() < deadline, "no overflow came"
        for _ in range(100):
            (root / f"{number}.csv").touch()
            number += 1
    after = root / "2025-09-23" / "after.csv"  # the rest of the burst may overflow once more, so it is written again
    wait_until(lambda: after.write_text("x") and "2025-09-23/after.csv" in heard.hints, "a hint after the overflow")
    assert watch.check(2) is None
    watch.stop()


NAMESPACE = ["unshare", "--user", "--map-root-user", sys.executable, "-c"]

UNDER_A_LIMIT = """
import sys, threading
from pathlib import Path
from ingestd.service.watch import MISSES, PROBE_EVERY, Watch
kind, root = sys.argv[1], Path(sys.argv[2])
limit = Path(f"/proc/sys/user/max_inotify_{kind}")
heard = threading.Event()
watch = Watch(root, on_hint=lambda name: heard.set(), on_doubt=lambda reason: None)
limit.write_text(sys.argv[3])
watch.start()
print("limited at start:", watch.limited is not None)
links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
print("kernel queues:", sum("inotify" in str(link.readlink()) for link in links))
print([watch.check(6) for _ in range(MISSES + 2)])
print(watch.limited)
limit.write_text("1000")
answers = [watch.check(6) for _ in range(PROBE_EVERY + 1)]
print([answer for answer in answers if answer])
watch.start()
print(watch.limited, watch.check(6))
(root / "d4" / "x.csv").write_text("x")
print(heard.wait(20))
watch.stop()
"""


@pytest.fixture
def namespace() -> list[str]:
    """The words that run Python in a user namespace, whose limits on inotify are its own."""
    try:
        subprocess.run(
            [*NAMESPACE, "open('/proc/sys/user/max_inotify_watches', 'r+')"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no user namespace may be made here, so the kernel's limits cannot be lowered for a test alone")
    return NAMESPACE


@pytest.mark.parametrize(
    ("kind", "limit", "at_start"), [("watches", "3", False), ("watches", "0", True), ("instances", "0", True)]
)
def test_a_limit_of_the_kernel_is_told_with_the_command_that_raises_it(
    root: Path, namespace: list[str], repository: Path, kind: str, limit: str, at_start: bool
) -> None:
    """Sub-folders, the root or the queue itself refused: no error, no restart, one message; picked up when raised.

    What was begun of a watch that cannot be placed is taken away: the queue would count against the same limits.
    """
    for number in range(4):
        (root / f"d{number + 1}").mkdir()
    done = subprocess.run(
        [*namespace, UNDER_A_LIMIT, kind, str(root), limit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    assert done.returncode == 0, done.stderr
    started, queues, checks, limited, raised, after, hint = done.stdout.splitlines()
    assert started == f"limited at start: {at_start}"
    assert queues == f"kernel queues: {int(not at_start)}"
    assert checks == str([None] * (MISSES + 2))
    assert f"sudo sysctl fs.inotify.max_user_{kind}=" in limited
    assert raised == str(["the kernel's limit on watched folders leaves room again"])
    assert after == "None None"
    assert hint == "True"


def test_the_message_of_a_limit_names_the_file_that_makes_it_last() -> None:
    """The advice is a command for now and one for good, with a number above today's."""
    message = limits_message("max_user_watches")
    value = int((LIMITS / "max_user_watches").read_text())
    advised = int(message.split("sysctl fs.inotify.max_user_watches=")[1].split("`")[0])
    assert advised > value
    assert "/etc/sysctl.d/60-ingestd.conf" in message


# ---- mounts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def share(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A file system that can be mounted at `point` and unmounted; needs root."""
    point = tmp_path / "share"
    point.mkdir()

    def mount() -> None:
        subprocess.run(["mount", "-t", "tmpfs", "ingestd-test", str(point)], check=True, capture_output=True)

    def unmount() -> None:
        subprocess.run(["umount", str(point)], check=True, capture_output=True)

    try:
        mount()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here: that needs root")
    yield SimpleNamespace(point=point, mount=mount, unmount=unmount)
    subprocess.run(["umount", str(point)], check=False, capture_output=True)


def test_an_unmounted_root_is_noticed_and_picked_up_again(share: SimpleNamespace, heard: Heard) -> None:
    """inotify is silent for ever when its file system goes; `check` says so, and a restart after a mount mends it."""
    watch = Watch(share.point, on_hint=heard.on_hint, on_doubt=heard.on_doubt)
    watch.start()
    share.unmount()
    heard.until(lambda: "a file system below it was unmounted" in heard.doubts)
    assert watch.check() is not None
    share.mount()
    assert watch.check() is not None
    watch.start()
    assert watch.check(1) is None
    (share.point / "a.csv").write_text("x")
    heard.until(lambda: "a.csv" in heard.hints)
    watch.stop()


def test_a_file_system_mounted_over_the_root_is_noticed(share: SimpleNamespace, heard: Heard) -> None:
    """The kernel says nothing when a share is mounted over the watched folder; the inode does."""
    share.unmount()
    watch = Watch(share.point, on_hint=heard.on_hint, on_doubt=heard.on_doubt)
    watch.start()
    assert watch.check(1) is None
    share.mount()
    assert "was replaced by another" in (watch.check(1) or "")
    watch.stop()


# ---- the fake -------------------------------------------------------------------------------------------------------


def test_the_fake_has_the_same_interface() -> None:
    """What the service's tests use instead takes the same words as the real watch."""
    for name in ("start", "stop", "check", "__init__"):
        real, fake = (inspect.signature(getattr(kind, name)).parameters for kind in (Watch, FakeWatch))
        assert list(real) == list(fake)
    assert FakeWatch(Path(), on_hint=print, on_doubt=print).limited is None
