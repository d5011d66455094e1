"""The texts that follow from the settings: `config.toml` and the tables of `docs/configuration.md`."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from ingestd.settings import CONFIG_VARIABLE, ENV_PREFIX, SYSTEM_CONFIG, Section, environment_name, sections
from ingestd.words import BOUNDS

WIDTH: Final = 120

EXAMPLES: Final[dict[str, Any]] = {"stage.workers": 4}
"""What `config generate` shows, as an example, for a key whose default is worked out on the machine."""

COMPUTED: Final = {"stage.workers": "the CPUs at hand, at most 6"}
"""How that default is worked out."""

UNITS: Final = {"_s": "seconds", "_mib": "MiB", "_days": "days"}
"""Ending of a key -> its unit."""

_PATHS: Final = {
    "raw_root": "data/01_raw",
    "stage_root": "data/02_stage",
    "manifest_path": "data/02_stage/_manifest/manifest.parquet",
    "wal_dir": "data/02_stage/_manifest/wal",
    "events_dir": "data/02_stage/_manifest/events",
    "rejects_dir": "data/02_stage/_rejects",
    "histories_dir": "data/histories",
    "metadata_dir": "data/metadata",
    "file": "data/02_stage/_manifest/ingestd.log",
}
"""What the paths amount to that follow from `data_root` unless set."""

_HEAD: Final = """\
The settings of ingestd, each at its default and commented out: take the # away from a line to change it. Where
the default depends on the machine, the line says so and shows an example.
Command-line options outrank the environment (INGESTD_SECTION__KEY, such as INGESTD_STAGE__WORKERS=2), and that
outranks this file. Relative paths count from the folder of this file. `ingestd config show` tells what is in force.
"""

_PROCEDURE: Final = """\
# A procedure of the lab's own, or a change of one that ingestd knows. The packaged procedures.toml tells what each key
# means (`ingestd config show` prints its path); the reject of an unknown procedure prints the table to add.
# [procedures.Hall]
# classes = ["Hall"]
# uses = ["version", "chip", "environment"]
# chip = "required"
# light = "none"
# duration = "t_s"
# summary = "Hall {chip_name}  VG={vg_v} V  #{file_idx}"
#
# [procedures.Hall.columns]
# t_s = { accepts = ["t (s)"], required = true }
# vxy_v = { accepts = ["Vxy (V)"], required = true }
#
# [procedures.Hall.parameters]
# "VG" = { field = "vg_v", unit = "V" }
"""

_INTRODUCTION: Final = """\
# Configuration

Every setting is listed here, once. This page is generated from the code (`make docs`), and a test holds it true.

A value comes from the first of these that gives one:

1. a command-line option, such as `--workers 2`,
2. the environment, such as `{prefix}STAGE__WORKERS=2`: `{prefix}`, the section, two underscores, the key,
3. the config file,
4. the default.

The config file is the one named by `--config`, else by `{variable}`, else `./config.toml`, else
`{system}`. One that is named and not there is an error. So is an unknown key, in the file or in the
environment: the message names it and the nearest known one.

Relative paths count from the folder of the config file, or from the current folder when there is none; those given as
options count from the current folder. `~` is the home folder.

Nothing is ever written below `paths.raw_root`: a path that leads into it, links followed, is refused before anything
starts, and so is a raw root inside a folder that ingestd tidies up (`raw_measurements`, `_superseded` and `_tmp` of the
stage, `aside` beside the manifest, `wal_dir`, `events_dir`, `rejects_dir`, `metadata_dir`).

    ingestd config generate    # print a config file with every setting, commented out
    ingestd config validate    # check the config file and the environment
    ingestd config show        # every setting in force, and where it came from"""

_PROCEDURES_MD: Final = """\
## [procedures.NAME]

A table adds a procedure, or overrides single keys of one that ingestd knows. `ingestd config generate` shows an
example, and the reject of a file with an unknown procedure prints the table to add for it. After the change restart the
service, which keeps the settings it was started with (`sudo systemctl restart ingestd`), then
`ingestd rejects retry --all`. Runs that are staged already stay as the old table made them, until
`ingestd backfill --force` stages them again.

| key | meaning |
|---|---|
| `classes` | class names in the header: `#Procedure: <package.module.IVg>` counts as `IVg` |
| `uses` | groups of columns and parameters to take in: `version`, `chip`, `laser`, `environment` |
| `chip` | `"required"`: a run without a chip is rejected; `"optional"`; `"none"`: the procedure has no chip |
| `light` | `"laser"`: told by the laser voltage, else by the column `vl_v`; `"none"`: never told |
| `duration` | the column whose last minus first value is `duration_s`; left out where there is none |
| `summary` | the line in the history; `{placeholders}` are manifest fields, `{light}` is an icon |
| `columns.NAME` | a data column: `accepts` (spellings), `required`, `dtype` (`"float64"`, `"int64"`, `"string"`) |
| `parameters."LABEL"` | a header parameter: the manifest `field` it fills, and that field's `unit` |
"""


def config_toml() -> str:
    """Write a config file with every setting at its default, commented out, each with its meaning."""
    parts = [_comment(_HEAD)]
    for name, model in sections().items():
        lines = [_comment(_sentence(model)), f"[{name}]"]
        for key, field in model.model_fields.items():
            computed = COMPUTED.get(f"{name}.{key}")
            note = f"  # an example; by default {computed}" if computed else ""
            lines += [_comment(_meaning(key, field)), f"# {key} = {toml(example(name, key, field))}{note}"]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, _PROCEDURE])


def configuration_md() -> str:
    """Write `docs/configuration.md`: every setting in a table a section."""
    parts = [_INTRODUCTION.format(variable=CONFIG_VARIABLE, system=SYSTEM_CONFIG, prefix=ENV_PREFIX)]
    for name, model in sections().items():
        rows = [
            f"| `{key}` | {_type(field)} | {_default(name, key, field)} | {unit(key)} | {_meaning(key, field)} "
            f"| `{environment_name(name, key)}` |"
            for key, field in model.model_fields.items()
        ]
        head = "| key | type | default | unit | meaning | environment |\n|---|---|---|---|---|---|"
        parts.append("\n".join([f"## [{name}]", "", _sentence(model), "", head, *rows]))
    return "\n\n".join([*parts, _PROCEDURES_MD])


def unit(key: str) -> str:
    """Tell the unit of a setting by the ending of its key; empty where it has none."""
    return next((words for ending, words in UNITS.items() if key.endswith(ending)), "")


def example(section: str, key: str, field: FieldInfo) -> Any:
    """Give the value `config generate` shows: the default, or what an unset key amounts to."""
    if field.default is not None:
        return field.default
    return EXAMPLES.get(f"{section}.{key}") or _PATHS[key]


def _sentence(model: type[Section]) -> str:
    return (model.__doc__ or "").strip()


def _meaning(key: str, field: FieldInfo) -> str:
    text = (field.description or key).strip()
    return f"{text} {_range(field)}".strip()


def _range(field: FieldInfo) -> str:
    words = [
        f"{phrase} {limit:g}"
        for bound in field.metadata
        for name, phrase in BOUNDS.items()
        if (limit := getattr(bound, name, None)) is not None
    ]
    choices = _choices(field)
    text = ", ".join(words) or (" or ".join(f"`{choice}`" for choice in choices) if choices else "")
    return f"({text[:1].upper()}{text[1:]}.)" if text else ""


def _choices(field: FieldInfo) -> tuple[Any, ...]:
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def _type(field: FieldInfo) -> str:
    if _choices(field):
        return "text"
    text = str(field.annotation)
    names = {"Path": "path", "float": "number", "int": "whole number", "bool": "true or false"}
    return next((words for name, words in names.items() if re.search(rf"\b{name}\b", text)), "text")


def _default(section: str, key: str, field: FieldInfo) -> str:
    if field.default is not None:
        return f"`{toml(field.default)}`"
    return COMPUTED.get(f"{section}.{key}") or f"`{toml(_PATHS[key])}`"


def toml(value: Any) -> str:
    """Write a value as it stands in a config file."""
    if isinstance(value, Path):
        return json.dumps(value.as_posix(), ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> str:
    return "\n".join(_wrapped(text))


def _wrapped(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield from textwrap.wrap(line, WIDTH, initial_indent="# ", subsequent_indent="# ") or ["#"]
