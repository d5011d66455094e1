"""pyarrow's CSV reader, set to read a body as nothing but rows of cells separated by commas."""

from __future__ import annotations

from collections import deque
from typing import Final

import pyarrow as pa
from pyarrow import csv

NULL_CELL: Final = "\0"
"""Reads as null, as an empty cell does, but is no blank line where it is a row by itself. No raw text holds it."""

_LENT: Final[deque[memoryview]] = deque()
"""Bodies that were read and that pyarrow may still hold."""


def read_cells(body: memoryview, types: list[pa.DataType], rows: int, *, blank_is_row: bool = False) -> pa.Table | None:
    """Return the cells as columns "0", "1", ...; None if pyarrow refuses or does not count `rows` rows.

    Blank lines are left out, so `body` may begin with the end of the column line, which keeps pyarrow from dropping a
    byte order mark in a cell; with `blank_is_row` they are rows of nulls. `body` is released, at once or soon.
    """
    names = [str(position) for position in range(len(types))]
    if not rows:
        return pa.schema(list(zip(names, types, strict=True))).empty_table()
    table = _parsed(pa.py_buffer(body), names, types, blank_is_row=blank_is_row)
    _LENT.append(body)
    still_lent()
    return table if table is not None and table.num_rows == rows else None


def _parsed(body: pa.Buffer, names: list[str], types: list[pa.DataType], *, blank_is_row: bool) -> pa.Table | None:
    try:
        # `read_csv` takes a fifth longer to start: the time it needs for 4 kB.
        reader = csv.open_csv(
            body,
            read_options=csv.ReadOptions(use_threads=False, block_size=body.size + 1, column_names=names),
            parse_options=csv.ParseOptions(
                quote_char=False, escape_char=False, newlines_in_values=False, ignore_empty_lines=not blank_is_row
            ),
            convert_options=csv.ConvertOptions(
                column_types=dict(zip(names, types, strict=True)), null_values=["", NULL_CELL], strings_can_be_null=True
            ),
        )
        return reader.read_all()
    except pa.ArrowInvalid:
        return None


def still_lent() -> bool:
    """Tell whether pyarrow still holds a body that was read; it lets go of each a moment later.

    It does so in a thread of its own, which needs Python's lock and aborts a process that is shutting down.
    """
    for _ in range(len(_LENT)):
        try:
            body = _LENT.popleft()
        except IndexError:  # another of our threads is looking too
            break
        try:
            body.release()
        except BufferError:
            _LENT.append(body)
    return bool(_LENT)
