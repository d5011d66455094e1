"""The table of one raw file: from the bytes after the header to typed columns, exact to the last bit.

pyarrow reads a clean table at once. Only what it refuses, or would read more freely than Python does, is looked at
line by line: to name the cell at fault, or to respell what Python accepts (`+1` and `3.0` as whole numbers).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from ingestd.errors import Reject, RejectCode, without_frames
from ingestd.raw.cells import respell, second_header
from ingestd.raw.header import MAX_HEADER, MAX_HEADER_BYTES, Header
from ingestd.raw.lines import (
    Tally,
    count_rows,
    decode,
    has_blank_line,
    refuse_lone_carriage_return,
    refuse_nul,
    text_end,
)
from ingestd.raw.procedure import EXTRA_COLUMN, Procedure
from ingestd.raw.reader import read_cells
from ingestd.words import AFTER_CONFIG, CONFIG_FILE, count, shown

MAX_EXTRA_BYTES: Final = 128 << 20
"""Largest estimated size of the `extra` columns of the files in hand: a label is stored once per row.

Staging a file this large takes 0.25 to 0.45 GiB. A run of 60,000 rows, long for a lab, may have 45 columns that nobody
has described, with names of 30 letters.
"""

READ_TOGETHER: Final = 1 << 20
"""Rows of files with the same columns are read at once, up to this many bytes: pyarrow needs 0.1 ms to start, the time
it needs for 20 kB.
"""

_COMMENT: Final = re.compile(rb"^#[^\n]*", re.MULTILINE)
_NAN_PAYLOAD: Final = re.compile(rb"nan\(", re.IGNORECASE)
_CELL_OVERHEAD: Final = 16
_COMMENT_OVERHEAD: Final = 64
"""Bytes that a comment line takes in memory besides its text."""


@dataclass(frozen=True, slots=True)
class Table:
    """One raw file's rows.

    `table` has exactly the procedure's schema: float64 cells equal Python's `float` of the text bit for bit, an empty
    cell is null, `nan` is NaN, absent columns are null. `extra` maps the label of each unknown column to the cell's
    text (null where empty) and is null where the file has none. `late_comments` are the comment lines after the column
    line, without line end. `warnings` are sentences for people.
    """

    table: pa.Table
    late_comments: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of one raw file, its header, and the procedure that says what its columns mean."""

    data: bytes
    header: Header
    procedure: Procedure


def parse_tables(bodies: Sequence[Body]) -> list[Table | Reject]:
    """Parse the rows of several files, each into the columns of its procedure, or say why it is refused.

    An incomplete last line is left out with a warning; blank lines too. A refusal is one of MISSING_COLUMN,
    DUPLICATE_COLUMN, NUL_BYTES, LONE_CARRIAGE_RETURN, BAD_ENCODING, SECOND_HEADER, ROW_TOO_SHORT, ROW_TOO_LONG,
    BAD_CELL, TOO_LARGE. What comes out of a file does not depend on the others.
    """
    found: dict[int, Table | Reject] = {}
    rows: dict[int, _Rows] = {}
    for position, body in enumerate(bodies):
        try:
            rows[position] = _Rows(body)
        except Reject as reject:
            found[position] = without_frames(reject)
    cells = _read_plain({position: one for position, one in rows.items() if one.is_plain()})
    for position, one in rows.items():
        try:
            found[position] = one.table(cells.get(position))
        except Reject as reject:
            found[position] = without_frames(reject)
    return [found[position] for position in range(len(bodies))]


def fit_together(bodies: Mapping[int, Body]) -> list[int]:
    """Return the positions of the bodies, at least the first, to be parsed before any of their tables is released.

    Their unknown columns together take no more memory than those of one file may.
    """
    size = 0
    fitting: list[int] = []
    for position, body in bodies.items():
        size += _extra_bytes(body)
        if fitting and size > MAX_EXTRA_BYTES:
            break
        fitting.append(position)
    return fitting


def _extra_bytes(body: Body) -> int:
    """Estimate the bytes of one file's `extra` column; 0 if it has none, or is refused."""
    columns = body.header.columns
    try:
        matched = body.procedure.match_columns(columns)
    except Reject:
        return 0
    unknown = [label for position, label in enumerate(columns) if position not in matched]
    return _estimate(body.data.count(b"\n", body.header.body_start), unknown) if unknown else 0


class _Rows:
    """The rows of one file: where they are, and the types of their columns."""

    def __init__(self, body: Body) -> None:
        self.data, self.header, self.procedure = body.data, body.header, body.procedure
        try:
            self.matched = self.procedure.match_columns(self.header.columns)
        except Reject as reject:
            raise reject.at(self.header.body_line - 1) from None
        schema = self.procedure.arrow_schema
        self.types = [
            schema.field(self.matched[position]).type if position in self.matched else pa.string()
            for position in range(len(self.header.columns))
        ]
        self.start = self.header.body_start
        self.end = max(self.data.rfind(b"\n") + 1, self.start)
        refuse_nul(self.data, self.start, self.end)
        self.lines = self.data.count(b"\n", self.start, self.end)

    @property
    def size(self) -> int:
        """Count the bytes of the complete rows."""
        return self.end - self.start

    def is_plain(self) -> bool:
        """Tell whether there are only ASCII rows, whose numbers pyarrow reads as Python does, or refuses.

        A row has a comma or line end for each column. Fewer bytes than that mean blank lines, and a million of them,
        read as rows of nulls, would take a thousand times their size in memory.
        """
        data, start = self.data, self.start
        if self.end != len(data) or self.size < self.lines * len(self.types):
            return False
        ascii_only = data.isascii() or data[start:].isascii()
        return ascii_only and data.find(b"#", start) < 0 and not _read_too_freely(data, start, self.types)

    def table(self, cells: pa.Table | None) -> Table:
        """Arrange the cells as a table; None if they are still to be read, because something is odd about them."""
        comments: tuple[str, ...] = ()
        warnings: list[str] = []
        if cells is None:
            data, start, end = self.data, self.start, self.end
            refuse_lone_carriage_return(data, start, max(end, text_end(data)))
            # Includes the column line's end, so that every line of the body follows a line feed.
            text = self.procedure.may_hold_text(self.matched)
            cells, comments, found = _read_odd(data[start - 1 : end], self.header, self.types, text)
            warnings = [*_tail_warnings(data[end:], self.header.body_line + self.lines), *found]
        table, found = _staged(cells, self.matched, self.header, self.procedure)
        return Table(table, comments, (*warnings, *found))


def _tail_warnings(tail: bytes, line: int) -> list[str]:
    text = tail.rstrip(b"\0")
    nul = len(tail) - len(text)
    warnings = []
    if nul:
        found = count(nul, "NUL byte")
        warnings.append(f"line {line}: the file ends in {found}, as a power loss leaves them; left out")
    if text:
        quoted = shown(text[:200].decode("utf-8", "replace"))
        warnings.append(f"line {line}: the last line is incomplete and left out: {quoted}")
    return warnings


def _read_odd(
    body: bytes, header: Header, types: list[pa.DataType], may_hold_text: Mapping[int, str]
) -> tuple[pa.Table, tuple[str, ...], list[str]]:
    """Read a body with comments, blank lines, non-ASCII letters or odd spellings; raise for what is wrong in it."""
    lines, rows = body.count(b"\n") - 1, count_rows(body, 1, len(body))
    body, comments, warnings = _without_comments(body, header)
    if blank := lines - rows - len(comments):
        warnings.append(f"{count(blank, 'blank line')} between the rows skipped")
    body, found = _as_utf8(body, header)
    warnings += found
    cells = None if _read_too_freely(body, 0, types) else read_cells(memoryview(body), types, rows)
    if cells is None:
        body, found = respell(body, header, [str(kind) for kind in types], may_hold_text)
        warnings += found
        cells = read_cells(memoryview(body), types, rows)
    if cells is None:
        raise Reject(
            RejectCode.BAD_CELL,
            f"the {count(rows, 'row')} after the header cannot be read as a table",
            expected="rows of cells separated by commas",
            next_step="compare it with a staged file of the same procedure; if they look alike, report it",
        )
    return cells, comments, warnings


def _without_comments(body: bytes, header: Header) -> tuple[bytes, tuple[str, ...], list[str]]:
    """Blank the comment lines of `body`; return it, the comments and warnings. Line numbers stay."""
    if body.find(b"\n#") < 0:
        return body, (), []
    comments: list[str] = []
    odd = Tally("a comment line is not UTF-8; read as Windows-1252")
    line, previous, size = header.body_line - 1, 0, 0
    for found in _COMMENT.finditer(body):
        line += body.count(b"\n", previous, found.start())
        previous = found.start()
        size += found.end() - previous + _COMMENT_OVERHEAD
        if size > MAX_HEADER_BYTES:
            raise Reject(
                RejectCode.TOO_LARGE,
                f"more than {MAX_HEADER} of comment lines between the rows",
                line=line,
                next_step="check whether this is a measurement; if it is, delete the comment lines",
            )
        text, warning = decode(found.group().rstrip(b"\r"), first_line=line, what="comment line")
        if text.startswith("#Procedure"):
            raise second_header(line, text)
        if warning:
            odd.add(text, line)
        comments.append(text)
    return _COMMENT.sub(b"", body), tuple(comments), odd.sentences()


def _as_utf8(body: bytes, header: Header) -> tuple[bytes, list[str]]:
    if body.isascii():
        return body, []
    text, warning = decode(body, first_line=header.body_line - 1, what="table")
    return (text.encode("utf-8"), [warning]) if warning else (body, [])


def _read_too_freely(data: bytes, start: int, types: list[pa.DataType]) -> bool:
    """Tell whether `data[start:]` may hold what pyarrow reads as a number and Python does not: `nan(1)`, `0x1F`."""
    if data.find(b"(", start) >= 0 and _NAN_PAYLOAD.search(data, start):
        return True
    return pa.int64() in types and (data.find(b"x", start) >= 0 or data.find(b"X", start) >= 0)


def _read_plain(rows: Mapping[int, _Rows]) -> dict[int, pa.Table]:
    """Read the cells of plain rows, by position; leave out those that pyarrow refuses or that have odd line ends.

    Odd are blank lines and lone carriage returns. The text is not searched for them, which would cost half as much as
    parsing it: a lone carriage return ends a row for pyarrow, so there are more rows than line feeds; a blank line is a
    row of nulls, so a column without a null shows that there is none.
    """
    cells: dict[int, pa.Table] = {}
    for group in _groups(rows):
        several = len(group) > 1
        parts = [memoryview(one.data)[one.start :] for one in group.values()]
        body = memoryview(b"".join(parts)) if several else parts[0]
        types = next(iter(group.values())).types
        table = read_cells(body, types, sum(one.lines for one in group.values()), blank_is_row=True)
        if table is None and several:  # reading each by itself shows which of them it is
            for position, one in group.items():
                cells |= _read_plain({position: one})
        elif table is not None:
            at = 0
            for position, one in group.items():
                own, at = table.slice(at, one.lines), at + one.lines
                if not (_a_null_in_each_column(own) and has_blank_line(one.data[one.start - 1 :])):
                    cells[position] = own
    return cells


def _groups(rows: Mapping[int, _Rows]) -> Iterator[dict[int, _Rows]]:
    """Yield rows that may be read at once: with the same columns, and few bytes or a single file."""
    groups: dict[tuple[str, tuple[str, ...]], dict[int, _Rows]] = {}
    sizes: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for position, one in rows.items():
        columns = (one.procedure.name, one.header.columns)
        if one.size > READ_TOGETHER:
            yield {position: one}
            continue
        if columns in groups and sizes[columns] + one.size > READ_TOGETHER:
            yield groups.pop(columns)
            sizes[columns] = 0
        groups.setdefault(columns, {})[position] = one
        sizes[columns] += one.size
    yield from groups.values()


def _a_null_in_each_column(cells: pa.Table) -> bool:
    return all(cells.column(position).null_count for position in range(cells.num_columns))


def _staged(
    cells: pa.Table, matched: dict[int, str], header: Header, procedure: Procedure
) -> tuple[pa.Table, list[str]]:
    """Arrange the cells as the procedure's schema wants them; return warnings about unknown columns."""
    schema, rows = procedure.arrow_schema, cells.num_rows
    columns = {name: cells.column(position) for position, name in matched.items()}
    unknown = [position for position in range(len(header.columns)) if position not in matched]
    warnings = []
    if unknown:
        labels = [header.columns[position] for position in unknown]
        columns[EXTRA_COLUMN] = _extra(cells.select(unknown), labels)
        listed = shown(", ".join(labels), 300)
        warnings.append(f"columns that procedure {procedure.name} does not know are kept in '{EXTRA_COLUMN}': {listed}")
    arrays = [columns[field.name] if field.name in columns else pa.nulls(rows, field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema), warnings


def _estimate(rows: int, labels: Sequence[str]) -> int:
    return rows * sum(len(label.encode()) + _CELL_OVERHEAD for label in labels)


def _extra(cells: pa.Table, labels: list[str]) -> pa.MapArray:
    """Return one map per row, label -> text, for the columns of `cells`."""
    rows, width = cells.num_rows, len(labels)
    if _estimate(rows, labels) > MAX_EXTRA_BYTES:
        raise Reject(
            RejectCode.TOO_LARGE,
            f"{width} unknown columns in {rows} rows are more than the column '{EXTRA_COLUMN}' can hold",
            expected="few or short unknown columns",
            found=shown(", ".join(labels)),
            next_step=f"describe the columns under [procedures.NAME.columns] of {CONFIG_FILE}; {AFTER_CONFIG}",
        )
    position = pa.arange(0, rows * width)
    row = pc.divide(position, width)
    column = pc.subtract(position, pc.multiply(row, width))
    texts = pa.concat_arrays([chunk for one in cells.columns for chunk in one.chunks] or [pa.array([], pa.string())])
    return pa.MapArray.from_arrays(
        pa.arange(0, rows * width + 1, width).cast(pa.int32()),
        pa.array(labels, pa.string()).take(column),
        texts.take(pc.add(pc.multiply(column, rows), row)),
    )
