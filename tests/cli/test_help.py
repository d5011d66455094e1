"""Help, version, start-up, and that documents and commands agree."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import ENTRY, Folder
from pages import section
from typer.testing import CliRunner

import ingestd
from ingestd.cli import COMMANDS, app

HEAVY = ("polars", "pyarrow", "watchdog", "apscheduler", "pint", "structlog", "rich.console")

LONG_RUNNING = {"run", "tail"}
"""Commands whose examples do not end by themselves; their own tests run them."""


def commands(command: Any = None, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return every command, groups included, by the words that call it."""
    command = command or typer.main.get_command(app)
    found = {path: command}
    for name, child in getattr(command, "commands", {}).items():
        found |= commands(child, (*path, name))
    return found


def leaves() -> dict[tuple[str, ...], Any]:
    """Return every command that is no group."""
    return {path: command for path, command in commands().items() if not getattr(command, "commands", None)}


def examples(command: Any) -> list[str]:
    """Return the example lines in a command's help."""
    return re.findall(r"^\s*(ingestd .+)$", command.help.partition("\b\n")[2], re.MULTILINE)


def exit_codes(path: tuple[str, ...]) -> set[str]:
    """Return the codes that a command's help lists; empty where it lists none, or only names another command's."""
    told = commands()[path].help.partition("Exit codes: ")[2].partition("\n\n")[0]
    return set(re.findall(r"(?:^|[ ,])(\d+)(?= )", told))


def test_help_and_version_load_no_heavy_library() -> None:
    """`ingestd --help`, a command's help and `--version` answer without polars, pyarrow, the watcher and the like."""
    loaded = f"print([name for name in {HEAVY} if name in sys.modules])"
    check = f"import sys; from ingestd.cli import main\ntry: main()\nfinally: {loaded}"
    for arguments in (["--help"], ["--version"], ["backfill", "--help"], ["config", "show", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", check, *arguments],
            cwd=Path(ingestd.__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "[]", arguments


def test_every_command_is_found_in_the_module_that_the_table_names() -> None:
    """`COMMANDS` names every command that the modules define, each in the module that defines it, and no other."""
    defined = {
        (name, module)
        for module in set(COMMANDS.values())
        for name in typer.main.get_group(import_module(f"ingestd.cli.{module}").commands).commands
    }
    assert defined == set(COMMANDS.items())


def test_the_console_entry_loads_nothing_before_it_is_called() -> None:
    """A process that stages imports its parent's main file, which must not bring the command line with it."""
    check = "import sys, ingestd.__main__; print([name for name in sys.modules if name.startswith('ingestd')])"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=Path(ingestd.__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['ingestd', 'ingestd.__main__']\n"


def test_import_of_the_package_loads_no_heavy_library() -> None:
    """`import ingestd` is quick; the API is loaded on first use."""
    check = f"import sys, ingestd; dir(ingestd); print([m for m in {HEAVY} if m in sys.modules]); ingestd.load_manifest"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=Path(ingestd.__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("path", commands(), ids=lambda path: " ".join(path) or "ingestd")
def test_every_help_says_what_the_command_does(path: tuple[str, ...]) -> None:
    """`--help` of every command ends with 0, names the command and begins with one short sentence; `-h` is the same."""
    done = CliRunner().invoke(app, [*path, "--help"], prog_name="ingestd", env={"COLUMNS": "100"})
    first = commands()[path].help.strip().splitlines()[0]
    short = CliRunner().invoke(app, [*path, "-h"], prog_name="ingestd", env={"COLUMNS": "100"})
    assert (done.exit_code, done.stderr) == (0, "")
    assert short.stdout == done.stdout
    assert done.stdout.startswith(f"Usage: {' '.join(('ingestd', *path))} ")
    assert first in done.stdout
    assert len(first) <= 76
    assert first.endswith(".")


def test_the_list_of_commands_shows_whole_sentences(folder: Folder) -> None:
    """No description in a list of commands is cut off, in an ordinary terminal either."""
    for path, command in commands().items():
        if getattr(command, "commands", None):
            listed = folder.run(*path, "--help", environment={"COLUMNS": "80"}).out.partition("Commands:")[2]
            assert listed
            assert "..." not in listed


def test_version_is_the_package_s(folder: Folder) -> None:
    """`ingestd --version` prints the version and nothing else."""
    done = folder.run("--version")
    assert (done.out, done.code) == (f"ingestd {ingestd.__version__}\n", 0)


def test_the_console_entry_is_what_the_tests_run(repository: Path) -> None:
    """pyproject.toml installs `ingestd` as the function that these tests call."""
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["scripts"]["ingestd"].partition(":")
    assert f"from {module} import {function}; {function}()" == ENTRY


def test_every_command_takes_config_and_has_an_example() -> None:
    """Every command but `config generate` takes --config and --data-root, and every one shows how it is typed."""
    for path, command in leaves().items():
        options = {option for parameter in command.params for option in parameter.opts}
        if path != ("config", "generate"):
            assert {"--config", "--data-root"} <= options, path
        assert examples(command), path


def test_an_option_means_the_same_everywhere() -> None:
    """Options of one name have one help text, whatever the command, but for two that choose other things in each."""
    texts: dict[str, set[str]] = {}
    for command in leaves().values():
        for parameter in command.params:
            if parameter.opts[0].startswith("--"):
                texts.setdefault(parameter.opts[0], set()).add(str(parameter.help))
    several = {option for option, words in texts.items() if len(words) > 1}
    assert several == {"--chip", "--deep"}


def test_every_command_stands_in_the_documents(repository: Path) -> None:
    """docs/commands.md has a section a command."""
    text = (repository / "docs" / "commands.md").read_text("utf-8")
    assert set(re.findall(r"^## ingestd (.+)$", text, re.MULTILINE)) == {" ".join(path) for path in leaves()}


def test_the_tables_of_the_documents_are_whole(repository: Path) -> None:
    """In every page each row of a table has as many cells as its head: a `|` inside a cell is escaped."""
    for page in [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]:
        columns = 0
        for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
            cells = len(re.split(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            assert not cells or not columns or cells == columns, f"{page.name}:{number}"
            columns = cells


@pytest.mark.parametrize("path", leaves(), ids=" ".join)
def test_the_documents_have_the_choices_and_defaults_of_the_help(repository: Path, path: tuple[str, ...]) -> None:
    """The section of a command in docs/commands.md shows every choice and every default that its `--help` shows."""
    text = section(repository / "docs" / "commands.md", f"ingestd {' '.join(path)}").replace(r"\|", "|")
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "100"}).stdout
    choices = re.findall(r"(--[a-z-]+) [<\[](\w+(?:\|\w+)+)[>\]]", shown)
    defaults = re.findall(r"\[default:\s+([^\s;\]]+)", shown)
    assert [f"{option} <{values}>" for option, values in choices] == re.findall(r"`(--[a-z-]+ <.+?>)`", text)
    assert defaults == re.findall(r"\[default: ([^\s;\]]+)", text)
    assert choices or path != ("tail",)


def test_every_exit_code_stands_in_the_documents(repository: Path) -> None:
    """The table of docs/commands.md has every code that the help of any command names."""
    text = (repository / "docs" / "commands.md").read_text("utf-8")
    table = set(re.findall(r"^\| (\d+) \|", text, re.MULTILINE))
    named = {code for path in commands() for code in exit_codes(path)}
    assert {"0", "1", "2", "130"} <= named
    assert named <= table


def test_the_table_of_exit_codes_names_every_command_that_ends_with_1(repository: Path) -> None:
    """Code 1 means something else for each command: the table of docs/commands.md has all that have a list of codes."""
    text = (repository / "docs" / "commands.md").read_text("utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| 1 |"))
    own = {" ".join(path) for path in leaves() if "1" in exit_codes(path)} - {"backfill"}
    assert {"run", "rebuild-manifest"} <= own
    assert {name for name in own if f"`{name}`" not in row} == set()
    assert "staging: " in row  # backfill, and all whose codes are the same


def test_every_command_that_prints_json_is_described(repository: Path) -> None:
    """The JSON of each command with `--json` stands in docs/formats.md, or with backfill's in docs/commands.md."""
    formats = repository / "docs" / "formats.md"
    described = set(re.findall(r"^## The JSON of `ingestd (.+)`$", formats.read_text("utf-8"), re.MULTILINE))
    described |= set(re.findall(r"^\| `(.+?)` \| `", section(formats, "The JSON of other commands"), re.MULTILINE))
    shared = section(repository / "docs" / "commands.md", "The JSON of `backfill`")
    described |= set(re.findall(r"`([a-z -]+)`", shared.partition("| key |")[0])) - {"metadata", "retried"}
    has_json = [path for path, command in leaves().items() if any("--json" in one.opts for one in command.params)]
    assert described == {" ".join(path) for path in has_json}


@pytest.mark.parametrize("path", [path for path in leaves() if path[0] not in LONG_RUNNING], ids=" ".join)
def test_every_example_runs(staged: Folder, path: tuple[str, ...]) -> None:
    """Each example of a command's help does its work on the sample data: it ends with 0, or 1 for the broken file."""
    (staged.path / "config.toml").write_text("")
    for line in examples(leaves()[path]):
        done = staged.run(*_typed(line))
        assert done.code in {0, 1}, f"{line}\n{done.out}{done.err}"
        assert done.out, line


def _typed(line: str) -> list[str]:
    words = shlex.split(line.partition("  #")[0])
    return words[1 : words.index(">")] if ">" in words else words[1:]


def _in_shell(folder: Path, words: str, redirected: str) -> subprocess.CompletedProcess[str]:
    command = f"exec {shlex.quote(sys.executable)} {words} {redirected}"
    return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("python", ["-m", "-u -m"])
@pytest.mark.parametrize("words", ["--help", "--version", "status --help", "rejects list --help", "config generate"])
def test_a_full_disk_is_told_as_one_by_what_only_prints(tmp_path: Path, words: str, python: str) -> None:
    """`ingestd --help > FILE` on a full disk is an error of the disk, not of ingestd, however output is buffered."""
    done = _in_shell(tmp_path, f"{python} ingestd {words}", "> /dev/full")
    assert done.returncode == 2
    step = "free some space on that disk; then run the same command again"
    assert done.stderr.strip() == f"error: stdout: No space left on device\n  next: {step}"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_needs_no_open_stream(staged: Folder, closed: str) -> None:
    """Started with stdout or stderr closed, a command prints what it can, and ends as it would."""
    done = _in_shell(staged.path, "-m ingestd status", closed)
    assert (done.returncode, done.stderr) == (staged.run("status").code, "")
    assert ("power" in done.stdout) is (closed == "2>&-")
