"""The clockwork leaves the rest of the process alone."""

from __future__ import annotations

import logging
import threading

import pytest

from ingestd.service.messages import Message
from ingestd.service.schedule import make_scheduler
from ingestd.settings import Settings


def test_other_schedulers_keep_their_warnings() -> None:
    """Ours tells errors only; APScheduler's own logger, which others of the process use, is not touched."""
    library = logging.getLogger("apscheduler.scheduler")
    before = library.getEffectiveLevel()
    make_scheduler(Settings(), lambda _: None, lambda: None, 1.0)
    assert library.getEffectiveLevel() == before


def test_a_run_left_out_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """While a check takes longer than its interval, the runs left out are not logged one by one."""
    came, release, scans = threading.Event(), threading.Event(), threading.Semaphore(0)

    def check() -> None:
        came.set()
        release.wait(60)

    def put(_: Message) -> None:
        scans.release()

    settings = Settings(flags={"watch": {"rescan_s": 0.2}})  # type: ignore[call-arg]
    scheduler = make_scheduler(settings, put, check, 0.05)
    scheduler.start()
    try:
        assert came.wait(60)
        for _ in range(3):  # meanwhile the check was due several times
            assert scans.acquire(timeout=60)
    finally:
        release.set()
        scheduler.shutdown()
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
