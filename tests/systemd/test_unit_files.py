"""The units themselves: systemd takes them; they are well fenced, explained line by line, and fit the settings."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ingestd.service.daemon import STUCK_S, Exit
from ingestd.settings import Settings

SERVICES = ("ingestd.service", "ingestd-backfill.service")
SYSTEM = (*SERVICES, "ingestd-backfill.timer")
EVERY = (*SYSTEM, "user/ingestd.service")

EXPOSURE_LIMIT = 1.5

LIFE = {
    "Type", "NotifyAccess", "ExecStart", "TimeoutStartSec", "TimeoutStopSec", "TimeoutAbortSec", "WatchdogSec",
    "Restart", "RestartSec", "RestartPreventExitStatus", "SuccessExitStatus",
}  # fmt: skip
GENTLE = {"Nice", "CPUWeight", "IOSchedulingClass", "IOSchedulingPriority", "IOWeight"}
"""What the sweep may have otherwise than the service, beside the name of its log."""


def directives(path: Path) -> list[tuple[str, str, str, str]]:
    """Read a unit as (section, key, value, the line before), in order."""
    found, section, before = [], "", ""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.append((section, key, value, before))
        before = line
    return found


def values(path: Path) -> dict[str, list[str]]:
    """Read a unit as key -> values in order."""
    read: dict[str, list[str]] = {}
    for _, key, value, _ in directives(path):
        read.setdefault(key, []).append(value)
    return read


def seconds(text: str) -> float:
    """Read a time span as the units write it."""
    span = re.fullmatch(r"(\d+)(|s|min)", text)
    assert span is not None, text
    number, unit = span.groups()
    return float(number) * (60 if unit == "min" else 1)


@pytest.fixture(scope="session")
def units(repository: Path) -> Path:
    """The folder of the units."""
    return repository / "systemd"


@pytest.fixture
def analyze(units: Path, tmp_path: Path) -> Path:
    """The units with an executable that is there; skips where systemd's checks are missing."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: nothing here can check a unit")
    for name in EVERY:
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        text = (units / name).read_text("utf-8")
        target.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE), "utf-8")
    return tmp_path


def test_systemd_takes_the_units(analyze: Path) -> None:
    """`systemd-analyze verify` finds no unknown directive, value or dependency in the system units."""
    command = ["systemd-analyze", "verify", "--recursive-errors=no", *(str(analyze / name) for name in SYSTEM)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_takes_the_user_unit(analyze: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`systemd-analyze --user verify` finds nothing in the user unit."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(analyze))
    command = ["systemd-analyze", "--user", "verify", "--recursive-errors=no", str(analyze / "user/ingestd.service")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_the_exposure_is_low(analyze: Path, name: str) -> None:
    """`systemd-analyze security` rates the exposure of the system units below 1.5 of 10."""
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", str(analyze / name)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze is older than 250 and cannot rate a unit that is not installed")
    rating = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", done.stdout)
    assert rating is not None, done.stdout + done.stderr
    assert float(rating[1]) < EXPOSURE_LIMIT


@pytest.mark.parametrize("name", EVERY)
def test_every_directive_is_explained(units: Path, name: str) -> None:
    """A comment stands right above every directive, and no directive is empty talk: sections but no stray lines."""
    bare = [f"{key}={value}" for _, key, value, before in directives(units / name) if not before.startswith("# ")]
    assert bare == []
    assert all(section and key.isalnum() for section, key, _, _ in directives(units / name))


def test_the_sweep_is_fenced_in_like_the_service(units: Path) -> None:
    """The sweep has the service's [Service] section but for its life, its gentleness and its log's name."""
    service, sweep = (
        [(key, value) for section, key, value, _ in directives(units / name) if section == "Service"]
        for name in SERVICES
    )
    own = LIFE | GENTLE | {"SyslogIdentifier"}
    assert [pair for pair in service if pair[0] not in own] == [pair for pair in sweep if pair[0] not in own]
    assert int(values(units / SERVICES[1])["Nice"][0]) > int(values(units / SERVICES[0])["Nice"][0]) > 0


def test_the_folders_are_those_of_the_settings(units: Path) -> None:
    """01_raw is read only; what is writable holds every path the settings write, and nothing of 01_raw."""
    for name in SERVICES:
        read = values(units / name)
        (raw,) = map(Path, read["ReadOnlyPaths"])
        written = [Path(path) for path in read["ReadWritePaths"][0].split()]
        layout = Settings(flags={"paths": {"data_root": raw.parent}}).layout  # type: ignore[call-arg]
        assert raw == layout.raw_root
        places = {layout.stage_root, layout.manifest_path, layout.wal_dir, layout.events_dir, layout.rejects_dir}
        places |= {layout.histories_dir, layout.metadata_dir, layout.log_file}
        assert {place for place in places if not any(place.is_relative_to(folder) for folder in written)} == set()
        assert all(any(place.is_relative_to(folder) for place in places) for folder in written)
        assert not any(raw.is_relative_to(folder) or folder.is_relative_to(raw) for folder in written)
        assert read["RequiresMountsFor"] == [str(layout.data_root)]


@pytest.mark.parametrize("name", ["ingestd.service", "user/ingestd.service"])
def test_the_times_leave_the_service_its_own(units: Path, name: str) -> None:
    """systemd waits longer than `service.stop_s`, and its watchdog longer than a worker may be silent."""
    read = values(units / name)
    assert seconds(read["TimeoutStopSec"][0]) > Settings().service.stop_s
    assert seconds(read["WatchdogSec"][0]) > STUCK_S
    assert read["Restart"] == ["on-failure"]
    assert read["RestartPreventExitStatus"] == [str(int(Exit.COULD_NOT_RUN))]
    assert seconds(read["RestartSec"][0]) > 0
    assert read["Type"] == ["notify"]
    assert read["NotifyAccess"] == ["main"]


@pytest.mark.parametrize("name", ["ingestd.service", "ingestd-backfill.service", "user/ingestd.service"])
def test_the_open_writer_test_is_not_blinded(units: Path, name: str) -> None:
    """No directive hides the user's own processes, and none removes the acquisition program's shared memory."""
    read = values(units / name)
    assert {"PrivateUsers", "PrivatePIDs", "RemoveIPC", "DynamicUser"} & set(read) == set()
    assert read.get("ProtectProc", ["default"])[0] in {"default", "invisible"}
    assert read.get("ProcSubset", ["all"]) == ["all"]


@pytest.mark.parametrize("name", ["ingestd.service", "user/ingestd.service"])
def test_the_commands_of_the_units_exist(units: Path, name: str) -> None:
    """ExecStart runs `ingestd run` from the venv and with the config file that docs/operating.md makes."""
    words = values(units / name)["ExecStart"][0].split()
    document = (units.parent / "docs" / "operating.md").read_text("utf-8")
    assert words[1:3] == ["run", "--config"]
    assert words[3].replace("%E", "~/.config") in document
    assert f"-m venv {Path(words[0]).parents[1]}".replace("%h", "~") in document


def test_the_timer_starts_the_sweep_every_night(units: Path) -> None:
    """The timer belongs to the unit of the same name, is spread, and makes up for a night the machine was off."""
    read = values(units / "ingestd-backfill.timer")
    assert "Unit" not in read
    assert (read["OnCalendar"], read["Persistent"]) == (["*-*-* 03:30:00"], ["yes"])
    assert seconds(read["RandomizedDelaySec"][0]) > 0
