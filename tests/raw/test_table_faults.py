"""What is no table, in words; no body, and no neighbour in a batch, brings out anything else than a table or those."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import HEAD, KINDS, cells, parsed, rejected
from pyarrow import csv

from ingestd.errors import Reject, RejectCode
from ingestd.raw import table as table_module
from ingestd.raw.header import glance, parse_header
from ingestd.raw.reader import read_cells, still_lent
from ingestd.raw.table import READ_TOGETHER, Body, Table, parse_tables


@pytest.mark.parametrize(
    ("body", "code", "line", "words", "found"),
    [
        ("1,2,x\n1,2\n", RejectCode.ROW_TOO_SHORT, 6, "2 cells where the column line names 3", "2 cells: 1,2"),
        ("1\n", RejectCode.ROW_TOO_SHORT, 5, "1 cell where", "1 cell: 1"),
        ("1;2;x\n", RejectCode.ROW_TOO_SHORT, 5, "semicolons", "1 cell: 1;2;x"),
        ("1,2,x\n#c\n\n1,2,x, y\n", RejectCode.ROW_TOO_LONG, 8, "comma inside a text cell", "4 cells: 1,2,x, y"),
        ("1,5,2,x\n", RejectCode.ROW_TOO_LONG, 5, "decimal comma", "4 cells"),
        ("1,2,x,\n", RejectCode.ROW_TOO_LONG, 5, "a comma too many at its end", "4 cells"),
        ("1,2,x,,,\n", RejectCode.ROW_TOO_LONG, 5, "3 commas too many at its end", "6 cells"),
        ("1,5,2,5,x\n", RejectCode.ROW_TOO_LONG, 5, "decimal commas, make 2 cells too many", "5 cells"),
        ("1,2,x\noops,2,x\n", RejectCode.BAD_CELL, 6, "'A (V)' is not a number", "oops"),
        ('"1",2,x\n', RejectCode.BAD_CELL, 5, "never quotes", '"1"'),
        (" ,2,x\n", RejectCode.BAD_CELL, 5, "'A (V)'", " "),
        ("1,2.5,x\n", RejectCode.BAD_CELL, 5, "'N' is not a whole number", "2.5"),
        ("1,9223372036854775808,x\n", RejectCode.BAD_CELL, 5, "'N' is not a whole number", "9223372036854775808"),
        ("1,2\x1c,x\n", RejectCode.BAD_CELL, 5, "'N' is not a whole number", "2\\x1c"),
        ("1,True,x\n", RejectCode.BAD_CELL, 5, "'N'", "True"),
        ("1,2,x\nA (V),N,Note\n", RejectCode.SECOND_HEADER, 6, "second header", "A (V),N,Note"),
        ("1,2,x\n#Procedure: <Kinds>\n", RejectCode.SECOND_HEADER, 6, "second header", "#Procedure: <Kinds>"),
        ("1,2,x\n1,\0\0\0,x\n", RejectCode.NUL_BYTES, 6, "3 NUL bytes", "\\x00"),
        ("1,2,x\r2,3,y\r\n", RejectCode.LONE_CARRIAGE_RETURN, 5, "carriage return", "1,2,x\\r2,3,y"),
        ("1,2,x\r2,3,y\r", RejectCode.LONE_CARRIAGE_RETURN, 5, "carriage return", "1,2,x\\r2,3,y"),
        ("1,2,x\n1,2,x\r\r\n", RejectCode.LONE_CARRIAGE_RETURN, 6, "carriage return", "\\r"),
        (b"1,2,x\n1,2,\x81\n", RejectCode.BAD_ENCODING, 6, "0x81", "1,2,"),
        (b"1,2,x\n#\x81\n", RejectCode.BAD_ENCODING, 6, "0x81", "#"),
    ],
)
def test_faults_are_named_with_their_line(
    body: str | bytes, code: RejectCode, line: int, words: str, found: str
) -> None:
    """Every fault of a table has its own code, the right line in the file, what was found, and what to do."""
    reject = rejected(body)
    assert (reject.code, reject.line) == (code, line)
    assert words in reject.message
    assert found in reject.found
    assert reject.expected
    assert reject.next_step


@pytest.mark.parametrize(
    ("body", "may_be_text"),
    [("1,up,x\n", True), ("1,True,x\n", True), ("1,2.5,x\n", False), ("1, ,x\n", False), ("up,2,x\n", False)],
)
def test_a_text_among_numbers_may_be_a_column_of_the_wrong_type(body: str, may_be_text: bool) -> None:
    """Where the column's name ends in no unit, the reject also says how to have it taken as text."""
    step = rejected(body).next_step
    assert step.startswith("correct the cell, or delete its row, in an editor")
    assert ('add dtype = "string" to count in [procedures.Kinds.columns] of the config file' in step) is may_be_text
    assert ("string" in step) is may_be_text


@pytest.mark.parametrize(
    ("body", "whole"),
    [
        ("-5,0,3,162e-05,nan\n#c\n\n0,05,-1,nan,2\r\n", True),
        ("-5,0,3,162e-05,nan\n0.05,-1,nan\n", False),  # one row is right
        ("-5,0,3,162e-05,nan\n0,-1,nan\n", False),  # one row has cells enough
        ("-5,0,3,162e-05,nan\n0,05,-1,nan,a b\n", False),  # a text
        ("1,2,3,4\n5,6,7,8\n", False),  # whole numbers of a column without a name
        ("12,25e-09,nan,\n0,05,1,\n", False),  # a comma at the end
    ],
)
def test_decimal_commas_everywhere_are_told_from_a_comma_too_many(body: str, whole: bool) -> None:
    """Only where every row is of numbers split at their decimal commas is the whole file at fault."""
    reject = rejected(body)
    assert reject.code is RejectCode.ROW_TOO_LONG
    assert ("the whole file has decimal commas" in reject.message) is whole
    assert ("decimal points" in reject.next_step) is whole


def test_comment_lines_beyond_all_measure_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of comment lines after the header is limited as the header is, each with what it takes in memory."""
    monkeypatch.setattr(table_module, "MAX_HEADER_BYTES", 6 + 2 * table_module._COMMENT_OVERHEAD)
    assert len(parsed("#ab\n1,2,x\n#cd\n").late_comments) == 2
    assert rejected("#ab\n1,2,x\n#cde\n").code is RejectCode.TOO_LARGE


@pytest.mark.parametrize("bad", [b"x", b"1" * (30 << 20), b"1,\n" * 100_000])
def test_large_faulty_bodies_are_judged_in_one_pass(bad: bytes) -> None:
    """A line of tens of megabytes, or a fault after many rows, is refused without repeating work."""
    reject = rejected(b"1,2,x\n" * 200_000 + bad + b"\n")
    assert (reject.code, reject.line) == (RejectCode.ROW_TOO_SHORT, 200_005)
    assert len(reject.found) < 100


pieces = st.sampled_from(
    [b"1,2,x\n", b"1,", b",", b"\n", b"\r\n", b"\r", b"\0", b"#c\n", b"#Procedure: x\n", b"nan(1)", b"+1", b"\xb5",
     b"\x81", b'"', "µ".encode(), b"0x1", b"nan", b"x", b"1", b"\xef\xbb\xbf", b"\x0b", b"_", b"A (V),N,Note\n",
     b"\xe2\x80\xa8"]
)  # fmt: skip


@given(st.binary(max_size=30) | st.lists(pieces | st.binary(max_size=3), max_size=12).map(b"".join))
def test_any_body_gives_a_table_or_a_reject(body: bytes) -> None:
    """Whatever follows the column line, it is a valid table with as many rows as the glance saw, or a Reject."""
    try:
        table = parsed(body)
    except Reject as reject:
        assert reject.line is not None  # noqa: PT017 - both outcomes are right, each in its own way
        return
    table.table.validate(full=True)
    assert table.table.num_rows == glance(f"{HEAD}A (V),N,Note\n".encode() + body).rows
    assert table.table.schema.equals(KINDS.arrow_schema)
    assert "".join(table.warnings).isprintable()


def body_of(columns: str, body: bytes) -> Body:
    """Return what `parse_tables` is given for `body` below a header with `columns`."""
    data = f"{HEAD}{columns}\n".encode() + body
    return Body(data, parse_header(data), KINDS)


def told(found: Table | Reject) -> object:
    """Return all that a table or reject says, as values that compare."""
    if isinstance(found, Reject):
        return found.code, found.message, found.line, found.expected, found.found
    columns = [[str(cell) for cell in column.to_pylist()] for column in found.table.columns]
    return columns, found.table.num_rows, found.late_comments, found.warnings


def read_alone(body: Body) -> Table | Reject:
    """Parse one body by itself."""
    (found,) = parse_tables([body])
    return found


rows_of_bytes = st.lists(
    st.sampled_from([b"1.5,2,y\r\n", b"2.5,3,z\n", b"1.5,2,x\r\n", b",,\n", b"-0.0,,\n", b"nan,3,\r\n", b"\n"]),
    max_size=5,
).map(b"".join)
"""Most are plain; an x beside whole numbers might be that of `0x1F`, which pyarrow would read."""


@given(
    st.lists(
        st.builds(
            body_of,
            st.sampled_from(["A (V),N,Note", "A (V),N,Note", "A (V),N,Other"]),
            rows_of_bytes | st.lists(pieces | rows_of_bytes, max_size=6).map(b"".join),
        ),
        max_size=8,
    )
)
def test_files_parsed_together_are_as_each_by_itself(bodies: list[Body]) -> None:
    """Whatever stands beside a file in its batch, its table or reject is the one it has alone."""
    together = parse_tables(bodies)
    assert [told(found) for found in together] == [told(read_alone(body)) for body in bodies]
    for found in together:
        if isinstance(found, Table):
            found.table.validate(full=True)


def test_small_files_of_the_same_columns_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is small enough is read in one go, what is not by itself, and each gets its own rows."""
    sizes: list[int] = []

    def noted(body: memoryview, *more: Any, **named: Any) -> pa.Table | None:
        sizes.append(len(body))
        return read_cells(body, *more, **named)

    monkeypatch.setattr("ingestd.raw.table.read_cells", noted)
    large = b"1,2,y\n" * (READ_TOGETHER // 6 + 1)
    bodies = [body_of("A (V),N,Note", body) for body in (b"1,2,a\n", large, b"3,4,b\n5,6,c\n", b"", b"7,8,d\n")]
    tables = [found for found in parse_tables(bodies) if isinstance(found, Table)]
    assert [table.table.num_rows for table in tables] == [1, READ_TOGETHER // 6 + 1, 2, 0, 1]
    assert [cells(tables[position], "note") for position in (0, 2, 3, 4)] == [["a"], ["b", "c"], [], ["d"]]
    assert sorted(sizes) == [24, len(large)]


def test_blank_lines_beyond_all_measure_are_read_as_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of hardly more than line ends is not given to pyarrow as rows of nulls, which would fill the memory."""
    asked: list[int] = []

    def noted(body: memoryview, types: list[pa.DataType], rows: int, **named: Any) -> pa.Table | None:
        asked.append(rows)
        return read_cells(body, types, rows, **named)

    monkeypatch.setattr("ingestd.raw.table.read_cells", noted)
    (table,) = parse_tables([body_of("A (V),N,Note", b"1,2,y\n" + b"\n" * 1000)])
    assert isinstance(table, Table)
    assert (table.table.num_rows, asked) == (1, [1])
    assert table.warnings == ("1,000 blank lines between the rows skipped",)


def test_what_pyarrow_holds_of_a_body_is_known_until_it_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of pyarrow's that is late is told of, and forgotten once it has let go."""
    held: list[pa.Buffer] = []
    open_csv = csv.open_csv

    def late(buffer: pa.Buffer, **options: Any) -> csv.CSVStreamingReader:
        held.append(buffer)
        return open_csv(buffer, **options)

    monkeypatch.setattr(csv, "open_csv", late)
    for body in (b"1,2,a\n", b"1,2,a\n#late\n", b"1,oops,a\n"):
        parse_tables([body_of("A (V),N,Note", body)])
        assert still_lent()
    held.clear()
    while still_lent():  # a thread of pyarrow's may in truth be late
        time.sleep(0.001)
