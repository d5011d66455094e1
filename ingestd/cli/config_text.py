"""The text of `config.toml`, made from the settings."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from ingestd.settings import Settings, sections
from ingestd.words import BOUNDS

WIDTH: Final = 120

EXAMPLES: Final[dict[str, Any]] = {"stage.workers": 4}
"""What `config generate` shows, as an example, for a key whose default depends on the machine."""

COMPUTED: Final = {"stage.workers": "the CPUs at hand, at most 6"}
"""How that default is worked out."""

_HEAD: Final = """\
The settings of ingestd, each at its default and commented out: remove the # from a line to change it. If a default
depends on the machine, the line says so and shows an example.
Command-line options take precedence over the environment (INGESTD_SECTION__KEY, such as INGESTD_STAGE__WORKERS=2),
and that over this file. Relative paths start at the folder of this file. `ingestd config show` prints what is in
force.
"""

_PROCEDURE: Final = """\
# A new procedure, or a change of one that ingestd knows. The packaged procedures.toml explains each key
# (`ingestd config show` prints its path). The reject of an unknown procedure prints the table to add.
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


def config_toml() -> str:
    """Write a config file with every setting at its default, commented out, each with its meaning."""
    parts = [_comment(_HEAD)]
    for name, model in sections().items():
        lines = [_comment(model.__doc__ or ""), f"[{name}]"]
        for key, field in model.model_fields.items():
            computed = COMPUTED.get(f"{name}.{key}")
            note = f"  # an example; by default {computed}" if computed else ""
            lines += [_comment(meaning_of(key, field)), f"# {key} = {toml(example(name, key, field))}{note}"]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, _PROCEDURE])


def meaning_of(key: str, field: FieldInfo) -> str:
    """Say what a setting means, and which values it takes."""
    text = (field.description or key).strip()
    return f"{text} {_range(field)}".strip()


def _range(field: FieldInfo) -> str:
    words = [
        f"{phrase} {limit:.10g}"
        for bound in field.metadata
        for name, phrase in BOUNDS.items()
        if (limit := getattr(bound, name, None)) is not None
    ]
    choices = choices_of(field)
    text = ", ".join(words) or (" or ".join(f"`{choice}`" for choice in choices) if choices else "")
    return f"({text[:1].upper()}{text[1:]}.)" if text else ""


def choices_of(field: FieldInfo) -> tuple[Any, ...]:
    """List the values of a setting that takes one of a few; empty for any other."""
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def example(section: str, key: str, field: FieldInfo) -> Any:
    """Give the value `config generate` shows: the default, or what applies when the key is unset."""
    if field.default is not None:
        return field.default
    if f"{section}.{key}" in EXAMPLES:
        return EXAMPLES[f"{section}.{key}"]
    defaults = Settings.model_construct()  # whatever the environment says
    return defaults.place(f"{section}.{key}").relative_to(defaults.layout.data_root.parent).as_posix()


def toml(value: Any) -> str:
    """Write a value as it stands in a config file."""
    return json.dumps(value, ensure_ascii=False, default=Path.as_posix)


def _comment(text: str) -> str:
    wrap = textwrap.TextWrapper(WIDTH, initial_indent="# ", subsequent_indent="# ").wrap
    return "\n".join(line for paragraph in text.splitlines() for line in wrap(paragraph) or ["#"])
