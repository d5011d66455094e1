"""Cells of the CSVs for people: harmless, one line a run, and exactly restorable."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingestd.errors import UsageError
from ingestd.histories.cells import read_cells, render_csv, restored, written

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text("=+-@'; \t\r\n\\x0\"1V,", max_size=8)

SIGNS = ("=", "+", "-", "@")
QUANTITY = re.compile(r"[+-][0-9.]+([eE][+-]?[0-9]+)? ?[A-Za-z°µμΩ%]*")


def column(texts: Sequence[str | None]) -> pl.DataFrame:
    return pl.DataFrame({"text": texts}, schema={"text": pl.String})


@given(st.lists(TEXT | st.none(), max_size=6))
@example(["'=1", "''-5 V", "\\n", "\n", "\\x3b", ";=1", "\u2028"])
def test_restored_undoes_written(texts: list[str | None]) -> None:
    """Every text, null too, comes back from its cell as it was."""
    assert column(texts).select(restored(written(pl.col("text"))))["text"].to_list() == texts


@given(st.lists(TEXT, min_size=1, max_size=6))
def test_a_row_is_a_line(texts: list[str]) -> None:
    """No text adds a line or a cell, for readers of any idea of what ends a line."""
    data = render_csv(column(texts).with_columns(last=pl.lit(1)))
    assert len(data.decode().splitlines()) == len(texts) + 1
    assert [len(row) for row in csv.reader(io.StringIO(data.decode(), newline=""))] == [2] * (len(texts) + 1)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1+1", "' =1+1"),
        ("＝1+1", "'＝1+1"),
        ("\t=1", r"\t=1"),
        ("\r=1", r"\r=1"),
        ("a;=1", r"a\x3b=1"),
        ('a; "=1', r"a\x3b " + '"=1'),
        ("-", "'-"),
        ("-5.19 V", "-5.19 V"),
        ("-1e-05", "-1e-05"),
        ("+5", "+5"),
        ("💡 ITS Alisson72  VG=-5.19 V", "💡 ITS Alisson72  VG=-5.19 V"),
        ("'quoted'", "'quoted'"),
        ("a;b", "a;b"),
        ("C:\\new", "C:\\\\new"),
        ("a\x00b\nc", r"a\x00b\nc"),
        ("a\u202ab\u202ec\u2028", r"a\u202ab\u202ec\u2028"),
        ("a\u2066b\u2069c\u200ed\u061c", r"a\u2066b\u2069c\u200ed\u061c"),
    ],
)
def test_written_cells(text: str, cell: str) -> None:
    """Formulas are defused, numbers with a unit and ordinary text stay, controls and turning marks are spelled out."""
    assert column([text]).select(written(pl.col("text"))).item() == cell


@given(st.lists(TEXT, min_size=1, max_size=6))
def test_no_cell_starts_like_a_formula(texts: list[str]) -> None:
    """Neither a cell nor a piece of one behind a semicolon begins with a sign, but for plain quantities."""
    for cell in column(texts).select(written(pl.col("text")))["text"]:
        first, *others = cell.split(";")
        assert first.lstrip()[:1] not in SIGNS or QUANTITY.fullmatch(cell)
        assert all(piece.lstrip(" \"'")[:1] not in SIGNS for piece in others)


def test_column_names_are_cells_too() -> None:
    """A hostile column name is defused, spelled out and quoted like any text."""
    data = render_csv(pl.DataFrame({"=1,2": ["a"], "b\nc": [True], "*": ["x"], "^.*$": ["y"], "": ["z"]}))
    assert data == b'"\'=1,2",b\\nc,*,^.*$,""\na,true,x,y,z\n'


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"", 1, "empty"),
        (b"a,b\n1,2\n\xff,1\n", 3, "0xff"),
        (b"\xef\xbb\xbfa,b\n1,2\n\xff,1\n", 3, "0xff"),
        (b"a,b\n1\n", 2, "1 cells where the first line has 2"),
        (b"a,b\n1,2,3\n", 2, "3 cells"),
        (b'a,b\n1,2\n"x,2\n', 3, "not a CSV line"),
        (b"a,b,a\n", 1, "'a' occurs twice"),
    ],
)
def test_broken_csv_names_the_line(tmp_path: Path, data: bytes, line: int, words: str) -> None:
    """A file that is no CSV is refused with its path, the line and what is wrong."""
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=words) as caught:
        read_cells(path)
    assert caught.value.place == f"{path}:{line}"
    assert caught.value.next_step


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is a usage error with its path."""
    with pytest.raises(UsageError, match="No such file") as caught:
        read_cells(tmp_path / "x.csv")
    assert caught.value.place == str(tmp_path / "x.csv")


def test_byte_order_mark_and_crlf_are_read(tmp_path: Path) -> None:
    """A file that a Windows program saved again reads the same."""
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n")
    assert read_cells(path) == (["a", "b"], [["1", "2"]])
