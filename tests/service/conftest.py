"""What tests of the service share: a raw root, a watch that stands on it, a log, an opened data root."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hints import Heard
from logged import MOMENT, Clock, Start
from turning import QUICK
from waiting import wait_until

from ingestd.ingest.commit import Ingest, opened
from ingestd.service.logs import Logs, configure_logs
from ingestd.service.watch import Watch
from ingestd.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def ended_threads() -> Iterator[None]:
    """No thread that a test began outlives it: it would log, and change files, in the middle of another."""
    before = set(threading.enumerate())
    yield
    wait_until(lambda: before.issuperset(threading.enumerate()), "every thread to end")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A raw root with one day folder."""
    (tmp_path / "01_raw" / "2025-09-23").mkdir(parents=True)
    return tmp_path / "01_raw"


@pytest.fixture
def heard() -> Heard:
    """What the watch under test said."""
    return Heard()


@pytest.fixture
def watch(root: Path, heard: Heard) -> Iterator[Watch]:
    """A watch that stands."""
    watch = Watch(root, on_hint=heard.on_hint, on_doubt=heard.on_doubt)
    watch.start()
    yield watch
    watch.stop()


@pytest.fixture
def start() -> Iterator[Start]:
    """Configure the log into a text stream; undone at the end."""
    started: list[Logs] = []

    def begin(
        *,
        level: str = "info",
        file: Path | None = None,
        journal: bool = False,
        terminal: bool = False,
        max_bytes: int | None = None,
        stream: Any = None,
        below: Path | None = None,
        raw_root: Path | None = None,
        typed: Callable[[str], str] = str,
    ) -> tuple[Logs, io.StringIO, Clock]:
        stream, clock = stream or io.StringIO(), Clock()
        logs = configure_logs(
            level=level,
            file=file,
            stream=stream,
            journal=journal,
            terminal=terminal,
            zone=ZoneInfo("America/Santiago"),
            max_bytes=max_bytes,
            below=below,
            raw_root=raw_root,
            typed=typed,
            wall=lambda: MOMENT,
            clock=clock,
        )
        started.append(logs)
        return logs, stream, clock

    yield begin
    for logs in reversed(started):
        logs.close()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a data root in this process, quick to retry."""
    (tmp_path / "data" / "01_raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return load_settings(flags={"service": QUICK, "events": {"keep_days": 30}, "settle": {"settle_s": 0.05}})


@pytest.fixture
def ingest(settings: Settings) -> Iterator[Ingest]:
    """The data root, opened."""
    with opened(settings) as found:
        yield found
