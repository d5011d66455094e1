"""What header, table and path decide of a manifest row: chip, light, duration, parameters."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.errors import Reject, RejectCode
from ingestd.manifest.row import PARAMETER_FIELDS
from ingestd.raw.header import Header, parse_header
from ingestd.raw.procedure import Procedure
from ingestd.raw.procedures import Registry
from ingestd.raw.values import RunValues, interpret

REGISTRY = Registry.load()
CHIP = {"Chip group name": "Alisson", "Chip number": "67"}
NAN = float("nan")


def header(parameters: Mapping[str, str], metadata: Mapping[str, str] | None = None) -> Header:
    """Return a header with these texts."""
    return Header(
        procedure_class="lab.It",
        parameters=parameters,
        metadata=metadata or {},
        columns=(),
        text="",
        body_start=0,
        body_line=1,
        warnings=(),
    )


def staged(procedure: Procedure, **columns: list[float | None]) -> pa.Table:
    """Return a table of the procedure's schema with these columns, the others null."""
    rows = max((len(values) for values in columns.values()), default=0)
    schema = procedure.arrow_schema
    return pa.table([pa.array(columns.get(f.name, [None] * rows), f.type) for f in schema], schema=schema)


def values_of(
    parameters: Mapping[str, str], name: str = "ITS", source_file: str = "day/It_1.csv", **columns: list[float | None]
) -> RunValues:
    """Return the values of a run with these parameters and columns."""
    procedure = REGISTRY.procedures[name]
    return interpret(header(parameters), procedure, staged(procedure, **columns), source_file)


def rejected(
    code: RejectCode, parameters: Mapping[str, str], name: str = "ITS", source_file: str = "It_1.csv"
) -> Reject:
    """Return the reject that these parameters raise."""
    with pytest.raises(Reject) as raised:
        values_of(parameters, name, source_file)
    assert raised.value.code == code
    return raised.value


def chip_of(run: RunValues) -> tuple[str | None, int | None, str | None]:
    """Return the chip's group, number and name."""
    return run.fields["chip_group"], run.fields["chip_number"], run.fields["chip_name"]


def read(file: Path, root: Path) -> RunValues:
    """Return the values of a real file, its table read cell by cell."""
    data = file.read_bytes()
    found = parse_header(data)
    procedure = REGISTRY.procedure_for(found.procedure_class)
    rows = list(csv.reader(data[found.body_start :].decode().splitlines()))
    matched = procedure.match_columns(found.columns)
    columns: dict[str, list[float | None]] = {name: [float(row[at]) for row in rows] for at, name in matched.items()}
    return interpret(found, procedure, staged(procedure, **columns), file.relative_to(root).as_posix())


def test_every_real_run_agrees_with_the_labs_histories(lab: Path) -> None:
    """Light, file index and chip of each line of the old histories come out of its raw file, without a warning."""
    root = lab / "01_raw"
    for history in sorted((lab / "legacy_histories").glob("*.csv")):
        for line in csv.DictReader(history.read_text("utf-8").splitlines()):
            run = read(root / line["source_file"].removeprefix("raw_data/"), root)
            assert json.dumps(run.fields["has_light"]) == line["has_light"]
            assert str(run.fields["file_idx"]) == line["file_idx"]
            assert f"{run.fields['chip_name']}_history" == history.stem
            assert run.warnings == ()


def test_real_runs_have_their_parameters_and_duration(lab: Path) -> None:
    """A real `It` fills every field its header tells, and lasts from its first to its last time stamp."""
    run = read(lab / "01_raw" / "Alisson_25_sept" / "It2025-09-25_11.csv", lab / "01_raw")
    assert {name: run.fields[name] for name in PARAMETER_FIELDS if run.fields[name] is not None} == {
        "laser_voltage_v": 3.09,
        "laser_wavelength_nm": 405.0,
        "laser_period_s": 120.0,
        "vg_v": -1.5,
        "vds_v": 0.1,
    }
    assert run.fields["procedure_version"] == "2.2.0"
    assert run.fields["duration_s"] == 180.0306


def test_laser_calibrations_have_no_chip(lab: Path) -> None:
    """A procedure without a chip takes none, not even from its file's name."""
    run = read(lab / "01_raw" / "Alisson_25_sept" / "LaserCalibration2025-09-25_3.csv", lab / "01_raw")
    assert (chip_of(run), run.fields["file_idx"]) == ((None, None, None), 3)
    assert values_of({}, "LaserCalibration", "Alisson67_015.csv").fields["chip_name"] is None


@pytest.mark.parametrize(
    ("laser", "recorded", "has_light"),
    [
        ("0.1 V", [], True),
        ("100 mV", [], True),
        ("1.4 V", [0.0], True),
        ("0.09 V", [], False),
        ("0 V", [0.0, 0.05, NAN], False),
        ("0 V", [0.0, None, 0.1], True),
        ("-1 V", [], False),
        (None, [0.0, 1.3], True),
        (None, [0.0, NAN], False),
        (None, [NAN, None], None),
        (None, [], None),
        ("None", [], None),
    ],
)
def test_light_is_told_by_the_laser(laser: str | None, recorded: list[float | None], has_light: bool | None) -> None:
    """Light from 0.1 V on, set or recorded; dark where either is known and below; unknown where neither is."""
    parameters = CHIP if laser is None else {**CHIP, "Laser voltage": laser}
    run = values_of(parameters, vl_v=recorded)
    assert run.fields["has_light"] is has_light
    assert run.fields["summary"][0] == {True: "💡", False: "🌙", None: "❗"}[has_light]


@pytest.mark.parametrize(
    ("dtype", "recorded", "has_light"),
    [("int64", [0, None, 1], True), ("int64", [0, None], False), ("int64", [], None), ("string", ["5", "nan"], None)],
)
def test_recorded_laser_voltages_may_be_of_any_type(dtype: str, recorded: list[Any], has_light: bool | None) -> None:
    """A lab may describe its laser column as whole numbers, which count as such, or as a text, which tells nothing."""
    procedure = Registry.load({"ITS": {"columns": {"vl_v": {"dtype": dtype}}}}).procedures["ITS"]
    run = interpret(header(CHIP), procedure, staged(procedure, vl_v=recorded), "day/It_1.csv")
    assert run.fields["has_light"] is has_light


def test_a_procedure_without_light_tells_none() -> None:
    """Where the procedures table says that light is never told, it stays unknown."""
    assert values_of({**CHIP, "Laser voltage": "5 V"}, "Tt").fields["has_light"] is None


@pytest.mark.parametrize(
    ("times", "duration"),
    [
        ([0.0, 1.5, 3.25], 3.25),
        ([None, NAN, 2.0, 5.0, float("inf"), NAN, None], 3.0),
        ([7.0], 0.0),
        ([5.0, 2.0], -3.0),
        ([NAN], None),
        ([], None),
        ([-1.7e308, 1.7e308], None),
    ],
)
def test_duration_is_last_minus_first_finite_time(times: list[float | None], duration: float | None) -> None:
    """The duration is told by the first and last finite time; none where there is none or it has no finite span."""
    assert values_of(CHIP, t_s=times).fields["duration_s"] == duration


def test_a_procedure_without_time_has_no_duration() -> None:
    """A voltage sweep has no time column, so its duration is unknown."""
    assert values_of(CHIP, "IVg", vg_v=[0.0, 1.0], i_a=[0.0, 1.0]).fields["duration_s"] is None


@pytest.mark.parametrize(
    ("source_file", "file_idx"),
    [
        ("day/It2025-09-25_10.csv", 10),
        ("Alisson67_015.csv", 15),
        ("It2025-09-25.csv", None),
        ("day_3/It.csv", None),
        ("It_٣.csv", None),
        ("It_" + "9" * 30 + ".csv", None),
    ],
)
def test_the_file_index_is_the_number_at_the_end(source_file: str, file_idx: int | None) -> None:
    """The number after the last underscore of the file name, as far as it fits a whole number column."""
    assert values_of(CHIP, source_file=source_file).fields["file_idx"] == file_idx


@pytest.mark.parametrize(
    ("parameter", "metadata", "vg_v"),
    [("1 V", "2 V", 1.0), ("", "2 V", 2.0), ("None", "2 V", 2.0), (" None ", "2 V", 2.0), ("1 V", "", 1.0)],
)
def test_of_two_values_for_one_field_the_first_that_says_something_counts(
    parameter: str, metadata: str, vg_v: float
) -> None:
    """A value written again, as metadata after a restart, replaces an unset one only."""
    procedure = REGISTRY.procedures["ITS"]
    run = interpret(header({**CHIP, "VG": parameter}, {"VG": metadata}), procedure, staged(procedure), "a.csv")
    assert (run.fields["vg_v"], run.warnings) == (vg_v, ())


@pytest.mark.parametrize(("text", "version"), [("2.2.0", "2.2.0"), (" 3 ", "3"), ("", None), ("None", None)])
def test_an_unset_procedure_version_is_unknown(text: str, version: str | None) -> None:
    """An empty version is not kept as an empty text."""
    assert values_of({**CHIP, "Procedure version": text}).fields["procedure_version"] == version


def test_labels_are_found_however_spaced_and_in_the_metadata_too() -> None:
    """Spacing of a label does not matter, and a value written as metadata counts where no parameter has it."""
    parameters = {"Chip  group name": "Alisson", "Chip number ": "67", "VG": ""}
    procedure = REGISTRY.procedures["ITS"]
    run = interpret(header(parameters, {"VG": "2 V"}), procedure, staged(procedure), "a.csv")
    assert (run.fields["chip_name"], run.fields["vg_v"]) == ("Alisson67", 2.0)


def test_a_parameter_without_a_finite_number_stays_empty_with_a_warning() -> None:
    """`nan` and `inf` are kept as text in the header's JSON alone, and people are told; unset ones are silent."""
    run = values_of({**CHIP, "VG": "inf V", "VDS": "None", "Laser voltage": ""})
    assert {run.fields[name] for name in PARAMETER_FIELDS} == {None}
    assert [warning[:3] for warning in run.warnings] == ["VG:"]


def test_a_wrong_unit_names_its_parameter() -> None:
    """The reject for a unit of the wrong dimension says which header line it is."""
    assert "'VG'" in rejected(RejectCode.BAD_UNIT, {**CHIP, "VG": "5 nA"}).message
    assert "'VG'" in rejected(RejectCode.BAD_PARAMETER, {**CHIP, "VG": "five"}).message


@pytest.mark.parametrize(
    "parameters",
    [{}, {"Chip group name": "Alisson"}, {"Chip number": "67"}, {"Chip group name": "None", "Chip number": "None"}],
)
def test_the_file_name_completes_a_chip(parameters: dict[str, str]) -> None:
    """`Alisson67_015.csv` tells the chip where the header does not contradict it, and a warning says so."""
    run = values_of(parameters, source_file="day/Alisson67_015.csv")
    assert chip_of(run) == ("Alisson", 67, "Alisson67")
    assert "file name" in run.warnings[0]


def test_the_header_outranks_the_file_name() -> None:
    """A complete chip in the header counts, whatever the file is called."""
    run = values_of(CHIP, source_file="Beta12_1.csv")
    assert (run.fields["chip_name"], run.warnings) == ("Alisson67", ())


@pytest.mark.parametrize(
    "source_file",
    ["It2025_3.csv", "ITS7_3.csv", "It2025-09-25_10.csv", "Sweep20251018_1.csv", "67_1.csv", "Beta67.csv"],
)
def test_other_file_names_are_no_chips(source_file: str) -> None:
    """A procedure's own name with a number is no chip, nor is a name with a date or without an index."""
    rejected(RejectCode.MISSING_CHIP, {}, source_file=source_file)


def test_the_name_of_a_procedure_that_ends_in_a_number_is_no_chip() -> None:
    """`It2_3.csv` of procedure It2 is its third run, not a run of chip It2."""
    rejected(RejectCode.MISSING_CHIP, {}, name="It2", source_file="day/It2_3.csv")


def test_a_file_name_that_contradicts_the_header_is_not_taken() -> None:
    """Half a chip in the header and another one in the file name is a missing chip, not a guess."""
    other = rejected(RejectCode.MISSING_CHIP, {"Chip group name": "Alisson"}, source_file="Beta67_1.csv")
    assert other.message == (
        "the header's 'Chip number' is missing, and the chip of the file name, Beta67, contradicts the rest"
    )
    assert (
        "Alisson67" in rejected(RejectCode.MISSING_CHIP, {"Chip number": "68"}, source_file="Alisson67_1.csv").message
    )
    assert "the file name has no chip either" in rejected(RejectCode.MISSING_CHIP, {"Chip number": "68"}).message


def test_a_part_of_the_chip_that_was_not_set_is_not_called_empty() -> None:
    """PyMeasure writes `None` for it, and that is what people find in the header."""
    error = rejected(RejectCode.BAD_CHIP, {**CHIP, "Chip number": "None"})
    assert "'Chip number' is not set (None), and" in error.message
    assert error.found == "None"
    assert "'Chip number' is empty, and" in rejected(RejectCode.BAD_CHIP, {**CHIP, "Chip number": ""}).message


def test_a_missing_chip_says_which_line_and_how_to_do_without() -> None:
    """The reject names the header line that is missing, the file name form and the config key."""
    error = rejected(RejectCode.MISSING_CHIP, {"Chip group name": "Alisson"})
    assert "'Chip number' is missing" in error.message
    assert error.found == ""
    assert "Alisson67_015.csv" in error.expected
    assert "[procedures.ITS]" in error.next_step


@pytest.mark.parametrize(
    ("label", "text"),
    [
        *(("Chip number", text) for text in ("", "-1", "6.5", "67a", "٣", "1e3", "9" * 19)),
        *(("Chip group name", text) for text in ("", "A\x00", "A\nB", "A\x1b[31m", "A\u202eB", "A\ud800", "A" * 101)),
    ],
)
def test_a_bad_chip_is_refused(label: str, text: str) -> None:
    """An empty or unprintable group and a number that is no whole number are rejects that show what was found."""
    error = rejected(RejectCode.BAD_CHIP, {**CHIP, label: text})
    assert error.found.isprintable()


@pytest.mark.parametrize("group", ["A", "../etc", "a/b", "Ålesund λ", "=1+1", "A" * 100])
def test_odd_but_printable_groups_are_kept(group: str) -> None:
    """Any printable group is the lab's own business; file names are made safe elsewhere."""
    assert values_of({**CHIP, "Chip group name": f" {group} "}).fields["chip_name"] == f"{group}67"


def test_an_optional_chip_may_be_missing_or_warns_when_half() -> None:
    """A procedure whose chip is optional is staged without one; half a chip is none, with a warning."""
    assert values_of({}, "Pt").warnings == ()
    run = values_of({"Chip number": "67"}, "Pt")
    assert chip_of(run) == (None, None, None)
    assert "half a chip" in run.warnings[0]
    assert values_of(CHIP, "Pt").fields["chip_name"] == "Alisson67"


@given(
    texts=st.dictionaries(
        st.sampled_from([*REGISTRY.procedures["ITS"].parameters, "Sample"]),
        st.text(max_size=12) | st.sampled_from(["1 V", "67", "Alisson", "2 mV", "nan"]),
    ),
    source_file=st.text(max_size=20) | st.sampled_from(["Alisson67_015.csv", "day/It_1.csv"]),
)
def test_any_header_gives_values_or_a_reject(texts: dict[str, str], source_file: str) -> None:
    """No header text or path raises anything but a reject; a chip is whole or absent, a summary one line."""
    try:
        run = values_of(texts, "Pt", source_file)
    except Reject:
        return
    assert len({part is None for part in chip_of(run)}) == 1
    assert run.fields["summary"].isprintable()
