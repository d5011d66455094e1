"""Install the systemd units for a data root: run as root with the Python that ingestd was installed into.

    sudo /opt/ingestd/venv/bin/python tools/install_service.py --data-root /srv/lab/data

Writes /etc/ingestd/config.toml where there is none, makes the folders ingestd writes into, puts the units of `systemd/`
into /etc/systemd/system with the user and folders in force, and starts them. Running it again does the same: after an
upgrade, after a change of the paths in the config file, on a new disk. What it refuses leaves everything as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ingestd.errors import Retry, UsageError
from ingestd.files import as_retry, is_dir, is_taken, why_no_root
from ingestd.settings import Settings, load_settings

SOURCES = Path(__file__).resolve().parents[1] / "systemd"
SERVICES = ("ingestd.service", "ingestd-backfill.service")
TIMER = "ingestd-backfill.timer"
STARTED = ("ingestd.service", TIMER)
UNITS = Path("etc/systemd/system")
CONFIG = Path("etc/ingestd/config.toml")
HOMES = ("/home", "/root", "/run/user")
"""What ProtectHome= covers."""

STOPS_WITH_DISK = (
    "# Stop when this disk is unmounted: a running service would keep hold of it, and not see the next one."
)
STARTS_AFTER_DISK = "# Wait for it at the start."
STARTS_WITH_DISK = "# Start when this disk is mounted (again)."


@dataclass(frozen=True, slots=True)
class Place:
    """What the units need to know of one lab: the user, the raw files, and every folder that is written.

    `entered` is what else has to be seen: the places as the config file names them, which links may lead away from, and
    Python.
    """

    user: str
    raw_root: Path
    written: tuple[Path, ...]
    entered: tuple[Path, ...] = ()

    def unit(self, text: str, executable: Path) -> str:
        """Put this lab's user, folders and executable into the text of a unit; comments stay."""
        seen = (self.raw_root, *self.written, *self.entered, executable)
        values = {
            "User": self.user,
            # Not for the raw files: a share that is off would keep the service from starting, which can wait for it.
            "RequiresMountsFor": _listed(self.written),
            "ReadOnlyPaths": _listed([self.raw_root]),
            "ReadWritePaths": _listed(self.written),
        }
        if any(place.is_relative_to(home) for place in seen for home in HOMES):
            values["ProtectHome"] = "read-only"
        disks = " ".join(_mount_units(self.written))
        lines = []
        for line in text.splitlines():
            key, _, old = line.partition("=")
            if key == "ExecStart":
                values[key] = f"{_escaped(str(executable))} {old.partition(' ')[2]}"
            lines.append(f"{key}={values[key]}" if key in values else line)
            if disks and key == "RequiresMountsFor":
                lines += [STOPS_WITH_DISK, f"BindsTo={disks}", STARTS_AFTER_DISK, f"After={disks}"]
            if disks and key == "WantedBy":
                lines += [STARTS_WITH_DISK, f"WantedBy={disks}"]
        return "\n".join(lines) + "\n"


def _mount_units(folders: Iterable[Path]) -> list[str]:
    """Name systemd's units of the disks that hold folders, other than the one of `/`.

    The kernel is asked what is mounted: to Python, a btrfs subvolume looks like a mount point, and has no unit.
    """
    fields = (line.split()[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines())
    mounted = {Path(os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), field))) for field in fields}
    points = {next(place for place in (folder, *folder.parents) if place in mounted) for folder in folders}
    points.discard(Path("/"))
    if not points:
        return []
    command = ["systemd-escape", "--path", "--suffix=mount", "--", *map(str, sorted(points))]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


_OCTAL = re.compile(rb"\\([0-7]{3})")
"""A blank or the like in a name, as the kernel writes it."""


def find_place(settings: Settings, user: str | None) -> Place:
    """Work out the place from the settings; the user is the owner of the raw files unless given.

    Raises:
        UsageError: no raw root, nobody to run as, or a written folder inside the raw root, around it, or that is none.
    """
    layout = settings.layout
    raw = Path(os.path.realpath(layout.raw_root))
    if why := why_no_root(raw):
        raise UsageError(why, place=str(raw), next_step="check --data-root; is the disk mounted?")
    folders = (
        layout.stage_root,
        layout.manifest_path.parent,
        layout.wal_dir,
        layout.events_dir,
        layout.rejects_dir,
        layout.histories_dir,
        layout.metadata_dir,
        layout.log_file.parent,
    )
    written = _topmost(Path(os.path.realpath(folder)) for folder in folders)
    for folder in written:
        if folder.is_relative_to(raw) or raw.is_relative_to(folder):
            raise UsageError(
                f"ingestd would write here, and the raw files are in {raw}",
                place=str(folder),
                next_step="let [paths] in the config file name folders apart from each other",
            )
        if is_taken(folder) and not is_dir(folder):
            raise UsageError(
                "ingestd needs a folder here, and this is none",
                place=str(folder),
                next_step="move it away, or let [paths] in the config file name another place",
            )
    return Place(_account(user, raw), raw, written, (layout.raw_root, *folders, Path(os.path.realpath(sys.executable))))


def _account(user: str | None, raw: Path) -> str:
    try:
        name = user or pwd.getpwuid(raw.stat().st_uid).pw_name
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        raise UsageError(
            f"there is no user {user or raw.stat().st_uid} on this machine",
            place=str(raw),
            next_step="name the user the acquisition program runs as: --user NAME",
        ) from None
    if uid == 0 and user is None:
        raise UsageError(
            "the raw files belong to root, which no service of ours should run as",
            place=str(raw),
            next_step="name the user the acquisition program runs as: --user NAME (who has to be able to read them)",
        )
    return name


def _topmost(folders: Iterable[Path]) -> tuple[Path, ...]:
    every = sorted(set(folders))
    return tuple(f for f in every if not any(f != other and f.is_relative_to(other) for other in every))


def _listed(paths: Iterable[Path]) -> str:
    return " ".join(_escaped(str(path)) for path in paths)


def _escaped(text: str) -> str:
    """Write a path as systemd.syntax(7) wants it: quoted where needed, `%` doubled, since it begins a specifier."""
    text = text.replace("%", "%%")
    plain = all(character.isalnum() or character in "/._-%+@:," for character in text)
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def config_text(data_root: Path) -> str:
    """Write the text of a config file that names the data root and nothing else."""
    return (
        "# Settings of ingestd. `ingestd config generate` prints every one of them with its meaning.\n\n"
        f"[paths]\ndata_root = {json.dumps(str(data_root), ensure_ascii=False)}\n"
    )


def install(place: Place, root: Path, executable: Path, data_root: Path) -> None:
    """Make the folders that are written, as the user; below `root` (`/` but for tests) write config file and units.

    Everybody may read them, whatever the umask: the service's user reads the config file, the lab what is staged.
    """
    before = os.umask(0o022)
    try:
        _install(place, root, executable, data_root)
    finally:
        os.umask(before)


def _install(place: Place, root: Path, executable: Path, data_root: Path) -> None:
    for folder in place.written:
        _make_folder(folder, place.user)
    config, target = root / CONFIG, root / UNITS
    for folder in (config.parent, target):
        folder.mkdir(parents=True, exist_ok=True)
    if not config.exists():
        config.write_text(config_text(data_root), "utf-8")
    for name in SERVICES:
        (target / name).write_text(place.unit((SOURCES / name).read_text("utf-8"), executable), "utf-8")
    shutil.copyfile(SOURCES / TIMER, target / TIMER)


def _make_folder(folder: Path, user: str) -> None:
    """Make a folder as the user who owns the data; as root only where that user may not."""
    if folder.is_dir():
        return
    command = ["mkdir", "-p", "--", str(folder)]
    if os.geteuid() != 0:
        subprocess.run(command, check=True)
        return
    group = pwd.getpwnam(user).pw_gid
    done = subprocess.run(command, check=False, user=user, group=group, extra_groups=[], stderr=subprocess.DEVNULL)
    if done.returncode != 0:
        subprocess.run(["install", "-d", "-o", user, "-g", str(group), "--", str(folder)], check=True)


def _settings(root: Path, data_root: Path | None, environment: Mapping[str, str]) -> Settings:
    config = root / CONFIG
    if any(name.startswith("INGESTD_") for name in environment):
        raise UsageError(
            "INGESTD_... variables are set, and the service would not see them",
            place="environment",
            next_step="unset them; write settings into /etc/ingestd/config.toml",
        )
    if not config.exists():
        if data_root is None:
            raise UsageError("there is no config file yet", place=str(config), next_step="give --data-root DIR")
        return _settings_to_be(config, data_root.absolute())
    settings = load_settings(config)
    named = settings.layout.data_root
    if data_root is not None and Path(os.path.normpath(data_root.absolute())) != named:
        raise UsageError(
            f"the config file names another data root, {named}",
            place=str(config),
            next_step=f'write data_root = "{data_root.absolute()}" there, and run this again',
        )
    return settings


def _settings_to_be(config: Path, data_root: Path) -> Settings:
    """Load the settings of a config file that is only written once everything is checked."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, config.name)
        draft.touch()
        try:
            return load_settings(draft, {"paths": {"data_root": data_root}})
        except UsageError as error:
            error.place = "option --data-root"
            raise


def _start() -> int:
    """Make systemd read the units and start them, now and at every boot."""
    for command in (["daemon-reload"], ["reenable", "--quiet", *STARTED], ["restart", *STARTED]):
        if subprocess.run(["systemctl", *command], check=False).returncode != 0:
            print(f"error: systemctl {' '.join(command)} failed\n  next: journalctl -u ingestd -e", file=sys.stderr)
            return 1
    print("started; see it work: ingestd status")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Install as the command line says."""
    parser = argparse.ArgumentParser(description="Install the systemd units of ingestd for a data root.")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="holds 01_raw; needed the first time")
    parser.add_argument("--user", help="the acquisition program's user [default: the owner of 01_raw]")
    parser.add_argument("--no-start", action="store_true", help="write the files, and leave systemd as it is")
    parser.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    executable = Path(sys.prefix) / "bin" / "ingestd"
    try:
        if asked.root == Path("/") and os.geteuid() != 0:
            raise UsageError("this writes into /etc", place="install_service.py", next_step="run it with sudo")
        if not executable.is_file():
            raise UsageError(
                "ingestd is not installed here", place=str(executable), next_step=f"{sys.executable} -m pip install ."
            )
        settings = _settings(asked.root, asked.data_root, os.environ)
        with as_retry(settings.layout.data_root):
            place = find_place(settings, asked.user)
        install(place, asked.root, executable, settings.layout.data_root)
    except (UsageError, Retry) as error:
        print(f"error: {error.place}: {error.message}\n  next: {error.next_step}", file=sys.stderr)
        return 2
    print(f"installed: runs as {place.user}, reads {place.raw_root}, writes {_listed(place.written)}")
    if asked.no_start:
        print(f"not started; to start: sudo systemctl daemon-reload; sudo systemctl enable --now {' '.join(STARTED)}")
        return 0
    return _start()


if __name__ == "__main__":
    sys.exit(main())
