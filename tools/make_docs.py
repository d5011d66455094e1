"""Write what follows from the code: `config.toml`, `docs/configuration.md` and `docs/commands.md`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic.fields import FieldInfo

from ingestd.cli import app, exits
from ingestd.cli.config_text import COMPUTED, choices_of, config_toml, example, meaning_of, toml
from ingestd.cli.report import JSON_KEYS
from ingestd.service.status_report import Health
from ingestd.settings import CONFIG_VARIABLE, ENV_PREFIX, SYSTEM_CONFIG, environment_name, sections

REPOSITORY = Path(__file__).resolve().parents[1]

INTRODUCTION = """\
# Commands

This page is generated from the commands' own help (`make docs`), and a test keeps it up to date. Every example runs as
shown in a folder with a data root `data`; the file and chip names are those of the sample data.

The examples assume that `ingestd backfill` was run on the data root. Before that there is no manifest, and only
`backfill`, `stage-all`, `full-pipeline`, `run`, `status`, `verify` and `config` have something to do. `tail` needs the
log of a service that has run.

Every command takes `--help`, or `-h` for short, and every one but `config generate` takes `--config` and `--data-root`;
[configuration.md](configuration.md) says where settings come from. A setting given as an option applies to that command
only: repeat it, or write it into the config file. What `--json` prints is described below for `backfill` and similar
commands, and in [formats.md](formats.md) for all others.

Results go to stdout, progress and errors to stderr. With `--json`, stdout holds one JSON object and nothing else. If a
command could not begin (exit code 2), stdout is empty and stderr says why. On a terminal, `backfill` and `verify`
show a progress bar with rate and time left; in a pipe, they print nothing that differs from run to run.

## Exit codes

| code | meaning |
|---|---|
"""

EXIT_CODES = {
    exits.OK: "all good; some files may still wait for their run to end",
    exits.NOT_ALL_WELL: "staging: some files are rejected (now or earlier), failed, lost their measurement or "
    "could not be reached; "
    "`rebuild-manifest`: done, but some raw files are rejected or failed; `status`: something needs a person; "
    "`verify`: something is damaged; `repair`: something is damaged, or the plan waits for `--apply`; "
    "`compare-histories`: some differences are not explained; "
    "`run`: a disk error at the start, another service, or another disk, on this data root, a stop that took too long, "
    "or an error in ingestd itself",
    exits.COULD_NOT_RUN: "could not run: a wrong option or setting, a full disk, a damaged manifest; "
    "the message says what it is and what to do",
    int(Health.SERVICE_DOWN): "`status`: the service is not running, and nothing else is wrong",
    exits.INTERRUPTED: "stopped by Ctrl-C; what was staged is in the manifest",
    exits.OUTPUT_CLOSED: "the reader of the output closed it, as `| head` does; the work itself was done",
    exits.TERMINATED: "stopped by SIGTERM, as by Ctrl-C",
}

JSON_HEAD = """\
## The JSON of `backfill`

`backfill`, `stage-all`, `full-pipeline` (which adds `metadata`: the days written) and `rejects retry` (which adds
`retried`: file -> what became of it, and lists only these files) print one object with these keys:

| key | meaning |
|---|---|
"""


CONFIGURATION = """\
# Configuration

Every setting is listed here once. This page is generated from the code (`make docs`), and a test keeps it up to date.

A value comes from the first of these that sets it:

1. a command-line option, such as `--workers 2`,
2. the environment, such as `{prefix}STAGE__WORKERS=2`: `{prefix}`, the section, two underscores, the key,
3. the config file,
4. the default.

The config file is the one named by `--config`, else by `{variable}`, else `./config.toml`, else
`{system}`. It is an error if a file that is named does not exist. An unknown key in the file or in the
environment is also an error; the message names the nearest known key.

Paths in the config file are relative to its folder; if there is no config file, to the current folder. Paths given as
options are relative to the current folder. `~` is the home folder.

Nothing is ever written below `paths.raw_root`. A setting whose path leads into it, even through links, is refused
before anything starts; if a link is put there later, the service names it and waits until it is moved away. Refused,
too, is a raw root inside a folder that ingestd manages (`raw_measurements`, `_superseded` and `_tmp` of the stage,
`aside` beside the manifest, `wal_dir`, `events_dir`, `rejects_dir`, `metadata_dir`), a `log.file` among or over
files of ingestd's own, and a place where ingestd would delete or replace what it keeps there: any in the stage's
`_tmp`, a manifest among the staged runs or with the name of a file beside it (`known_files.parquet`), a `rejects_dir`
that holds the manifest, the events or the stage, and one folder as both `events_dir` and `metadata_dir`.

    ingestd config generate    # print a config file with every setting, commented out
    ingestd config validate    # check the config file and the environment
    ingestd config show        # every setting in force, and where it came from"""

PROCEDURES = """\
## [procedures.NAME]

A table adds a procedure, or overrides single keys of one that ingestd knows (a list is replaced as a whole).
`ingestd config generate` shows an example, and the reject of a file with an unknown procedure prints the table to add.
A new procedure needs `classes`, `chip`, `light`, `summary` and a column; all else may be left out.

After the change, restart the service, which reads its settings only when it starts (`sudo systemctl restart ingestd`),
then run `ingestd rejects retry --all`. Runs that are already staged stay as the old table made them until
`ingestd backfill --force` stages them again.

The values of a data column are not converted: its name ends in the unit that they are written in.

| key | meaning |
|---|---|
| `classes` | class names in the header: `#Procedure: <package.module.IVg>` counts as `IVg` |
| `uses` | groups of columns and parameters to include: `version`, `chip`, `laser`, `environment` |
| `chip` | `"required"`: a run without a chip is rejected; `"optional"`; `"none"`: the procedure has no chip |
| `light` | `"laser"`: `has_light` follows from the laser voltage, else from the column `vl_v`; `"none"`: it is null |
| `duration` | the column whose last minus first value is `duration_s`; leave it out if there is none |
| `summary` | the text in the history; `{placeholders}` are manifest fields, `{light}` is an icon |
| `columns.NAME` | a data column: `accepts` (spellings), `required`, `dtype` (`"float64"`, `"int64"`, `"string"`) |
| `parameters."LABEL"` | a header parameter: the manifest `field` it fills, and that field's `unit` |
"""

UNITS = {"_s": "seconds", "_mib": "MiB", "_days": "days"}
"""Ending of a key -> its unit."""


def texts() -> dict[str, str]:
    """Return every generated file: its path in the repository -> its text."""
    return {
        "config.toml": config_toml(),
        "docs/configuration.md": configuration_md(),
        "docs/commands.md": commands_md(),
    }


def configuration_md() -> str:
    """Write `docs/configuration.md`: every setting, in one table per section."""
    parts = [CONFIGURATION.format(variable=CONFIG_VARIABLE, system=SYSTEM_CONFIG, prefix=ENV_PREFIX)]
    for name, model in sections().items():
        rows = [
            f"| `{key}` | {type_of(field)} | {default_of(name, key, field)} | {unit(key)} "
            f"| {meaning_of(key, field)} | `{environment_name(name, key)}` |"
            for key, field in model.model_fields.items()
        ]
        head = "| key | type | default | unit | meaning | environment |\n|---|---|---|---|---|---|"
        parts.append("\n".join([f"## [{name}]", "", model.__doc__ or "", "", head, *rows]))
    return "\n\n".join([*parts, PROCEDURES])


def type_of(field: FieldInfo) -> str:
    """Name the type of a setting."""
    if choices_of(field):
        return "text"
    text = str(field.annotation)
    names = {"Path": "path", "float": "number", "int": "whole number", "bool": "true or false"}
    return next((words for name, words in names.items() if re.search(rf"\b{name}\b", text)), "text")


def default_of(section: str, key: str, field: FieldInfo) -> str:
    """Write the default of a setting, or how it is worked out."""
    return COMPUTED.get(f"{section}.{key}") or f"`{toml(example(section, key, field))}`"


def unit(key: str) -> str:
    """Tell the unit of a setting from the ending of its key; empty if it has none."""
    return next((words for ending, words in UNITS.items() if key.endswith(ending)), "")


def commands_md() -> str:
    """Write the reference of the commands."""
    codes = "\n".join(f"| {code} | {cell(words)} |" for code, words in EXIT_CODES.items())
    keys = "\n".join(f"| `{key}` | {cell(words)} |" for key, words in JSON_KEYS.items())
    sections = [section(path, command) for path, command in leaves(typer.main.get_command(app), ())]
    return "\n\n".join([INTRODUCTION + codes, *sections, JSON_HEAD + keys]) + "\n"


def leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """List every command below `command` that is not a group, with the words that call it."""
    for name, child in getattr(command, "commands", {}).items():
        if getattr(child, "commands", None):
            yield from leaves(child, (*path, name))
        else:
            yield (*path, name), child


def section(path: tuple[str, ...], command: Any) -> str:
    """Write the section of one command: what it does, examples, arguments and options."""
    words, _, examples = command.help.partition("\b\n")
    rows = [f"| {called(parameter, typer.Context(command))} | {meaning(parameter)} |" for parameter in command.params]
    return "\n".join(
        [
            f"## ingestd {' '.join(path)}",
            "",
            words.strip(),
            "",
            *(f"    {line.strip()}" for line in examples.splitlines()[1:] if line.strip()),
            *(["", "| argument or option | meaning |", "|---|---|", *rows] if rows else []),
        ]
    )


def called(parameter: Any, context: typer.Context) -> str:
    """Write how an argument or option is typed."""
    if parameter.param_type_name == "argument":
        return cell(f"`{parameter.metavar}`")
    # Releases of typer keep choices in different places; in the help they are always there, in brackets of some kind.
    choices = re.search(r"[<\[](\w+(?:\|\w+)+)[>\]]", parameter.get_help_record(context)[0])
    value = f"<{choices[1]}>" if choices else parameter.metavar
    return cell(", ".join(f"`{name} {value}`" if value else f"`{name}`" for name in parameter.opts))


def meaning(parameter: Any) -> str:
    """Write what an argument or option means, and the default of one that has a value."""
    default = "" if parameter.default in (None, False) else f" [default: {parameter.default}]"
    return cell(re.sub(r"\s+", " ", parameter.help or "") + default)


def cell(text: str) -> str:
    """Write a text as a cell of a table."""
    return text.replace("|", r"\|")


if __name__ == "__main__":
    for name, text in texts().items():
        path = REPOSITORY / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
