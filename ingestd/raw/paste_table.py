"""The config table for a procedure nobody has described yet, ready to paste."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ingestd.raw.units import disagreeing_unit, label_key

RESERVED_COLUMNS = ("extra", "proc", "date", "run_id")
"""Column names reserved for ingestd: the map of unmatched columns, and the partition keys of the stage."""

_LABEL = re.compile(r"^(?P<name>[^()\[\]/]*)[(\[/]?(?P<unit>[^()\[\]/]*)")


class Filled(NamedTuple):
    """The manifest field a header label fills, its unit, if any, and the group that describes it, if any."""

    name: str
    unit: str | None
    group: str | None


def paste_table(
    procedure_class: str, written: Sequence[str], *, taken: Collection[str], parameters: Mapping[str, Filled]
) -> str:
    """Return a `[procedures.NAME]` table in TOML that accepts `procedure_class` and the column labels `written`.

    NAME is none of the procedure names in `taken`, so it overrides none. `parameters` are the header labels that other
    procedures know, with the fields they fill there. The table is always valid as it is, whatever the labels hold;
    people can add to it.
    """
    name = re.sub(r"[^A-Za-z0-9_]", "", procedure_class)[:50]
    name = name if name[:1].isalpha() else f"P{name}"
    while name in taken:
        name = f"{name}_new"
    accepted = _printable(procedure_class) or name
    first: dict[Filled, str] = {}
    for label, field in parameters.items():
        first.setdefault(field, label)
    laser = any(field.group == "laser" for field in first)
    own = {label: field for field, label in first.items() if field.group is None}
    told = "".join(
        f"  {label}={{{field.name}}} {field.unit or ''}".rstrip() for label, field in own.items() if label.isalnum()
    )
    light = 'light = "laser"' if laser else 'light = "none"'
    labels = {label_key(label): label for label in written if label.isprintable() and label_key(label)}
    columns: dict[str, str] = {}
    for label in labels.values():
        columns[_column_name(label, columns)] = label
    columns = columns or {"t_s": "t (s)"}
    lines = [
        f"[procedures.{name}]",
        f"classes = [{_quoted(accepted)}]",
        'uses = ["version", "chip", "laser"]' if laser else 'uses = ["version", "chip"]',
        'chip = "optional"      # "required": reject a run without one',
        f'{light:<23}# "laser": has_light follows from the laser voltage; "none": it is null',
        *(['duration = "t_s"'] if "t_s" in columns else []),
        f'summary = "{name} {{chip_name}}{told}  #{{file_idx}}"',
        f'[procedures.{name}.columns]  # numbers; a column of text needs dtype = "string" after its accepts',
        *(f"{column} = {{ accepts = [{_quoted(label)}] }}" for column, label in columns.items()),
    ]
    if own:
        lines.append(f"[procedures.{name}.parameters]")
        lines += [f"{_quoted(label)} = {_filled(field)}" for label, field in own.items()]
    return "\n".join(lines)


def classes_table(name: str, classes: Sequence[str]) -> str:
    """Return a `[procedures.NAME]` table in TOML that makes the procedure `name` accept these `classes`.

    The table is always valid, and changes nothing else in the procedure.
    """
    accepted = dict.fromkeys(filter(None, map(_printable, classes)))
    return f"[procedures.{name}]\nclasses = [{', '.join(map(_quoted, accepted))}]"


def accepts_table(name: str, column: str, labels: Sequence[str]) -> str:
    """Return a `[procedures.NAME.columns.COLUMN]` table in TOML that makes the column accept these `labels`."""
    return f"[procedures.{name}.columns.{column}]\naccepts = [{', '.join(map(_quoted, labels))}]"


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable()).strip()


def _filled(field: Filled) -> str:
    unit = f', unit = "{field.unit}"' if field.unit else ""
    return f'{{ field = "{field.name}"{unit} }}'


def _column_name(label: str, taken: Collection[str]) -> str:
    """Return a canonical name for `label`, ending in its unit (`Vg (V)` -> `vg_v`), and not in `taken`."""
    found = _LABEL.match(label)
    parts = (found["name"], found["unit"]) if found else (label, "")
    slugs = [re.sub(r"[^a-z0-9]+", "_", part.replace("µ", "u").lower()).strip("_") for part in parts]
    name = "_".join(slug for slug in slugs if slug)[:50]
    if not name[:1].isalpha():
        name = f"c_{name}".rstrip("_")
    column = name
    count = 1
    while column in taken or column in RESERVED_COLUMNS or disagreeing_unit(label, column):
        column = f"{name}_value{count}"  # ends in no unit, so it disagrees with none
        count += 1
    return column


def _quoted(text: str) -> str:
    """Return `text` as a TOML basic string."""
    safe = (c if c.isprintable() and c not in '"\\' else _escaped(c) for c in text)
    return f'"{"".join(safe)}"'


def _escaped(char: str) -> str:
    return "?" if "\ud800" <= char <= "\udfff" else f"\\U{ord(char):08x}"
