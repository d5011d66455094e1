"""The Parquet files of the manifest: column types, reading with version checks, writing the same bytes again."""

from __future__ import annotations

import os
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import polars as pl
from pydantic import BaseModel

from ingestd import files
from ingestd.errors import Damaged, NewerVersion, Retry
from ingestd.manifest.record import FileNote
from ingestd.manifest.row import MANIFEST_ROWS, SCHEMA_VERSION, ManifestRow

VERSION_KEY = "ingestd.schema_version"

SORTED_BY = ("start_time_utc", "run_id")
"""The columns that the rows of `manifest.parquet` are sorted by."""

LIVE = pl.col("superseded_by").is_null()
"""Keeps the rows that stand for their measurement: those that no later row superseded."""

_TOGETHER = 500
"""How many rows are turned into dicts at a time, which take several times their memory."""

SEAL = b"ingestd-crc32 %08x\n"
"""Is between the data and the footer of a table, where Parquet readers do not look: CRC-32 of all the rest.

Parquet as written here has no checksum of its own: a changed byte gives wrong values, or crashes the process.
"""

SEAL_LENGTH = len(SEAL % 0)
_FOOTER_TAIL = 8
_BLOCK = 1 << 20

_SPECIAL: dict[str, pl.DataType] = {
    "date_local": pl.Date(),
    "start_time_utc": pl.Datetime("us", "UTC"),
    "ingested_at_utc": pl.Datetime("us", "UTC"),
    "warnings": pl.List(pl.String()),
}


def _column_type(name: str, annotation: object) -> pl.DataType:
    if name in _SPECIAL:
        return _SPECIAL[name]
    text = str(annotation)
    for word, dtype in (("bool", pl.Boolean()), ("float", pl.Float64()), ("int", pl.Int64())):
        if word in text:
            return dtype
    return pl.String()


MANIFEST_SCHEMA: dict[str, pl.DataType] = {
    name: _column_type(name, field.annotation) for name, field in ManifestRow.model_fields.items()
}
"""Column name -> polars type of `manifest.parquet`, in column order."""

NOTES_SCHEMA: dict[str, pl.DataType] = {
    name: _column_type(name, field.annotation) for name, field in FileNote.model_fields.items()
}
"""Column name -> polars type of `known_files.parquet`, in column order."""


def rows_frame(rows: Iterable[ManifestRow]) -> pl.DataFrame:
    """Put rows into a frame of `MANIFEST_SCHEMA`, in the order given."""
    left, frames = iter(rows), [pl.DataFrame(schema=MANIFEST_SCHEMA)]
    while part := [row.model_dump() for row in islice(left, _TOGETHER)]:
        frames.append(pl.DataFrame(part, schema=MANIFEST_SCHEMA))
    return pl.concat(frames)


def rows_of(frame: pl.DataFrame) -> Iterator[ManifestRow]:
    """Read the rows of a frame of `MANIFEST_SCHEMA`, a few hundred of them in memory at a time.

    A column that an older schema did not have is null in every row: the model's default stands in for it.
    """
    for part in frame.iter_slices(_TOGETHER):
        present = [{name: value for name, value in row.items() if value is not None} for row in part.to_dicts()]
        yield from MANIFEST_ROWS.validate_python(present)


def notes_frame(notes: Sequence[FileNote]) -> pl.DataFrame:
    """Put notes into a frame of `NOTES_SCHEMA`."""
    return pl.DataFrame([note.model_dump() for note in notes], schema=NOTES_SCHEMA)


def overlay(base: pl.DataFrame, rows: Sequence[ManifestRow]) -> pl.DataFrame:
    """Replace the rows of `base` by those of the same run id in `rows`, add the others, sorted as on disk.

    `base` is sorted so: only what follows the first of the new rows is sorted again, in a growing archive little.
    """
    if not rows:
        return base
    newer = rows_frame(rows).select(base.columns)
    if base["run_id"].is_in(newer["run_id"].implode()).any():
        base = base.join(newer.select("run_id"), on="run_id", how="anti", maintain_order="left")
    at = base["start_time_utc"].search_sorted(min(row.start_time_utc for row in rows), "left")
    return pl.concat([base[:at], pl.concat([base[at:], newer]).sort(SORTED_BY)])


def overlay_notes(base: pl.DataFrame, notes: Sequence[FileNote]) -> pl.DataFrame:
    """Replace the notes of `base` by those of the same path in `notes`, drop forgotten ones, and sort by path."""
    newer = notes_frame(notes)
    kept = base.join(newer.select("source_file"), on="source_file", how="anti")
    return pl.concat([kept, newer.filter(pl.col("outcome") != "forgotten")]).sort("source_file")


def read_manifest(path: Path, columns: Sequence[str] | None = None, *, where: pl.Expr | None = None) -> pl.DataFrame:
    """Read `manifest.parquet` (all of `MANIFEST_SCHEMA`, or the columns named); an absent file is an empty table.

    Columns that an older schema did not have are null. `where` keeps the rows it is true for, read lazily.

    Raises:
        Corrupt: it is damaged, or written by a newer ingestd.
    """
    return _read(path, ManifestRow, MANIFEST_SCHEMA, columns, where)


def read_notes(path: Path) -> pl.DataFrame:
    """Read `known_files.parquet`; errors as `read_manifest`."""
    return _read(path, FileNote, NOTES_SCHEMA, None, None)


def _read(
    path: Path,
    model: type[BaseModel],
    schema: dict[str, pl.DataType],
    columns: Sequence[str] | None,
    where: pl.Expr | None,
) -> pl.DataFrame:
    wanted = {name: schema[name] for name in columns} if columns is not None else schema
    try:
        # One open file for all reads: a compaction may put another table in its place between two of them.
        # Unbuffered: polars goes on from the descriptor's own position, which a buffer would have moved ahead.
        with path.open("rb", buffering=0) as file:
            _check(path, file)
            file.seek(0)
            present = pl.read_parquet_schema(file)
            _refuse_another_table(path, model, present)
            missing = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in schema.items() if name not in present]
            file.seek(0)
            rows = pl.scan_parquet(file, hive_partitioning=False).with_columns(missing)
            kept = rows if where is None else rows.filter(where)
            return kept.select(pl.col(name).cast(dtype) for name, dtype in wanted.items()).collect()
    except FileNotFoundError:
        return pl.DataFrame(schema=wanted)
    except IsADirectoryError as error:
        raise damaged(path, "a folder stands in its place") from error
    except OSError as error:
        raise files.retry_from(error, path) from error
    except (pl.exceptions.PolarsError, ValueError) as error:
        if (refused := files.os_error_in(error)) is not None:  # a footer that cannot be read now is not damaged
            raise files.retry_from(refused, path) from error
        raise damaged(path, f"cannot be read: {str(error).splitlines()[0]}") from error


def _refuse_another_table(path: Path, model: type[BaseModel], present: Container[str]) -> None:
    """Raise `Corrupt` if columns are missing that every version has: a sound table, but of something else."""
    absent = [name for name, column in model.model_fields.items() if column.is_required() and name not in present]
    if absent:
        raise damaged(path, f"is a table of something else: it has no column {absent[0]}")


def look_anew(*paths: Path) -> None:
    """Have the checksums of these tables computed again at the next read: rot changes neither size nor mtime."""
    for path in paths:
        _whole.pop(path, None)


def _check(path: Path, file: BinaryIO) -> None:
    """Raise `Corrupt` unless the open table is whole and of a version known here."""
    state = files.stat_of(os.fstat(file.fileno()))
    if _whole.get(path) != state:
        if not _sealed(file):
            raise damaged(path, "its checksum does not match: it is damaged, or another program wrote it")
        _whole[path] = state
    file.seek(0)
    version = int(pl.read_parquet_metadata(file).get(VERSION_KEY, "1"))
    if version > SCHEMA_VERSION:
        raise NewerVersion(f"schema {version}; this one knows {SCHEMA_VERSION}", place=str(path))


def write_table(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame as Parquet with its `SEAL`, durably; the same frame gives the same bytes.

    zstd level 3, row groups of 131,072 rows.

    Raises:
        Retry: the disk refused; the table that was there stays.
    """
    with files.replacing(path) as temporary:
        try:
            frame.rechunk().write_parquet(
                temporary,
                compression="zstd",
                compression_level=3,
                row_group_size=131_072,
                metadata={VERSION_KEY: str(SCHEMA_VERSION)},
            )
        except pl.exceptions.ComputeError as error:  # what polars sometimes makes of an error of the disk
            raise Retry(
                f"cannot be written: {str(error).splitlines()[0]}",
                place=str(path),
                next_step="check that the disk has space left",
            ) from error
        _seal(temporary)


def _seal(path: Path) -> None:
    with path.open("r+b") as file:
        start = _footer_start(file)
        file.seek(start)
        footer = file.read()
        checksum = zlib.crc32(footer, _checksum(file, start))
        file.seek(start)
        file.write(SEAL % checksum + footer)


_whole: dict[Path, files.FileStat] = {}
"""The state in which each table was last seen to be whole: tables are replaced, never changed, so one check will do."""


def _sealed(file: BinaryIO) -> bool:
    start = _footer_start(file)
    if start < SEAL_LENGTH:
        return False
    file.seek(start - SEAL_LENGTH)
    seal, footer = file.read(SEAL_LENGTH), file.read()
    return seal == SEAL % zlib.crc32(footer, _checksum(file, start - SEAL_LENGTH))


def _footer_start(file: BinaryIO) -> int:
    """Find where a Parquet footer begins: 4 bytes of length and the letters PAR1 follow it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _FOOTER_TAIL))
    return size - _FOOTER_TAIL - int.from_bytes(file.read(4), "little")


def _checksum(file: BinaryIO, length: int) -> int:
    """Compute the CRC-32 of the first `length` bytes, block by block."""
    file.seek(0)
    checksum = 0
    while length and (block := file.read(min(_BLOCK, length))):
        checksum, length = zlib.crc32(block, checksum), length - len(block)
    return checksum


def damaged(path: Path, cause: str) -> Damaged:
    """Return the error for damage of a table; nothing was changed."""
    return Damaged(
        cause,
        place=str(path),
        next_step="`ingestd repair` (it is restored from the log and the staged Parquet; nothing was overwritten)",
    )
