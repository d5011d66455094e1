"""Data roots that an older or a newer ingestd wrote: the first are read, the second refused as they are."""

from __future__ import annotations

import json
from pathlib import Path

import lived
import polars as pl
import pyarrow.parquet as pq
import pytest
from archive import Archive

from ingestd.errors import Corrupt, NewerVersion
from ingestd.ingest.commit import opened
from ingestd.manifest import log
from ingestd.manifest import record as records
from ingestd.manifest import table as tables
from ingestd.manifest.record import SegmentHead, decode_head, encode, encode_payload, split
from ingestd.manifest.table import VERSION_KEY, read_manifest, write_table
from ingestd.stage import parquet
from ingestd.stage.parquet import read_run


def test_an_older_table_is_read_and_written_anew(archive: Archive) -> None:
    """A table that lacks a later column is read with nulls there, by every command, and nothing else is lost."""
    rows = lived.manifest(archive, without=["warnings", "extraction_version"])
    frame = read_manifest(archive.layout.manifest_path)
    write_table(archive.layout.manifest_path, frame.drop("warnings", "extraction_version"))
    assert read_manifest(archive.layout.manifest_path)["warnings"].null_count() == frame.height
    assert len(lived.findings(archive)) > 0
    archive.put("new/It_30.csv", lived.number(30).data)
    archive.put(lived.PLAIN, lived.RUN.but(chip=67).data)
    archive._ticks += 60
    lived.plain_start(archive)
    assert "new/It_30.csv" in archive.live()
    after = lived.manifest(archive, without=["warnings", "extraction_version"])
    assert {run_id for run_id, row in rows.items() if after[run_id] != row} == {archive.live()[lived.PLAIN].run_id}
    assert lived.mend(archive).left == []


def test_an_older_log_is_read_and_goes_on(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ingestd of a later schema replays an older log: defaults for what its rows lack, and nothing lost."""
    for sample in (30, 31):
        archive.put(f"new/It_{sample}.csv", lived.number(sample).data)
    lived.backfill_without_compaction(archive)
    want = lived.manifest(archive, without=["schema_version", "extraction_version", "warnings"])
    path = log.segment_path(archive.layout.wal_dir, log.segments(archive.layout.wal_dir)[-1])
    older = []
    for _, payload in split(path.read_bytes()).payloads:
        content = json.loads(payload)
        for row in content.get("rows", []):
            row.pop("warnings", None)
            row.pop("extraction_version", None)
        older.append(encode_payload(json.dumps(content).encode()))
    path.write_bytes(b"".join(older))
    for room in (records, tables):
        monkeypatch.setattr(room, "SCHEMA_VERSION", 2)
    archive.put("new/It_32.csv", lived.number(32).data)
    archive._ticks += 60
    lived.plain_start(archive)
    after = lived.manifest(archive, without=["schema_version", "extraction_version", "warnings"])
    assert {run_id: after[run_id] for run_id in want} == want
    assert len(after) == len(want) + 1
    assert {"new/It_30.csv", "new/It_31.csv", "new/It_32.csv"} <= archive.live().keys()


@pytest.mark.parametrize("part", ["table", "log"])
def test_a_newer_version_is_refused_without_a_change(
    part: str, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table or log of a newer ingestd is refused in words by every command that reads it; not a byte changes."""
    layout = archive.layout
    if part == "table":
        monkeypatch.setattr(tables, "SCHEMA_VERSION", 2)
        write_table(layout.manifest_path, read_manifest(layout.manifest_path))
        monkeypatch.undo()
        assert pl.read_parquet_metadata(layout.manifest_path)[VERSION_KEY] == "2"
    else:
        path = log.segment_path(layout.wal_dir, log.segments(layout.wal_dir)[-1])
        payloads = split(path.read_bytes()).payloads
        head: SegmentHead = decode_head(payloads[0][1]).model_copy(update={"schema_version": 2})
        path.write_bytes(encode(head))
    archive.put("new/It_30.csv", lived.number(30).data)
    before = lived.tree(archive.root)
    for attempt in (
        lambda: lived.plain_start(archive),
        lambda: lived.mend(archive),
        lambda: lived.mend(archive, apply=False),
        lambda: lived.rebuild(archive, "stage"),
        lambda: lived.findings(archive),
        lambda: opened(archive.settings).__enter__(),
        archive.rows,
    ):
        with pytest.raises(Corrupt, match="newer ingestd"):
            attempt()
    after = {name: found for name, found in lived.tree(archive.root).items() if not name.endswith("lock")}
    assert {name: found[0] for name, found in after.items()} == {
        name: found[0] for name, found in before.items() if not name.endswith("lock")
    }


def test_a_newer_ingestd_begins_a_segment_of_its_own(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade the log's old segment gets no new record: the older ingestd is told the version, not of damage.

    Otherwise its repair would drop what it cannot understand.
    """
    archive.put("new/It_30.csv", lived.number(30).data)
    lived.backfill_without_compaction(archive)
    segment = log.segments(archive.layout.wal_dir)[-1]
    old = log.segment_path(archive.layout.wal_dir, segment).read_bytes()
    archive.put("new/It_31.csv", lived.number(31).data)
    archive._ticks += 60
    with monkeypatch.context() as upgraded:
        for room in (records, tables):
            upgraded.setattr(room, "SCHEMA_VERSION", 2)
        lived.backfill_without_compaction(archive)
        upgraded_rows = lived.manifest(archive)
        archive.put("new/It_32.csv", lived.number(32).data)
        archive._ticks += 60
        lived.backfill_without_compaction(archive)
    assert log.segments(archive.layout.wal_dir)[-2:] == [segment, segment + 1]
    assert log.segment_path(archive.layout.wal_dir, segment).read_bytes() == old
    for attempt in (lambda: lived.mend(archive), lambda: lived.plain_start(archive), archive.rows):
        with pytest.raises(NewerVersion, match=rf"{segment + 1:08d}\.log: written by a newer"):
            attempt()
    for room in (records, tables):
        monkeypatch.setattr(room, "SCHEMA_VERSION", 2)
    lived.plain_start(archive)
    rows = lived.manifest(archive)
    assert {run_id: rows[run_id] for run_id in upgraded_rows} == upgraded_rows
    assert {"new/It_30.csv", "new/It_31.csv", "new/It_32.csv"} <= archive.live().keys()


def newer_parquet(path: Path) -> bytes:
    """Make a staged Parquet look like one of a newer ingestd, with a field in its row that this one does not know."""
    table, metadata = read_run(path), dict(pq.read_metadata(path).metadata)
    row = {**json.loads(metadata[parquet.ROW_KEY]), "humidity": 40.0}
    told = {parquet.ROW_KEY: json.dumps(row), parquet.HEADER_KEY: metadata[parquet.HEADER_KEY]}
    pq.write_table(table.replace_schema_metadata({**told, parquet.VERSION_KEY: "2"}), path)
    return path.read_bytes()


@pytest.mark.parametrize("manifest", ["as it was", "gone"])
def test_newer_parquet_is_not_taken_for_damaged(manifest: str, archive: Archive) -> None:
    """Staged Parquet of a newer ingestd, beside an older manifest or none, is neither set aside nor staged again."""
    path = archive.staged(archive.live()[lived.PLAIN])
    data = newer_parquet(path)
    if manifest == "gone":
        for own in (archive.layout.manifest_path, *archive.layout.wal_dir.iterdir()):
            own.unlink()
    for attempt in (
        lambda: lived.findings(archive),
        lambda: lived.mend(archive, apply=False),
        lambda: lived.mend(archive),
        lambda: lived.rebuild(archive, "stage"),
        lambda: lived.rebuild(archive, "raw"),
        lambda: read_run(path),
    ):
        with pytest.raises(NewerVersion, match=rf"{path.name}: written by a newer ingestd \(schema 2") as raised:
            attempt()
        assert raised.value.place == str(path)
    assert path.read_bytes() == data
    assert not archive.layout.aside_root.exists()


def test_an_edit_of_a_run_with_newer_parquet_is_not_decided(archive: Archive) -> None:
    """Whether a changed file is the same measurement is not guessed when the run's rows cannot be read."""
    rows = lived.manifest(archive)
    data = newer_parquet(path := archive.staged(archive.live()[lived.PLAIN]))
    archive.put(lived.PLAIN, lived.number(33).data)
    archive._ticks += 60
    with pytest.raises(NewerVersion, match="newer ingestd"):
        lived.plain_start(archive)
    assert (path.read_bytes(), lived.manifest(archive)) == (data, rows)
