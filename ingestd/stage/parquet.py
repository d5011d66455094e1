"""The staged Parquet of one run: written once, with the whole header and the manifest row in its metadata.

Key-value metadata: `ingestd.row` (the manifest row, JSON), `ingestd.header` (every header line as written, joined by
newlines), `ingestd.schema_version`. Read it with `pyarrow.parquet.read_metadata(path).metadata` or
`polars.read_parquet_metadata(path)`.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ingestd.errors import Damaged, NewerVersion, OutOfReach
from ingestd.files import retry_from, write_new
from ingestd.manifest.row import SCHEMA_VERSION, ManifestRow
from ingestd.raw.procedure import EXTRA_COLUMN

ROW_KEY = b"ingestd.row"
HEADER_KEY = b"ingestd.header"
VERSION_KEY = b"ingestd.schema_version"

_STAGE_AGAIN = "`ingestd repair --deep` stages it again from its raw file"


def write_run(path: Path, table: pa.Table, row: ManifestRow, header_text: str) -> None:
    """Write one run's table as zstd Parquet, with page checksums, to a new file; the caller flushes and renames it.

    Raises:
        OSError: the disk refused.
    """
    metadata = {
        ROW_KEY: row.model_dump_json().encode("utf-8"),
        HEADER_KEY: header_text.encode("utf-8", "backslashreplace"),
        VERSION_KEY: str(SCHEMA_VERSION).encode("ascii"),
    }
    whole = pa.BufferOutputStream()  # one write to the disk; pyarrow's own file would make a dozen
    # The values of an instrument hardly repeat; texts do. Version 2 pages compress the values alone, which is faster.
    dictionary = [field.name for field in table.schema if pa.types.is_string(field.type)]
    with pq.ParquetWriter(
        whole,
        table.schema,
        compression="zstd",
        use_dictionary=dictionary or False,
        data_page_version="2.0",
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(metadata)  # given with the schema, it would be stored in ARROW:schema as well
    write_new(path, memoryview(whole.getvalue()))


def read_row(path: Path) -> ManifestRow:
    """Read the manifest row a staged file carries.

    Raises:
        Damaged: it is gone, damaged or not one of ours.
        NewerVersion: it was written by a newer ingestd.
        OutOfReach: the disk or a permission is at fault.
    """
    try:
        return ManifestRow.model_validate_json(_metadata(path, ROW_KEY))
    except ValueError as error:
        raise _damaged(path, error) from error


def read_header(path: Path) -> str:
    """Read every header line a staged file carries; errors as `read_row`."""
    try:
        return _metadata(path, HEADER_KEY).decode("utf-8")
    except ValueError as error:
        raise _damaged(path, error) from error


def read_run(path: Path) -> pa.Table:
    """Read a staged run's table, in the schema of its procedure; errors as `read_row`."""
    try:
        with pa.OSFile(str(path)) as file:  # one open file: the service may put another in its place at any time
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            row = ManifestRow.model_validate_json(_value(parquet.metadata, ROW_KEY, path))
            _check_counts(parquet.metadata, row.rows)
            return parquet.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _check_counts(footer: pq.FileMetaData, rows: int) -> None:
    """Raise `ValueError` if the footer, which has no checksum, does not count the manifest row's `rows`.

    pyarrow allocates memory for as many rows as a row group claims before it reads any. It may crash when asked for
    the columns of a damaged group, so only the groups' own numbers are looked at.
    """
    counts = [footer.row_group(position).num_rows for position in range(footer.num_row_groups)]
    if min(counts, default=0) < 0 or not sum(counts) == footer.num_rows == rows:
        raise ValueError(
            f"its footer counts {footer.num_rows} rows and its groups {sum(counts)}, its manifest row {rows}"
        )


def same_cells(one: pa.Table, other: pa.Table) -> bool:
    """Tell whether two tables of one schema hold the same cells, floats to the bit: NaN equals NaN, 0.0 is not -0.0."""
    if not one.schema.equals(other.schema) or one.num_rows != other.num_rows:
        return False
    return all(_bits(a).equals(_bits(b)) for a, b in zip(one.columns, other.columns, strict=True))


def begins_with(long: pa.Table, short: pa.Table) -> bool:
    """Tell whether a table begins with all rows of another one; which columns count is as in `share_rows`."""
    long, short = _comparable(long, short)
    return bool(short.column_names) and same_cells(short, long.slice(0, short.num_rows))


def share_rows(one: pa.Table, other: pa.Table) -> bool:
    """Tell whether more than half of the shorter table's rows are in the other: as an edit leaves them.

    Between two runs of a procedure its table may have been changed: what both schemas have is compared. What was an
    unknown column in one, and so in `extra`, may have got a column of its own in the other.
    """
    import polars as pl  # noqa: PLC0415  # only a comparison needs it

    one, other = _comparable(one, other)
    short, long = (pl.DataFrame(table) for table in sorted((one, other), key=len))
    if not short.columns:
        return False
    return 2 * short.join(long, on=short.columns, how="semi", nulls_equal=True).height > short.height


def _comparable(one: pa.Table, other: pa.Table) -> tuple[pa.Table, pa.Table]:
    if one.schema == other.schema:
        return one, other
    shared = [field.name for field in one.schema if field in other.schema and field.name != EXTRA_COLUMN]
    return one.select(shared), other.select(shared)


def _bits(column: pa.ChunkedArray) -> pa.Array:
    whole = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return whole.view(pa.int64()) if pa.types.is_float64(whole.type) else whole


def _metadata(path: Path, key: bytes) -> bytes:
    try:
        footer = pq.read_metadata(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return _value(footer, key, path)


def _value(footer: pq.FileMetaData, key: bytes, path: Path) -> bytes:
    found = footer.metadata or {}
    if (version := int(found.get(VERSION_KEY, b"1"))) > SCHEMA_VERSION:
        raise NewerVersion(f"schema {version}; this one knows {SCHEMA_VERSION}", place=str(path))
    if key not in found:
        raise Damaged(f"has no {key.decode()} in its metadata", place=str(path), next_step=_STAGE_AGAIN)
    return bytes(found[key])


def _damaged(path: Path, error: Exception) -> Damaged | OutOfReach:
    if isinstance(error, OSError) and error.errno not in {None, errno.ENOENT}:
        found = retry_from(error, path)  # the disk or a permission, not the file
        return OutOfReach(found.message, place=found.place, next_step=found.next_step)
    if isinstance(error, FileNotFoundError):
        return Damaged("the staged Parquet is gone", place=str(path), next_step=_STAGE_AGAIN)
    return Damaged(
        f"the staged Parquet cannot be read: {(str(error).splitlines() or [type(error).__name__])[0]}",
        place=str(path),
        next_step=_STAGE_AGAIN,
    )
