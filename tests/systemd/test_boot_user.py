"""The user unit, installed as docs/operating.md tells for a lab without root, in a booted Debian 12."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from container import RECORDER, SOURCE, USER, VENV, Machine
from waiting import wait_until

# The first test of a fresh clone waits for debootstrap.
pytestmark = pytest.mark.timeout(900)

HOME = f"/home/{USER}"
DATA = f"{HOME}/data"
SAMPLE = f"{SOURCE}/data/01_raw/2026-03-12/IVg2026-03-12_2.csv"
CONFIG = f"{HOME}/.config/ingestd/config.toml"


class Session:
    """The user's own shell: commands see the user's systemd."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        uid = machine.run("id", "-u", USER).stdout.strip()
        self._environment = (f"HOME={HOME}", f"XDG_RUNTIME_DIR=/run/user/{uid}", f"INGESTD_CONFIG={CONFIG}")

    def run(self, *command: str, check: bool = True) -> CompletedProcess[str]:
        """Run a command as the user."""
        return self._machine.as_user("env", *self._environment, *command, check=check)

    def path(self, inside: str) -> Path:
        """Locate a path of the container as the host sees it."""
        return self._machine.path(inside)

    def show(self, key: str) -> str:
        """Tell one property of the unit."""
        return self.run("systemctl", "--user", "show", "ingestd", "--property", key, "--value").stdout.strip()

    def status(self) -> dict[str, Any]:
        """What `ingestd status --json` tells the user."""
        told: dict[str, Any] = json.loads(
            self.run(f"{HOME}/ingestd/venv/bin/ingestd", "status", "--json", check=False).stdout
        )
        return told


def commands(repository: Path) -> list[str]:
    """The commands of the section "Without root", but for the installation (no network) and the lingering (done)."""
    text = (repository / "docs/operating.md").read_text("utf-8")
    block = re.search(r"## Without root\n.*?```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = block[1].splitlines()
    assert lines[:2] == ["python3 -m venv ~/ingestd/venv", "~/ingestd/venv/bin/python -m pip install ."]
    assert lines[-1] == "loginctl enable-linger"
    return [line.replace("/srv/lab/data", DATA) for line in lines[2:-1]]


@pytest.fixture
def session(machine: Machine, repository: Path) -> Iterator[Session]:
    """The user's session with the service installed on an empty data root, and running."""
    machine.run("loginctl", "enable-linger", USER)  # as if the user were logged in
    wait_until(lambda: machine.run("loginctl", "show-user", USER, check=False).returncode == 0, "a session of the user")
    session = Session(machine)
    wait_until(lambda: session.run("systemctl", "--user", "list-units", check=False).returncode == 0, "its systemd")
    session.run("mkdir", "-p", f"{DATA}/01_raw", f"{HOME}/ingestd")
    session.run("ln", "-sfn", VENV, f"{HOME}/ingestd/venv")
    for command in commands(repository):
        session.run("sh", "-ec", f"cd {SOURCE}; {command}")
    yield session
    print(session.run("journalctl", "--user", "--no-pager", check=False).stdout)  # shown when the test failed
    session.run("systemctl", "--user", "stop", "ingestd")
    machine.run("rm", "-rf", DATA, f"{HOME}/.config", "/tmp/enough")


def test_it_runs_and_ingests(session: Session) -> None:
    """The documented commands give an active service that stages a finished run, with the user's rights."""
    assert session.show("ActiveState") == "active"
    assert "watching" in session.show("StatusText")
    assert session.run("systemctl", "--user", "is-enabled", "ingestd").stdout.strip() == "enabled"
    session.run("cp", SAMPLE, f"{DATA}/01_raw/run_1.csv")
    history = session.path(f"{DATA}/histories/Biotite3_history.csv")
    wait_until(history.exists, "a history")
    told = session.status()
    assert (told["service"]["phase"], told["runs"], told["troubles"]) == ("running", 1, [])
    assert history.stat().st_uid == session.path(HOME).stat().st_uid


def test_its_limits_are_in_force(session: Session) -> None:
    """systemd applies the restrictions that a user's systemd can: no new privileges, a filter of system calls."""
    facts = session.path(f"/proc/{session.show('MainPID')}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in facts.splitlines() if ":\t" in line)
    assert (fields["NoNewPrivs"], fields["Seccomp"], int(fields["CapEff"], 16)) == ("1", "2", 0)


def test_it_sees_a_recorder_at_work(session: Session, machine: Machine) -> None:
    """A run that its own user's program holds open waits, however long it stands still; closed, it is staged."""
    session.path("/tmp/recorder.py").write_text(RECORDER)
    unit = ("systemd-run", "--quiet", "--collect", "--unit=recorder", f"--uid={USER}")
    machine.run(*unit, "python3", "/tmp/recorder.py", SAMPLE, f"{DATA}/01_raw/run_1.csv")
    (seen,) = wait_until(
        lambda: [file for file in session.status()["waiting"] if file["age_s"] > 3], "a run that stood still for 3 s"
    )
    assert (seen["state"], "python3" in seen["reason"]) == ("running", True)
    machine.run("touch", "/tmp/enough")
    wait_until(lambda: session.status()["runs"] == 1, "the closed run", 20)


def test_it_comes_back_after_a_kill_and_stops_in_time(session: Session) -> None:
    """After SIGKILL it is started again; a stop is clean."""
    before = session.show("MainPID")
    session.run("systemctl", "--user", "kill", "--kill-whom=main", "--signal=SIGKILL", "ingestd")
    wait_until(lambda: session.show("MainPID") not in {before, "0"}, "a new process", 60)
    wait_until(lambda: session.show("ActiveState") == "active", "active again")
    session.run("systemctl", "--user", "stop", "ingestd")
    assert (session.show("ActiveState"), session.show("Result")) == ("inactive", "success")
    assert session.status()["service"]["phase"] == "down"
