"""One procedure: its schema, the columns that its spellings match, and what a reject of them says."""

from __future__ import annotations

import tomllib

import pyarrow as pa
import pytest

from ingestd.errors import Reject, RejectCode
from ingestd.raw.procedures import Registry
from ingestd.raw.units import unit_of

REGISTRY = Registry.load()


def rejected(code: RejectCode, procedure: str, written: list[str]) -> Reject:
    """Return the reject that matching `written` to a shipped procedure raises."""
    with pytest.raises(Reject) as raised:
        REGISTRY.procedures[procedure].match_columns(written)
    assert raised.value.code == code
    return raised.value


@pytest.mark.parametrize("name", sorted(REGISTRY.procedures))
def test_a_schema_is_nullable_and_names_its_units(name: str) -> None:
    """Every staged column may be null, carries its unit, and comes before the map of extra columns."""
    procedure = REGISTRY.procedures[name]
    schema = procedure.arrow_schema
    assert schema.names == [*procedure.columns, "extra"]
    assert all(field.nullable for field in schema)
    assert schema.field("extra").type == pa.map_(pa.string(), pa.string())
    for column in procedure.columns:
        assert schema.field(column).metadata[b"unit"].decode() == unit_of(column)
    assert procedure.arrow_schema is schema


def test_columns_are_matched_by_spelling_in_any_order() -> None:
    """Any accepted spelling counts, spacing and the two micro signs do not; the rest are extra columns."""
    procedure = REGISTRY.procedures["IVg"]
    assert procedure.match_columns(["note", " I  (A)", "VG(V)", "Clock (ms)"]) == {1: "i_a", 2: "vg_v", 3: "clock_ms"}


def test_letter_case_tells_time_from_temperature() -> None:
    """`T (s)` is not `t (s)`: letter case is part of a spelling."""
    assert 0 not in REGISTRY.procedures["ITS"].match_columns(["T (s)", "t (s)", "I (A)"])


def test_a_missing_column_names_what_is_wanted_and_what_is_there() -> None:
    """The reject for a missing column lists its spellings, the labels found and the config table to change."""
    error = rejected(RejectCode.MISSING_COLUMN, "IVg", ["Vg (V)", "Ids (A)"])
    assert "i_a" in error.message
    assert "'I (A)'" in error.expected
    assert "'Ids (A)'" in error.found
    assert "[procedures.IVg.columns.i_a]" in error.next_step


def test_a_column_under_another_name_is_told_with_a_table_that_takes_both() -> None:
    """Pasted, the table has the file's column accepted and loses none of the spellings that were accepted before."""
    written = ["Gate (V)", "I (A)", "Note (mV)"]
    error = rejected(RejectCode.MISSING_COLUMN, "IVg", written)
    _, _, table = error.next_step.partition("\n\n")
    mended = Registry.load(tomllib.loads(table)["procedures"]).procedures["IVg"]
    for label in ("Gate (V)", "Vg (V)", "VG (V)"):
        assert mended.match_columns([label, *written[1:]]) == {0: "vg_v", 1: "i_a"}


def test_a_column_known_as_another_quantity_is_not_taken_for_the_missing_one() -> None:
    """The laser's voltage is no gate voltage: it is not proposed, and does not hide the column that may be meant."""
    alone = rejected(RejectCode.MISSING_COLUMN, "IVg", ["VL (V)", "I (A)"])
    assert "VL (V)" not in alone.next_step
    beside = rejected(RejectCode.MISSING_COLUMN, "IVg", ["VL (V)", "Gate (V)", "I (A)"])
    assert tomllib.loads(beside.next_step.partition("\n\n")[2])["procedures"]["IVg"]["columns"]["vg_v"] == {
        "accepts": ["Vg (V)", "VG (V)", "Gate (V)"]
    }


def test_a_column_in_another_unit_is_told_to_be_one_of_its_own() -> None:
    """As a spelling of `i_a`, `I (mA)` would be refused: values are not converted."""
    error = rejected(RejectCode.MISSING_COLUMN, "IVg", ["Vg (V)", "I (mA)"])
    assert error.next_step.startswith("'I (mA)' is in another unit, and columns are not converted: ")
    assert "spelling" not in error.next_step
    own = {"i_ma": {"accepts": ["I (mA)"]}, "i_a": {"required": False}}
    mended = Registry.load({"IVg": {"columns": own}}).procedures["IVg"]
    assert mended.match_columns(["Vg (V)", "I (mA)"]) == {0: "vg_v", 1: "i_ma"}


@pytest.mark.parametrize("written", [["Gate (V)", "Top (V)", "I (A)"], ["Gate (mV)", "I (A)"], ["Gate (V)"]])
def test_a_column_that_may_be_another_or_none_is_told_without_a_table(written: list[str]) -> None:
    """Where it cannot be told which column is meant, or its unit is another, nothing is proposed to be pasted."""
    error = rejected(RejectCode.MISSING_COLUMN, "IVg", written)
    assert "\n\n" not in error.next_step
    assert "as accepts in [procedures.IVg.columns.vg_v]" in error.next_step


def test_two_labels_for_one_column_are_refused() -> None:
    """A file with both `Vg (V)` and `VG (V)` cannot be staged without losing one, so it is rejected."""
    error = rejected(RejectCode.DUPLICATE_COLUMN, "IVg", ["Vg (V)", "I (A)", "VG (V)"])
    assert "columns 1 and 3" in error.message
    assert error.next_step.startswith("remove one spelling from accepts in [procedures.IVg.columns.vg_v]")


def test_two_labels_that_differ_in_spaces_only_are_renamed_in_the_file() -> None:
    """They match one spelling, so no setting can tell them apart."""
    error = rejected(RejectCode.DUPLICATE_COLUMN, "IVg", ["Vg (V)", "I (A)", "Vg(V)"])
    assert error.next_step == "rename one of the two columns in the line of column names"
