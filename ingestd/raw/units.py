"""Units: the unit a name ends in, and a header text such as `100 mV` as a number in a wanted unit."""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Decimal, localcontext
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

from ingestd.errors import Reject, RejectCode
from ingestd.words import shown

if TYPE_CHECKING:
    import pint

_SUFFIX_UNITS: Final = {
    unit.lower(): unit
    for unit in (
        "s", "ms", "us", "ns", "Hz", "kHz",
        "V", "mV", "uV", "A", "mA", "uA", "nA", "pA", "ohm",
        "W", "mW", "uW", "nW", "nm", "um", "mm", "degC", "K", "T", "mT", "percent",
    )
}  # fmt: skip
_SPELLINGS: Final = {
    "C": "degC",
    "°C": "degC",
    "Celsius": "degC",
    "Ω": "ohm",
    "Ohm": "ohm",
    "%": "percent",
    **dict.fromkeys(("Å", "Angstrom", "Ångström", "ångström"), "angstrom"),
}
_BEFORE_UNIT: Final = re.compile(r"(?<=\S)(?=[(\[])")
_WRITTEN_UNIT: Final = re.compile(r"[(\[]([^()\[\]]*)[)\]]\s*$")
_QUANTITY: Final = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?)"
    r"\s*(?P<unit>(?![eE][+-]?[0-9])[^\W\d_].*|[%°].*)?",
    re.DOTALL,
)
_NOT_FINITE: Final = re.compile(r"[+-]?(?:nan|inf|infinity)\b.*", re.IGNORECASE | re.DOTALL)
_UNIT_WORD: Final = re.compile(r"[A-Za-zΩ]{1,20}")
_LONGEST: Final = 100
_PRECISION: Final = 2 * _LONGEST  # digits: the product of a text that long with a unit prefix stays exact


def label_key(label: str) -> str:
    """Return what two spellings of one label share: compatible characters folded (µ, μ), one space where any may be.

    Spaces may be between words and before a bracket: `t(s)` is `t (s)`.
    """
    return _label_key(label) if len(label) <= _LONGEST else _label_key.__wrapped__(label)


@lru_cache(maxsize=1024)
def _label_key(label: str) -> str:
    return " ".join(_BEFORE_UNIT.sub(" ", unicodedata.normalize("NFKC", label)).split())


def unit_of(name: str) -> str | None:
    """Return the unit a canonical name ends in (`t_s` -> `s`, `i_a` -> `A`), or None if it ends in none."""
    stem, _, suffix = name.rpartition("_")
    return _SUFFIX_UNITS.get(suffix) if stem else None


def disagreeing_unit(label: str, name: str) -> str | None:
    """Return the unit canonical `name` ends in if the written `label` ends in another one, else None.

    A label gives its unit in trailing brackets: `I (mA)`, `t [s]`; one without brackets agrees with every name.
    """
    wanted = unit_of(name)
    written = _WRITTEN_UNIT.search(label)
    if wanted is None or written is None:
        return None
    return None if _spelled(written[1]) == wanted else wanted


def to_unit(text: str, unit: str, label: str = "the value") -> float | None:
    """Return the quantity written in `text`, converted to `unit`; a bare number is taken to be in `unit`.

    The result is the float nearest to the exact decimal product: `100 mV` in V is 0.1. None if the text gives no
    finite number: empty, `None`, `nan`, `inf`, or beyond a float's range. Raises Reject, with `label` in its message:
    `bad-parameter` if `text` is not a number, `bad-unit` if its unit is unknown or of another dimension.
    """
    return _to_unit(text, unit, label) if len(text) <= _LONGEST else _to_unit.__wrapped__(text, unit, label)


@lru_cache(maxsize=1024)
def _to_unit(text: str, unit: str, label: str) -> float | None:
    stripped = text.strip()
    if stripped in ("", "None") or _NOT_FINITE.fullmatch(stripped):
        return None
    found = _QUANTITY.fullmatch(stripped.replace("\N{MINUS SIGN}", "-")) if len(stripped) <= _LONGEST else None
    if found is None:
        raise Reject(
            RejectCode.BAD_PARAMETER,
            f"{label} is not a number in {unit}",
            expected=f"a number such as 1.5 {unit}, with a decimal point",
            found=shown(stripped),
            next_step="correct the value in the file's header",
        )
    written = _spelled(found["unit"] or unit)
    if written == _spelled(unit):
        value = float(found["number"])
        return value if math.isfinite(value) else None
    with localcontext(prec=_PRECISION):
        conversion = _conversion(written, unit)
        if conversion is None:
            raise Reject(
                RejectCode.BAD_UNIT,
                f"{label} is in '{shown(found['unit'])}', which cannot be converted to {unit}",
                expected=f"a number in {unit}, or in a unit that converts to {unit}",
                found=shown(stripped),
                next_step="correct the unit in the file's header",
            )
        factor, offset = conversion
        value = float(Decimal(found["number"]) * factor + offset)
    return value if math.isfinite(value) else None


@lru_cache(maxsize=256)
def _spelled(unit: str) -> str:
    """Return `unit` in the one spelling used here: `uV` for both micro signs, `degC` for °C and C."""
    plain = unicodedata.normalize("NFKC", unit).strip().replace("μ", "u")
    return _SPELLINGS.get(plain, plain)


@lru_cache(maxsize=256)
def _conversion(written: str, unit: str) -> tuple[Decimal, Decimal] | None:
    """Return factor and offset that convert a number in `written` to `unit`; None if there are none."""
    if not _UNIT_WORD.fullmatch(written):  # an expression in a raw file is not pint's to evaluate
        return None
    registry = _registry()
    try:
        zero, one = (registry.Quantity(Decimal(n), written).to(unit).magnitude for n in (0, 1))
    except MemoryError:
        raise
    except Exception:  # pint raises many kinds, down to TypeError, for a word that is no unit; all mean one thing here
        return None
    return one - zero, zero


@cache
def _registry() -> pint.UnitRegistry[Decimal]:
    """Return pint's units with exact decimal factors; importing and reading them takes half a second."""
    from pint import UnitRegistry  # noqa: PLC0415 - most headers need no conversion, and none should wait for it

    return UnitRegistry(non_int_type=Decimal)
