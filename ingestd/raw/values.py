"""What one run's header and table say, as the values of its manifest row."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from ingestd.errors import Reject, RejectCode
from ingestd.manifest.row import PARAMETER_FIELDS
from ingestd.raw.header import Header
from ingestd.raw.procedure import Procedure
from ingestd.raw.start_time import date_in
from ingestd.raw.summary import render_summary
from ingestd.raw.units import to_unit, unit_of
from ingestd.words import AFTER_CONFIG, CONFIG_FILE, shown

LIGHT_THRESHOLD_V: Final = 0.1
"""Laser voltage from which a run counts as measured under light; below it the laser diode gives none."""

_LIGHT_COLUMN: Final = "vl_v"
_UNITS: Final = {field: unit_of(field) or "" for field in PARAMETER_FIELDS}
_LONGEST_GROUP: Final = 100
_FILE_INDEX: Final = re.compile(r"_([0-9]{1,18})$")
_FILE_CHIP: Final = re.compile(r"(?P<group>[^\W\d_]+)(?P<number>[0-9]{1,9})_[0-9]+")
_CHIP_NUMBER: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class RunValues:
    """The fields of a run's manifest row that header, table and path decide, by name; None where they say nothing.

    Among them is every name of `PARAMETER_FIELDS`, each in the unit its name ends with. `warnings` are this module's
    own; those of the header and the table are not repeated.
    """

    fields: Mapping[str, Any]
    warnings: tuple[str, ...]


def interpret(header: Header, procedure: Procedure, table: pa.Table, source_file: str) -> RunValues:
    """Read the manifest values of one run out of its header, its staged table and its path below the raw root.

    `table` has the procedure's canonical columns. Raises Reject: `bad-parameter`, `bad-unit`, `missing-chip`,
    `bad-chip`.
    """
    warnings: list[str] = []
    texts = _texts(header, procedure)
    numbers = _numbers(header, texts, warnings)
    group, number = _chip(header, texts, procedure, source_file, warnings)
    fields = {
        **numbers,
        "chip_group": group,
        "chip_number": number,
        "chip_name": None if group is None else f"{group}{number}",
        "has_light": _has_light(procedure, numbers["laser_voltage_v"], table),
        "file_idx": _file_idx(source_file),
        "procedure_version": _text(texts, "procedure_version") or None,
        "duration_s": _duration(procedure, table),
    }
    return RunValues(fields | {"summary": render_summary(procedure, fields)}, tuple(warnings))


def _texts(header: Header, procedure: Procedure) -> dict[str, tuple[str, str]]:
    """Return field -> (label, text) of what the header gives; of two labels for one field, the first with a text."""
    texts: dict[str, tuple[str, str]] = {}
    for label, text in (*header.parameters.items(), *header.metadata.items()):
        field = procedure.field_of(label)
        if field is not None and not _text(texts, field):
            texts[field] = (label, text.strip())
    return texts


def _text(texts: Mapping[str, tuple[str, str]], field: str) -> str:
    """Return the text of `field`, empty if the header has none (PyMeasure writes `None` for an unset value)."""
    text = texts.get(field, ("", ""))[1]
    return "" if text == "None" else text


def _numbers(header: Header, texts: Mapping[str, tuple[str, str]], warnings: list[str]) -> dict[str, float | None]:
    fields: dict[str, float | None] = dict.fromkeys(PARAMETER_FIELDS)
    for field in filter(texts.__contains__, PARAMETER_FIELDS):
        label, text = texts[field]
        try:
            fields[field] = to_unit(text, _UNITS[field], label=f"the parameter '{shown(label)}'")
        except Reject as reject:
            raise reject.at(header.line_of(label)) from None
        if fields[field] is None and _text(texts, field):
            warnings.append(f"{shown(label)}: '{shown(text)}' is not a finite number; {field} stays empty")
    return fields


def _chip(
    header: Header,
    texts: Mapping[str, tuple[str, str]],
    procedure: Procedure,
    source_file: str,
    warnings: list[str],
) -> tuple[str | None, int | None]:
    """Return chip group and number: the header's, else the file name's (`Alisson67_015.csv`)."""
    if procedure.chip == "none":
        return None, None
    group, number = _text(texts, "chip_group"), _text(texts, "chip_number")
    if group and (fault := _fault_of_group(group)):
        raise fault.at(header.line_of(texts["chip_group"][0]))
    if number and (fault := _fault_of_number(number)):
        raise fault.at(header.line_of(texts["chip_number"][0]))
    checked = int(number) if number else None
    if group and checked is not None:
        return group, checked
    found, other = _FILE_CHIP.fullmatch(PurePosixPath(source_file).stem), ""
    if found and _may_name_a_chip(found["group"], found["number"], procedure):
        named = int(found["number"])
        other = f"{found['group']}{named}"
        if group in ("", found["group"]) and checked in (None, named):
            warnings.append(f"the header names no complete chip; {other} is taken from the file name")
            return found["group"], named
    if procedure.chip == "required":
        field = "chip_number" if group else "chip_group"
        raise _no_chip(procedure, field, texts, header, other)
    if group or number:
        warnings.append("the header names only half a chip (group and number belong together); chip stays empty")
    return None, None


def _may_name_a_chip(group: str, number: str, procedure: Procedure) -> bool:
    """Tell `Alisson67_015` from names of a procedure (`It_1`, `ITS7_1`, `It2_1`) or with a date (`Sweep20251018_1`)."""
    own = (procedure.name, *procedure.classes)
    return group not in own and group + number not in own and date_in(number) is None


def _no_chip(
    procedure: Procedure, field: str, texts: Mapping[str, tuple[str, str]], header: Header, other: str
) -> Reject:
    """Return the reject for a header without this part of the chip; `other` is the chip of the file name, if any."""
    label = next((name for name, known in procedure.parameters.items() if known.field == field), field)
    line, found, fault = None, "", "missing"
    if field in texts:
        line, found, fault = header.line_of(texts[field][0]), shown(texts[field][1]), "empty"
        if found:  # as PyMeasure writes what was not set
            fault = f"not set ({found})"
    elif spoiled := header.spoiled_line(label):
        line, found = spoiled[0], shown(spoiled[1])
        fault = "not as PyMeasure writes it ('#', a tab, the name, a colon, the value)"
    named = f"the chip of the file name, {other}, contradicts the rest" if other else "the file name has no chip either"
    return Reject(
        RejectCode.BAD_CHIP if field in texts else RejectCode.MISSING_CHIP,
        f"the header's '{shown(label)}' is {fault}, and {named}",
        line=line,
        expected=f"a header line '{shown(label)}: ...', or a file name such as Alisson67_015.csv",
        found=found,
        next_step="correct the header, or set chip = 'optional' in "
        f"[procedures.{procedure.name}] of {CONFIG_FILE} if such runs need none; {AFTER_CONFIG}",
    )


def _fault_of_group(group: str) -> Reject | None:
    if len(group) <= _LONGEST_GROUP and group.isprintable():
        return None
    return Reject(
        RejectCode.BAD_CHIP,
        "the chip group is longer than a name can be, or has characters that cannot be printed",
        expected=f"at most {_LONGEST_GROUP} printable characters",
        found=shown(group),
        next_step="correct the chip group in the file's header",
    )


def _fault_of_number(number: str) -> Reject | None:
    if _CHIP_NUMBER.fullmatch(number):
        return None
    return Reject(
        RejectCode.BAD_CHIP,
        "the chip number is not a whole number written in digits, or has too many digits",
        expected="digits such as 67, without sign or decimal point, at most 18",
        found=shown(number),
        next_step="correct the chip number in the file's header",
    )


def _has_light(procedure: Procedure, laser_voltage_v: float | None, table: pa.Table) -> bool | None:
    """Return whether the laser was on: its set voltage, else the voltages recorded; None where neither is known."""
    if procedure.light == "none":
        return None
    if laser_voltage_v is not None and laser_voltage_v >= LIGHT_THRESHOLD_V:
        return True
    highest = _highest(procedure, _LIGHT_COLUMN, table)
    if highest is not None:
        return highest >= LIGHT_THRESHOLD_V
    return None if laser_voltage_v is None else False


def _highest(procedure: Procedure, name: str, table: pa.Table) -> float | None:
    """Return the largest value of a number column, None where it has none (NaN is no value)."""
    if not procedure.has_numbers(name):
        return None
    values = table.column(name)
    return pc.max(values.filter(pc.invert(pc.is_nan(values)))).as_py()  # type: ignore[no-any-return]


def _duration(procedure: Procedure, table: pa.Table) -> float | None:
    """Return the last minus the first finite value of the procedure's time column, in seconds."""
    if procedure.duration is None:
        return None
    times = table.column(procedure.duration)
    ends = [times[0].as_py(), times[-1].as_py()] if len(times) else []
    if not all(value is not None and math.isfinite(value) for value in ends):
        finite = times.filter(pc.is_finite(times))
        ends = [finite[0].as_py(), finite[-1].as_py()] if len(finite) else []
    if not ends:
        return None
    span = float(ends[1] - ends[0])
    return span if math.isfinite(span) else None


def _file_idx(source_file: str) -> int | None:
    found = _FILE_INDEX.search(PurePosixPath(source_file).stem)
    return int(found[1]) if found else None
