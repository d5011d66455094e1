"""Procedures as data: what each one's columns and header parameters are called, and what they mean.

The packaged `procedures.toml` holds the shipped ones; tables of a lab's config add to them or override single keys.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator

from ingestd.errors import Reject, RejectCode, UsageError, all_at_once
from ingestd.manifest.row import PARAMETER_FIELDS
from ingestd.raw.paste_table import RESERVED_COLUMNS, Filled, accepts_table, classes_table, paste_table
from ingestd.raw.summary import check_template
from ingestd.raw.units import disagreeing_unit, label_key, unit_of
from ingestd.words import AFTER_CONFIG, CONFIG_FILE, closest, in_plain_words, shown, shown_value

if TYPE_CHECKING:
    import pyarrow as pa

EXTRA_COLUMN = "extra"
"""The map column, written label -> cell text, that holds every column no spelling fits."""

TEXT_FIELDS = ("procedure_version", "chip_group", "chip_number")
"""Manifest fields a parameter may fill beside the float fields of `PARAMETER_FIELDS`."""


def _known_field(field: str) -> str:
    known = (*PARAMETER_FIELDS, *TEXT_FIELDS)
    if field not in known:
        raise ValueError(f"{field!r} is no manifest field a parameter can fill{_nearest(field, known)}")
    return field


def _printable_label(label: str) -> str:
    if not label_key(label) or not label.isprintable():
        raise ValueError(f"the label '{shown(label)}' is empty or has control characters")
    return label


def _column_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name, re.ASCII):
        raise ValueError("the name of a column has small letters, digits and _, begins with a letter, 64 at most")
    return name


def _procedure_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name, re.ASCII):
        raise ValueError("the name of a procedure has letters, digits and _, begins with a letter, 64 at most")
    return name


def _known_placeholders(template: str) -> str:
    check_template(template)
    return template


Label = Annotated[str, AfterValidator(_printable_label)]
ColumnName = Annotated[str, AfterValidator(_column_name)]
ProcedureName = Annotated[str, AfterValidator(_procedure_name)]


class Column(BaseModel):
    """One data column: the spellings taken for it, whether a file must have it, and its staged type."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accepts: Annotated[tuple[Label, ...], Field(min_length=1)]
    required: StrictBool = False
    dtype: Literal["float64", "int64", "string"] = "float64"


class Parameter(BaseModel):
    """One header parameter: the manifest field it fills and that field's unit (None for a text or a whole number)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: Annotated[str, AfterValidator(_known_field)]
    unit: str | None = None

    @model_validator(mode="after")
    def _unit_is_the_fields(self) -> Parameter:
        unit = unit_of(self.field) if self.field in PARAMETER_FIELDS else None
        if self.unit != unit:
            wanted = f"unit = {unit!r}" if unit else "no unit"
            raise ValueError(f"the manifest keeps {self.field} with {wanted}, not {self.unit!r}")
        return self


class Procedure(BaseModel):
    """One procedure, as a table of `procedures.toml` describes it; the comments there explain every key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ProcedureName
    classes: Annotated[tuple[Label, ...], Field(min_length=1)]
    columns: Annotated[dict[ColumnName, Column], Field(min_length=1)]
    parameters: dict[Label, Parameter] = {}
    summary: Annotated[str, AfterValidator(_known_placeholders)]
    chip: Literal["required", "optional", "none"]
    light: Literal["laser", "none"]
    duration: str | None = None

    @model_validator(mode="after")
    def _names_agree(self) -> Procedure:
        owner: dict[str, str] = {}
        for name, column in self.columns.items():
            if name in RESERVED_COLUMNS:
                raise ValueError(f"columns.{name}: the name is ingestd's own; choose another")
            for label in column.accepts:
                if (other := owner.setdefault(label_key(label), name)) != name:
                    raise ValueError(f"columns.{name}: {label!r} is already accepted by {other}")
                if unit := disagreeing_unit(label, name):
                    raise ValueError(
                        f"columns.{name}: {label!r} is not in {unit}, and columns are not converted; "
                        f"give it a column whose name ends in its own unit"
                    )
        if self.duration is not None and self._dtype_of(self.duration) in (None, "string"):
            raise ValueError(f"duration: {self.duration!r} is not one of its number columns")
        return self

    def _dtype_of(self, name: str) -> str | None:
        column = self.columns.get(name)
        return None if column is None else column.dtype

    @cached_property
    def arrow_schema(self) -> pa.Schema:
        """The one schema of every staged part of this procedure.

        The columns in table order, all nullable, each with its unit as field metadata where the name ends in one; then
        `extra`, a map from written label to cell text.
        """
        import pyarrow as pa  # noqa: PLC0415  # whoever only reads the settings need not wait for it

        types = {"float64": pa.float64(), "int64": pa.int64(), "string": pa.string()}
        fields = []
        for name, column in self.columns.items():
            unit = unit_of(name)
            fields.append(pa.field(name, types[column.dtype], metadata={"unit": unit} if unit else None))
        return pa.schema([*fields, pa.field(EXTRA_COLUMN, pa.map_(pa.string(), pa.string()))])

    def field_of(self, label: str) -> str | None:
        """Return the manifest field that the header parameter `label` fills, None where it fills none."""
        return self._fields.get(label_key(label))

    @cached_property
    def _fields(self) -> dict[str, str]:
        return {label_key(label): parameter.field for label, parameter in self.parameters.items()}

    @cached_property
    def _canonical(self) -> dict[str, str]:
        return {label_key(label): name for name, column in self.columns.items() for label in column.accepts}

    def match_columns(self, written: Sequence[str]) -> dict[int, str]:
        """Return the canonical name of each 0-based position of the column line that a spelling fits.

        Positions left out are extra columns. Raises Reject: `duplicate-column` where two labels mean one column,
        `missing-column` where a required one is absent.
        """
        matched: dict[int, str] = {}
        first: dict[str, int] = {}
        for position, label in enumerate(written):
            name = self._canonical.get(label_key(label))
            if name is None:
                continue
            if name in first:
                raise self._duplicate(name, written, first[name], position)
            first[name] = position
            matched[position] = name
        missing = [name for name, column in self.columns.items() if column.required and name not in first]
        if missing:
            raise self._missing(missing, written, [label for at, label in enumerate(written) if at not in matched])
        return matched

    def _duplicate(self, name: str, written: Sequence[str], one: int, other: int) -> Reject:
        labels = f"'{shown(written[one])}' and '{shown(written[other])}'"
        return Reject(
            RejectCode.DUPLICATE_COLUMN,
            f"columns {one + 1} and {other + 1} ({labels}) both mean {name} of procedure {self.name}",
            expected=f"one column for {name}",
            found=_listed(written),
            next_step=f"take one spelling out of accepts in [procedures.{self.name}.columns.{name}] of {CONFIG_FILE}: "
            f"a column that no spelling fits is kept under its written name; {AFTER_CONFIG}",
        )

    def _missing(self, missing: Sequence[str], written: Sequence[str], left: Sequence[str]) -> Reject:
        wanted = "; ".join(f"{name} as {' or '.join(map(repr, self.columns[name].accepts))}" for name in missing)
        name = missing[0]
        place = f"[procedures.{self.name}.columns.{name}] of {CONFIG_FILE}"
        own = self.columns[name].accepts
        likely = [label for label in left if label and label.isprintable() and not disagreeing_unit(label, name)]
        if len(missing) == len(likely) == 1:
            step = (
                f"if '{shown(likely[0])}' is that column, add this table to {CONFIG_FILE}; {AFTER_CONFIG}:\n\n"
                f"{accepts_table(self.name, name, [*own, likely[0]])}"
            )
        else:
            step = (
                f"add its spelling to those above, as accepts in {place} (columns are not converted), "
                f"or set required = false there; {AFTER_CONFIG}"
            )
        return Reject(
            RejectCode.MISSING_COLUMN,
            f"the column line lacks what procedure {self.name} needs: {wanted}",
            expected=wanted,
            found=_listed(written),
            next_step=step,
        )


class Registry:
    """The procedures in force, looked up by the class name in a file's header. Immutable and picklable."""

    def __init__(self, procedures: Sequence[Procedure]) -> None:
        """Index `procedures` by class name; UsageError where two claim one."""
        self.procedures: dict[str, Procedure] = {procedure.name: procedure for procedure in procedures}
        self._by_class: dict[str, Procedure] = {}
        for procedure in procedures:
            for name in procedure.classes:
                other = self._by_class.setdefault(name, procedure)
                if other is not procedure:
                    raise UsageError(
                        f"key 'classes': the class {name!r} already belongs to procedure {other.name}",
                        place=_table(procedure.name),
                        next_step=f"take it out of one of them, or change [procedures.{other.name}] itself",
                    )

    @classmethod
    def load(cls, overrides: Mapping[str, Any] | None = None) -> Registry:
        """Return the packaged procedures with `overrides`, the config's `[procedures]` tables, laid over them.

        New names add a procedure, known names override key by key. Raises UsageError naming table and key of every
        mistake in them.
        """
        procedures, mistakes = _described(overrides or {})
        if mistakes:
            raise all_at_once(mistakes)
        return cls(procedures)

    def procedure_for(self, procedure_class: str, written: Sequence[str] = (), labels: Iterable[str] = ()) -> Procedure:
        """Return the procedure of the header's class (its last dotted part counts).

        Raises Reject `unknown-procedure`, whose next step prints the config table to add; `written`, the labels of the
        column line, and `labels`, those of the header's parameters, fill that table in.
        """
        name = procedure_class.strip().strip("<>").rpartition(".")[2]
        procedure = self._by_class.get(name)
        if procedure is not None:
            return procedure
        known = sorted(self._by_class)
        own = paste_table(name, written, taken=self.procedures, parameters=self.known_parameters(labels))
        raise Reject(
            RejectCode.UNKNOWN_PROCEDURE,
            f"no procedure accepts the class '{shown(name)}'{_nearest(name, known)}",
            expected="one of " + ", ".join(known),
            found=shown(procedure_class),
            next_step=self._tables(name, closest(name, known), own),
        )

    def _tables(self, name: str, close: Sequence[str], own: str) -> str:
        """Say which table to add for the class `name`: of a `close` class that it may be, or the procedure's `own`."""
        if not close:
            return f"add this table to {CONFIG_FILE} and adjust it; {AFTER_CONFIG}:\n\n{own}"
        likely = self._by_class[close[0]]
        return (
            f"add one of these tables to {CONFIG_FILE}; {AFTER_CONFIG}:\n\n"
            f"# If it is procedure {likely.name} under another name:\n"
            f"{classes_table(likely.name, [*likely.classes, name])}\n\n"
            f"# Otherwise, a procedure of its own, to be adjusted:\n{own}"
        )

    def known_parameters(self, labels: Iterable[str]) -> dict[str, Filled]:
        """Find the header labels that some procedure knows, and the field it fills with each."""
        known = {label: one for procedure in self.procedures.values() for label, one in procedure.parameters.items()}
        groups = {
            parameter["field"]: group
            for group, entries in _packaged()["groups"].items()
            for parameter in entries.get("parameters", {}).values()
        }
        return {
            label: Filled(one.field, one.unit, groups.get(one.field))
            for label in labels
            if (one := known.get(label)) is not None
        }


@cache
def _packaged() -> dict[str, Any]:
    return tomllib.loads(Path(packaged_file()).read_text("utf-8"))


def packaged_file() -> str:
    """Name the file that describes the shipped procedures; the comments in it explain every key."""
    return str(files("ingestd.raw") / "procedures.toml")


def mistakes_in(overrides: Mapping[str, Any]) -> list[UsageError]:
    """List what `Registry.load` finds wrong in the config's `[procedures]` tables, one error a mistake."""
    procedures, mistakes = _described(overrides)
    if not mistakes:
        try:
            Registry(procedures)
        except UsageError as clash:
            return [clash]
    return mistakes


def _described(overrides: Mapping[str, Any]) -> tuple[list[Procedure], list[UsageError]]:
    """Read the packaged procedures with `overrides` laid over them; return those that are sound, and all mistakes."""
    packaged = _packaged()
    procedures: list[Procedure] = []
    mistakes: list[UsageError] = []
    for name, table in _merged(packaged["procedures"], overrides).items():
        try:
            procedures.append(_procedure(name, table, packaged["groups"]))
        except ValidationError as error:
            found = error.errors(include_url=False)
            found.sort(key=lambda finding: finding["type"] != "extra_forbidden")  # an unknown key explains most
            mistakes += (_invalid(name, finding) for finding in found)
        except UsageError as error:
            mistakes.append(error)
    return procedures, mistakes


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        both_tables = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(inner, value) if both_tables else value  # type: ignore[arg-type]  # both are tables here
    return merged


def _procedure(name: str, table: Any, groups: Mapping[str, Any]) -> Procedure:
    if not isinstance(table, Mapping):
        raise _mistake(f"expected a table, found {shown_value(table)}", _table(name))
    if "name" in table:
        raise _mistake("key 'name': a procedure is named by its table, not by a key", _table(name))
    own = {key: value for key, value in table.items() if key != "uses"}
    uses = table.get("uses", ())
    if isinstance(uses, str) or not isinstance(uses, Sequence):
        raise _mistake(f"key 'uses': expected a list of group names, found {shown_value(uses)}", _table(name))
    for group in uses:
        if not isinstance(group, str) or group not in groups:
            hint = _nearest(group if isinstance(group, str) else "", list(groups))
            raise _mistake(f"key 'uses': {shown_value(group)} is no group of columns{hint}", _table(name))
        for kind, entries in groups[group].items():
            if isinstance(present := own.get(kind, {}), Mapping):
                own[kind] = {**present, **{key: value for key, value in entries.items() if key not in present}}
    return Procedure.model_validate({**own, "name": name})


def _invalid(name: str, finding: Mapping[str, Any]) -> UsageError:
    """Return one finding as table, key and what to write instead."""
    where = [str(part) for part in finding["loc"] if part != "[key]"]
    inside: dict[str, type[BaseModel]] = {"columns": Column, "parameters": Parameter}
    model = inside[where[0]] if len(where) > 1 and where[0] in inside else Procedure
    depth = 2 if model is not Procedure else 0
    key = where[depth] if len(where) > depth else (where[-1] if where else "")
    message = in_plain_words(finding)
    if finding["type"] == "extra_forbidden":
        known = [field for field in model.model_fields if field != "name"] + (["uses"] if model is Procedure else [])
        message = f"no such key{_nearest(key, known)}"
    elif finding["type"] != "missing" and not isinstance(finding["input"], Mapping):
        message = f"{message}; found {shown_value(finding['input'])}"
    what = f"key {key!r}{' ' if finding['type'] == 'missing' else ': '}{message}" if key else message
    return _mistake(what, _table(name, *where[:depth]))


def _mistake(what: str, place: str) -> UsageError:
    return UsageError(what, place=place, next_step=f"correct it; {packaged_file()} shows every key")


def _table(*path: str) -> str:
    parts = (part if part.isidentifier() and part.isascii() else f'"{shown(part)}"' for part in ("procedures", *path))
    return f"table [{'.'.join(parts)}]"


def _nearest(word: str, known: Sequence[str]) -> str:
    close = closest(word, known)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _listed(written: Sequence[str]) -> str:
    return shown(", ".join(repr(label) for label in written), 300)
