"""docs/operating.md: every command in it exists, with these options, and every file it names is there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

from ingestd.cli import app
from ingestd.service.daemon import Exit
from ingestd.service.status_report import Health
from ingestd.settings import load_settings

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:sudo )?ingestd [a-z][^`]*)`")


@pytest.fixture(scope="module")
def document(repository: Path) -> str:
    """The text of docs/operating.md."""
    return (repository / "docs" / "operating.md").read_text("utf-8")


def blocks(document: str, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return [match[2] for match in BLOCK.finditer(document) if match[1] == language]


def commands(document: str) -> Iterator[list[str]]:
    """Yield every command line of the shell blocks as words, without `sudo` and its user."""
    for block in blocks(document, "sh"):
        for line in block.splitlines():
            words = shlex.split(line)
            if words[0] == "sudo":
                words = words[3:] if words[1] == "-u" else words[1:]
            yield words


def test_every_ingestd_command_exists(document: str) -> None:
    """Each `ingestd ...`, in blocks and in sentences, names a command and options that ingestd has."""
    typed = [words[1:] for words in commands(document) if words[0] == "ingestd"]
    typed += [shlex.split(match[1])[1:] for match in INLINE.finditer(document)]
    assert len(typed) > 12
    for words in typed:
        command = get_command(app)
        top = typer.Context(command, **command.context_settings)
        rest = words
        while isinstance(command, TyperGroup) and rest:
            assert rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
        assert not isinstance(command, TyperGroup), words
        # An unknown option is an error; and a command keeps the names its help has where it is first called.
        command.make_context("ingestd", list(rest), parent=top, resilient_parsing=True)


def test_every_block_is_shell(document: str) -> None:
    """`sh -n` takes every shell block."""
    for block in blocks(document, "sh"):
        done = subprocess.run(["sh", "-n"], input=block, check=False, capture_output=True, text=True)
        assert done.returncode == 0, block + done.stderr


def test_what_root_installs_can_be_read_by_the_services_user(document: str) -> None:
    """Every block that has root install packages first sees to it: on a hardened PC new files are closed to others."""
    installing = [block for block in blocks(document, "sh") if re.search("^sudo .* pip install", block, re.MULTILINE)]
    assert len(installing) > 2
    assert {block.splitlines()[0] for block in installing} == {"umask 022"}


def test_every_unit_and_file_is_there(document: str, repository: Path) -> None:
    """systemctl gets units of `systemd/`, and what is copied or run from the sources is part of them."""
    units = {path.name for path in (repository / "systemd").iterdir()}
    for words in commands(document):
        if words[0] == "systemctl":
            named = [word for word in words[2:] if not word.startswith("-") and "ingestd" in word]
            assert {name if "." in name else f"{name}.service" for name in named} <= units, words
        for word in words:
            if word.startswith(("tools/", "systemd/")):
                assert (repository / word).is_file(), word


def test_the_installer_takes_its_options(document: str, repository: Path) -> None:
    """Every option the document gives tools/install_service.py is one it has."""
    source = (repository / "tools" / "install_service.py").read_text("utf-8")
    given = {word for words in commands(document) if "tools/install_service.py" in words for word in words[2:]}
    options = {word for word in given if word.startswith("--")} | set(re.findall(r"Add `(--[a-z-]+)`", document))
    assert {"--data-root", "--no-start"} <= options
    assert {option for option in options if f'"{option}"' not in source} == set()


def test_what_uninstall_removes_is_what_install_made(document: str, repository: Path) -> None:
    """Units, executable, link and log folder all go; the settings and the data are not named there."""
    uninstall = document.partition("## Uninstall")[2]
    for unit in repository.glob("systemd/*.*"):
        assert f"/etc/systemd/system/{unit.name}" in uninstall
    for path in ("/opt/ingestd", "/usr/local/bin/ingestd", "/var/log/ingestd"):
        assert path in uninstall
    removed = [word for words in commands(uninstall) if words[0] == "rm" for word in words]
    assert not any(word.startswith(("/srv", "/etc/ingestd")) for word in removed)


def test_the_settings_are_valid(document: str, tmp_path: Path) -> None:
    """Each TOML block is a config file ingestd takes, and each `section.key` in a sentence is a setting."""
    examples = blocks(document, "toml")
    assert examples
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.toml"
        path.write_text(example, "utf-8")
        assert load_settings(path).watch.mode == "scan"
    known = load_settings(tmp_path / "0.toml").model_dump()
    named = re.findall(r"`(settle|watch|service|log|paths|time)\.(\w+)`", document)
    assert named
    assert [(section, key) for section, key in named if key not in known[section]] == []


def test_the_new_data_root_gets_into_the_config_file(document: str, tmp_path: Path) -> None:
    """The `sed` of the move changes the line tools/install_service.py writes, and leaves valid TOML."""
    (words,) = (words for words in commands(document) if words[0] == "sed")
    config = tmp_path / "config.toml"
    config.write_text('# Settings\n\n[paths]\ndata_root = "/srv/lab/data"\n')
    subprocess.run([*words[:-1], str(config)], check=True)
    assert tomllib.loads(config.read_text()) == {"paths": {"data_root": "/mnt/lab/data"}}


def test_the_settings_of_a_lab_without_root_name_its_data_and_its_zone(document: str, tmp_path: Path) -> None:
    """The service starts at once: a time zone that is set later does not change the dates of what is staged by then."""
    (written,) = (line for line in document.splitlines() if line.endswith(" > ~/.config/ingestd/config.toml"))
    (tmp_path / ".config/ingestd").mkdir(parents=True)
    subprocess.run(["sh", "-ec", written], env={"HOME": str(tmp_path)}, check=True)
    settings = load_settings(tmp_path / ".config/ingestd/config.toml")
    assert (str(settings.layout.data_root), settings.time.local_tz) == ("/srv/lab/data", "Europe/Madrid")


def test_a_backup_keeps_what_was_emptied_or_deleted_since(document: str, tmp_path: Path) -> None:
    """A raw file lost by mistake outlives the next backups, in which it is lost too; skips without rsync."""
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")
    (copying,) = (line for line in document.splitlines() if line.startswith("sudo rsync") and "/mnt/backup" in line)
    copying = copying.removeprefix("sudo ").replace("/srv/lab", str(tmp_path)).replace("/mnt", str(tmp_path))
    raw, backup = tmp_path / "data/01_raw", tmp_path / "backup"
    raw.mkdir(parents=True)
    backup.mkdir()
    for name in ("emptied", "deleted"):
        (raw / f"{name}.csv").write_text(name)
    subprocess.run(["sh", "-ec", copying], check=True)
    (raw / "emptied.csv").write_text("")
    (raw / "deleted.csv").unlink()
    for _ in range(2):
        subprocess.run(["sh", "-ec", copying], check=True)
    assert [path.name for path in (backup / "data/01_raw").iterdir()] == ["emptied.csv"]
    assert sorted(path.read_text() for path in backup.glob("replaced/*/01_raw/*")) == ["deleted", "emptied"]


def test_every_exit_code_is_told(document: str) -> None:
    """The tables list every code of `ingestd status` and of the service."""
    monitoring = document.partition("## Monitoring")[2].partition("\n## ")[0]
    status, service = monitoring.split("| the service ended with |")
    assert {int(code) for code in re.findall(r"^\| (\d+)", status, re.MULTILINE)} >= {int(code) for code in Health}
    assert {int(code) for code in re.findall(r"^\| (\d+)", service, re.MULTILINE)} >= {int(code) for code in Exit}


def test_the_environment_of_another_python_is_made_anew(document: str, tmp_path: Path) -> None:
    """What Debian's next release leaves of it, libraries for a Python that is gone, is told and is no obstacle."""
    (words,) = (words for words in commands(document) if words[:4] == ["python3", "-m", "venv", "--clear"])
    venv = tmp_path / "venv"
    left = venv / "lib/python3.0/site-packages/ingestd"
    left.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin/python").symlink_to("/gone/python3.0")
    making = [sys.executable, *words[1:-1], "--without-pip", str(venv)]
    assert words[-1] == "/opt/ingestd/venv"
    subprocess.run(making, check=True)
    subprocess.run([venv / "bin/python", "-c", ""], check=True)
    assert not left.exists()
    monitoring = document.partition("## Monitoring")[2].partition("\n## ")[0]
    assert "\n| 203 | " in monitoring


def test_logrotate_takes_the_snippet(document: str, tmp_path: Path) -> None:
    """`logrotate --debug` finds no error in the snippet; skips where logrotate is not installed."""
    logrotate = shutil.which("logrotate", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if logrotate is None:
        pytest.skip("logrotate is not installed")
    (snippet,) = blocks(document, "logrotate")
    config = tmp_path / "ingestd"
    config.write_text(re.sub(r"^ *su .*\n", "", snippet, flags=re.MULTILINE))
    config.chmod(0o644)
    command = [logrotate, "--debug", "--state", str(tmp_path / "state"), str(config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "error:" not in done.stdout + done.stderr


def test_no_command_takes_the_settings_of_the_sources(document: str) -> None:
    """What is typed in the folder of the sources ends there before ingestd is asked: its config.toml would count."""
    for section in document.split("\n## "):
        in_sources = False
        for words in commands(section):
            in_sources = (in_sources or words[-1] == "." or "tools/install_service.py" in words) and words[0] != "cd"
            assert not (in_sources and words[0] == "ingestd"), words
