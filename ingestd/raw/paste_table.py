"""The config table for a procedure nobody has described yet, ready to paste."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from ingestd.raw.units import disagreeing_unit, label_key

RESERVED_COLUMNS = ("extra", "proc", "date", "run_id")
"""Column names that are ingestd's own: the map of unmatched columns, and the partition keys of the stage."""

_LABEL = re.compile(r"^(?P<name>[^()\[\]/]*)[(\[/]?(?P<unit>[^()\[\]/]*)")


def paste_table(procedure_class: str, written: Sequence[str], taken: Collection[str] = ()) -> str:
    """Return a `[procedures.NAME]` table in TOML that accepts `procedure_class` and the column labels `written`.

    NAME is none of the procedure names `taken`, which it would override. The table is always valid as it
    stands, whatever the labels hold; people adjust it to say more.
    """
    name = re.sub(r"[^A-Za-z0-9_]", "", procedure_class)[:50]
    name = name if name[:1].isalpha() else f"P{name}"
    while name in taken:
        name = f"{name}_new"
    accepted = "".join(c for c in procedure_class if c.isprintable()).strip() or name
    lines = [
        f"[procedures.{name}]",
        f"classes = [{_quoted(accepted)}]",
        'uses = ["version", "chip", "laser"]',
        'chip = "optional"      # "required": reject a run without one',
        'light = "laser"        # "none" where no laser is near',
        f'summary = "{name} {{chip_name}}  #{{file_idx}}"',
        f"[procedures.{name}.columns]",
    ]
    labels = {label_key(label): label for label in written if label.isprintable() and label_key(label)}
    columns: set[str] = set()
    for label in labels.values():
        columns.add(column := _column_name(label, columns))
        lines.append(f"{column} = {{ accepts = [{_quoted(label)}] }}")
    if not columns:
        lines.append('t_s = { accepts = ["t (s)"] }')
    return "\n".join(lines)


def _column_name(label: str, taken: set[str]) -> str:
    """Return a canonical name for `label`, ending in its unit (`Vg (V)` -> `vg_v`), unlike those `taken`."""
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
