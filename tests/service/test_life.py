"""The life of `ingestd run`: how it starts, says how it is, dies and starts again; one a data root."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from measurement import BROKEN, Measurement
from running import Service, put, run_of

from ingestd.manifest.store import manifest_lock
from ingestd.service.daemon import Exit
from ingestd.service.state import service_lock
from ingestd.settings.model import sections
from ingestd.stage.placing import NOTE_NAME

ONE = Measurement()


# ---- starting -------------------------------------------------------------------------------------------------------


def test_ready_comes_when_the_watch_stands(tmp_path: Path) -> None:
    """At READY every folder of an archive is watched: no file made after it depends on a scan."""
    service = Service(tmp_path, watch={"rescan_s": 86400.0})
    folders = 3000
    for n in range(folders):
        (service.raw / f"{n // 100}" / f"{n}").mkdir(parents=True)
    put(service.raw, 0, 1)
    with service:
        watches = service.watches()
        (service.raw / "It_9.csv").write_bytes(run_of(9))
        assert watches >= folders
        service.until(lambda: service.live_names() == {"It_0.csv", "It_9.csv"}, "both runs")
        assert service.stop() == 0


def test_it_works_with_every_number_at_its_least(tmp_path: Path) -> None:
    """Runs are staged, compacted after each record, and a stop is heard: no wait of 0 is a loop without an end."""
    limits = {name: section.model_json_schema()["properties"] for name, section in sections().items()}
    least: dict[str, Any] = {
        name: {key: limit["minimum"] for key, limit in keys.items() if "minimum" in limit}
        for name, keys in limits.items()
    }
    assert {"settle_s", "quiet_s", "rescan_s", "debounce_s", "compact_s", "retry_s"} <= {*chain(*least.values())}
    with Service(tmp_path, **{name: numbers for name, numbers in least.items() if numbers}) as service:
        names = put(service.raw, 0, 5)
        service.until(lambda: service.live_names() == names and service.lines("compacted"), "the runs, compacted")
        assert service.stop() == 0
        service.check_whole()


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


def test_status_says_that_the_config_file_was_changed_since_the_start(tmp_path: Path) -> None:
    """A setting that was edited and not taken in by a restart is told, until the service or the file is as before."""
    with Service(tmp_path) as service:
        read = service.config.read_bytes()
        for content in (read + b"\n[settle]\nsettle_s = 60\n", None, read):
            service.config.unlink(missing_ok=True)
            if content is not None:
                service.config.write_bytes(content)
            changed = "" if content == read else str(service.config)
            assert (service.status().service.changed_config, service.status().health) == (changed, 0)
        service.config.write_bytes(read + b"# looked at by Ana\n")
        words = f"{service.config} is no longer what the service read at its start: restart it"
        assert words in " ".join(service.command("status").stdout.split())
        assert service.stop() == 0
        service.start()
        assert not service.status().service.changed_config
        away = service.raw.rename(tmp_path / "away")
        assert service.stop() == 0
        service.start()
        service.config.write_bytes(read)
        assert service.status().service.changed_config == str(service.config), "also while it waits for its folder"
        away.rename(service.raw)


REFUSED = """
import sys
from polars.exceptions import PanicException
from ingestd.__main__ import main
from ingestd.service import daemon

def refuse(*_):
    raise {error}

daemon.Daemon.run = refuse
del sys.argv[1:4]
sys.exit(main())
"""
"""`ingestd run` whose main thread fails."""


@pytest.mark.parametrize("error", ['RuntimeError("can\'t start new thread")', 'PanicException("could not spawn")'])
def test_a_fault_in_the_main_thread_is_no_reason_to_stay_down(tmp_path: Path, error: str) -> None:
    """The system may refuse a thread once: exit code 1, after which systemd starts it again; the log has the trace."""
    service = Service(tmp_path)
    with service.start(ready=False, prefix=(sys.executable, "-c", REFUSED.format(error=error))):
        assert service.ended() == Exit.FAILED
        (failed,) = service.lines("failed")
        assert error.partition("(")[0] in failed["exception"]
        service.start()
        assert service.stop() == 0


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
        assert f"another service or repair (pid {service.pid} on {socket.gethostname()}) is at work" in done.stderr
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
        staged = service.layout.staged_file(run)
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
    """A bad record in the middle of the log: exit code 2, log and file name `ingestd repair`, nothing is touched."""
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
        (failed,) = service.lines("failed")
        assert failed["place"] == str(segment)
        assert "ingestd repair" in failed["next_step"]
        assert '"failed"' in service.layout.log_file.read_text(), "`ingestd tail` shows it"
        assert segment.read_bytes() == data
        assert service.command("repair", "--apply").returncode == 0
        service.start()
        service.until(lambda: service.live_names() == names, "the runs after the repair")
        assert service.stop() == 0
        assert len(service.rows()) == 20


# ---- status ---------------------------------------------------------------------------------------------------------


def test_a_state_that_was_deleted_is_written_again(tmp_path: Path) -> None:
    """Whoever tidies `service.json` away under a service at rest is told how it is all the same."""
    with Service(tmp_path) as service:
        service.until(lambda: service.status().service.doing == "watching", "it is at rest")
        service.layout.service_state_path.unlink()
        service.until(lambda: service.status().service.phase == "running", "it is told again", 20)
        assert service.stop() == 0


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
