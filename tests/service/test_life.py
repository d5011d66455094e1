"""The life of `ingestd run`: how it starts, says how it is, stops, dies and starts again; one a data root."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from measurement import BROKEN, Measurement
from running import Service, put, run_of

from ingestd.errors import LockHeld
from ingestd.files import Lock
from ingestd.manifest.store import manifest_lock
from ingestd.service.daemon import Exit
from ingestd.service.state import service_lock
from ingestd.stage.placing import NOTE_NAME
from ingestd.stage.workspace import SWEEP_LOCK_NAME

ONE = Measurement()
MANY = 2000 if os.environ.get("INGESTD_TEST_FULL_LOAD") else 1000
"""Files copied in while the service is stopped."""


# ---- starting -------------------------------------------------------------------------------------------------------


def test_ready_comes_when_the_watch_stands(tmp_path: Path) -> None:
    """At READY every folder of an archive is watched: no file made after it depends on a scan."""
    service = Service(tmp_path, watch={"rescan_s": 86400.0})
    folders = 3000
    for n in range(folders):
        (service.raw / f"{n // 100}" / f"{n}").mkdir(parents=True)
    put(service.raw, 0, 1)
    with service:
        fdinfo = Path(f"/proc/{service.pid}/fdinfo")
        watches = 0
        for number in fdinfo.iterdir():
            with contextlib.suppress(FileNotFoundError):
                watches += number.read_text().count("inotify wd:")
        (service.raw / "It_9.csv").write_bytes(run_of(9))
        assert watches >= folders
        service.until(lambda: service.live_names() == {"It_0.csv", "It_9.csv"}, "both runs")
        assert service.stop() == 0


def test_systemd_is_told_in_plain_words(tmp_path: Path) -> None:
    """READY with what is watched, STATUS while it works, STOPPING at the end; the same sentence is in `status`."""
    with Service(tmp_path) as service:
        assert any(word.startswith(f"STATUS=watching {service.raw} by inotify") for word in service.heard())
        queued = service.raw / "It_2.csv"
        queued.write_bytes(ONE.but(rows=0).data)
        with (service.raw / "It_1.csv").open("wb") as file:
            file.write(ONE.data)
            file.flush()
            service.until(lambda: "STATUS=watching; 1 file not over yet" in service.heard(), "a running file is told")
            service.until(lambda: service.status().service.doing == "watching; 1 file not over yet", "status agrees")
        service.until(lambda: service.live_names() == {"It_1.csv"}, "the run")
        service.until(lambda: service.heard()[-1] == "STATUS=watching", "rest is told")
        assert service.stop() == 0
        assert "STOPPING=1" in service.heard()


# ---- stopping -------------------------------------------------------------------------------------------------------


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


def test_a_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    """It does not wait for what is in hand; nothing is lost by it."""
    with Service(tmp_path) as service:
        names = put(service.raw, 0, 300)
        service.until(lambda: service.lines("ingested"), "the first batch")
        service.send(signal.SIGTERM)
        service.send(signal.SIGTERM)
        assert service.ended() in {0, 128 + signal.SIGTERM}
        known = service.live_names()
        service.start()
        service.until(lambda: service.live_names() == names, "all")
        assert known <= service.live_names()
        assert service.stop() == 0
        assert len(service.rows()) == 300
        service.check_whole()


def test_a_stop_does_not_wait_for_a_folder_that_answers_no_more(tmp_path: Path) -> None:
    """A check of the watch that hangs (a dead share) holds up no stop: the log is compacted, and `stop_s` is kept."""
    hang = """
import sys, time
from pathlib import Path
from ingestd.__main__ import main
from ingestd.service.watch import Watch

look, hung = Watch._root_trouble, Path("hung")
def hang(watch):
    while Path("hang").exists():
        hung.touch()
        time.sleep(0.05)
    return look(watch)

Watch._root_trouble = hang
del sys.argv[1:4]
sys.exit(main())
"""
    service = Service(tmp_path, service={"stop_s": 3.0})
    with service.start(prefix=(sys.executable, "-c", hang)):
        names = put(service.raw, 0, 3)
        service.until(lambda: service.live_names() == names, "the runs")
        (tmp_path / "hang").touch()
        service.until((tmp_path / "hung").exists, "a check that hangs")
        began = time.monotonic()
        assert service.stop() == Exit.FAILED
        assert time.monotonic() - began > 2.0
        assert service.lines("stop_took_too_long")
        assert service.compacted() == names


def fill(pipe: Path) -> int:
    """Fill a pipe to its last byte; return a descriptor that keeps it so."""
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"x" * 4096)
    return descriptor


def chips_told(service: Service) -> set[str]:
    """The chips whose histories the log file tells of; the line went to stderr before."""
    lines = [json.loads(line) for line in service.layout.log_file.read_text("utf-8").splitlines()]
    return {chip for line in lines if line["event"] == "histories" for chip in line["chips"]}


@pytest.mark.parametrize("hangs", ["the worker", "the stop"])
def test_a_stop_does_not_wait_for_a_log_that_nobody_reads(tmp_path: Path, hangs: str) -> None:
    """A stderr that takes no line more holds up the worker or the stop; `stop_s` is kept, and nothing is lost."""
    os.mkfifo(tmp_path / "pipe")
    service = Service(tmp_path, service={"stop_s": 3.0})
    with service.start(prefix=("sh", "-c", 'exec "$0" "$@" 2<>pipe')):
        names = put(service.raw, 0, 3)
        service.until(lambda: service.live_names() == names, "the runs")
        chips = {f"Alisson{chip}" for chip in (60, 61, 62)}
        service.until(lambda: chips_told(service) == chips, "the last line about them")
        full = fill(tmp_path / "pipe")
        if hangs == "the worker":
            names |= put(service.raw, 3, 1)
            service.until(lambda: service.live_names() == names, "a run whose log line nobody takes")
        began = time.monotonic()
        assert service.stop() == Exit.FAILED
        assert 2.0 < time.monotonic() - began < 20.0
        os.close(full)
        if hangs == "the stop":
            assert service.compacted() == names, "the worker was not asked to end first"
        service.start()
        service.until(lambda: all(service.history(f"Alisson{chip}") for chip in (60, 61, 62)), "histories")
        assert service.live_names() == names
        assert service.stop() == 0
        service.check_whole()


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


def test_interrupting_with_ctrl_c_is_a_stop(tmp_path: Path) -> None:
    """SIGINT compacts and ends with exit code 0, as SIGTERM does."""
    with Service(tmp_path) as service:
        names = put(service.raw, 0, 3)
        service.until(lambda: service.live_names() == names, "the runs")
        service.send(signal.SIGINT)
        assert service.ended() == 0
        assert service.compacted() == names


# ---- dying ----------------------------------------------------------------------------------------------------------


def _ingested(service: Service, runs: int) -> Callable[[], bool]:
    return lambda: len(service.lines("ingested")) >= runs


def test_killed_again_and_again(tmp_path: Path) -> None:
    """SIGKILL five times while 400 files come in: nothing ingested is lost, nothing stands twice, no hand is needed."""
    with Service(tmp_path) as service:
        names = put(service.raw, 0, 400)
        known: set[str] = set()
        for round_ in range(5):
            goal = min(400, 40 * (round_ + 1))
            service.until(_ingested(service, goal), f"{goal} ingested")
            service.kill()
            now = service.live_names()
            assert known <= now, "an ingested run is lost"
            logged = {line["source_file"] for line in service.lines("ingested")}
            assert logged <= now, "the log told of a run that is not in the manifest"
            known = now
            service.start()
        service.until(lambda: service.live_names() == names, "all runs")
        service.until(
            lambda: {name for chip in range(60, 65) for name in service.history(f"Alisson{chip}")} == names, "histories"
        )
        assert service.stop() == 0
        assert len(service.rows()) == 400
        temporary = [path for path in service.layout.temporary_root.iterdir() if path.is_dir()]
        assert not temporary, "what a killed process left was not cleared away"
        service.check_whole()


def test_histories_follow_after_a_kill(tmp_path: Path) -> None:
    """Killed between the record and the history, the next start writes the history though no new run comes."""
    with Service(tmp_path, histories={"debounce_s": 30.0}) as service:
        names = put(service.raw, 0, 2)
        service.until(lambda: service.live_names() == names, "the runs")
        service.kill()
        assert not service.layout.histories_dir.exists() or not any(service.layout.histories_dir.iterdir())
        service.config.write_text(service.config.read_text().replace("debounce_s = 30.0", "debounce_s = 0.1"))
        service.start()
        service.until(lambda: service.history("Alisson60") and service.history("Alisson61"), "both histories")
        assert service.stop() == 0
        service.check_whole()


# ---- beside others --------------------------------------------------------------------------------------------------


def test_a_second_service_is_refused(tmp_path: Path) -> None:
    """Exit code 1, and the message names pid and host of the first; the first goes on, its log untouched."""
    with Service(tmp_path) as service:
        done = service.command("run")
        assert done.returncode == Exit.FAILED
        assert f"another ingestd service (pid {service.pid} on {socket.gethostname()}) runs on this data" in done.stderr
        assert not service.lines("failed")
        assert '"failed"' not in service.layout.log_file.read_text()
        names = put(service.raw, 0, 1)
        service.until(lambda: service.live_names() == names, "the first still works")
        assert service.stop() == 0


def test_a_start_is_tried_again_when_the_lock_is_free(tmp_path: Path) -> None:
    """A killed service that waits for a dead share holds its lock on: the exit code is the one systemd starts anew."""
    service = Service(tmp_path)
    lock = service_lock(service.layout)
    with lock.held(), service.start(ready=False):
        assert service.ended() == Exit.FAILED
        lock.release()
        service.start()
        assert service.stop() == 0


def test_a_manifest_that_another_process_has_at_the_start(tmp_path: Path) -> None:
    """What a killed batch left cannot be taken back yet: exit code 1 as well, and the next start works."""
    with Service(tmp_path, manifest={"lock_timeout_s": 0.5}) as service:
        names = put(service.raw, 0, 1)
        service.until(lambda: service.live_names() == names, "the run")
        service.kill()
        (run,) = service.rows()
        (left,) = [path for path in service.layout.temporary_root.iterdir() if path.is_dir()]
        staged = service.layout.staged_file(run.proc, run.date_local, run.run_id)
        placed = str(staged.relative_to(service.layout.stage_root))
        (left / NOTE_NAME).write_text(json.dumps({"placed": [placed], "removed": [], "kept": []}))
        with manifest_lock(service.layout).held():
            service.start(ready=False)
            assert service.ended() == Exit.FAILED
        assert f"another ingestd process (pid {os.getpid()} on" in (tmp_path / "stderr.txt").read_text()
        service.start()
        assert service.stop() == 0
        service.check_whole()


def test_a_backfill_beside_the_service(tmp_path: Path) -> None:
    """Both take the same files at the same time: one row each, and the histories are complete."""
    with Service(tmp_path) as service:
        names = put(service.raw, 0, 300)
        done = service.command("backfill", "--json", "--workers", "1")
        assert done.returncode == 0, done.stderr
        service.until(lambda: service.live_names() == names, "all runs")
        by_service = len(service.lines("ingested"))
        by_backfill = json.loads(done.stdout)["events"].get("ingested", 0)
        assert by_service + by_backfill == 300
        assert len(service.rows()) == 300
        service.until(
            lambda: {name for chip in range(60, 65) for name in service.history(f"Alisson{chip}")} == names, "histories"
        )
        service.until(lambda: not service.status().waiting, "nothing waits")
        assert service.stop() == 0
        service.check_whole()


def test_a_damaged_log_asks_for_a_person(tmp_path: Path) -> None:
    """A bad record in the middle of the log: exit code 2, `ingestd repair` is named, and nothing is touched."""
    with Service(tmp_path) as service:
        names = put(service.raw, 0, 20)
        service.until(lambda: service.live_names() == names, "the runs")
        service.kill()
        (segment,) = [path for path in service.layout.wal_dir.iterdir() if path.stat().st_size > 1000]
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 0x01
        segment.write_bytes(data)
        service.start(ready=False)
        assert service.ended() == 2
        assert "ingestd repair" in (tmp_path / "stderr.txt").read_text()
        assert segment.read_bytes() == data
        assert service.command("repair", "--apply").returncode == 0
        service.start()
        service.until(lambda: service.live_names() == names, "the runs after the repair")
        assert service.stop() == 0
        assert len(service.rows()) == 20


# ---- status ---------------------------------------------------------------------------------------------------------


def test_status_with_the_service_up_down_and_killed(tmp_path: Path) -> None:
    """Exit codes 0 (well), 1 (a reject), 3 (down); `safe to power off` says no while a measurement runs."""
    with Service(tmp_path) as service:
        up = service.command("status", "--json")
        assert (up.returncode, json.loads(up.stdout)["service"]["phase"]) == (0, "running")
        assert json.loads(up.stdout)["safe_to_power_off"] is True
        with (service.raw / "It_1.csv").open("wb") as file:
            file.write(ONE.data)
            file.flush()
            while_running = json.loads(service.command("status", "--json").stdout)
            assert while_running["safe_to_power_off"] is False
            assert while_running["safe_reason"] == "a measurement is running: It_1.csv"
            (shown,) = while_running["waiting"]
            assert (shown["state"], shown["rows"]) == ("running", 3)
            assert "safe to power off: no" in service.command("status").stdout
        service.until(lambda: service.live_names() == {"It_1.csv"}, "the run")
        assert json.loads(service.command("status", "--json").stdout)["safe_to_power_off"] is True
        (service.raw / "bad.csv").write_bytes(BROKEN)
        service.until(lambda: service.lines("rejected"), "the reject")
        assert service.command("status").returncode == 1
        (service.raw / "bad.csv").unlink()
        service.kill()
        killed = service.command("status", "--json")
        assert json.loads(killed.stdout)["service"]["phase"] == "down"
        assert json.loads(killed.stdout)["runs"] == 1


def test_status_of_a_stopped_and_of_a_killed_service(tmp_path: Path) -> None:
    """Without rejects, a service that is down (stopped or killed) is exit code 3."""
    with Service(tmp_path) as service:
        assert service.stop() == 0
        assert service.command("status").returncode == 3
        service.start()
        assert service.command("status").returncode == 0
        service.kill()
        done = service.command("status")
        assert done.returncode == 3
        assert "is not running" in done.stdout


def test_a_reject_ends_with_its_file(tmp_path: Path) -> None:
    """A rejected file that is deleted needs no person any more: `status` is well again."""
    with Service(tmp_path, watch={"rescan_s": 0.5}) as service:
        (service.raw / "bad.csv").write_bytes(BROKEN)
        service.until(lambda: service.status().health == 1, "the reject")
        (service.raw / "bad.csv").unlink()
        service.until(lambda: service.status().health == 0, "well again")
        assert service.stop() == 0
