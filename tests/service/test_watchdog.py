"""When the watchdog is fed and when not: worker, watch and scheduler must all be at work."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Service
from waiting import wait_until

from ingestd.errors import Corrupt
from ingestd.ingest.commit import Ingest, opened, utc_now
from ingestd.service import daemon as life
from ingestd.service import worker as turns
from ingestd.service.daemon import Daemon, Exit, Signals
from ingestd.service.notify import Notifier
from ingestd.service.state import service_lock
from ingestd.service.worker import Worker
from ingestd.settings import load_settings


def test_the_watchdog_is_fed_by_a_living_service(tmp_path: Path) -> None:
    """With WATCHDOG_USEC set, WATCHDOG=1 comes again and again while nothing happens."""
    service = Service(tmp_path)
    with service.start(environment={"WATCHDOG_USEC": "2000000"}):
        service.until(lambda: service.heard().count("WATCHDOG=1") >= 3, "three signs of life")
        assert service.stop() == 0


class Stuck:
    """A service within this process whose worker can be held up, and the systemd that listens to it."""

    def __init__(self, ingest: Ingest, listener: socket.socket, address: str) -> None:
        self.listener = listener
        self.signals = Signals()
        self.worker = Worker(ingest)
        self.held = threading.Event()
        self.release = threading.Event()
        notifier = Notifier(address, watchdog_s=0.05)
        self.daemon = Daemon(
            ingest.settings, self.worker, self.signals, notifier, utc_now, lock=service_lock(ingest.layout)
        )
        self._turn = self.worker.turn
        self.worker.turn = self._maybe_stuck  # type: ignore[method-assign]  # the fault under test
        self.codes: list[Exit] = []
        self.thread = threading.Thread(target=lambda: self.codes.append(self.daemon.run()))

    def _maybe_stuck(self, wait_s: float) -> None:
        if self.held.is_set():
            self.release.wait(60)
        self._turn(wait_s)

    def is_ready(self) -> bool:
        """Hear one word more, if there is one, and tell whether it was READY=1."""
        with contextlib.suppress(BlockingIOError):
            return b"READY=1" in self.listener.recv(8192)
        return False

    def fed(self) -> int:
        """Count the WATCHDOG=1 that came since the last call."""
        count = 0
        while True:
            try:
                count += b"WATCHDOG=1" in self.listener.recv(8192)
            except BlockingIOError:
                return count

    def wait_for_silence(self) -> None:
        """Wait until no WATCHDOG=1 came for two seconds."""
        silent_since = [time.monotonic()]

        def silent() -> bool:
            if self.fed():
                silent_since[0] = time.monotonic()
            return time.monotonic() - silent_since[0] > 2.0

        wait_until(silent, "no sign of life for two seconds")


@pytest.fixture
def unstarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    """A service in this process, not started yet, that believes worker or scheduler dead after a second."""
    monkeypatch.setattr(life, "STUCK_S", 0.5)
    monkeypatch.setattr(life, "STATE_EVERY_S", 0.05)
    monkeypatch.setattr(life, "CHECK_S", 0.05)
    monkeypatch.setattr(turns, "IDLE_TURN_S", 0.1)
    (tmp_path / "data" / "01_raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    flags = {"manifest": {"lock_timeout_s": 0.5}, "watch": {"rescan_s": 0.2}, "service": {"stop_s": 20.0}}
    settings = load_settings(flags=flags)
    address = f"@ingestd-stuck-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind("\0" + address[1:])
        with opened(settings) as ingest:
            found = Stuck(ingest, listener, address)
            yield found
            found.release.set()
            found.signals.stop.set()
            found.thread.join(60)
            assert not found.thread.is_alive()


@pytest.fixture
def stuck(unstarted: Stuck) -> Stuck:
    """The same, running."""
    unstarted.thread.start()
    return unstarted


def test_ready_does_not_wait_for_the_first_scan(unstarted: Stuck) -> None:
    """A worker that did not come to its first scan yet does not keep systemd waiting."""
    unstarted.held.set()
    unstarted.thread.start()
    wait_until(unstarted.is_ready, "READY=1")
    assert unstarted.worker.folders is None, "no scan was done before"
    unstarted.held.clear()
    unstarted.release.set()
    wait_until(lambda: unstarted.worker.folders == 1, "the first scan")


def test_the_watchdog_is_not_fed_for_a_stuck_worker(stuck: Stuck) -> None:
    """A worker that hangs (a dead share) stops WATCHDOG=1, though every other thread lives; systemd then restarts."""
    wait_until(lambda: stuck.fed() > 0, "signs of life before")
    stuck.held.set()
    stuck.wait_for_silence()
    stuck.held.clear()
    stuck.release.set()
    wait_until(lambda: stuck.fed() > 0, "signs of life again")


@pytest.mark.parametrize("fault", ["the scheduler runs nothing", "the watch is checked no more"])
def test_the_watchdog_is_not_fed_without_checks(stuck: Stuck, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that stands still, or a check of the watch that hangs, stops WATCHDOG=1, though the worker lives."""
    wait_until(lambda: stuck.fed() > 0, "signs of life before")
    if fault == "the scheduler runs nothing":
        stuck.daemon._scheduler.pause()
    else:
        monkeypatch.setattr(stuck.daemon._watch, "check", lambda _: stuck.release.wait(60) and None)
    stuck.wait_for_silence()
    if fault == "the scheduler runs nothing":
        stuck.daemon._scheduler.resume()
    stuck.release.set()
    wait_until(lambda: stuck.fed() > 0, "signs of life again")


def test_a_watch_that_dies_is_replaced_and_the_watchdog_fed(stuck: Stuck) -> None:
    """A dead observer needs no restart of the service: the next check places another, and signs of life go on."""
    wait_until(lambda: stuck.fed() > 0, "signs of life before")
    watch = stuck.daemon._watch
    assert watch is not None
    before = watch._running
    assert before is not None
    before._observer.stop()
    wait_until(lambda: watch._running not in {None, before}, "another observer")
    for _ in range(3):
        wait_until(lambda: stuck.fed() > 0, "signs of life after it")


def test_jobs_do_not_pile_up_on_a_stuck_worker(stuck: Stuck) -> None:
    """The scheduler's jobs only put messages on the queue: none runs late, and one scan serves all that asked."""
    wait_until(lambda: stuck.fed() > 0, "it runs")
    stuck.held.set()
    wait_until(lambda: stuck.worker.inbox.qsize() >= 10, "ten scans asked for meanwhile")
    threads = [thread.name for thread in threading.enumerate()]
    stuck.held.clear()
    stuck.release.set()
    wait_until(lambda: stuck.worker.inbox.qsize() <= 1, "all taken in at once")
    assert len(threads) < 25, threads


@pytest.mark.parametrize(
    ("error", "code"),
    [(ZeroDivisionError(), Exit.FAILED), (Corrupt("damaged", place="wal", next_step="repair"), Exit.COULD_NOT_RUN)],
    ids=["ours", "damage"],
)
def test_a_dead_worker_ends_the_service(stuck: Stuck, error: Exception, code: Exit) -> None:
    """An error of ingestd itself ends it with exit code 1: systemd starts it anew. Damage needs a person: code 2."""

    def fail(wait_s: float) -> None:
        raise error

    stuck.worker.turn = fail  # type: ignore[method-assign]  # the fault under test
    wait_until(lambda: stuck.codes == [code], "its exit code")
