r"""Cells of the CSVs people open: one run is one line, and no text of an instrument file runs as a formula.

The files are UTF-8 without a byte order mark, `,` between cells, `\n` after lines, quotes only where a cell needs them;
an empty cell is a null or an empty text. Text cells are written so:

- a backslash is `\\`; control characters, line separators and marks that turn the writing direction are `\n`, `\t`,
  `\xNN` or `\uNNNN`;
- text that a spreadsheet would take for a formula (it starts with `=`, `+`, `-`, `@` or their full-width twins, after
  spaces too) gets a `'` in front, unless it is a number with or without a unit, such as `-5.19 V`;
- a `;` before such a sign is `\x3b`: spreadsheets set to a decimal comma split lines at `;`.

`restored` undoes all of it exactly.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Final

import polars as pl

from ingestd.errors import UsageError
from ingestd.words import shown

_CONTROLS: Final = [*range(0x20), *range(0x7F, 0xA0)]
_NAMED: Final = {"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
_TURNING: Final = [0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
"""Line separators and marks of writing direction: they make a cell look like another, or one line like two."""

_ESCAPES: Final = (
    {chr(code): f"\\x{code:02x}" for code in _CONTROLS} | {chr(code): f"\\u{code:04x}" for code in _TURNING} | _NAMED
)
_SPLITTER: Final = r"\x3b"
_SIGN: Final = r"[=+\-@＝＋－＠]"
_FORMULA: Final = rf"^'*\s*{_SIGN}"
_DEFUSED: Final = rf"^'+\s*{_SIGN}"
_QUANTITY: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?( ?[A-Za-zµμ°Ω%]+)?$"
_SPLIT_FORMULA: Final = rf";(\s*[\"']*\s*{_SIGN})"


def written(text: pl.Expr) -> pl.Expr:
    """Turn a text column into the form its cells have in a CSV; nulls stay null."""
    escaped = text.str.replace_many(list(_ESCAPES), list(_ESCAPES.values()))
    whole = escaped.str.replace_all(_SPLIT_FORMULA, rf"{_SPLITTER}${{1}}")
    harmless = whole.str.contains(_QUANTITY) | ~whole.str.contains(_FORMULA)
    return pl.when(harmless).then(whole).otherwise("'" + whole)


def restored(cell: pl.Expr) -> pl.Expr:
    """Turn cells made by `written` back into the text."""
    whole = pl.when(cell.str.contains(_DEFUSED)).then(cell.str.slice(1)).otherwise(cell)
    return whole.str.replace_many([*_ESCAPES.values(), _SPLITTER], [*_ESCAPES, ";"])


def render_csv(frame: pl.DataFrame) -> bytes:
    """Render a frame as the bytes of a CSV for people: String columns and the column names as text cells."""
    return join_cells(text_cells(frame))


def text_cells(frame: pl.DataFrame) -> pl.DataFrame:
    """Turn the String columns and the column names of a frame into the form they have in a CSV."""
    # Columns go by number meanwhile: a name such as `*` or `^x$` would be a pattern to polars.
    numbered = frame.rename(dict(zip(frame.columns, map(str, range(frame.width)), strict=True)))
    texts = [number for number, dtype in numbered.schema.items() if dtype == pl.String]
    body = numbered.with_columns(pl.when(pl.col(name) != "").then(written(pl.col(name))).alias(name) for name in texts)
    names = pl.DataFrame({"name": frame.columns}, schema={"name": pl.String}).select(written(pl.col("name")))
    body.columns = names["name"].to_list()
    return body


def join_cells(cells: pl.DataFrame) -> bytes:
    """Join what `text_cells` made, or some of its rows, into the bytes of a CSV."""
    return cells.write_csv(quote_style="necessary", line_terminator="\n").encode("utf-8")


def read_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read a CSV as its column names and its rows of cells, as they stand; every row is as long as the header.

    A byte order mark and CRLF line ends are accepted.

    Raises:
        UsageError: it cannot be opened, is not UTF-8, is empty or not a CSV, repeats a column name, or has a row of
            another length; the place is `path:line`.
    """
    text = _decoded(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[list[str]] = []
    try:
        for row in reader:
            if row and rows and len(row) != len(rows[0]):
                raise _unreadable(path, reader.line_num, f"{len(row)} cells where the first line has {len(rows[0])}")
            if row:
                rows.append(row)
    except csv.Error as error:
        raise _unreadable(path, reader.line_num, f"not a CSV line ({error})") from error
    if not rows:
        raise _unreadable(path, 1, "the file is empty")
    header = rows.pop(0)
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise _unreadable(path, 1, f"the column {shown(twice)!r} occurs twice")
    return header, rows


def _decoded(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the file cannot be read: {error.strerror}",
            place=str(path),
            next_step="check its path and permissions",
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        data, at = error.object, error.start  # without the byte order mark
        line, byte = data.count(b"\n", 0, at) + 1, data[at]
        raise _unreadable(path, line, f"the byte 0x{byte:02x} is not UTF-8 text") from error


def _unreadable(path: Path, line: int, message: str) -> UsageError:
    return UsageError(
        message, place=f"{path}:{line}", next_step="give a chip history CSV, as `ingestd chip-histories` writes it"
    )
