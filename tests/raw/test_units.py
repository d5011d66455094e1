"""Header quantities: every prefix exact, wrong dimensions refused, hostile texts harmless, pint only when needed."""

from __future__ import annotations

import math
import subprocess
import sys
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ingestd
from ingestd.errors import Reject, RejectCode
from ingestd.raw import units
from ingestd.raw.units import disagreeing_unit, label_key, to_unit, unit_of

PREFIXES = {"n": -9, "u": -6, "µ": -6, "μ": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9}


@given(
    number=st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**6), max_value=10**6, places=6),
    prefix=st.sampled_from(sorted(PREFIXES)),
    unit=st.sampled_from(["V", "s"]),
    gap=st.sampled_from(["", " ", "  "]),
)
def test_a_prefix_shifts_the_decimal_point_and_nothing_else(number: Decimal, prefix: str, unit: str, gap: str) -> None:
    """The result is the float nearest to the decimal number: 100 mV is 0.1 V, never 0.10000000000000002."""
    assert to_unit(f"{number}{gap}{prefix}{unit}", unit) == float(number.scaleb(PREFIXES[prefix]))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_in_the_fields_unit_is_the_written_float(value: float) -> None:
    """What the instrument program printed from a float is read back as that very float, with or without the unit."""
    assert to_unit(f"{value!r} V", "V") == value
    assert to_unit(repr(value), "V") == value


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("1.4 V", "V", 1.4),
        ("100 mV", "V", 0.1),
        ("850", "nm", 850.0),
        ("0.85 um", "nm", 850.0),
        ("2 min", "s", 120.0),
        ("25 C", "degC", 25.0),
        ("25 °C", "degC", 25.0),
        ("25 degC", "degC", 25.0),
        ("300 K", "degC", 26.85),
        ("1.e-3 V", "V", 0.001),
        ("−5 V", "V", -5.0),
        ("8500 \u00c5", "nm", 850.0),  # the letter
        ("8500 \u212b", "nm", 850.0),  # the sign
        ("8500A\u030a", "nm", 850.0),  # A with a ring on it
        ("6328 Angstrom", "nm", 632.8),
    ],
)
def test_texts_as_instruments_write_them(text: str, unit: str, value: float) -> None:
    """Units beside prefixes, the spellings of °C and Å, bare numbers and the typographic minus are understood."""
    assert to_unit(text, unit) == value


@pytest.mark.parametrize("text", ["", "  ", "None", "nan", "NaN V", "inf", "-inf V", "1e999 V", "1e400 mV"])
def test_a_text_without_a_finite_number_is_unknown(text: str) -> None:
    """Empty, unset, not-a-number and infinite parameters are None, not a reject."""
    assert to_unit(text, "V") is None


@pytest.mark.parametrize(
    "text", ["5 nA", "5 %", "5 C", "5 dB", "5 quux", "5 V V", "5 V*V/V", "5 V**9**9**9", "5 if", "5 import", "3 dBm"]
)
def test_a_unit_of_another_dimension_is_refused(text: str) -> None:
    """A unit that does not convert, or is none, is a reject that names the parameter, its text and the wanted unit."""
    with pytest.raises(Reject) as raised:
        to_unit(text, "V", label="VG")
    assert raised.value.code == RejectCode.BAD_UNIT
    assert raised.value.message.startswith("VG ")
    assert "in V" in raised.value.expected
    assert raised.value.found == text


@pytest.mark.parametrize(
    "text", ["abc", "1,4 V", "1.4.2 V", "1_0 V", "0x10 V", "٣ V", "True", "1 2", "1e V5 3", "5" * 101]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    """A text that does not start with one decimal number is a reject that shows it."""
    with pytest.raises(Reject) as raised:
        to_unit(text, "V")
    assert raised.value.code in (RejectCode.BAD_PARAMETER, RejectCode.BAD_UNIT)
    assert raised.value.found


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{1,3} [A-Za-z]{1,6}", fullmatch=True))
def test_any_text_is_a_number_nothing_or_a_reject(text: str) -> None:
    """No header text raises anything but a reject, and no result is infinite or NaN."""
    value: float | None = None
    with suppress(Reject):
        value = to_unit(text, "V")
    assert value is None or math.isfinite(value)


def test_want_of_memory_is_not_the_fault_of_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def Quantity(self, *_: object) -> None:  # noqa: N802  # pint's name
            raise MemoryError

    units._conversion.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(units, "_registry", Full)
        with pytest.raises(MemoryError):
            to_unit("1 kV", "V")
    assert to_unit("1 kV", "V") == 1000


def test_pint_is_loaded_for_a_conversion_only() -> None:
    """A worker that meets no other unit than the field's own never pays for importing pint."""
    code = """
import sys
import ingestd.raw.values
from ingestd.raw.units import to_unit
assert to_unit("1.4 V", "V") == 1.4 and to_unit("850", "nm") == 850.0 and to_unit("25 C", "degC") == 25.0
assert "pint" not in sys.modules
assert to_unit("100 mV", "V") == 0.1
assert "pint" in sys.modules
"""
    root = Path(ingestd.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "unit"),
    [("t_s", "s"), ("i_a", "A"), ("vg_v", "V"), ("plate_t_degc", "degC"), ("clock_ms", "ms"), ("wavelength_nm", "nm")],
)
def test_a_canonical_name_tells_its_unit(name: str, unit: str) -> None:
    """The last part of a canonical name is its unit."""
    assert unit_of(name) == unit


@pytest.mark.parametrize("name", ["v", "file_idx", "note", ""])
def test_a_name_without_a_unit_tells_none(name: str) -> None:
    """A name that is only a unit, or ends in none, has no unit."""
    assert unit_of(name) is None


@pytest.mark.parametrize(
    ("label", "name", "disagrees"),
    [
        ("I (A)", "i_a", None),
        ("I [A]", "i_a", None),
        ("I", "i_a", None),
        ("note (mA)", "note", None),
        ("Plate T (°C)", "plate_t_degc", None),
        ("P (µW)", "p_uw", None),
        ("P (MW)", "p_mw", "mW"),
        ("I (mA)", "i_a", "A"),
    ],
)
def test_a_label_in_another_unit_is_found(label: str, name: str, disagrees: str | None) -> None:
    """A label's bracketed unit must be its column's, down to the letter case of the prefix."""
    assert disagreeing_unit(label, name) == disagrees


def test_one_label_has_one_key() -> None:
    """Spacing, also before a unit, and the two micro signs do not tell labels apart; letter case does."""
    assert label_key(" P  (µW) ") == label_key("P (μW)") == label_key("P(µW)")
    assert label_key("t[s]") == label_key("t [s]") != label_key("t (s)")
    assert label_key("(V)") == "(V)"
    assert label_key("Vg(V)") != label_key("V g (V)")
    assert label_key("t (s)") != label_key("T (s)")
