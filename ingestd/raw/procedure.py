"""One procedure: what its columns and header parameters are called, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, model_validator

from ingestd.errors import Reject, RejectCode
from ingestd.manifest.row import PARAMETER_FIELDS
from ingestd.raw.packaged import packaged_tables
from ingestd.raw.paste_table import RESERVED_COLUMNS, accepts_table
from ingestd.raw.summary import checked_template
from ingestd.raw.units import disagreeing_unit, label_key, unit_of
from ingestd.words import AFTER_CONFIG, CONFIG_FILE, nearest, shown

if TYPE_CHECKING:
    import pyarrow as pa

EXTRA_COLUMN = "extra"
"""The map column, written label -> cell text, that holds every column that matches no spelling."""

TEXT_FIELDS = ("procedure_version", "chip_group", "chip_number")
"""Manifest fields a parameter may fill besides the float fields of `PARAMETER_FIELDS`."""


def _known_field(field: str) -> str:
    known = (*PARAMETER_FIELDS, *TEXT_FIELDS)
    if field not in known:
        raise ValueError(f"{field!r} is not a manifest field that a parameter can fill{nearest(field, known)}")
    return field


def _printable_label(label: str) -> str:
    if not label_key(label) or not label.isprintable():
        raise ValueError(f"the label '{shown(label)}' is empty or has control characters")
    return label


def _column_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name, re.ASCII):
        raise ValueError("a column name has lower-case letters, digits and _, at most 64, and begins with a letter")
    return name


def _procedure_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name, re.ASCII):
        raise ValueError("a procedure name has letters, digits and _, at most 64, and begins with a letter")
    return name


Label = Annotated[str, AfterValidator(_printable_label)]
ColumnName = Annotated[str, AfterValidator(_column_name)]
ProcedureName = Annotated[str, AfterValidator(_procedure_name)]


class Column(BaseModel):
    """One data column: the spellings accepted for it, whether a file must have it, and its staged type."""

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
    summary: Annotated[str, AfterValidator(checked_template)]
    chip: Literal["required", "optional", "none"]
    light: Literal["laser", "none"]
    duration: str | None = None

    @model_validator(mode="after")
    def _names_agree(self) -> Procedure:
        owner: dict[str, str] = {}
        for name, column in self.columns.items():
            if name in RESERVED_COLUMNS:
                raise ValueError(f"columns.{name}: the name is reserved for ingestd; choose another")
            for label in column.accepts:
                if (other := owner.setdefault(label_key(label), name)) != name:
                    raise ValueError(f"columns.{name}: {label!r} is already accepted by {other}")
                if unit := disagreeing_unit(label, name):
                    raise ValueError(
                        f"columns.{name}: {label!r} is not in {unit}, and columns are not converted; "
                        f"give it a column whose name ends in its own unit"
                    )
        if self.duration is not None and not self.has_numbers(self.duration):
            raise ValueError(f"duration: {self.duration!r} is not one of its number columns")
        return self

    def has_numbers(self, name: str) -> bool:
        """Tell whether it has a column of this name, and numbers in it."""
        return name in self.columns and self.columns[name].dtype != "string"

    @cached_property
    def arrow_schema(self) -> pa.Schema:
        """The one schema of every staged part of this procedure.

        The columns in table order, all nullable, each with its unit as field metadata where the name ends in one; then
        `extra`, a map from written label to cell text.
        """
        import pyarrow as pa  # noqa: PLC0415  # reading the settings need not wait for it

        types = {"float64": pa.float64(), "int64": pa.int64(), "string": pa.string()}
        fields = []
        for name, column in self.columns.items():
            unit = unit_of(name)
            fields.append(pa.field(name, types[column.dtype], metadata={"unit": unit} if unit else None))
        return pa.schema([*fields, pa.field(EXTRA_COLUMN, pa.map_(pa.string(), pa.string()))])

    def field_of(self, label: str) -> str | None:
        """Return the manifest field that the header parameter `label` fills, None if it fills none."""
        return self._fields.get(label_key(label))

    @cached_property
    def _fields(self) -> dict[str, str]:
        return {label_key(label): parameter.field for label, parameter in self.parameters.items()}

    @cached_property
    def _canonical(self) -> dict[str, str]:
        return {label_key(label): name for name, column in self.columns.items() for label in column.accepts}

    def match_columns(self, written: Sequence[str]) -> dict[int, str]:
        """Map each 0-based position of the column line that matches a spelling to its canonical name.

        Positions left out are extra columns. Raises Reject: `duplicate-column` if two labels mean one column,
        `missing-column` if a required one is absent.
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

    def may_hold_text(self, matched: Mapping[int, str]) -> dict[int, str]:
        """Name the settings of those columns of numbers in `matched` that may be meant as text: they have no unit."""
        return {
            position: f"{name} in [procedures.{self.name}.columns]"
            for position, name in matched.items()
            if self.has_numbers(name) and unit_of(name) is None
        }

    def _duplicate(self, name: str, written: Sequence[str], one: int, other: int) -> Reject:
        labels = f"'{shown(written[one])}' and '{shown(written[other])}'"
        step = (
            f"remove one spelling from accepts in [procedures.{self.name}.columns.{name}] of {CONFIG_FILE}: "
            f"a column that matches no spelling is kept under its written name; {AFTER_CONFIG}"
        )
        if label_key(written[one]) == label_key(written[other]):  # one spelling: spacing does not count
            step = "rename one of the two columns in the line of column names"
        return Reject(
            RejectCode.DUPLICATE_COLUMN,
            f"columns {one + 1} and {other + 1} ({labels}) both mean {name} of procedure {self.name}",
            expected=f"one column for {name}",
            found=_listed(written),
            next_step=step,
        )

    def _missing(self, missing: Sequence[str], written: Sequence[str], left: Sequence[str]) -> Reject:
        wanted = "; ".join(f"{name} as {' or '.join(map(repr, self.columns[name].accepts))}" for name in missing)
        name = missing[0]
        place = f"[procedures.{self.name}.columns.{name}] of {CONFIG_FILE}"
        own = self.columns[name].accepts
        likely = [label for label in left if label and label.isprintable() and _may_be(label, name)]
        other_unit = [label for label in left if disagreeing_unit(label, name) and _stem(label) in map(_stem, own)]
        if len(missing) == len(likely) == 1:
            step = (
                f"if '{shown(likely[0])}' is that column, add this table to {CONFIG_FILE}; {AFTER_CONFIG}:\n\n"
                f"{accepts_table(self.name, name, [*own, likely[0]])}"
            )
        elif other_unit:
            step = (
                f"'{shown(other_unit[0])}' is in another unit, and columns are not converted: in "
                f"[procedures.{self.name}.columns] of {CONFIG_FILE}, give it a column whose name ends in its own unit, "
                f"and set required = false for {name}; {AFTER_CONFIG}"
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


def _may_be(label: str, name: str) -> bool:
    """Tell whether the column `label` may be `name`: not if its unit is another, or it is known as something else."""
    tables = packaged_tables()
    known = {
        column
        for table in (*tables["procedures"].values(), *tables["groups"].values())
        for column, described in table.get("columns", {}).items()
        if label_key(label) in map(label_key, described["accepts"])
    }
    return not disagreeing_unit(label, name) and (not known or name in known)


def _stem(label: str) -> str:
    """Return a label without the unit in brackets."""
    return label_key(re.sub(r"[(\[][^()\[\]]*[)\]]\s*$", "", label))


def _listed(written: Sequence[str]) -> str:
    return shown(", ".join(repr(label) for label in written), 300)
