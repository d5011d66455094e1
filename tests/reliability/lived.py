"""An archive that has seen everything, copies of it to damage, and what must hold of it afterwards."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from archive import Archive
from inline import inline
from measurement import BROKEN, Measurement
from powerless import powerless

from ingestd.backfill.run import Options, backfill, dry_run
from ingestd.errors import Retry
from ingestd.files import flush_path, scan_csvs
from ingestd.manifest.record import Record
from ingestd.settings import load_settings
from ingestd.upkeep.findings import Finding
from ingestd.upkeep.rebuild import rebuild_manifest
from ingestd.upkeep.repair import Repair, repair
from ingestd.upkeep.verify import verify

FULL = os.environ.get("RELIABILITY") == "full"
"""Set RELIABILITY=full for the runs of `docs/reliability.md` that take minutes to hours."""

DAY = "2025-09-23"
RUN = Measurement()
PLAIN, OTHER_CHIP, COPY = f"{DAY}/It_1.csv", f"{DAY}/It_2.csv", f"copies/{DAY}/It_1.csv"
EDITED, RESTARTED, GROWN = f"{DAY}/It_3.csv", f"{DAY}/It_4.csv", f"{DAY}/It_5.csv"
MOVED_FROM, MOVED, DELETED = f"{DAY}/It_6.csv", "archive/It_6.csv", f"{DAY}/It_7.csv"
REJECTED, QUEUED, TOUCHED, DATED = f"{DAY}/bad.csv", f"{DAY}/It_9.csv", f"{DAY}/It_8.csv", f"{DAY}/It_10.csv"


def number(sample: int, **changes: Any) -> Measurement:
    """A measurement unlike the others: its start and its currents are its own."""
    return RUN.but(start=1758632155.25 + 60 * sample, sample=sample).but(**changes)


def live_through_everything(archive: Archive) -> None:
    """Let everything happen to the raw files that SPEC 6 names, each with a backfill after it."""
    archive.put(PLAIN, RUN.data)
    archive.put(OTHER_CHIP, number(2, chip=67).data)
    for sample, name in enumerate([EDITED, RESTARTED, GROWN, MOVED_FROM, DELETED, TOUCHED], start=3):
        archive.put(name, number(sample).data)
    archive.put(DATED, number(9, start=None).data)
    archive.put(REJECTED, BROKEN)
    archive.put(QUEUED, RUN.but(rows=0).data)
    archive.backfill()
    archive.copy(PLAIN, COPY)
    archive.put(EDITED, number(3, chip=67).data)
    archive.put(RESTARTED, number(4, start=1758700000.5).data)
    archive.put(GROWN, number(5, rows=5).data)
    archive.move(MOVED_FROM, MOVED)
    archive.touch(TOUCHED)
    archive.backfill()
    archive.delete(DELETED)
    archive.backfill()


def clone(archive: Archive, root: Path) -> Archive:
    """Copy an archive with all it holds: same bytes, same mtimes."""
    twin = Archive(root)
    shutil.copytree(archive.root, twin.root, dirs_exist_ok=True, symlinks=True)
    for name in ("records", "events", "ever", "grown", "versions", "_ticks"):
        setattr(twin, name, copy.copy(getattr(archive, name)))
    return twin


def reopened(root: Path) -> Archive:
    """Open an archive that stands already, at a time long after all that happened to it."""
    archive = Archive.__new__(Archive)
    archive.settings = load_settings(root / "config.toml", {"paths": {"data_root": root / "data"}})
    archive.root, archive.raw, archive.layout = root / "data", root / "data" / "01_raw", archive.settings.layout
    archive._ticks = 100_000
    return archive


def change_everything(archive: Archive) -> None:
    """Do to the raw files all that can be done to them, for one cycle to take in."""
    archive.put("new/It_30.csv", number(30).data)
    archive.put("new/It_31.csv", number(31, chip=67).data)
    archive.put("new/It_32.csv", number(32, start=None).data)
    archive.copy("new/It_30.csv", "new/copy.csv")
    archive.put(EDITED, number(3, chip=70).data)
    archive.put(RESTARTED, number(4, start=1758711111.5).data)
    archive.put(GROWN, number(5, rows=9).data)
    archive.move(MOVED, "new/It_6.csv")
    archive.touch(TOUCHED)
    archive.put("new/bad.csv", BROKEN + b"new")
    archive.put(REJECTED, number(33).data)
    archive.put(QUEUED, RUN.but(start=1758733333.5, sample=34).data)
    archive.delete(OTHER_CHIP)


# ---- what ingestd is asked to do, within this process ----------------------------------------------------------------


def options(archive: Archive) -> Options:
    """Stage within this process, at the archive's own time."""
    return Options(engine=inline, clock=archive.now)


def mend(archive: Archive, *, apply: bool = True, deep: bool = False) -> Repair:
    """Repair, or plan it; what stops it is raised."""
    done = repair(archive.settings, apply=apply, deep=deep, clock=archive.now, engine=options(archive).engine)
    if done.stopped_by is not None:
        raise done.stopped_by
    return done


def rebuild(archive: Archive, source: str) -> None:
    """Rebuild the manifest."""
    rebuild_manifest(archive.settings, from_raw=source == "raw", clock=archive.now, engine=options(archive).engine)


def damages(archive: Archive, *, deep: bool = True) -> set[tuple[str, str]]:
    """Return (kind, path) of all that `verify` calls damage."""
    return {(one.kind, one.path) for one in findings(archive, deep=deep) if one.level == "damage"}


def findings(archive: Archive, *, deep: bool = True) -> list[Finding]:
    """Return all that `verify` finds."""
    return verify(archive.settings, deep=deep).findings


# ---- what is compared ------------------------------------------------------------------------------------------------


def tree(root: Path) -> dict[str, tuple[bytes | str | None, int, int]]:
    """Everything below a folder: bytes (or a link's target), mode and mtime; folders' mtimes tell of entries."""
    found: dict[str, tuple[bytes | str | None, int, int]] = {}
    for folder, names, leaves in os.walk(root):
        for name in [*names, *leaves]:
            path = Path(folder, name)
            status = path.lstat()
            content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[path.relative_to(root).as_posix()] = (content, status.st_mode, status.st_mtime_ns)
    return found


def manifest(archive: Archive, *, without: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Return every row by run id, without the time of ingest and the fields named."""
    left_out = {"ingested_at_utc", *without}
    return {row.run_id: row.model_dump(exclude=left_out) for row in archive.rows()}


def histories(archive: Archive) -> dict[str, bytes]:
    """Return the bytes of every history that has a run."""
    found = {path.name: path.read_bytes() for path in sorted(archive.layout.histories_dir.glob("*_history.csv"))}
    return {name: data for name, data in found.items() if data.count(b"\n") > 1}


def check_sound(archive: Archive) -> None:
    """Check P1 to P5 after a start: nothing damaged, nothing forgotten, nothing twice, nothing left over."""
    damaged = damages(archive)
    assert not damaged, f"damaged: {sorted(damaged)}"
    assert dry_run(archive.settings).to_do == {}, "a settled file is forgotten"
    live = [row for row in archive.rows() if row.live]
    twice = {digest: count for digest, count in Counter(row.source_sha256 for row in live).items() if count > 1}
    assert not twice, "a measurement is counted twice"
    staged = {path for path in archive.layout.staged_root.rglob("*") if path.is_file()}
    assert staged == {archive.staged(row) for row in live}
    notes = archive.notes()
    by_digest = {row.source_sha256: row for row in live}
    for name in scan_csvs(archive.raw).files:
        digest = sha256((archive.raw / name).read_bytes()).hexdigest()
        assert digest in by_digest or name in notes, f"{name} is neither a run nor noted"
    folders = [path for path in archive.layout.temporary_root.iterdir() if path.is_dir()]
    assert not folders, "a workspace is left over"


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Change one bit of a file, its mtime as it was."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut_file(path: Path, size: int) -> None:
    """Cut a file; a negative size counts from its end."""
    path.write_bytes(path.read_bytes()[:size])


def plain_start(archive: Archive) -> None:
    """Do what a start does: `ingestd backfill`, within this process. What it was stopped by is raised."""
    report = backfill(archive.settings, options(archive))
    assert not report.failed, report.failed
    if report.stopped_by is not None:
        raise report.stopped_by


def start_on_a_bad_disk(archive: Archive) -> None:
    """Start while the disk refuses: it may stop with a `Retry` or note failed files; no file is called bad for it."""
    try:
        report = backfill(archive.settings, options(archive))
    except Retry:
        return
    rejected = {file.source_file: file.reason.code for file in report.rejected}
    assert set(rejected.values()) <= {"not-pymeasure"}, f"the disk was full and these were rejected: {rejected}"


def backfill_without_compaction(archive: Archive, *, histories: bool = True) -> None:
    """Backfill and leave the decisions in the log."""
    archive._ticks += 60
    backfill(archive.settings, replace(options(archive), compact=False, histories=histories))


def work_on(root: Path, rounds: int, *, powered: bool = False) -> None:
    """Ingest, edit, move and compact in an archive that stands already, round after round: a process for tests.

    With `powered` raw files are flushed as they are made, and every run is told on stdout when it is ingested.
    """
    archive = reopened(root)
    for turn in range(rounds):
        archive.put(f"beside/It_{turn}.csv", number(100 + turn, chip=67 + turn % 3).data)
        if turn:
            archive.put(f"beside/It_{turn - 1}.csv", number(99 + turn, chip=80 + turn % 2, rows=4).data)
        if turn > 1 and turn % 2:
            archive.move(f"beside/It_{turn - 2}.csv", f"beside/moved/It_{turn - 2}.csv")
        if powered:
            flush_paths_one_by_one(archive.raw)
        archive._ticks += 60
        given = replace(options(archive), compact=turn % 5 == 4, on_record=_tell if powered else _keep_silent)
        backfill(archive.settings, given)


def _tell(record: Record) -> None:
    for row in record.rows:
        print(row.run_id, row.source_sha256, flush=True)


def _keep_silent(_: Record) -> None:
    pass


def flush_paths_one_by_one(root: Path) -> None:
    """Flush every file and folder below `root`, and nothing else of its file system."""
    for path in [root, *root.rglob("*")]:
        flush_path(path)


def check_traces(archive: Archive) -> None:
    """Check P9: no event or reject JSON is torn, and every live row has the event that made it."""
    events = [json.loads(path.read_text("utf-8")) for path in archive.layout.events_dir.rglob("[0-9]*.json")]
    told = {row["run_id"] for event in events for row in event.get("rows", [])}
    assert {row.run_id for row in archive.rows()} <= told, "a run has no event"
    rejected = {name for name, note in archive.notes().items() if note.outcome == "rejected"}
    found = {json.loads(path.read_text("utf-8"))["source_file"] for path in archive.layout.rejects_dir.rglob("*.json")}
    assert found == rejected


def run_powerless(archive: Archive, *words: str) -> Any:
    """Run a command that may read no more than any user; return the JSON it prints."""
    done = _powerless(archive, *words, "--json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def refused_powerless(archive: Archive, *words: str) -> str:
    """Run a command that may read no more than any user, and that cannot do its work; return what it says."""
    done = _powerless(archive, *words)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def _powerless(archive: Archive, *words: str) -> subprocess.CompletedProcess[str]:
    place = ["--data-root", str(archive.root), "--config", str(archive.root.parent / "config.toml")]
    return subprocess.run(
        [*powerless(), sys.executable, "-m", "ingestd", *words, *place],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
