"""verify, repair, rebuild-manifest: every kind of damage is named, mended from what is left, and nothing is deleted."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lived
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive import Archive
from lived import clone, cut_file, damages, flip, manifest, mend, tree
from measurement import BROKEN

from ingestd.errors import LockHeld
from ingestd.files import Lock
from ingestd.manifest import log
from ingestd.manifest.record import SegmentHead, split
from ingestd.manifest.store import ManifestStore
from ingestd.settings import load_settings
from ingestd.stage.parquet import read_header, read_row, read_run, write_run
from ingestd.upkeep.repair import Repair, repair

pytestmark = pytest.mark.usefixtures("damage_counted")


@pytest.fixture(scope="session")
def with_log(lived_in: Archive, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """The archive that has seen everything, with decisions in the log that are not compacted."""
    archive = clone(lived_in, tmp_path_factory.mktemp("with-log"))
    archive.put("late/It_20.csv", lived.number(20).data)
    archive.put("late/It_21.csv", lived.number(21, chip=67).data)
    archive.put(lived.EDITED, lived.number(3, chip=71).data)
    archive.put(lived.RESTARTED, lived.number(4, start=1758711111.5).data)
    archive.move(lived.MOVED, "late/It_6.csv")
    archive.touch(lived.OTHER_CHIP)
    archive.put("late/bad.csv", BROKEN + b"late")
    lived.backfill_without_compaction(archive)
    return archive


@pytest.fixture
def logged(with_log: Archive, tmp_path: Path) -> Archive:
    """A copy of the archive with decisions in its log."""
    return clone(with_log, tmp_path)


def segment(archive: Archive) -> Path:
    """The last segment of the log."""
    return log.segment_path(archive.layout.wal_dir, log.segments(archive.layout.wal_dir)[-1])


# ---- damage and its repair -------------------------------------------------------------------------------------------


def _staged(archive: Archive, name: str) -> Path:
    return archive.staged(archive.live()[name])


def _flip_record(which: float) -> Callable[[Archive], None]:
    def damage(archive: Archive) -> None:
        path = segment(archive)
        payloads = split(path.read_bytes()).payloads
        offset, payload = payloads[int(which * (len(payloads) - 1))]
        flip(path, offset + 27 + len(payload) // 2)

    return damage


def _flip_at(part: str) -> Callable[[Archive], None]:
    """Flip a bit of the third record: in its length, its checksums, a space, its payload, or its newline."""
    positions = {"length": 3, "length-crc": 12, "payload-crc": 20, "space": 8, "payload": 40}

    def damage(archive: Archive) -> None:
        path = segment(archive)
        offset, payload = split(path.read_bytes()).payloads[2]
        flip(path, offset + 27 + len(payload) if part == "newline" else offset + positions[part])

    return damage


def _older_table(archive: Archive) -> None:
    """Put the table back as it was before the last compaction, as a restored backup would."""
    old = archive.layout.manifest_path.read_bytes()
    archive.put("later/It_30.csv", lived.number(30).data)
    lived.plain_start(archive)
    archive.layout.manifest_path.write_bytes(old)


def _older_manifest(archive: Archive) -> None:
    """Put the whole manifest back as it was two runs ago."""
    folder = archive.layout.manifest_path.parent
    shutil.copytree(folder, archive.root / "backup")
    archive.put("later/It_30.csv", lived.number(30).data)
    archive.put(lived.EDITED, lived.number(3, chip=70).data)
    archive.put(lived.RESTARTED, lived.number(4, start=1758722222.5).data)
    lived.plain_start(archive)
    archive.delete("later/It_30.csv")
    shutil.rmtree(folder)
    shutil.copytree(archive.root / "backup", folder)
    shutil.rmtree(archive.root / "backup")


def _missing_segment(archive: Archive) -> None:
    """Take a segment out of the middle: a compaction was cut short before it, so that there are three."""
    directory = archive.layout.wal_dir
    for _ in range(2):
        store = ManifestStore(archive.layout)
        with store.transaction():
            head = store.position
            log.create(directory, SegmentHead(segment=head.segment + 1, next_seq=head.next_seq))
    last = log.segments(directory)[-1]
    log.segment_path(directory, last - 1).unlink()


def _change_cell(archive: Archive) -> None:
    path = _staged(archive, lived.PLAIN)
    table, row, header = read_run(path), archive.live()[lived.PLAIN], read_header(path)
    column = table.schema.get_field_index("i_a")
    values = table.column(column).to_pylist()
    changed = pa.array([values[0] * (1 + 1e-15), *values[1:]], pa.float64())
    field = table.schema.field(column)
    path.unlink()
    write_run(path, table.set_column(column, field, changed), row, header)


def _flip_page(archive: Archive) -> None:
    path = _staged(archive, lived.PLAIN)
    column = pq.read_metadata(path).row_group(0).column(1)
    flip(path, column.data_page_offset + column.total_compressed_size - 3)


def _other_row(archive: Archive) -> None:
    """Let the row inside the Parquet name another procedure: a bit flips there unseen, it has no checksum."""
    path = _staged(archive, lived.PLAIN)
    row, table, header = read_row(path).model_copy(update={"proc": "IUS"}), read_run(path), read_header(path)
    path.unlink()
    write_run(path, table, row, header)


def _orphan(archive: Archive) -> None:
    source = _staged(archive, lived.PLAIN)
    row = archive.live()[lived.PLAIN].model_copy(update={"run_id": "0" * 20})
    target = archive.staged(row)
    target.parent.mkdir(parents=True)
    write_run(target, read_run(source), row, read_header(source))


def _leftovers(archive: Archive) -> None:
    dead = 2**22 + 1  # above every pid there can be
    layout = archive.layout
    event, metadata = next(layout.events_dir.glob("*/*/")), layout.metadata_dir / lived.DAY
    metadata.mkdir(parents=True)
    rejects = (layout.rejects_dir, layout.rejects_dir / lived.DAY)
    for folder in (layout.wal_dir, layout.histories_dir, layout.manifest_path.parent, event, metadata, *rejects):
        (folder / f".x.{dead}-0123456789abcdef.tmp").write_bytes(b"half")
    workspace = layout.temporary_root / f"{dead}-01234567"
    workspace.mkdir()
    (workspace / "owner.lock").touch()
    (workspace / "0123.parquet").write_bytes(b"PAR1")


def _lines(archive: Archive, order: Callable[[list[int]], list[int]]) -> None:
    """Put the lines of the last segment into another order, or leave some out."""
    path = segment(archive)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[number] for number in order(list(range(len(lines))))))


def _swap(one: Path, other: Path) -> None:
    bytes_of_one = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(bytes_of_one)


def _log_a_file(archive: Archive) -> None:
    shutil.rmtree(archive.layout.wal_dir)
    archive.layout.wal_dir.touch()


def _folder(path: Path) -> None:
    """Put a folder in a file's place, as a sync program does with a conflict."""
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"what it holds")


def _no_message(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "message": ""}))


def _raw_bytes(archive: Archive) -> None:
    """Change the raw file without a trace in size or mtime, as a failing disk would."""
    path = archive.raw / lived.PLAIN
    flip(path, path.read_bytes().index(b"3.1e-05") + 2)


DAMAGE: dict[str, tuple[Callable[[Archive], object], set[str]]] = {
    "first record": (_flip_record(0.2), {"manifest"}),
    "middle record": (_flip_record(0.5), {"manifest"}),
    "last record": (_flip_record(1.0), {"manifest"}),
    "segment head": (_flip_record(0.0), {"manifest"}),
    **{
        f"record: {part}": (_flip_at(part), {"manifest"})
        for part in ("length", "length-crc", "payload-crc", "space", "payload", "newline")
    },
    "zeros in the log": (lambda a: segment(a).write_bytes(_zeroed(segment(a).read_bytes())), {"manifest"}),
    "segment emptied": (lambda a: segment(a).write_bytes(b""), {"manifest"}),
    "segment missing": (_missing_segment, {"manifest"}),
    "segment twice": (
        lambda a: shutil.copy(segment(a), segment(a).with_name(f"{int(segment(a).stem) + 1:08d}.log")),
        {"manifest"},
    ),
    "stray file with the last number": (
        lambda a: segment(a).with_name("99999999.log").write_bytes(b"of another program"),
        {"manifest"},
    ),
    "lines of the log swapped": (lambda a: _lines(a, lambda lines: [0, 2, 1, *lines[3:]]), {"manifest"}),
    "a line of the log twice": (lambda a: _lines(a, lambda lines: [0, 1, 1, *lines[2:]]), {"manifest"}),
    "a line of the log missing": (lambda a: _lines(a, lambda lines: [0, *lines[2:]]), {"manifest"}),
    "log missing": (lambda a: shutil.rmtree(a.layout.wal_dir), {"manifest"}),
    "log a file": (_log_a_file, {"manifest"}),
    "table missing": (lambda a: a.layout.manifest_path.unlink(), {"manifest"}),
    "table truncated": (lambda a: cut_file(a.layout.manifest_path, -100), {"manifest"}),
    "table emptied": (lambda a: cut_file(a.layout.manifest_path, 0), {"manifest"}),
    "table flipped": (lambda a: flip(a.layout.manifest_path, 300), {"manifest"}),
    "table of another program": (lambda a: a.layout.manifest_path.write_bytes(b"run_id,proc\n"), {"manifest"}),
    "tables swapped": (lambda a: _swap(a.layout.manifest_path, a.layout.known_files_path), {"manifest"}),
    "notes in place of the table": (
        lambda a: shutil.copy(a.layout.known_files_path, a.layout.manifest_path),
        {"manifest"},
    ),
    "table a folder": (lambda a: _folder(a.layout.manifest_path), {"manifest"}),
    "known files a folder": (lambda a: _folder(a.layout.known_files_path), {"manifest"}),
    "table older": (_older_table, {"manifest"}),
    "known files missing": (lambda a: a.layout.known_files_path.unlink(), {"manifest"}),
    "known files damaged": (lambda a: flip(a.layout.known_files_path, 200), {"manifest"}),
    "manifest older": (
        _older_manifest,
        {"parquet-orphan", "parquet-missing", "parquet-differs", "history-differs", "history-extra"},
    ),
    "Parquet missing": (lambda a: shutil.rmtree(_staged(a, lived.PLAIN).parent), {"parquet-missing"}),
    "Parquet truncated": (lambda a: cut_file(_staged(a, lived.PLAIN), -7), {"parquet-damaged"}),
    "Parquet emptied": (lambda a: cut_file(_staged(a, lived.PLAIN), 0), {"parquet-damaged"}),
    "Parquet of an orphan": (_orphan, {"parquet-orphan"}),
    "Parquet astray": (
        lambda a: shutil.copy(_staged(a, lived.PLAIN), _staged(a, lived.PLAIN).with_name("part-001.parquet")),
        {"parquet-stray"},
    ),
    "Parquet with a damaged row": (_other_row, {"parquet-stray", "parquet-missing"}),
    "Parquet page flipped": (_flip_page, {"parquet-cells"}),
    "cell changed": (_change_cell, {"parquet-cells"}),
    "raw bytes changed": (_raw_bytes, {"raw-bytes"}),
    "history missing": (lambda a: a.layout.history_file("Alisson67").unlink(), {"history-missing"}),
    "history stale": (lambda a: cut_file(a.layout.history_file("Alisson72"), -150), {"history-differs"}),
    "history a folder": (lambda a: _folder(a.layout.history_file("Alisson67")), {"history-differs"}),
    "history of nobody": (
        lambda a: shutil.copy(a.layout.history_file("Alisson72"), a.layout.history_file("Nobody1")),
        {"history-extra"},
    ),
    "reject JSON missing": (lambda a: a.layout.reject_file(lived.REJECTED).unlink(), {"reject-missing"}),
    "reject JSON torn": (lambda a: cut_file(a.layout.reject_file(lived.REJECTED), 40), {"reject-damaged"}),
    "reject JSON emptied": (lambda a: cut_file(a.layout.reject_file(lived.REJECTED), 0), {"reject-damaged"}),
    "reject JSON a folder": (lambda a: _folder(a.layout.reject_file(lived.REJECTED)), {"reject-damaged"}),
    "reject JSON of something else": (
        lambda a: a.layout.reject_file(lived.REJECTED).write_text("[1, 2]"),
        {"reject-damaged"},
    ),
    "reject JSON without a message": (lambda a: _no_message(a.layout.reject_file(lived.REJECTED)), {"reject-damaged"}),
    "reject JSON of another file": (
        lambda a: shutil.copy(a.layout.reject_file("late/bad.csv"), a.layout.reject_file(lived.REJECTED)),
        {"reject-damaged"},
    ),
    "reject JSON astray": (
        lambda a: shutil.copy(a.layout.reject_file(lived.REJECTED), a.layout.reject_file("x.csv")),
        {"reject-stray"},
    ),
}


def _zeroed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(64) + data[middle + 64 :]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_repaired(kind: str, logged: Archive) -> None:
    """Every kind of damage is named by verify, planned without a change, mended, and there is nothing to do twice."""
    damage, expected = DAMAGE[kind]
    damage(logged)
    want, sources = manifest(logged) if expected != {"manifest"} else None, tree(logged.raw)
    assert {name for name, _ in damages(logged)} <= expected | {"manifest"}
    assert {name for name, _ in damages(logged)} & expected

    before = tree(logged.root)
    plan = mend(logged, apply=False, deep=True)
    assert tree(logged.root) == before, "a dry run changed something"
    assert plan.steps

    done = mend(logged, deep=True)
    _check_carried_out(plan, done)
    assert done.left == []
    assert damages(logged) == set()
    assert mend(logged, deep=True).steps == []
    assert mend(logged, apply=False, deep=True).steps == []
    assert tree(logged.raw) == sources
    _check_nothing_deleted(before, logged, compacted=expected != {"manifest"})
    if want is not None and kind not in {"manifest older", "raw bytes changed"}:
        assert manifest(logged) == want
    logged._ticks += 60
    lived.plain_start(logged)
    lived.check_sound(logged)


def _check_carried_out(plan: Repair, done: Repair) -> None:
    """What was done is what the plan said; runs that come back to the manifest bring their histories with them."""
    if not plan.more_may_follow:
        assert plan.left == []
        assert [step for step in done.steps if step not in plan.steps] == []
        kinds = {step.kind for step in done.steps}
        assert {step.kind for step in plan.steps if step not in done.steps} <= (
            {"histories"} if "adopt" in kinds else set()
        )


def test_what_a_killed_process_left_is_no_damage(logged: Archive) -> None:
    """Temporary files and folders of a dead process are notes; a repair sets them aside, and nothing is left."""
    _leftovers(logged)
    assert damages(logged) == set()
    left = [one for one in lived.findings(logged) if one.kind == "leftover"]
    assert (len(left), {one.level for one in left}) == (8, {"note"})
    before = tree(logged.root)
    assert mend(logged, deep=True).left == []
    assert [one for one in lived.findings(logged) if one.kind == "leftover"] == []
    _check_nothing_deleted(before, logged, compacted=True)


@pytest.mark.parametrize("kind", [kind for kind, (_, expected) in DAMAGE.items() if expected == {"manifest"}])
def test_a_damaged_manifest_comes_back_whole(kind: str, logged: Archive, tmp_path: Path) -> None:
    """After repair and a start the manifest has the rows it had before the damage, but for the time of ingest."""
    if kind == "table older":
        pytest.skip("it is older by a run that was decided in between; see the test of all damage")
    want = manifest(logged)
    DAMAGE[kind][0](logged)
    mend(logged)
    logged._ticks += 60
    lived.plain_start(logged)
    assert manifest(logged) == want


def test_a_superseded_run_does_not_come_back_when_log_and_events_are_lost(logged: Archive) -> None:
    """The table has it as live; its Parquet, which was kept aside, and that of its successor tell otherwise."""
    want = {run_id for run_id, row in manifest(logged).items() if row["superseded_by"] is None}
    shutil.rmtree(logged.layout.events_dir)
    segment(logged).write_bytes(b"")
    mend(logged)
    logged._ticks += 60
    lived.plain_start(logged)
    lived.check_sound(logged)
    assert {run_id for run_id, row in manifest(logged).items() if row["superseded_by"] is None} == want


def test_a_repair_waits_for_the_histories_as_long_as_the_setting_says(logged: Archive) -> None:
    """Another process that writes histories does not hold it up for longer than `manifest.lock_timeout_s`."""
    given: dict[str, dict[str, Any]] = {
        "paths": {"data_root": logged.root},
        "stage": {"workers": 1},
        "manifest": {"lock_timeout_s": 0.1},
    }
    settings = load_settings(logged.root.parent / "config.toml", given)
    began = time.monotonic()
    with Lock(logged.layout.histories_lock_path).held(), pytest.raises(LockHeld, match="is writing histories"):
        repair(settings, apply=True)
    assert time.monotonic() - began < DEFAULT_S


DEFAULT_S = 60.0
"""How long a lock is waited for unless it is set."""


def _check_nothing_deleted(before: dict[str, Any], archive: Archive, *, compacted: bool) -> None:
    """Whatever bytes there were are there still, somewhere; locks aside, and a sound log that was compacted."""
    left = {content for content, *_ in tree(archive.root).values()}
    replaced = (".lock", "/lock", *(("manifest.parquet", "known_files.parquet", ".log") if compacted else ()))
    lost = [
        name
        for name, (content, *_) in before.items()
        if content is not None and content not in left and not name.endswith(replaced)
    ]
    assert lost == []
