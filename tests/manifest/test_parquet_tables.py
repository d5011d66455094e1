"""The Parquet files of the manifest: fixed schema, same rows same bytes, and damage that is named before it is read."""

from __future__ import annotations

import errno
import os
import random
from datetime import date, datetime
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from samples_of_rows import NOON, NOTES, ROWS, a_note, a_row

from ingestd import files
from ingestd.errors import Corrupt, Retry
from ingestd.manifest import table
from ingestd.manifest.record import FileNote
from ingestd.manifest.row import MANIFEST_ROWS, SCHEMA_VERSION, ManifestRow

COLUMN_TYPES: dict[Any, pl.DataType] = {
    str: pl.String(),
    int: pl.Int64(),
    float: pl.Float64(),
    bool: pl.Boolean(),
    date: pl.Date(),
    datetime: pl.Datetime("us", "UTC"),
    list[str]: pl.List(pl.String()),
}


def _plain(annotation: Any) -> Any:
    """Take `Annotated`, `Literal` and `| None` off a field's type."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain(get_args(annotation)[0])
    if origin is Literal:
        return str
    if origin is UnionType or str(origin) == "typing.Union":
        return _plain(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def _by_run(rows: list[ManifestRow]) -> list[ManifestRow]:
    return list({row.run_id: row for row in rows}.values())


@pytest.mark.parametrize(("model", "schema"), [(ManifestRow, table.MANIFEST_SCHEMA), (FileNote, table.NOTES_SCHEMA)])
def test_the_columns_are_the_fields(model: type[BaseModel], schema: dict[str, pl.DataType]) -> None:
    """Column names, their order and their types are those of the model's fields, worked out another way here."""
    expected = {name: COLUMN_TYPES[_plain(field.annotation)] for name, field in model.model_fields.items()}
    assert list(schema.items()) == list(expected.items())


@given(st.lists(ROWS, max_size=6).map(_by_run), st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_the_same_rows_give_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[ManifestRow], order: random.Random
) -> None:
    """Rows put in at once or one by one, in any order, over older versions of themselves, give the same file."""
    folder = tmp_path_factory.mktemp("table")
    empty = table.read_manifest(folder / "absent.parquet")
    table.write_table(folder / "a.parquet", table.overlay(empty, rows))
    mixed = order.sample(rows, len(rows))
    frame = table.overlay(empty, [row.model_copy(update={"summary": "older"}) for row in mixed[::2]])
    for row in mixed:
        frame = table.overlay(frame, [row])
    table.write_table(folder / "b.parquet", frame)
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()


@given(st.lists(ROWS, max_size=4).map(_by_run))
@settings(max_examples=25)
def test_rows_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[ManifestRow]) -> None:
    """Any rows are the same after writing and reading, and stand in order of start time and run id."""
    path = tmp_path_factory.mktemp("table") / "manifest.parquet"
    table.write_table(path, table.overlay(table.read_manifest(path), rows))
    found = MANIFEST_ROWS.validate_python(table.read_manifest(path).to_dicts())
    assert list(map(repr, found)) == list(map(repr, sorted(rows, key=lambda row: (row.start_time_utc, row.run_id))))


@given(st.lists(NOTES, max_size=6))
@settings(max_examples=25)
def test_notes_replace_by_path_and_forgotten_ones_go(notes: list[FileNote]) -> None:
    """The last note of a path stands, sorted by path; a forgotten one leaves nothing."""
    latest = {note.source_file: note for note in notes}
    frame = table.overlay_notes(pl.DataFrame(schema=table.NOTES_SCHEMA), list(latest.values()))
    frame = table.overlay_notes(frame, [])
    kept = sorted(
        (note for note in latest.values() if note.outcome != "forgotten"), key=lambda n: n.source_file.encode()
    )
    assert [FileNote(**row) for row in frame.to_dicts()] == kept
    gone = [note.model_copy(update={"outcome": "forgotten"}) for note in kept]
    assert table.overlay_notes(frame, gone).is_empty()


def test_other_programs_read_the_table(tmp_path: Path) -> None:
    """pyarrow reads all rows past the checksum line, with the schema version among the metadata."""
    path = tmp_path / "manifest.parquet"
    table.write_table(path, table.rows_frame([a_row(number) for number in range(200)]))
    found = pq.ParquetFile(path, page_checksum_verification=True)
    assert found.read().num_rows == 200
    assert found.metadata.metadata[table.VERSION_KEY.encode()] == str(SCHEMA_VERSION).encode()


def _write_sealed(path: Path, frame: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(table, "SCHEMA_VERSION", version)
        table.write_table(path, frame)


def test_an_older_schema_reads_with_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that an older file lacks are null, in their place; its narrower types are widened."""
    path = tmp_path / "manifest.parquet"
    whole = table.rows_frame([a_row(1), a_row(2)])
    older = whole.drop("warnings", "vds_v").with_columns(pl.col("file_idx").cast(pl.Int32))
    _write_sealed(path, older, monkeypatch, 0)
    found = table.read_manifest(path)
    assert found.schema == pl.Schema(table.MANIFEST_SCHEMA)
    assert found.get_column("warnings").to_list() == [None, None]
    assert found.drop("warnings", "vds_v").equals(whole.drop("warnings", "vds_v"))
    assert table.read_manifest(path, ["vds_v", "run_id"]).columns == ["vds_v", "run_id"]
    assert table.read_manifest(path, where=pl.col("vds_v").is_null()).height == 2


def test_a_newer_schema_is_refused_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of a newer schema version is refused by name and not touched."""
    path = tmp_path / "manifest.parquet"
    _write_sealed(path, table.rows_frame([a_row(1)]), monkeypatch, SCHEMA_VERSION + 1)
    before = path.read_bytes()
    with pytest.raises(Corrupt, match=rf"written by a newer ingestd \(schema {SCHEMA_VERSION + 1}") as caught:
        table.read_manifest(path)
    assert "install that version" in caught.value.next_step
    assert path.read_bytes() == before


def test_every_flipped_byte_of_a_table_is_named(tmp_path: Path) -> None:
    """A changed byte anywhere never gives other rows or ends the process: it is `Corrupt`, and stays as it is."""
    path = tmp_path / "manifest.parquet"
    table.write_table(path, table.rows_frame([a_row(1)]))
    data = path.read_bytes()
    for place in range(0, len(data), 11):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(Corrupt, match="its checksum does not match") as caught:
            table.read_manifest(path)
        assert caught.value.place == str(path)
        assert caught.value.next_step.startswith("`ingestd repair` (")
        assert path.read_bytes() == changed


@pytest.mark.parametrize("length", [0, 1, 8, 100, -1])
def test_a_truncated_table_is_named(tmp_path: Path, length: int) -> None:
    """A table cut short, to nothing even, is `Corrupt`."""
    path = tmp_path / "manifest.parquet"
    table.write_table(path, table.rows_frame([a_row(1)]))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(Corrupt, match="its checksum does not match"):
        table.read_manifest(path)


def test_a_table_of_another_program_is_refused(tmp_path: Path) -> None:
    """A manifest that another program wrote over ours has no checksum line and is refused by name."""
    path = tmp_path / "manifest.parquet"
    table.rows_frame([a_row(1)]).write_parquet(path)
    with pytest.raises(Corrupt, match="another program wrote it"):
        table.read_manifest(path)


def test_a_table_that_cannot_be_read_now_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An I/O error while reading is the world's fault: `Retry`, not `Corrupt`."""
    path = tmp_path / "manifest.parquet"
    table.write_table(path, table.rows_frame([a_row(1)]))

    def failing(*_: object) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr(table, "_sealed", failing)
    with pytest.raises(Retry, match="dmesg"):
        table.read_manifest(path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_footer_that_cannot_be_read_now_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """polars calls a footer that the disk or share does not give damaged; the number of the error is in its text."""
    path = tmp_path / "manifest.parquet"
    table.write_table(path, table.rows_frame([a_row(1)]))
    refused = f"parquet: File out of specification: underlying IO error: {os.strerror(number)} (os error {number})"

    def failing(*_: object) -> dict[str, str]:
        raise pl.exceptions.ComputeError(refused)

    monkeypatch.setattr(pl, "read_parquet_metadata", failing)
    with pytest.raises(Retry) as raised:
        table.read_manifest(path)
    assert (raised.value.message, raised.value.place) == (os.strerror(number), str(path))


def test_a_refused_write_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fills up during the write, the old table stays and nothing is left beside it."""
    path = tmp_path / "manifest.parquet"
    table.write_table(path, table.rows_frame([a_row(1)]))
    before = path.read_bytes()

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.durable, "flush_path", full)
    with pytest.raises(Retry, match="free some space"):
        table.write_table(path, table.rows_frame([a_row(2)]))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_note_and_a_row_of_the_same_schema_version(tmp_path: Path) -> None:
    """Notes are written and read like rows."""
    path = tmp_path / "known_files.parquet"
    table.write_table(path, table.notes_frame([a_note("a.csv"), a_note("b.csv", outcome="duplicate", run_id="0" * 20)]))
    assert table.read_notes(path).get_column("outcome").to_list() == ["rejected", "duplicate"]


def test_a_table_of_any_size_is_read(tmp_path: Path) -> None:
    """No size of the file, around the size of a read buffer too, lets a reader lose its place in it."""
    path = tmp_path / "known_files.parquet"
    for number in range(0, 120, 15):
        notes = [
            a_note(f"{index}.csv", source_sha256=random.Random(index).randbytes(32).hex()) for index in range(number)
        ]
        table.write_table(path, table.notes_frame(notes))
        assert table.read_notes(path).height == number


def test_runs_that_began_together_stand_by_run_id(tmp_path: Path) -> None:
    """Rows of the same start time have one order too, whichever came first."""
    rows = [a_row(number, start_time_utc=NOON) for number in (3, 1, 2)]
    empty = table.read_manifest(tmp_path / "absent.parquet")
    for order in (rows, rows[::-1]):
        assert table.overlay(empty, order).get_column("run_id").to_list() == [a_row(n).run_id for n in (1, 2, 3)]
