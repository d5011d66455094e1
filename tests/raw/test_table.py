"""The table as typed columns: every cell, every bit."""

from __future__ import annotations

import csv
import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kinds import HEAD, INT64_MAX, KINDS, cells, parse_table, parsed, rejected

from ingestd.errors import RejectCode
from ingestd.raw import table as table_module
from ingestd.raw.header import parse_header
from ingestd.raw.procedures import Registry


def bits(values: list[float | None]) -> list[bytes | None]:
    """Return floats as their eight bytes: NaN equals NaN, -0.0 is not 0.0."""
    return [None if value is None else struct.pack("<d", value) for value in values]


def python_float(text: str) -> float | None:
    """Return what `float` makes of a cell; ValueError where the text is no number of a file."""
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return float(text) if text else None


def whole_number(text: str) -> int | None:
    """Return the whole number a cell spells, None for anything else; huge ones only as huge."""
    whole, _, fraction = text.partition(".")
    digits = whole[1:] if whole[:1] in {"+", "-"} else whole
    if not (digits.isascii() and digits.isdigit()) or fraction.strip("0"):
        return None
    size = int(digits.lstrip("0")[:30] or "0")
    return -size if whole.startswith("-") else size


def test_columns_are_typed_and_in_the_procedures_order() -> None:
    """Cells land in the procedure's columns whatever their order in the file; missing columns are null."""
    table = parsed("3,one two,1.5\n-4,,nan\n", "N,Note,A (V)")
    assert table.table.schema.equals(KINDS.arrow_schema, check_metadata=True)
    assert cells(table, "count") == [3, -4]
    assert cells(table, "note") == ["one two", None]
    assert bits(cells(table, "a_v")) == bits([1.5, float("nan")])
    assert cells(table, "b_a") == cells(table, "extra") == [None, None]
    assert (table.table.num_rows, table.late_comments, table.warnings) == (2, (), ())


def test_nan_stays_nan_and_empty_is_null() -> None:
    """`nan` as the instrument wrote it and an empty cell are kept apart; a text `nan` or `NULL` stays text."""
    table = parsed("nan,1,nan\n,2,NULL\n-inf,,\n")
    assert bits(cells(table, "a_v")) == bits([float("nan"), None, float("-inf")])
    assert cells(table, "count") == [1, 2, None]
    assert cells(table, "note") == ["nan", "NULL", None]
    assert table.table.column("a_v").null_count == 1


numbers = st.one_of(
    st.floats(width=64).map(repr),
    st.floats(width=64).map("{:.25e}".format),
    st.floats(width=64, allow_nan=False, allow_infinity=False).map("{:.30f}".format),
    st.text("0123456789.eE+-", max_size=24),
    st.text("0123456789.eE+- _xXnaifN()\t\x0b١", max_size=8),
)


@given(st.lists(numbers, min_size=1, max_size=4))
@example(["1e400", "-1e400", "5e-324", "2e-324", "-0.0", "2.2250738585072011e-308", "9007199254740993"])
@example(["nan", "-nan", "NaN", "inf", "-inf", "Infinity"])
@example(["+1.0", " 1.0", "1.0 ", "\t.5", "1.", "+nan", "1\x0b"])
@example(["nan(12)"])
@example(["1_0"])
@example(["\ufeff1"])
def test_every_float_equals_pythons_to_the_last_bit(texts: list[str]) -> None:
    """A float64 cell is `float(text)` bit for bit; what `float` refuses is refused, with line and text."""
    body = "".join(f"{text},,\n" for text in texts)
    wanted: list[float | None] = []
    for line, text in enumerate(texts, start=5):
        try:
            wanted.append(python_float(text))
        except ValueError:
            reject = rejected(body)
            assert (reject.code, reject.line) == (RejectCode.BAD_CELL, line)
            return
    assert bits(cells(parsed(body), "a_v")) == bits(wanted)


@given(
    st.lists(st.integers(-(2**64), 2**64).map(str) | st.text("0123456789+- .xna", max_size=5), min_size=1, max_size=3)
)
@example([str(INT64_MAX), str(-INT64_MAX - 1), "007", "-0", "+5", " 6 ", "3.0", "4."])
@example(["nan"])
@example(["0x10"])
@example(["+-1"])
@example(["9" * 5000])
@example(["0" * 5000 + "7"])
@example([str(INT64_MAX + 1)])
def test_every_whole_number_is_exact_or_refused(texts: list[str]) -> None:
    """An int64 cell is the whole number in the text or the file is refused: nothing wraps or is rounded."""
    body = "".join(f"0,{text},\n" for text in texts)
    wanted: list[int | None] = []
    for line, text in enumerate(texts, start=5):
        if not text or text.strip().removeprefix("+") == "nan":
            wanted.append(None)
        elif (number := whole_number(text.strip())) is not None and -INT64_MAX - 1 <= number <= INT64_MAX:
            wanted.append(number)
        else:
            assert rejected(body).line == line
            return
    assert cells(parsed(body), "count") == wanted


def test_nan_among_whole_numbers_is_null_with_a_warning() -> None:
    """PyMeasure writes nan for a value it was not given; a whole-number column has no NaN, so it is null and said."""
    table = parsed("0,1,\n0,nan,\n0,nan,\n")
    assert cells(table, "count") == [1, None, None]
    assert table.warnings == ("line 6: nan in a column of whole numbers is staged as null: N (and 1 more)",)


def test_nan_in_a_file_of_whole_numbers_alone_is_a_row() -> None:
    """Where there is no other column the row of a nan must not pass for a blank line, nor one for it."""
    counts = KINDS.model_copy(update={"columns": {"count": KINDS.columns["count"]}})
    data = f"{HEAD}N\n1\nnan\n\n+3\n".encode()
    table = parse_table(data, parse_header(data), counts)
    assert cells(table, "count") == [1, None, 3]
    blank, lost = table.warnings
    assert blank.startswith("1 blank line")
    assert lost.startswith("line 6: nan in a column")


cell_text = st.text(st.characters(codec="utf-8", exclude_characters=",\n\r\0"), max_size=12)


@given(
    st.lists(st.tuples(st.floats(), st.none() | st.integers(-(2**63), INT64_MAX), cell_text, cell_text), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
)
def test_every_cell_of_any_table_comes_back(rows: list[tuple[float, int | None, str, str]], end: str) -> None:
    """Floats, whole numbers and texts in known and unknown columns all come back as written."""
    lines = [f"{a!r},{'' if n is None else n},{note},{other}" for a, n, note, other in rows]
    table = parsed("".join(line + end for line in lines), "A (V),N,Note,Unknown µ")
    assert table.table.num_rows == len(rows)
    assert bits(cells(table, "a_v")) == bits([float(repr(a)) for a, *_ in rows])
    assert cells(table, "count") == [n for _, n, *_ in rows]
    assert cells(table, "note") == [note or None for *_, note, _ in rows]
    assert cells(table, "extra") == [[("Unknown µ", other or None)] for *_, other in rows]
    table.table.validate(full=True)


def test_unknown_columns_go_into_one_map_with_one_warning() -> None:
    """Several unknown columns keep label and text of every cell, row by row, in the file's order."""
    table = parsed('1,x,2.50,\n3,,"q",z\n', "A (V),X,Y (V),Z")
    assert cells(table, "extra") == [
        [("X", "x"), ("Y (V)", "2.50"), ("Z", None)],
        [("X", None), ("Y (V)", '"q"'), ("Z", "z")],
    ]
    assert table.warnings == ("columns that procedure Kinds does not know are kept in 'extra': X, Y (V), Z",)
    table.table.validate(full=True)


def test_unknown_columns_beyond_all_measure_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are stored once a row, so their sum is limited: a small file must not fill the memory."""
    monkeypatch.setattr(table_module, "MAX_EXTRA_BYTES", 2 * 17)
    assert parsed("1,x\n1,y\n", "A (V),X").table.num_rows == 2
    assert rejected("1,x\n1,y\n1,z\n", "A (V),X").code is RejectCode.TOO_LARGE


def test_a_small_file_of_many_unknown_columns_is_refused() -> None:
    """1 MB of commas below a thousand long names would take half a GB; the next step tells how they are taken."""
    names = [f"{number:0194}" for number in range(1000)]
    reject = rejected(("1" + "," * 1000 + "\n") * 1000, ",".join(["A (V)", *names]))
    assert (reject.code, reject.message) == (
        RejectCode.TOO_LARGE,
        "1000 unknown columns in 1000 rows are more than the column 'extra' can hold",
    )
    assert reject.next_step.startswith("describe the columns under [procedures.NAME.columns]")


@pytest.mark.parametrize("quotes", ['"one', '"one" two', 'o"n"e', "'", '""', '"'])
def test_quotes_are_letters(quotes: str) -> None:
    """PyMeasure never quotes: a quote in a text cell is a letter, and swallows no rows."""
    table = parsed(f"1,1,{quotes}\n2,2,two\n")
    assert cells(table, "note") == [quotes, "two"]


@pytest.mark.parametrize(
    ("tail", "warnings"),
    [
        ("3.0,4,x", ["line 7: the last line is incomplete and left out: 3.0,4,x"]),
        ("3.0,4,x\r", ["line 7: the last line is incomplete and left out: 3.0,4,x\\r"]),
        (
            "3\r\0",
            [
                "line 7: the file ends in 1 NUL byte, as a power loss leaves them; left out",
                "line 7: the last line is incomplete and left out: 3\\r",
            ],
        ),
        ("\0\0\0", ["line 7: the file ends in 3 NUL bytes, as a power loss leaves them; left out"]),
        (
            "3.\0\0",
            [
                "line 7: the file ends in 2 NUL bytes, as a power loss leaves them; left out",
                "line 7: the last line is incomplete and left out: 3.",
            ],
        ),
        ("x" * 500, ["line 7: the last line is incomplete and left out: " + "x" * 59 + "…"]),
        (b"\xff\xfe", ["line 7: the last line is incomplete and left out: \ufffd\ufffd"]),
    ],
)
def test_an_incomplete_last_line_is_left_out_and_quoted(tail: str | bytes, warnings: list[str]) -> None:
    """Bytes after the last line end are no row: they are left out, and the warning quotes them."""
    table = parsed(b"1.0,2,x\n2.0,3,y\n" + (tail.encode() if isinstance(tail, str) else tail))
    assert cells(table, "a_v") == [1.0, 2.0]
    assert list(table.warnings) == warnings


def test_comment_lines_anywhere_are_taken_out_and_returned() -> None:
    """Comment lines at the body's start, middle and end are no rows, and come back without their line ends."""
    table = parsed("#Metadata:\r\n#\tStart time: 1\r\n1,2,x\r\n#µ\n2,3,y\n#\n")
    assert table.late_comments == ("#Metadata:", "#\tStart time: 1", "#µ", "#")
    assert cells(table, "a_v") == [1.0, 2.0]
    assert table.warnings == ()


def test_a_hash_inside_a_row_is_text() -> None:
    """Only a line that begins with # is a comment."""
    assert cells(parsed("1,2,#5\n"), "note") == ["#5"]


def test_blank_lines_are_skipped_and_counted() -> None:
    """Blank lines, LF or CRLF, first, middle or last, are no rows; one warning counts them."""
    table = parsed("\n1,2,x\n\r\n\n2,3,y\n#c\n\n")
    assert table.table.num_rows == 2
    assert table.warnings == ("4 blank lines between the rows skipped",)
    assert parsed("1,2,x\n\n").warnings == ("1 blank line between the rows skipped",)


@pytest.mark.parametrize("body", ["1.5,20,k\n\n2.5,30,y\n", "\n1.5,20,k\n2.5,30,y\n", "1.5,20,k\r\n\r\n2.5,30,y\r\n"])
@pytest.mark.parametrize("columns", ["A (V),N,Note", "A (V),B (A),X"])
def test_a_blank_line_of_an_otherwise_clean_table_is_no_row_of_nulls(body: str, columns: str) -> None:
    """pyarrow would take it for a row of empty cells, which is what a row of commas alone is."""
    table = parsed(body, columns)
    assert cells(table, "a_v") == [1.5, 2.5]
    assert table.warnings[0] == "1 blank line between the rows skipped"
    assert cells(parsed("1.5,20,k\n,,\n2.5,30,y\n"), "a_v") == [1.5, None, 2.5]


@pytest.mark.parametrize("body", ["", "3.0,", "\0\0", "#a: b\n", "\n\r\n", "\r\n#\n\0"])
def test_no_complete_row_is_an_empty_table(body: str) -> None:
    """Without a complete row the table is empty but has the procedure's schema."""
    table = parsed(body)
    assert table.table.num_rows == 0
    assert table.table.schema.equals(KINDS.arrow_schema)
    table.table.validate(full=True)


def test_windows_letters_in_rows_are_read_with_a_warning() -> None:
    """Rows in the Windows code page under a UTF-8 header are read, and the warning names the line."""
    data = f"{HEAD}A (V),N,Note µ\n".encode() + "#\tÜber: x\n1,2,a\n3,4,20 °C\n".encode("cp1252")
    table = parse_table(data, parse_header(data), KINDS)
    assert cells(table, "extra") == [[("Note µ", "a")], [("Note µ", "20 °C")]]
    assert table.late_comments == ("#\tÜber: x",)
    assert table.warnings[:2] == (
        "line 5: a comment line is not UTF-8; read as Windows-1252: #\\tÜber: x",
        "line 7: the table is not UTF-8; read as Windows-1252",
    )


@given(st.lists(st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)), min_size=1, max_size=5), st.data())
def test_a_file_cut_anywhere_gives_its_complete_rows(rows: list[tuple[float, float]], data: st.DataObject) -> None:
    """Cut at any byte, the complete rows before the cut are exact: no half number is ever taken for a whole one."""
    body = "".join(f"{a!r},{b!r}\n" for a, b in rows)
    cut = body[: data.draw(st.integers(0, len(body)))]
    table = parsed(cut, "A (V),B (A)")
    assert list(zip(cells(table, "a_v"), cells(table, "b_a"), strict=True)) == rows[: cut.count("\n")]
    assert bool(table.warnings) is not (cut == "" or cut.endswith("\n"))


def test_the_labs_tables_are_exact_cell_by_cell(lab: Path, registry: Registry) -> None:
    """Each of the lab's 153 files has, cell for cell and bit for bit, what Python's csv and float read."""
    count = 0
    for path in sorted((lab / "01_raw").rglob("*.csv")):
        data = path.read_bytes()
        header = parse_header(data)
        procedure = registry.procedure_for(header.procedure_class)
        table = parse_table(data, header, procedure)
        lines = (line for line in data.decode().splitlines() if not line.startswith("#"))
        labels, *rows = csv.reader(lines)
        assert table.table.num_rows == len(rows)
        assert table.warnings == ()
        matched = procedure.match_columns(labels)
        for position, name in matched.items():
            assert bits(cells(table, name)) == bits([float(row[position]) for row in rows]), (path, name)
        assert len(matched) == len(labels)
        count += 1
    assert count == 153


def test_a_clean_table_is_read_without_looking_at_cells(
    write_raw: Callable[..., bytes], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What PyMeasure writes every day takes the fast way: no line is looked at in Python."""
    data = write_raw(rows=[("1.0", "nan"), ("-2e-9", "")], end="\r\n")
    header = parse_header(data)
    monkeypatch.setattr(table_module, "_read_odd", None)
    assert parse_table(data, header, registry.procedure_for("IVg")).table.num_rows == 2


def test_one_chunk_holds_all_rows() -> None:
    """A table of many megabytes is one chunk a column: readers need not join them."""
    table = parsed("1.5,2,x\n" * 400_000)
    assert table.table.num_rows == 400_000
    assert all(column.num_chunks == 1 for column in table.table.columns)
    assert pc.sum(table.table.column("count")).as_py() == 800_000
