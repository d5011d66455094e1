"""tools/install_service.py: units for this lab's user and folders, the config file, and what it refuses."""

from __future__ import annotations

import errno
import importlib.util
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from mounts import command, image, mounted

from ingestd.settings import load_settings

Install = Callable[..., tuple[int, dict[str, str], str]]
"""Installs with the arguments given: exit code, unit as key -> value, what was printed."""

OWNER = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture(scope="module")
def installer(repository: Path) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("install_service", repository / "tools" / "install_service.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's root folder, and an ingestd installed for the Python that runs the tests."""
    prefix = tmp_path / "opt" / "ingestd" / "venv"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "ingestd").touch()
    monkeypatch.setattr(sys, "prefix", str(prefix))
    return tmp_path / "machine"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data root with raw files, in a folder with a blank and a percent sign."""
    folder = tmp_path / "lab 100%" / "data"
    (folder / "01_raw").mkdir(parents=True)
    return folder


@pytest.fixture
def install(installer: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]) -> Install:
    """Run the script below `root`, without systemd; return its exit code, unit values and messages."""

    def run(*arguments: str) -> tuple[int, dict[str, str], str]:
        code = installer.main(["--no-start", "--root", str(root), *arguments])
        unit = root / "etc/systemd/system/ingestd.service"
        lines = unit.read_text("utf-8").splitlines() if unit.exists() else []
        said = capsys.readouterr()
        return (
            code,
            dict(line.split("=", 1) for line in lines if "=" in line and line[0] not in "#["),
            said.out + said.err,
        )

    return run


def named(*arguments: str) -> list[str]:
    """The arguments with a user: the tests may run as root, which the script refuses to assume."""
    return [*arguments, "--user", OWNER]


def test_the_units_name_this_lab(install: Install, root: Path, data: Path) -> None:
    """User, folders and executable are this lab's, quoted as systemd reads them; all other lines are as shipped."""
    code, unit, said = install(*named("--data-root", str(data)))
    quoted = {name: f'"{data}/{name}"'.replace("%", "%%") for name in ("01_raw", "02_stage", "histories", "metadata")}
    assert code == 0, said
    assert "to start: sudo systemctl daemon-reload; sudo systemctl enable --now ingestd.service ingestd-b" in said
    assert unit["User"] == OWNER
    assert unit["ReadOnlyPaths"] == quoted["01_raw"]
    assert unit["ReadWritePaths"] == " ".join(quoted[name] for name in ("02_stage", "histories", "metadata"))
    assert unit["RequiresMountsFor"] == unit["ReadWritePaths"]
    assert unit["ExecStart"] == f"{sys.prefix}/bin/ingestd run --config /etc/ingestd/config.toml"
    assert unit["ProtectSystem"] == "strict"
    installed = sorted(path.name for path in (root / "etc/systemd/system").iterdir())
    assert installed == ["ingestd-backfill.service", "ingestd-backfill.timer", "ingestd.service"]


def test_every_comment_of_the_shipped_unit_is_kept(install: Install, root: Path, data: Path, repository: Path) -> None:
    """The installed units are as explained as the shipped ones."""
    install(*named("--data-root", str(data)))
    for name in ("ingestd.service", "ingestd-backfill.service"):
        shipped, installed = (
            [line for line in (folder / name).read_text("utf-8").splitlines() if line.startswith("#")]
            for folder in (repository / "systemd", root / "etc/systemd/system")
        )
        assert [line for line in shipped if line not in installed] == []


def test_it_makes_the_folders_and_the_config_file(install: Install, root: Path, data: Path) -> None:
    """What the unit may write is there, or systemd would refuse to start it; the config file names the data root."""
    install(*named("--data-root", str(data)))
    assert all((data / name).is_dir() for name in ("02_stage", "histories", "metadata"))
    assert list((data / "01_raw").iterdir()) == []
    assert load_settings(root / "etc/ingestd/config.toml").layout.data_root == data


def test_what_it_makes_can_be_read_whatever_the_umask(install: Install, root: Path, data: Path) -> None:
    """On a hardened PC root's new files are closed to others, and the service could not read its config file."""
    before = os.umask(0o077)
    try:
        install(*named("--data-root", str(data)))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    made = [root / "etc/ingestd", *(data / name for name in ("02_stage", "histories", "metadata"))]
    assert {folder.stat().st_mode & 0o777 for folder in made} == {0o755}
    assert (root / "etc/ingestd/config.toml").stat().st_mode & 0o777 == 0o644


def test_it_follows_the_paths_of_the_config_file(install: Install, root: Path, data: Path, tmp_path: Path) -> None:
    """Run again after a change of the config file, the units name the new folders, and the file is as it was."""
    config = root / "etc/ingestd/config.toml"
    config.parent.mkdir(parents=True)
    text = f'[paths]\ndata_root = "{data}"\nhistories_dir = "{tmp_path}/plots"\n[log]\nfile = "{tmp_path}/log/x.log"\n'
    config.write_text(text)
    code, unit, said = install(*named())
    assert code == 0, said
    for folder in ("plots", "log"):
        assert f"{tmp_path}/{folder}" in unit["ReadWritePaths"].split()
        assert (tmp_path / folder).is_dir()
    assert "histories" not in unit["ReadWritePaths"]
    assert config.read_text() == text


def test_it_runs_as_the_owner_of_the_raw_files(installer: ModuleType, data: Path) -> None:
    """Without --user it is the owner, and root is nobody to run a service as."""
    settings = load_settings(flags={"paths": {"data_root": data}})
    if os.geteuid() != 0:
        assert installer.find_place(settings, None).user == OWNER
        return
    with pytest.raises(installer.UsageError, match="belong to root"):
        installer.find_place(settings, None)
    os.chown(data / "01_raw", pwd.getpwnam("nobody").pw_uid, -1)
    assert installer.find_place(settings, None).user == "nobody"


def test_data_in_a_home_folder_can_be_seen(installer: ModuleType, repository: Path) -> None:
    """Where the data lies in a home folder, homes are read only; elsewhere they are empty."""
    text = (repository / "systemd" / "ingestd.service").read_text("utf-8")
    executable = Path("/opt/ingestd/venv/bin/ingestd")
    for folder, expected in ((f"{installer.HOMES[0]}/ana/data", "read-only"), ("/srv/lab/data", "tmpfs")):
        place = installer.Place("ana", Path(folder) / "01_raw", (Path(folder) / "02_stage",))
        assert f"\nProtectHome={expected}\n" in place.unit(text, executable)


def test_a_program_in_a_home_folder_can_be_seen(
    install: Install, installer: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So can what a virtual environment elsewhere links to, a Python in a home, or systemd could not start ingestd."""
    monkeypatch.setattr(installer, "HOMES", (str(tmp_path / "home"),))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "usr/bin/python3"))
    assert install(*named("--data-root", str(data)))[1]["ProtectHome"] == "tmpfs"
    with monkeypatch.context() as patch:
        patch.setattr(installer, "HOMES", (str(tmp_path / "opt"),))
        assert install(*named("--data-root", str(data)))[1]["ProtectHome"] == "read-only"
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3").symlink_to(tmp_path / "home/ana/.pyenv/bin/python3")
    assert install(*named("--data-root", str(data)))[1]["ProtectHome"] == "read-only"


def test_a_data_root_named_by_a_link_in_a_home_folder_can_be_seen(
    install: Install, installer: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config file has the link's name: where the service does not see the link, it does not find the data."""
    monkeypatch.setattr(installer, "HOMES", (str(tmp_path / "home"),))
    (tmp_path / "home/ana").mkdir(parents=True)
    (tmp_path / "home/ana/data").symlink_to(data)
    code, unit, said = install(*named("--data-root", str(tmp_path / "home/ana/data")))
    assert (code, unit["ProtectHome"]) == (0, "read-only"), said


def test_a_disk_of_its_own_starts_and_stops_the_service(
    installer: ModuleType, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is bound to the disk it writes to; a raw root on a share of its own may come and go."""
    text = (repository / "systemd" / "ingestd.service").read_text("utf-8")
    monkeypatch.setattr(installer, "_mount_units", lambda folders: ["mnt-disk.mount"])
    place = installer.Place("ana", Path("/mnt/share/01_raw"), (Path("/mnt/disk/02_stage"),))
    unit = place.unit(text, Path("/opt/ingestd/venv/bin/ingestd"))
    for line in (
        "BindsTo=mnt-disk.mount",
        "After=mnt-disk.mount",
        "WantedBy=mnt-disk.mount",
        "WantedBy=multi-user.target",
    ):
        assert unit.count(f"\n{line}\n") == 1
    assert "mnt-share" not in unit


def test_only_what_is_mounted_is_a_disk(installer: ModuleType, tmp_path: Path) -> None:
    """A btrfs subvolume has a device number of its own, but no unit that systemd could start or stop."""
    made = image(tmp_path / "image", 256, "mkfs.btrfs", "-q")
    with mounted(tmp_path / "a disk", "-t", "btrfs", "-o", "loop", made) as disk:
        command("btrfs", "subvolume", "create", disk / "lab")
        (unit,) = installer._mount_units([disk / "lab"])
        named = subprocess.run(["systemd-escape", "--path", disk], capture_output=True, text=True, check=True).stdout
    assert unit == f"{named.strip()}.mount"


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (None, [], "there is no config file yet"),
        ('[paths]\ndata_root = "/elsewhere"\n', ["--data-root", "DATA"], "names another data root, /elsewhere"),
        ('[paths]\ndata_root = "/nowhere"\n', [], "no such folder of raw files"),
        ('[paths]\ndata_rot = "DATA"\n', [], "did you mean 'paths.data_root'"),
        ('[paths]\ndata_root = "DATA"\nhistories_dir = "DATA/01_raw/histories"\n', [], "ingestd never writes"),
        ('[paths]\ndata_root = "DATA"\nstage_root = "DATA"\n', [], "ingestd would write here"),
        (None, ["--data-root", "DATA", "--user", "no-such-user"], "there is no user no-such-user"),
    ],
    ids=["no-config", "other-root", "no-raw", "typo", "writes-into-raw", "raw-in-stage", "no-user"],
)
def test_it_refuses(install: Install, root: Path, data: Path, config: str, arguments: list[str], message: str) -> None:
    """What cannot work is refused with the reason and the next step, and no unit is written."""
    if config is not None:
        (root / "etc/ingestd").mkdir(parents=True)
        (root / "etc/ingestd/config.toml").write_text(config.replace("DATA", str(data)))
    given = [argument.replace("DATA", str(data)) for argument in arguments]
    code, unit, said = install(*(given if "--user" in given else named(*given)))
    assert (code, unit) == (2, {})
    assert message in said
    assert "next: " in said


def test_a_refusal_writes_nothing(install: Install, root: Path, data: Path, tmp_path: Path) -> None:
    """A slip in the data root or the user leaves no config file behind, so that the next try is not refused for it."""
    slips = [named("--data-root", str(tmp_path / "nope")), ["--data-root", str(data), "--user", "no-such-user"]]
    if os.geteuid() == 0:
        slips.append(["--data-root", str(data)])  # its owner is root
    for slip in slips:
        code, _, said = install(*slip)
        assert (code, root.exists()) == (2, False), said
    code, _, said = install(*named("--data-root", str(data)))
    assert code == 0, said


def test_a_file_in_the_place_of_a_folder_is_refused(install: Install, root: Path, data: Path) -> None:
    """It is named before any other folder is made."""
    (data / "histories").touch()
    code, _, said = install(*named("--data-root", str(data)))
    assert (code, root.exists(), (data / "02_stage").exists()) == (2, False, False)
    assert said.startswith(f"error: {data}/histories: ingestd needs a folder here, and this is none\n  next: ")


def test_raw_files_that_root_may_not_look_at_are_refused(
    install: Install, installer: ModuleType, root: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a user mounted a folder (sshfs), root gets an error: it is told, with its place."""

    def refuse(raw: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(raw))

    monkeypatch.setattr(installer, "why_no_root", refuse)
    code, _, said = install(*named("--data-root", str(data)))
    assert (code, root.exists()) == (2, False)
    assert said.startswith(f"error: {data}/01_raw: Permission denied\n  next: give the user who runs ingestd (uid ")


def test_a_data_root_that_is_not_utf_8_is_refused(install: Install, root: Path, tmp_path: Path) -> None:
    """The reason is the one that every command gives."""
    data = tmp_path / os.fsdecode(b"d\xff")
    (data / "01_raw").mkdir(parents=True)
    code, _, said = install(*named("--data-root", str(data)))
    assert (code, root.exists()) == (2, False)
    assert said.startswith("error: option --data-root: paths.data_root = ")
    assert "a path that is not UTF-8 cannot be used" in said


def test_the_config_file_to_be_is_checked_as_one_that_is_there(install: Install, root: Path, data: Path) -> None:
    """A link that leads what is written into the raw files is refused before anything is written."""
    (data / "histories").symlink_to(data / "01_raw")
    code, _, said = install(*named("--data-root", str(data)))
    assert (code, root.exists()) == (2, False)
    assert said.startswith("error: option --data-root: paths.histories_dir = ")


def test_it_refuses_settings_the_service_would_not_see(
    install: Install, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INGESTD_... variables of the shell count for commands typed there, not for the service."""
    monkeypatch.setenv("INGESTD_PATHS__DATA_ROOT", str(data))
    code, _, said = install(*named("--data-root", str(data)))
    assert code == 2
    assert "the service would not see them" in said
