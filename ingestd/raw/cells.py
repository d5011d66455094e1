"""Cells one by one: what Python reads as a number, and the rejects for what it does not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ingestd.errors import Reject, RejectCode
from ingestd.raw.header import Header
from ingestd.raw.lines import SAVE_WITH_COMMAS, WITHOUT_QUOTES, Tally
from ingestd.raw.reader import NULL_CELL
from ingestd.words import AFTER_CONFIG, CONFIG_FILE, count, shown

_WHOLE: Final = re.compile(r"(?:\+|(?P<minus>-))?0*(?P<digits>[0-9]+)(?:\.0*)?")
_NO_BLANK: Final = re.compile("[\x1c-\x1f]")
"""What `str.strip` treats as blanks, but `int` and `float` do not."""

_INT64_DIGITS: Final = 19
_INT64_MIN: Final = -(1 << 63)
_INT64_MAX: Final = (1 << 63) - 1
_QUOTED: Final = 200  # characters of a cell or row looked at to quote it; a row may have millions
_CELL_OF_DECIMAL_COMMAS: Final = r"[-+]?(?:[0-9]+(?:[eE][-+]?[0-9]+)?|nan|inf)?"
_ROW_OF_DECIMAL_COMMAS: Final = re.compile(f"{_CELL_OF_DECIMAL_COMMAS}(?:,{_CELL_OF_DECIMAL_COMMAS})*", re.IGNORECASE)
_FRACTION: Final = re.compile(r",(?:0[0-9]|[0-9]{2,}e)", re.IGNORECASE)
"""Digits after a decimal comma that no program writes as a number of their own: `,05`, `,25e-09`."""


def respell(
    body: bytes, header: Header, dtypes: Sequence[str], may_hold_text: Mapping[int, str]
) -> tuple[bytes, list[str]]:
    """Return `body` with every number spelt so that pyarrow reads what Python would, and warnings.

    `body` is UTF-8, its first line the (empty) rest of the column line; `dtypes` are "double", "int64" or "string" by
    position. `may_hold_text` names, by position, the settings of columns of numbers that may be meant as text. `nan` in
    an int64 column becomes `NULL_CELL`, with a warning. Raises `Reject` at the first row of the wrong length
    (ROW_TOO_SHORT, ROW_TOO_LONG), cell that is not a number (BAD_CELL) or second column line (SECOND_HEADER).
    """
    spellings = [(position, _SPELLINGS[dtype]) for position, dtype in enumerate(dtypes) if dtype in _SPELLINGS]
    column_line = ",".join(header.columns)
    lost = Tally("nan in a column of whole numbers is staged as null")
    lines = body.decode("utf-8").split("\n")
    for index, ended in enumerate(lines):
        line = ended.removesuffix("\r")
        if not line:
            continue
        number = header.body_line - 1 + index
        if line == column_line:
            raise second_header(number, line)
        cells = line.split(",")
        if len(cells) != len(header.columns):
            if len(cells) > len(header.columns) and _has_decimal_commas(lines, len(header.columns)):
                raise _decimal_commas(number, line, len(cells), len(header.columns))
            raise _wrong_length(number, line, len(cells), len(header.columns))
        for position, spelling in spellings:
            cell = cells[position]
            if not cell:
                continue
            spelt = spelling(cell)
            if spelt is None:
                raise _bad_cell(number, header.columns[position], cell, dtypes[position], may_hold_text.get(position))
            if spelt == NULL_CELL:
                lost.add(header.columns[position], number)
            cells[position] = spelt
        lines[index] = ",".join(cells)
    return "\n".join(lines).encode("utf-8"), lost.sentences()


def second_header(line: int, text: str) -> Reject:
    """Return the reject for a header or column line between the rows."""
    return Reject(
        RejectCode.SECOND_HEADER,
        "a second header among the rows: two files were joined, or two runs written into one",
        line=line,
        expected="rows of one run",
        found=shown(text[:_QUOTED]),
        next_step="cut the file here into two files, each with its own header",
    )


def _float(text: str) -> str | None:
    """Return `text` spelt for pyarrow if Python's `float` accepts it, else None."""
    if "_" in text or not text.isascii():
        return None
    try:
        float(text)
    except ValueError:
        return None
    return text.strip().removeprefix("+")


def _whole(text: str) -> str | None:
    """Return the whole number in `text`, `NULL_CELL` for nan, None for anything else or beyond 64 bits."""
    if _NO_BLANK.search(text):
        return None
    bare = text.strip()
    if bare.removeprefix("+").lower() == "nan":
        return NULL_CELL
    found = _WHOLE.fullmatch(bare)
    if found is None or len(found["digits"]) > _INT64_DIGITS:
        return None
    spelt = (found["minus"] or "") + found["digits"]
    return spelt if _INT64_MIN <= int(spelt) <= _INT64_MAX else None


_SPELLINGS: Final[dict[str, Callable[[str], str | None]]] = {"double": _float, "int64": _whole}


def _bad_cell(line: int, label: str, cell: str, dtype: str, setting: str | None) -> Reject:
    wanted = "a number" if dtype == "double" else "a whole number of at most 64 bits"
    quoted = '"' in cell
    hint = "; PyMeasure never quotes, a spreadsheet program does" if quoted else ""
    step = WITHOUT_QUOTES if quoted else "correct the cell, or delete its row, in an editor"
    if setting and cell.strip() and _float(cell) is None:
        step += f'; or, if the column holds text, add dtype = "string" to {setting} of {CONFIG_FILE}; {AFTER_CONFIG}'
    return Reject(
        RejectCode.BAD_CELL,
        f"the cell of column '{shown(label)}' is not {wanted}{hint}",
        line=line,
        expected=f"{wanted}, nan, or an empty cell" if dtype == "double" else f"{wanted}, or an empty cell",
        found=shown(cell[:_QUOTED]) if cell.strip() else f"'{shown(cell[:_QUOTED])}'",
        next_step=step,
    )


def _has_decimal_commas(lines: Sequence[str], columns: int) -> bool:
    """Tell whether every row holds numbers with decimal commas: no points, too many cells, and somewhere a fraction."""
    rows = [line for line in (ended.removesuffix("\r") for ended in lines) if line]
    plain = all("." not in row and row.count(",") >= columns and not row.endswith(",") for row in rows)
    return plain and all(map(_ROW_OF_DECIMAL_COMMAS.fullmatch, rows)) and any(map(_FRACTION.search, rows))


def _decimal_commas(line: int, text: str, found: int, expected: int) -> Reject:
    return Reject(
        RejectCode.ROW_TOO_LONG,
        f"the row has {found} cells where the column line names {expected}: the whole file has decimal commas",
        line=line,
        expected="decimal points",
        found=f"{found} cells: {shown(text[:_QUOTED])}",
        next_step=SAVE_WITH_COMMAS,
    )


def _too_many(number: int, *, at_end: bool) -> str:
    if at_end:
        return "a comma too many at its end" if number == 1 else f"{number:,} commas too many at its end"
    if number == 1:
        return "a comma inside a text cell, or a decimal comma, makes one cell too many"
    return f"commas inside text cells, or decimal commas, make {number:,} cells too many"


def _wrong_length(line: int, text: str, found: int, expected: int) -> Reject:
    long = found > expected
    counted = count(found, "cell")
    step = "correct the row, or delete it, in an editor"
    if long:
        hint = _too_many(found - expected, at_end=text.endswith("," * (found - expected)))
    elif ";" in text or "\t" in text:
        hint = "semicolons or tabs instead of commas, as a spreadsheet program saves a table"
        if expected - 1 in {text.count(";"), text.count("\t")}:
            step = "put commas between its cells, and in every row like it, in an editor"
    else:
        hint = "the row was cut, a cell deleted, or a text cell has a line break"
    return Reject(
        RejectCode.ROW_TOO_LONG if long else RejectCode.ROW_TOO_SHORT,
        f"the row has {counted} where the column line names {expected}: {hint}",
        line=line,
        expected=count(expected, "cell"),
        found=f"{counted}: {shown(text[:_QUOTED])}",
        next_step=step,
    )
