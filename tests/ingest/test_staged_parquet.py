"""One run's Parquet: its form, what is read from it, and what is no Parquet of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive import Archive
from measurement import Measurement

from ingestd.errors import Corrupt
from ingestd.raw.header import MAX_HEADER_BYTES
from ingestd.raw.header_json import header_json
from ingestd.raw.procedures import Registry
from ingestd.raw.run import parse_run
from ingestd.stage.parquet import read_header, read_row, read_run, same_cells, share_rows, write_run

RUN = Measurement()
A = "2025-09-23/It_1.csv"
NAN = float("nan")


@pytest.fixture
def staged(archive: Archive) -> Path:
    """The Parquet of a run of three rows."""
    archive.put(A, RUN.data)
    archive.backfill()
    return archive.staged(archive.live()[A])


def test_the_form_is_the_documented_one(staged: Path) -> None:
    """Zstandard in every column, and nothing but the documented keys beside the schema."""
    footer = pq.read_metadata(staged)
    group = footer.row_group(0)
    assert {group.column(position).compression for position in range(group.num_columns)} == {"ZSTD"}
    keys = {b"ingestd.row", b"ingestd.header", b"ingestd.schema_version"}
    assert set(footer.metadata) - {b"ARROW:schema"} == keys
    assert read_header(staged).splitlines() == RUN.data.decode().partition("\r\n0.0,")[0].splitlines()


def test_the_largest_header_can_be_read_again(staged: Path, tmp_path: Path) -> None:
    """Parquet readers refuse metadata beyond a limit: the header that takes most room as JSON stays below it."""
    rest = b"#Procedure: <lab.It>\n#Parameters:\n#\tProcedure version: \n#Data:\nt (s),I (A)\n"
    version, late = (b"\x01" * (MAX_HEADER_BYTES - len(beginning)) for beginning in (rest, b"#\tInformation: " * 10))
    data = rest.replace(b"version: ", b"version: " + version) + b"0.0,1.0\n#\tInformation: " + late + b"\n"
    run = parse_run(data, Registry.load())
    texts = {"parameters": header_json(run.header), "procedure_version": version.decode(), "rows": 1}
    row, path = read_row(staged).model_copy(update=texts), tmp_path / "part-000.parquet"
    write_run(path, run.table, row, run.header.text)
    assert (read_row(path), read_header(path)) == (row, run.header.text)
    assert read_run(path).num_rows == 1


@pytest.mark.parametrize(
    ("read", "lacks"), [(read_row, "ingestd.row"), (read_header, "ingestd.header"), (read_run, "ingestd.row")]
)
@pytest.mark.parametrize("metadata", [None, {"ingestd.schema_version": "1"}])
def test_parquet_of_another_program_is_no_run(
    tmp_path: Path, metadata: dict[str, str] | None, read: Callable[[Path], object], lacks: str
) -> None:
    """A sound Parquet file that ingestd did not write is damage, which says what it lacks."""
    path = tmp_path / "part-000.parquet"
    pq.write_table(pa.table({"t_s": [0.0]}).replace_schema_metadata(metadata), path, store_schema=False)
    with pytest.raises(Corrupt) as raised:
        read(path)
    assert raised.value.message == f"has no {lacks} in its metadata"
    assert raised.value.place == str(path)


@pytest.mark.parametrize(("rows", "counted"), [(0, 0), (3, 3), (0, 1), (3, 2), (3, 4)])
def test_as_many_rows_are_read_as_the_manifest_row_counts(
    staged: Path, tmp_path: Path, rows: int, counted: int
) -> None:
    """Cells and row must agree on the number of rows, of which a run may have none."""
    table, row = read_run(staged).slice(0, rows), read_row(staged)
    path = tmp_path / "part-000.parquet"
    write_run(path, table, row.model_copy(update={"rows": counted}), read_header(staged))
    if counted == rows:
        assert same_cells(read_run(path), table)
        return
    with pytest.raises(Corrupt, match=f"counts {rows} rows and its groups {rows}, its manifest row {counted}"):
        read_run(path)


def table_of(values: list[Any], kind: pa.DataType | None = None, name: str = "a_v") -> pa.Table:
    """Return a table of one column, of floats unless told."""
    return pa.table({name: pa.array(values, kind or pa.float64())})


TWO = table_of([1.0, 2.0])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (TWO, table_of([1.0, 2.0]), True),
        (TWO, pa.concat_tables([table_of([1.0]), table_of([2.0])]), True),
        (table_of([]), table_of([]), True),
        (table_of([NAN, None]), table_of([NAN, None]), True),
        (table_of([NAN]), table_of([None]), False),
        (table_of([0.0]), table_of([-0.0]), False),
        (TWO, table_of([1.0, 2.0000000000000004]), False),
        (TWO, table_of([1.0]), False),
        (TWO, table_of([1.0, 2.0, 3.0]), False),
        (TWO, table_of([1.0, 2.0], name="b_v"), False),
        (TWO, table_of([1, 2], pa.int64()), False),
        (TWO, TWO.append_column("b_v", [[1.0, 2.0]]), False),
        (table_of(["x"], pa.string()), table_of(["x"], pa.string()), True),
        (table_of(["x"], pa.string()), table_of([""], pa.string()), False),
    ],
)
def test_tables_are_the_same_to_the_last_bit(one: pa.Table, other: pa.Table, same: bool) -> None:
    """Same names, types and cells; NaN is NaN, but not null, and 0.0 is not -0.0."""
    assert same_cells(one, other) is same
    assert same_cells(other, one) is same


def test_an_edit_leaves_more_than_half_of_the_shorter_tables_rows() -> None:
    """In any order, NaN and nulls too; a half may be chance, and without a column in common nothing is the same."""
    four = table_of([1.0, NAN, None, 4.0])
    assert share_rows(four, four)
    assert share_rows(four, table_of([4.0, None, NAN, 7.0, 8.0, 9.0, 10.0]))
    assert share_rows(table_of([NAN]), four)
    assert not share_rows(four, table_of([1.0, NAN, 7.0, 8.0]))
    assert not share_rows(table_of([5.0]), four)
    assert not share_rows(TWO, table_of([1.0, 2.0], name="b_v"))
    assert not share_rows(TWO, table_of([1, 2], pa.int64()))


def test_rows_are_shared_by_the_columns_of_both_schemas() -> None:
    """A column that the settings gave a name since then was among the unknown ones, if it was there at all."""
    unknown = pa.array([[("B (V)", "1")], [("B (V)", "2")]], pa.map_(pa.string(), pa.string()))
    before, known = TWO.append_column("extra", unknown), TWO.append_column("b_v", [[1.0, 2.0]])
    now = known.append_column("extra", pa.nulls(2, unknown.type))
    for one, other in ((before, now), (now, before)):
        assert share_rows(one, other)
    assert not share_rows(before, now.set_column(0, "a_v", [[1.0, 3.0]]))
    assert not share_rows(before, now.drop_columns("a_v"))
