"""Staging on a Dask cluster: a real scheduler and two worker processes on loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from waiting import wait_until

from ingestd.backfill.run import Options, backfill
from ingestd.errors import NoWorkers, Retry, UsageError
from ingestd.manifest.record import Event, Record
from ingestd.raw.procedures import Registry
from ingestd.raw.settling import Patience
from ingestd.settings import Settings, load_settings
from ingestd.stage.cluster import DaskEngine
from ingestd.stage.run import StageContext

pytest.importorskip("distributed", reason="the extra ingestd[dask] is not installed")
from distributed.cfexecutor import ClientExecutor  # an extra

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
LIMIT_S = 60


class Cluster:
    """A scheduler and its workers, as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scheduler = self._start("dask_scheduler", "--port", "0", "--no-dashboard")
        self.address = self._address()
        self.workers: list[subprocess.Popen[bytes]] = []
        for _ in range(2):
            self._add_worker()

    def _start(self, tool: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{tool}-{time.monotonic_ns()}.log").open("wb")
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{tool}", "--host", "127.0.0.1", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )

    def _address(self) -> str:
        (log,) = self.folder.glob("dask_scheduler-*.log")
        return wait_until(lambda: re.search(r"tcp://127\.0\.0\.1:\d+", log.read_text()), "the scheduler's address")[0]

    def _add_worker(self) -> None:
        arguments = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", f"worker-{len(self.workers)}")
        self.workers.append(self._start("dask_worker", self.address, *arguments))

    def wait_for_workers(self) -> None:
        """Wait until all workers have reported to the scheduler."""
        from distributed import Client

        with Client(  # type: ignore[no-untyped-call]  # the library has no types
            self.address, timeout=LIMIT_S, set_as_default=False
        ) as client:
            client.wait_for_workers(len(self.workers), timeout=LIMIT_S)

    def start_worker(self) -> None:
        """Start one more worker, and wait until it is known."""
        self._add_worker()
        self.wait_for_workers()

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.terminate()
        for process in (*self.workers, self.scheduler):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of two workers with one thread each."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    started = Cluster(folder)
    try:
        started.wait_for_workers()
        yield started
    finally:
        started.close()


def settings_for(data_root: Path, raw_root: Path, **stage: object) -> Settings:
    return load_settings(None, {"paths": {"data_root": data_root, "raw_root": raw_root}, "stage": stage})


@pytest.fixture
def many(tmp_path: Path, samples: Path) -> Path:
    """Sixty different runs: the sample runs, each with another start time in every copy."""
    root = tmp_path / "raw"
    for number in range(5):
        for path in sorted(samples.rglob("*.csv")):
            start = re.compile(rb"(?<=Start time: )\d")
            target = root / f"copy{number}" / path.relative_to(samples)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(start.sub(b"1%d" % number, path.read_bytes(), count=1))
            os.utime(target, (1_700_000_000, 1_700_000_000))
    return root


def test_a_cluster_makes_the_same_manifest_as_processes_here(tmp_path: Path, many: Path, cluster: Cluster) -> None:
    """Staged by two Dask workers, one of them killed on the way, the manifest has the same bytes as staged locally."""
    local = settings_for(tmp_path / "local", many, workers=2)
    remote = settings_for(tmp_path / "remote", many, engine="dask", scheduler=cluster.address, batch_files=2)
    victim = threading.Event()

    def kill_one(record: Record) -> None:
        if record.event is Event.INGESTED and not victim.is_set():
            victim.set()
            cluster.workers[0].send_signal(signal.SIGKILL)

    here = backfill(local, Options(clock=lambda: NOON))
    there = backfill(remote, Options(clock=lambda: NOON, on_record=kill_one))
    assert victim.is_set()
    assert here.events == there.events
    assert there.failed == []
    assert remote.layout.manifest_path.read_bytes() == local.layout.manifest_path.read_bytes()
    assert pl.read_parquet(remote.layout.manifest_path).height == here.events[Event.INGESTED] > 50


def test_a_scheduler_that_goes_away_blames_no_file(
    tmp_path: Path, many: Path, cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    """The backfill ends with that as its one error; what was committed is in the manifest and in its histories."""
    remote = settings_for(tmp_path / "remote", many, engine="dask", scheduler=cluster.address, batch_files=1)

    def kill(_: Record) -> None:
        cluster.scheduler.kill()

    report = backfill(remote, Options(clock=lambda: NOON, on_record=kill))
    assert isinstance(report.stopped_by, NoWorkers)
    assert "the Dask cluster was lost" in report.stopped_by.message
    assert report.stopped_by.place == cluster.address
    assert report.failed == []
    assert capfd.readouterr().err == ""  # the library has tracebacks to print
    done = report.events[Event.INGESTED]
    assert done == pl.read_parquet(remote.layout.manifest_path).height >= 1
    assert list(remote.layout.histories_dir.iterdir())


@pytest.mark.parametrize("lost", [1, 100])
def test_an_answer_that_the_library_loses_is_asked_for_again(
    tmp_path: Path, many: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """A worker that is killed at the wrong moment has distributed make an error of its answer; two are a fault."""
    real, begun = ClientExecutor.submit, 0

    def submit(executor: ClientExecutor, *call: object) -> Future[object]:
        nonlocal begun
        begun += 1
        if begun > lost:
            future: Future[object] = real(executor, *call)  # type: ignore[no-untyped-call]  # the library has no types
            return future
        mistaken: Future[object] = Future()
        mistaken.set_exception(ValueError("not enough values to unpack (expected 3, got 2)"))
        return mistaken

    monkeypatch.setattr(ClientExecutor, "submit", submit)
    settings = settings_for(tmp_path / "data", many, engine="dask", scheduler=cluster.address, batch_files=10)
    if lost == 1:
        report = backfill(settings, Options(clock=lambda: NOON))
        assert (report.failed, report.left) == ([], 0)
        assert report.events[Event.INGESTED] == pl.read_parquet(settings.layout.manifest_path).height > 50
    else:
        with pytest.raises(ValueError, match="not enough values"):
            backfill(settings, Options(clock=lambda: NOON))


def test_a_worker_that_does_not_see_the_data_root_is_named(tmp_path: Path, samples: Path, cluster: Cluster) -> None:
    """Where a worker cannot read the raw root, the engine does not open, and the message says what to mount."""
    context = StageContext(
        raw_root=tmp_path / "elsewhere",
        temporary=tmp_path,
        registry=Registry.load(),
        zone=ZoneInfo("UTC"),
        patience=Patience(settle_s=0.5, quiet_s=30.0),
        max_file_bytes=1,
    )
    with (
        pytest.raises(UsageError, match=r"cannot read .*elsewhere") as error,
        DaskEngine(context, scheduler=cluster.address),
    ):
        pytest.fail("the engine opened")
    assert "mount the data root" in error.value.next_step


def test_a_worker_without_this_ingestd_is_named(
    tmp_path: Path, samples: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with another version of ingestd, or with none, is an error of the set-up, before anything is staged."""
    settings = settings_for(tmp_path / "data", samples, engine="dask", scheduler=cluster.address)
    with monkeypatch.context() as newer:
        newer.setattr("ingestd.stage.cluster.__version__", "99.0")
        with pytest.raises(UsageError, match=r"runs ingestd [0-9.]+, and this is ingestd 99\.0"):
            backfill(settings)
    bare = tmp_path / "bare" / "ingestd"
    bare.mkdir(parents=True)
    (bare / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(bare.parent))
    cluster.start_worker()
    with pytest.raises(UsageError, match=r"cannot run ingestd \(.*No module named") as error:
        backfill(settings)
    assert "install the same version" in error.value.next_step


def test_a_scheduler_that_does_not_answer_is_named(
    tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a scheduler at the address the error names it, and nothing is staged."""
    monkeypatch.setattr("ingestd.stage.cluster.CONNECT_S", 1)
    settings = settings_for(tmp_path / "data", samples, engine="dask", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(Retry, match="does not answer") as error:
        backfill(settings)
    assert error.value.place == "tcp://127.0.0.1:9"


def test_the_dask_engine_needs_a_scheduler(tmp_path: Path, samples: Path) -> None:
    """Asked for the Dask engine without an address, the backfill says which option is missing."""
    with pytest.raises(UsageError, match="needs a scheduler"):
        backfill(settings_for(tmp_path / "data", samples, engine="dask"))
