"""The one-line summary of a run that people read in a chip's history: its template, checked and filled."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import TYPE_CHECKING

from ingestd.manifest.row import PARAMETER_FIELDS
from ingestd.words import shown

if TYPE_CHECKING:
    from ingestd.raw.procedure import Procedure

UNKNOWN = "?"
"""Printed where a value is not known."""

LIGHT_ICONS = {True: "💡", False: "🌙", None: "❗"}
"""`has_light` as people see it: light, dark, unknown."""

PLACEHOLDERS = (
    "proc",
    "light",
    "chip_name",
    "chip_group",
    "chip_number",
    "file_idx",
    "procedure_version",
    "duration_s",
    *PARAMETER_FIELDS,
)
"""The names a summary template may hold in braces."""

_TEXT_LIMIT = 200


def checked_template(template: str) -> str:
    """Return `template`; raise ValueError unless it holds only text and bare `{placeholder}`s from `PLACEHOLDERS`.

    Attribute and index access, conversions (`!r`) and format specs (`:.2f`) are refused: a template comes from a config
    file and is filled with text from raw files.
    """
    for literal, name, spec, conversion in Formatter().parse(template):
        if not literal.isprintable():
            raise ValueError(f"the text {shown(literal)!r} has a control character or a line break")
        if name is None:
            continue
        if name not in PLACEHOLDERS:
            raise ValueError(f"{{{shown(name)}}} is not a placeholder; known are {', '.join(PLACEHOLDERS)}")
        if spec or conversion:
            raise ValueError(f"{{{name}}} takes no format; numbers are printed as Python prints floats")
    return template


def render_summary(procedure: Procedure, fields: Mapping[str, object]) -> str:
    """Return the run's summary, one printable line.

    `fields` holds manifest field names (`has_light`, `chip_name`, `vg_v`, ...); what is absent or None prints as `?`.
    Floats print as Python prints them (850.0), integers plainly, and control characters of a text as escapes.
    """
    values = {name: _printed(fields.get(name)) for name in PLACEHOLDERS}
    light = fields.get("has_light")
    values["proc"] = procedure.name
    values["light"] = LIGHT_ICONS[light if isinstance(light, bool) else None]
    return procedure.summary.format_map(values)


def _printed(value: object) -> str:
    if value is None:
        return UNKNOWN
    return repr(value) if isinstance(value, float) else shown(str(value), _TEXT_LIMIT)
