"""The summary line: exactly the lab's histories, `?` for the unknown, one line whatever a header holds."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.manifest.row import PARAMETER_FIELDS
from ingestd.raw.header import parse_header
from ingestd.raw.procedures import Registry
from ingestd.raw.summary import PLACEHOLDERS, checked_template, render_summary
from ingestd.raw.values import interpret

REGISTRY = Registry.load()


def test_every_line_of_the_labs_histories_is_met(lab: Path) -> None:
    """Each summary of the old histories comes out of its raw file, letter for letter, with `ITS ` for `It  `."""
    compared = 0
    for history in sorted((lab / "legacy_histories").glob("*.csv")):
        for line in csv.DictReader(history.read_text("utf-8").splitlines()):
            source_file = line["source_file"].removeprefix("raw_data/")
            header = parse_header((lab / "01_raw" / source_file).read_bytes())
            procedure = REGISTRY.procedure_for(header.procedure_class)
            values = interpret(header, procedure, procedure.arrow_schema.empty_table(), source_file)
            assert values.fields["summary"] == line["summary"].replace(" It  ", " ITS ")
            compared += 1
    assert compared == 139


@pytest.mark.parametrize(
    ("name", "fields", "line"),
    [
        (
            "IVg",
            {"chip_name": "Alisson67", "vds_v": 0.1, "vg_start_v": -5.0, "vg_end_v": 5.0, "vg_step_v": 0.05},
            "IVg Alisson67  VDS=0.1 V  VG:-5.0→5.0 (step 0.05)  #1",
        ),
        (
            "IV",
            {"chip_name": "Alisson79", "vg_v": 0.0, "vsd_start_v": -0.1, "vsd_end_v": 0.1, "vsd_step_v": 0.01},
            "IV  Alisson79  VG=0.0 V  VSD:-0.1→0.1 (step 0.01)  #1",
        ),
        ("LaserCalibration", {"laser_wavelength_nm": 455.0}, "LaserCalibration λ=455.0 nm  #1"),
        ("ITS", {"has_light": True}, "💡 ITS ?  VG=? V  VDS=? V  VL=? V  λ=? nm  period=? s  #1"),
        ("ITS", {"has_light": False}, "🌙 ITS ?  VG=? V  VDS=? V  VL=? V  λ=? nm  period=? s  #1"),
        ("ITS", {"has_light": None}, "❗ ITS ?  VG=? V  VDS=? V  VL=? V  λ=? nm  period=? s  #1"),
    ],
)
def test_summaries_as_promised(name: str, fields: dict[str, object], line: str) -> None:
    """The promised lines, with the icon of the light and a question mark for every unknown value."""
    assert render_summary(REGISTRY.procedures[name], {"file_idx": 1, **fields}) == line


def test_a_summary_may_name_its_procedure() -> None:
    """`{proc}` is the canonical name, whatever class the header has."""
    procedure = Registry.load({"ITS": {"summary": "{light} {proc} #{file_idx}"}}).procedure_for("lab.It")
    assert render_summary(procedure, {"file_idx": 3}) == "❗ ITS #3"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_print_as_python_prints_floats(value: float) -> None:
    """A number in a summary is its shortest exact decimal text."""
    summary = render_summary(REGISTRY.procedures["LaserCalibration"], {"laser_wavelength_nm": value})
    assert summary == f"LaserCalibration λ={value!r} nm  #?"


HOSTILE = st.text(alphabet="Ab\n\r\x00\x1b[\x7f\x85\x9b\u200b\u2028\u202e\u2066\ud800{}💡", max_size=20)


@given(group=HOSTILE | st.text(max_size=300), name=st.sampled_from(sorted(REGISTRY.procedures)))
def test_no_header_text_breaks_the_line(group: str, name: str) -> None:
    """Control characters, line ends, terminal escapes and bidi marks of a chip name are printed as escapes."""
    summary = render_summary(REGISTRY.procedures[name], {"chip_name": group})
    assert summary.isprintable()
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in summary)
    assert len(summary) < 400


def test_braces_of_a_header_are_text() -> None:
    """A chip called `{vg_v}` is printed so; nothing in a header is taken for a placeholder."""
    summary = render_summary(REGISTRY.procedures["IVg"], {"chip_name": "{vg_v}", "vg_v": 1.0})
    assert summary.startswith("IVg {vg_v}  ")


def test_every_placeholder_is_accepted() -> None:
    """A template may hold each manifest field a header fills, and doubled braces."""
    checked_template("{{}} " + " ".join(f"{{{name}}}" for name in PLACEHOLDERS))
    assert set(PARAMETER_FIELDS) < set(PLACEHOLDERS)


@pytest.mark.parametrize(
    "template", ["{chip.__class__}", "{proc[0]}", "{vg_v!r}", "{vg_v:9}", "{}", "{0}", "{vg}", "}"]
)
def test_a_template_holds_bare_placeholders_only(template: str) -> None:
    """Attribute, index, conversion, format and unknown names are refused before any run is seen."""
    with pytest.raises(ValueError, match=r"placeholder|format|Single"):
        checked_template(template)
