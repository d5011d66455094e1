"""How `ingestd run` stops: within its limit, whatever hangs, and nothing is lost by it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Service, put

from ingestd.errors import LockHeld
from ingestd.files import Lock
from ingestd.manifest.store import manifest_lock
from ingestd.service.daemon import Exit
from ingestd.service.state import service_lock
from ingestd.stage.workspace import SWEEP_LOCK_NAME

MANY = 2000 if os.environ.get("INGESTD_TEST_FULL_LOAD") else 1000
"""Files copied in while the service is stopped."""


@pytest.mark.timeout(300)
def test_sigterm_under_load(tmp_path: Path) -> None:
    """While many files are copied in: exit 0 within `stop_s`, the table alone holds all that was ingested."""
    with Service(tmp_path, service={"stop_s": 30.0}) as service:
        put(tmp_path / "elsewhere", 0, MANY)
        with subprocess.Popen(["cp", "-r", tmp_path / "elsewhere", service.raw / "day"]) as copying:
            service.until(lambda: len(service.lines("ingested")) >= 100, "some are ingested")
            began = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - began < 30.0
            ingested = {line["source_file"] for line in service.lines("ingested")}
            assert service.compacted() == ingested
            assert len(ingested) < MANY, "it stopped before all was done"
            histories = {name for chip in range(60, 65) for name in service.history(f"Alisson{chip}")}
            assert histories == ingested
            assert copying.wait(60) == 0
        service.start()
        service.until(lambda: len(service.live_names()) == MANY, "the rest")
        assert service.stop() == 0
        assert len(service.rows()) == MANY
        assert not service.lines("rejected")
        service.check_whole(deep=False)


@contextlib.contextmanager
def heeded(*numbers: signal.Signals) -> Iterator[None]:
    """Have a service begun in the block heed these signals; it inherits what whoever runs the tests ignores."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_second_sigterm_ends_it_at_once(tmp_path: Path, first: signal.Signals) -> None:
    """It does not wait for what is in hand; nothing is lost by it. After a closed terminal it takes two."""
    service = Service(tmp_path, service={"stop_s": 300.0}, manifest={"lock_timeout_s": 200.0})
    with heeded(first):
        service.start()
    with service:
        names = put(service.raw, 0, 300)
        service.until(lambda: service.lines("ingested"), "the first batch")
        with manifest_lock(service.layout).held():  # which the stop waits for
            service.send(first)
            service.until(lambda: service.lines("stopping"), "it stops")
            if first is signal.SIGHUP:
                service.send(signal.SIGINT)
            service.send(signal.SIGTERM)
            assert service.ended() in {128 + signal.SIGINT, 128 + signal.SIGTERM}  # two that come at once have no order
        known = service.live_names()
        service.start()
        service.until(lambda: service.live_names() == names, "all")
        assert known <= service.live_names()
        assert service.stop() == 0
        assert len(service.rows()) == 300
        service.check_whole()


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGHUP, signal.SIGHUP), (signal.SIGHUP, signal.SIGTERM), (signal.SIGTERM, signal.SIGHUP)],
)
def test_a_closed_terminal_that_says_so_twice_is_one_stop(
    tmp_path: Path, first: signal.Signals, second: signal.Signals
) -> None:
    """Kernel and shell both send SIGHUP, the end of a session SIGTERM besides: what is in hand is finished."""
    service = Service(tmp_path)
    with heeded(signal.SIGHUP):
        service.start()
    with service:
        names = put(service.raw, 0, 3)
        service.until(lambda: service.live_names() == names, "the runs")
        with manifest_lock(service.layout).held():
            service.send(first)
            service.until(lambda: service.lines("stopping"), "it stops")
            service.send(second)
        assert service.ended() == 0
        assert service.compacted() == names
        assert [line["signal"] for line in service.lines("stopping")] == [first.name]


HANG = """
import sys, time
from pathlib import Path
from ingestd.__main__ import main
from ingestd.service.watch import Watch
from ingestd.service.worker import Worker

look, hung, turn = Watch._root_trouble, Path("hung"), Worker.turn
def hang(watch):
    while Path("hang").exists():
        hung.touch()
        time.sleep(0.05)
    return look(watch)

def fail(worker, wait_s):
    if Path("fail").exists():
        raise ZeroDivisionError
    turn(worker, wait_s)

Watch._root_trouble, Worker.turn = hang, fail
del sys.argv[1:4]
sys.exit(main())
"""


@contextlib.contextmanager
def hung(service: Service) -> Iterator[set[str]]:
    """Run the service with some runs staged and a check of the watch that hangs (a dead share), for the block."""
    with service.start(prefix=(sys.executable, "-c", HANG)):
        names = put(service.raw, 0, 3)
        service.until(lambda: service.live_names() == names, "the runs")
        (service.root / "hang").touch()
        service.until((service.root / "hung").exists, "a check that hangs")
        yield names


def test_a_stop_does_not_wait_for_a_folder_that_answers_no_more(tmp_path: Path) -> None:
    """The log is compacted while a check of the watch still hangs, which then ends as any other."""
    service = Service(tmp_path, service={"stop_s": 600.0})
    with hung(service) as names:
        service.send(signal.SIGTERM)
        service.until(lambda: service.layout.manifest_path.exists() and service.compacted() == names, "a compaction")
        (tmp_path / "hang").unlink()
        assert service.ended() == 0


def test_a_stop_ends_in_time_whatever_hangs(tmp_path: Path) -> None:
    """A check of the watch that hangs for ever is left after `stop_s`, and it is told."""
    service = Service(tmp_path, service={"stop_s": 1.0})
    with hung(service):
        began = time.monotonic()
        assert service.stop() == Exit.FAILED
        assert time.monotonic() - began >= 1.0
        assert service.lines("stop_took_too_long")


def test_a_failure_ends_it_in_time_whatever_hangs(tmp_path: Path) -> None:
    """The limit of a stop holds for an end that nobody asked for: systemd, or a person, starts it anew."""
    service = Service(tmp_path, service={"stop_s": 1.0})
    with hung(service):
        (tmp_path / "fail").touch()
        assert service.ended() == Exit.FAILED
        assert len(service.lines("failed")) == 1
        assert service.lines("stop_took_too_long")


def fill(pipe: Path) -> int:
    """Fill a pipe to its last byte; return a descriptor that keeps it so."""
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"x" * 4096)
    return descriptor


def drained(pipe: int) -> bytes:
    """Read all that is in a pipe."""
    found = b""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(pipe, 1 << 16):
            found += data
    return found


def filed(service: Service, event: str) -> list[dict[str, Any]]:
    """The lines of one event in the log file."""
    lines = [json.loads(line) for line in service.layout.log_file.read_text("utf-8").splitlines()]
    return [line for line in lines if line["event"] == event]


def test_a_log_that_nobody_reads_holds_up_nothing(tmp_path: Path) -> None:
    """With a stderr that takes no line more, runs are staged and a stop is a stop; the file has every line."""
    os.mkfifo(tmp_path / "pipe")
    service = Service(tmp_path)
    with service.start(prefix=("sh", "-c", 'exec "$0" "$@" 2<>pipe')):
        names = put(service.raw, 0, 3)
        service.until(lambda: service.live_names() == names, "the runs")
        pipe = fill(tmp_path / "pipe")
        names |= put(service.raw, 3, 3)
        service.until(lambda: service.live_names() == names, "runs whose log lines nobody takes")
        service.until(lambda: filed(service, "log_not_written"), "the file to tell of it")
        lost = filed(service, "log_not_written")[0]
        assert (lost["problem"], lost["place"]) == ("nobody reads it", "the stream")
        drained(pipe)
        names |= put(service.raw, 6, 1)
        service.until(lambda: b'"left_out": ' in drained(pipe), "the first line that is read again")
        os.close(fill(tmp_path / "pipe"))
        service.until(lambda: service.live_names() == names, "a run after that")
        assert service.stop() == 0
        assert service.compacted() == names
        assert {line["source_file"] for line in filed(service, "ingested")} == names
        os.close(pipe)


def test_the_last_word_of_a_stop_is_in_the_file_though_nobody_reads_the_stream(tmp_path: Path) -> None:
    """A stop that took too long ends the process at once: why stands in the file before the stream is waited for."""
    os.mkfifo(tmp_path / "pipe")
    service = Service(tmp_path, service={"stop_s": 1.0})
    with (
        Lock(service.layout.temporary_root / SWEEP_LOCK_NAME).held(),
        service.start(prefix=("sh", "-c", 'exec "$0" "$@" 2<>pipe'), ready=False),
    ):
        service.until(lambda: is_held(service_lock(service.layout)), "the start")
        pipe = fill(tmp_path / "pipe")
        assert service.stop() == Exit.FAILED
        assert filed(service, "stop_took_too_long")
        os.close(pipe)


def test_a_stop_keeps_its_limit_during_the_start(tmp_path: Path) -> None:
    """A start that waits for another process ends within `stop_s` as well."""
    service = Service(tmp_path, service={"stop_s": 1.0})
    with Lock(service.layout.temporary_root / SWEEP_LOCK_NAME).held(), service.start(ready=False):
        service.until(lambda: is_held(service_lock(service.layout)), "the start")
        began = time.monotonic()
        assert service.stop() == Exit.FAILED
        assert time.monotonic() - began < 20.0
        assert service.lines("stop_took_too_long")


def is_held(lock: Lock) -> bool:
    """Tell whether another process holds a lock."""
    try:
        lock.probe()
    except LockHeld:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["Ctrl-C", "terminal-closed"])
def test_whoever_ends_it_by_its_terminal_stops_it(tmp_path: Path, number: signal.Signals) -> None:
    """SIGINT compacts and ends with exit code 0, as SIGTERM does; so does SIGHUP, which a closed terminal sends."""
    service = Service(tmp_path)
    with heeded(number):
        service.start()
    with service:
        names = put(service.raw, 0, 3)
        service.until(lambda: service.live_names() == names, "the runs")
        service.send(number)
        assert service.ended() == 0
        assert service.compacted() == names


def test_under_nohup_a_closed_terminal_is_no_stop(tmp_path: Path) -> None:
    """SIGHUP that is ignored at the start stays so: the service stages what comes after it."""
    with Service(tmp_path).start(prefix=("nohup",)) as service:
        service.send(signal.SIGHUP)
        names = put(service.raw, 0, 1)
        service.until(lambda: service.live_names() == names, "a run after the signal")
        assert service.stop() == 0
