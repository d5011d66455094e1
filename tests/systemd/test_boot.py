"""The real units, installed as docs/operating.md tells, in a booted Debian 12; skips where none can be booted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from container import RECORDER, SOURCE, USER, VENV, Machine
from waiting import wait_until

# The first test of a fresh clone waits for debootstrap.
pytestmark = pytest.mark.timeout(900)

DATA = "/srv/lab/data"
INGESTD = f"{VENV}/bin/ingestd"
DROP_IN = "/etc/systemd/system/ingestd.service.d/test.conf"

WATCHED = "[Service]\nRestartSec=100ms\nWatchdogSec=5\nTimeoutAbortSec=5\n"

STUCK = """
import os, sys, time
from ingestd.__main__ import main
from ingestd.service import daemon, worker

turn = worker.Worker.turn
def hang_while_told(self, wait_s):
    while os.path.exists("/srv/lab/hang"):
        time.sleep(0.05)
    turn(self, min(wait_s, 0.5))

worker.Worker.turn = hang_while_told
daemon.STUCK_S = 3.0
sys.exit(main())
"""


@pytest.fixture
def service(machine: Machine) -> Iterator[Machine]:
    """The service installed by tools/install_service.py on an empty data root, and running."""
    machine.run("install", "-d", "-o", USER, "-g", USER, "/srv/lab", DATA, f"{DATA}/01_raw")
    machine.run(f"{VENV}/bin/python", f"{SOURCE}/tools/install_service.py", "--data-root", DATA)
    start = machine.run("date", "+%F %T").stdout.strip()
    yield machine
    print(machine.as_user(INGESTD, "status", check=False).stdout)  # shown by pytest when the test failed
    print(machine.run("journalctl", "--no-pager", "--unit=ingestd*", f"--since={start}").stdout)
    machine.run("systemctl", "stop", "ingestd.service", "ingestd-backfill.service", "ingestd-backfill.timer")
    machine.run("systemctl", "reset-failed")
    machine.run("rm", "-rf", "/srv/lab", "/etc/ingestd", "/tmp/enough", DROP_IN)
    machine.run("systemctl", "daemon-reload")


def status(machine: Machine) -> dict[str, Any]:
    """What `ingestd status --json` tells the user."""
    told: dict[str, Any] = json.loads(machine.as_user(INGESTD, "status", "--json", check=False).stdout)
    return told


def measure(machine: Machine, name: str) -> None:
    """Put a finished sample run into 01_raw, as the user of the acquisition program."""
    machine.as_user("cp", f"{SOURCE}/data/01_raw/2026-03-12/{name}", f"{DATA}/01_raw/{name}")


def main_pid(machine: Machine) -> str:
    """The process of the service, as the container numbers it; "0" while there is none."""
    return machine.show("ingestd", "MainPID")


def settings_on_top(machine: Machine, text: str) -> None:
    """Lay settings over those of the service, as `systemctl edit` does, and restart it."""
    machine.path(DROP_IN).parent.mkdir(exist_ok=True)
    machine.path(DROP_IN).write_text(text)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "ingestd")


def in_its_view(machine: Machine, *command: str) -> tuple[int, str]:
    """Run a command as root in the service's view of the file system and network; return its status and stderr."""
    enter = ("nsenter", "--target", main_pid(machine), "--mount", "--net", "--ipc", "--")
    done = machine.run(*enter, *command, check=False)
    return done.returncode, done.stdout + done.stderr


def test_it_starts_and_says_that_it_is_ready(service: Machine) -> None:
    """`systemctl` calls the unit active only after READY=1, shows its STATUS= line, and arms the nightly timer."""
    assert service.show("ingestd", "ActiveState") == "active"
    assert service.show("ingestd", "NotifyAccess") == "main"
    assert "watching" in service.show("ingestd", "StatusText")
    assert service.show("ingestd-backfill.timer", "ActiveState") == "active"
    assert service.run("systemctl", "is-enabled", "ingestd.service").stdout.strip() == "enabled"
    told = status(service)
    assert (told["service"]["phase"], told["troubles"]) == ("running", [])


def test_it_ingests_a_run(service: Machine) -> None:
    """A finished file is staged, in the manifest and in its chip's history, within seconds, from inside the fence."""
    measure(service, "IVg2026-03-12_2.csv")
    history = service.path(f"{DATA}/histories/Biotite3_history.csv")
    wait_until(history.exists, "a history")
    assert status(service)["runs"] == 1
    assert len(list(service.path(f"{DATA}/02_stage/raw_measurements").rglob("*.parquet"))) == 1
    assert history.stat().st_mode & 0o777 == 0o644


def test_it_cannot_write_where_it_must_not(service: Machine) -> None:
    """Within the fence 01_raw and the machine are read only, even for root; only the folders of ingestd are not."""
    for place in (f"{DATA}/01_raw", DATA, "/etc", "/var", "/usr", "/opt/ingestd"):
        code, words = in_its_view(service, "touch", f"{place}/made-by-a-mistake")
        assert code != 0, place
        assert "Read-only file system" in words
    for place in (f"{DATA}/02_stage", f"{DATA}/histories", f"{DATA}/metadata", "/var/log/ingestd"):
        assert in_its_view(service, "touch", f"{place}/made-on-purpose") == (0, ""), place


def test_it_sees_neither_homes_nor_a_network(service: Machine) -> None:
    """Home folders are empty, /tmp is its own, the only network device is its own unconnected loopback."""
    service.run("touch", "/tmp/of-others", f"/home/{USER}/private")
    assert in_its_view(service, "ls", "/home", "/root") == (0, "/home:\n\n/root:\n")
    assert in_its_view(service, "test", "-e", "/tmp/of-others")[0] == 1
    devices = [line.split(":")[0].strip() for line in in_its_view(service, "cat", "/proc/self/net/dev")[1].splitlines()]
    assert devices[2:] == ["lo"]
    facts = service.path(f"/proc/{main_pid(service)}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in facts.splitlines() if ":\t" in line)
    assert (fields["NoNewPrivs"], fields["Seccomp"], int(fields["CapBnd"], 16), int(fields["CapEff"], 16)) == (
        "1",
        "2",
        0,
        0,
    )


def test_it_sees_a_recorder_at_work(service: Machine) -> None:
    """With the user logged in (some of whose processes hide their files), an open run waits and a closed one does not.

    The file stands still all the while, so only the open-writer test can hold it back, for longer than `settle_s`;
    after the close it is staged long before `quiet_s` (30 s).
    """
    service.run("loginctl", "enable-linger", USER)
    uid = service.run("id", "-u", USER).stdout.strip()
    wait_until(lambda: service.show(f"user@{uid}", "ActiveState") == "active", "a session of the user")
    raw, sample = f"{DATA}/01_raw/run_1.csv", f"{SOURCE}/data/01_raw/2026-03-12/IVg2026-03-12_2.csv"
    service.path("/tmp/recorder.py").write_text(RECORDER)
    unit = ("systemd-run", "--quiet", "--collect", "--unit=recorder", f"--uid={USER}")
    service.run(*unit, "python3", "/tmp/recorder.py", sample, raw)

    def waiting() -> list[dict[str, Any]]:
        return [file for file in status(service)["waiting"] if file["age_s"] > 3]

    (seen,) = wait_until(waiting, "a run that stood still for 3 s and waits")
    assert seen["state"] == "running"
    assert "python3" in seen["reason"]
    assert status(service)["runs"] == 0
    service.run("touch", "/tmp/enough")
    wait_until(lambda: status(service)["runs"] == 1, "the closed run", 20)


def test_it_comes_back_after_a_kill(service: Machine) -> None:
    """After SIGKILL systemd starts it again, and the next run is ingested."""
    settings_on_top(service, "[Service]\nRestartSec=100ms\n")
    before = main_pid(service)
    service.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", "ingestd")
    wait_until(lambda: main_pid(service) not in {before, "0"}, "a new process")
    wait_until(lambda: service.show("ingestd", "ActiveState") == "active", "active again")
    assert service.show("ingestd", "NRestarts") == "1"
    measure(service, "IVg2026-03-12_2.csv")
    wait_until(lambda: status(service)["runs"] == 1, "the run after the restart")


def test_the_watchdog_restarts_a_stuck_service(service: Machine) -> None:
    """A process that stands still sends no WATCHDOG=1: systemd ends it and starts it again."""
    settings_on_top(service, WATCHED)
    expect_a_restart(
        service, lambda: service.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGSTOP", "ingestd")
    )


def test_the_watchdog_restarts_a_service_whose_worker_is_stuck(service: Machine) -> None:
    """Every other thread lives, but the worker hangs: systemd ends it, the journal shows where, and starts it again."""
    service.path("/srv/lab/stuck.py").write_text(STUCK)
    command = f"{VENV}/bin/python /srv/lab/stuck.py run --config /etc/ingestd/config.toml"
    limit = "Environment=INGESTD_MANIFEST__LOCK_TIMEOUT_S=1\n"
    settings_on_top(service, f"{WATCHED}{limit}ExecStart=\nExecStart={command}\n")
    expect_a_restart(service, lambda: service.run("touch", "/srv/lab/hang"))
    wait_until(lambda: "in hang_while_told" in journal_of(service), "where it hung in the journal")


def journal_of(service: Machine) -> str:
    """Return what the service said; it may come to the journal a moment after it happened."""
    return service.run("journalctl", "--no-pager", "-u", "ingestd").stdout


def expect_a_restart(service: Machine, stick: Callable[[], object]) -> None:
    """Let the service get stuck; systemd must notice and start it again, and the new one must work."""
    before = main_pid(service)
    wait_until(lambda: service.show("ingestd", "WatchdogTimestampMonotonic") not in {"", "0"}, "the watchdog at work")
    stick()
    wait_until(lambda: main_pid(service) not in {before, "0"}, "a new process")
    service.run("rm", "-f", "/srv/lab/hang")
    wait_until(lambda: service.show("ingestd", "ActiveState") == "active", "active again")
    wait_until(lambda: "Watchdog timeout (limit 5s)!" in journal_of(service), "the reason in the journal")
    measure(service, "IVg2026-03-12_2.csv")
    wait_until(lambda: status(service)["runs"] == 1, "the run after the restart")


def test_a_healthy_service_feeds_the_watchdog(service: Machine) -> None:
    """Over three watchdog intervals nothing restarts it."""
    settings_on_top(service, "[Service]\nWatchdogSec=2\n")
    before, start = main_pid(service), int(service.show("ingestd", "ActiveEnterTimestampMonotonic"))

    def fed_for_s() -> float:
        return (int(service.show("ingestd", "WatchdogTimestampMonotonic")) - start) / 1e6

    wait_until(lambda: fed_for_s() > 6, "three intervals fed")
    assert (main_pid(service), service.show("ingestd", "NRestarts")) == (before, "0")


def test_a_wrong_setting_makes_no_crash_loop(service: Machine) -> None:
    """Exit code 2 ends the unit as failed, with the reason in the journal, and nothing starts it again."""
    service.path("/etc/ingestd/config.toml").write_text(f'[paths]\ndata_rot = "{DATA}"\n')
    assert service.run("systemctl", "restart", "ingestd", check=False).returncode != 0
    assert service.show("ingestd", "ActiveState") == "failed"
    assert service.show("ingestd", "ExecMainStatus") == "2"
    assert service.show("ingestd", "NRestarts") == "0"
    assert "data_rot" in service.run("journalctl", "--no-pager", "-u", "ingestd", "-n", "20").stdout


def test_a_share_that_is_off_at_the_start_is_waited_for(service: Machine) -> None:
    """Its mount fails, the service starts all the same, and what is on the share is staged once it is mounted."""
    service.run("systemctl", "stop", "ingestd")
    mount = service.path("/etc/systemd/system/srv-lab-data-01_raw.mount")
    mount.write_text(f"[Mount]\nWhat=share\nWhere={DATA}/01_raw\nType=tmpfs\nOptions=no-such-option\n")
    service.run("systemctl", "daemon-reload")
    try:
        service.run("systemctl", "start", "ingestd")
        mount.write_text(mount.read_text().replace("no-such-option", f"uid={USER}"))
        service.run("systemctl", "daemon-reload")
        service.run("systemctl", "start", mount.name)
        measure(service, "IVg2026-03-12_2.csv")
        wait_until(lambda: status(service)["runs"] == 1, "the run on the share")
    finally:
        service.run("systemctl", "stop", "ingestd", mount.name, check=False)
        mount.unlink()


def test_it_goes_on_with_what_root_has_left(service: Machine, repository: Path) -> None:
    """After a backfill by root, the service waits; once the folders are its user's again as documented, it goes on."""
    service.run("systemctl", "stop", "ingestd")
    measure(service, "IV2026-03-12_1.csv")
    assert service.run(INGESTD, "backfill").returncode == 0
    service.run("systemctl", "start", "ingestd")
    measure(service, "IV2026-03-12_2.csv")
    wait_until(lambda: "Permission denied" in str(status(service)["troubles"]), "the service may not write")
    told = (repository / "docs/operating.md").read_text("utf-8")
    (giving_back,) = re.findall(r"^sudo (chown -R .*)$", told, re.MULTILINE)
    service.run(*giving_back.split())
    wait_until(lambda: status(service)["runs"] == 2, "both runs")
    wait_until(lambda: status(service)["troubles"] == [], "no trouble")  # the state is written a moment later


def test_it_says_what_helps_when_a_folder_was_made_anew(service: Machine) -> None:
    """Only what was there at its start is writable for it: the trouble names the restart, and that is the cure."""
    histories = f"{DATA}/histories"
    service.run("rm", "-r", histories)
    service.as_user("mkdir", histories)
    measure(service, "IVg2026-03-12_2.csv")
    wait_until(lambda: status(service)["troubles"], "a trouble")
    (trouble,) = status(service)["troubles"]
    assert (trouble["message"], trouble["place"].startswith(histories)) == ("Read-only file system", True)
    (cure,) = re.findall(r"`sudo (systemctl restart ingestd)`", trouble["next_step"])
    service.run(*cure.split())
    wait_until(service.path(f"{histories}/Biotite3_history.csv").exists, "the history")
    wait_until(lambda: status(service)["troubles"] == [], "no trouble")


def test_it_stops_in_order(service: Machine) -> None:
    """`systemctl stop` ends it with code 0, the log compacted: manifest.parquet alone holds what was ingested."""
    measure(service, "IVg2026-03-12_2.csv")
    wait_until(lambda: status(service)["runs"] == 1, "the run")
    service.run("systemctl", "stop", "ingestd")
    assert service.show("ingestd", "Result") == "success"
    assert service.show("ingestd", "ExecMainStatus") == "0"
    told = status(service)
    assert (told["service"]["phase"], told["runs"], told["log_records"]) == ("down", 1, 0)


def test_the_nightly_sweep_works_within_its_fence(service: Machine) -> None:
    """With the service stopped, ingestd-backfill.service stages what is there, in processes of its own."""
    service.run("systemctl", "stop", "ingestd")
    service.as_user("cp", "-rp", f"{SOURCE}/data/01_raw/2026-03-12", f"{DATA}/01_raw/")
    service.run("systemctl", "start", "ingestd-backfill.service")
    wait_until(lambda: service.show("ingestd-backfill", "ActiveState") == "inactive", "the end of the sweep")
    assert service.show("ingestd-backfill", "Result") == "success"
    told = status(service)
    assert (told["runs"], len(told["rejects"])) == (11, 1)
