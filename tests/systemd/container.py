"""A Debian 12 under systemd-nspawn, for the tests that boot the real units."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RELEASE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,libpam-systemd,python3,util-linux"
BUILD_LIMIT_S = 420
BUILD_AGAIN_S = 3600
"""A failed debootstrap is not tried again for so long: every worker and every run of the tests would wait for it."""

BOOT_LIMIT_S = 60

USER = "ana"
VENV = "/opt/ingestd/venv"
SOURCE = "/opt/ingestd/source"
LIBRARIES = "/opt/ingestd/libraries"

ENTRY = f"""#!{VENV}/bin/python
import sys

from ingestd.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
"""

RECORDER = """
import os, sys, time

sample, target = sys.argv[1:]
with open(sample, encoding="utf-8") as file:
    text = file.read()
with open(target, "a", encoding="utf-8") as recorder:
    recorder.write(text)
    recorder.flush()
    while not os.path.exists("/tmp/enough"):
        time.sleep(0.05)
"""
"""Writes a sample run to a file and holds it open until `/tmp/enough` is there."""


class CannotBoot(Exception):
    """No container can be booted here, and why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A booted container; `leader` is its process 1 as the host sees it."""

    leader: int

    def run(self, *command: str, check: bool = True, limit_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root."""
        inside = ["nsenter", "--target", str(self.leader), "--all", "--", *command]
        done = subprocess.run(
            inside, check=False, capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def as_user(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as the user of the acquisition program."""
        return self.run("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", *command, check=check)

    def path(self, inside: str) -> Path:
        """Locate a path of the container as the host sees it."""
        return Path(f"/proc/{self.leader}/root{inside}")

    def show(self, unit: str, key: str) -> str:
        """Tell one property of a unit."""
        return self.run("systemctl", "show", unit, "--property", key, "--value").stdout.strip()


@contextmanager
def booted(repository: Path, log: Path) -> Iterator[Machine]:
    """Boot a Debian with ingestd in /opt/ingestd/venv and the user `ana`; what changes in it is lost with the block.

    The libraries are those of this Python, the sources those of `repository`, both seen read only. The console goes
    to `log`.

    Raises:
        CannotBoot: with the reason.
    """
    _check_tools()
    tree = _tree(repository / "build")
    command = [
        *("systemd-nspawn", "--quiet", "--boot", f"--directory={tree}", "--volatile=overlay", "--console=pipe"),
        *("--private-network", "--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off"),
        *(
            f"--machine=ingestd-{os.getpid()}",
            f"--bind-ro={repository}:{SOURCE}",
            f"--bind-ro={_libraries()}:{LIBRARIES}",
        ),
    ]
    with log.open("wb") as console:
        nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT)
    try:
        machine = _wait_for_boot(nspawn, log)
        _set_up(machine)
        yield machine
    finally:
        nspawn.terminate()  # systemd-nspawn asks the container to power off
        try:
            nspawn.wait(30)
        except subprocess.TimeoutExpired:
            nspawn.kill()
            nspawn.wait()


def _check_tools() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise CannotBoot("booting a container needs root on Linux")
    if sys.version_info[:2] != (3, 11):
        raise CannotBoot(f"the container has Python 3.11, and the libraries here are for {sys.version.split()[0]}")
    missing = [tool for tool in ("systemd-nspawn", "debootstrap", "nsenter") if shutil.which(tool) is None]
    if missing:
        raise CannotBoot(f"not installed: {', '.join(missing)} (tools/ci-packages.sh installs them)")


def _libraries() -> Path:
    import polars

    return Path(polars.__file__).parents[1]


def _tree(build: Path) -> Path:
    """Return the folder of a minimal Debian, made by debootstrap once and kept for the next run of the tests."""
    build.mkdir(exist_ok=True)
    tree, making, failed = (build / f"boot-{RELEASE}{end}" for end in ("", ".making", ".failed"))
    with (build / f"boot-{RELEASE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if tree.is_dir():
            return tree
        if failed.exists() and time.time() - failed.stat().st_mtime < BUILD_AGAIN_S:
            raise CannotBoot(f"debootstrap failed here lately: {failed.read_text('utf-8')}")
        shutil.rmtree(making, ignore_errors=True)
        if why := _debootstrap(making):
            shutil.rmtree(making, ignore_errors=True)
            failed.write_text(why, "utf-8")
            raise CannotBoot(f"debootstrap cannot make a Debian here: {why}")
        making.rename(tree)
    return tree


def _debootstrap(folder: Path) -> str:
    """Make a minimal Debian; return why it failed, "" when it did not."""
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(folder)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=BUILD_LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"not done within {BUILD_LIMIT_S} s"
    return "" if done.returncode == 0 else (done.stderr.strip() or done.stdout.strip())[-300:] or "no message"


def _wait_for_boot(nspawn: subprocess.Popen[bytes], log: Path) -> Machine:
    end = time.monotonic() + BOOT_LIMIT_S
    while time.monotonic() < end and nspawn.poll() is None:
        for leader in Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split():
            machine = Machine(int(leader))
            try:
                state = machine.run("systemctl", "is-system-running", check=False, limit_s=10).stdout.strip()
            except subprocess.TimeoutExpired:
                continue
            if state in {"running", "degraded"}:
                return machine
        time.sleep(0.2)
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    raise CannotBoot(f"systemd-nspawn does not boot here: {' | '.join(lines[-3:])[-400:]}")


def _set_up(machine: Machine) -> None:
    machine.run("useradd", "--create-home", USER)
    machine.run("python3", "-m", "venv", "--without-pip", VENV)
    machine.path(f"{VENV}/lib/python3.11/site-packages/ingestd.pth").write_text(f"{SOURCE}\n{LIBRARIES}\n")
    executable = machine.path(f"{VENV}/bin/ingestd")
    executable.write_text(ENTRY)
    executable.chmod(0o755)
