"""Compare raw files, manifest, staged Parquet and histories with each other. Read-only; may run beside the service."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ingestd import files
from ingestd.backfill.run import Progress
from ingestd.errors import Corrupt, Damaged, LockHeld, Reject, UsageError
from ingestd.files import FileStat, Scan
from ingestd.histories.chip import EMPTY_HISTORY, own_histories, render_histories
from ingestd.histories.zone import is_of_another_zone
from ingestd.ingest.lost import copy_of
from ingestd.ingest.traces import read_reject
from ingestd.layout import Layout
from ingestd.manifest.catalog import Catalog, KnownRun
from ingestd.manifest.record import FileNote
from ingestd.manifest.row import ManifestRow, differing_fields, fingerprint
from ingestd.manifest.store import ManifestStore, manifest_lock
from ingestd.manifest.table import LIVE, look_anew, rows_of
from ingestd.manifest.view import read_view
from ingestd.raw.run import parse_run
from ingestd.settings import Settings
from ingestd.stage.parquet import read_header, read_run, same_cells
from ingestd.upkeep.findings import Finding
from ingestd.upkeep.half_done import leftover, leftovers, places_half_done
from ingestd.upkeep.raw_files import raw_findings, to_read
from ingestd.upkeep.salvage import salvage
from ingestd.upkeep.staged import (
    StageContent,
    live_rows,
    places_in,
    read_stage,
    retired_rows,
)

DEEP_KINDS = frozenset({"raw-bytes", "raw-unparsed", "raw-unreadable", "parquet-cells"})
"""What is found by reading raw files, which only `deep` does."""

OTHER_SETTINGS = "is the right config file in force (`ingestd config show`)?"
"""What to ask if bytes that were staged could not be staged today."""

OTHER_COLUMNS = "has other columns or types than {} gives: damaged, or staged before its procedure's table was changed"
"""What differs if the schema does; to stage it again mends both."""

LOOKS = 5
"""How often what disagrees is looked at again while other processes go on deciding; damage disagrees every time."""

LOCK_PATIENCE_S = 10.0
"""How long to wait for a process that is deciding before its half-done work counts as damage, in seconds."""


@dataclass(slots=True)
class Verification:
    """What was looked at, and what was found."""

    runs: int = 0
    staged_files: int = 0
    raw_files: int = 0
    histories: int = 0
    cells: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is damaged."""
        return not any(finding.level == "damage" for finding in self.findings)


def verify(
    settings: Settings, *, deep: bool = False, on_progress: Callable[[Progress], None] = lambda _: None
) -> Verification:
    """Check everything; with `deep`, read every raw file again and compare every cell and header line.

    `on_progress` is called for each staged file and, with `deep`, for each raw file.

    Raises:
        NewerVersion: a file was written by a newer ingestd.
        Retry: the raw root cannot be read.
    """
    layout, done = settings.layout, Verification()
    look_anew(layout.manifest_path, layout.known_files_path)
    try:
        now, scan, notes = _raw_files(layout)
    except Damaged as error:
        done.findings += _stage_findings(layout, None, done)[1]
        for damage in salvage(layout).damages or [error]:  # each file may read well, and one be missing
            done.findings.append(Finding("manifest", layout.relative(Path(damage.place)), damage.message))
        return done
    half_done = places_half_done(layout)
    total, steps = now.runs.height * (2 if deep else 1), itertools.count(1)

    def advance() -> None:
        on_progress(Progress(min(next(steps), total), total))

    damaged, wrong = _stage_findings(layout, now, done, advance)
    compared = [finding for finding in wrong if layout.data_root / finding.path not in half_done]
    done.runs = now.runs.height
    found = scan.files
    done.raw_files = len(found)
    done.findings += notes
    compared += _history_findings(settings, now, done)
    compared += _reject_findings(now.store)
    compared += [leftover(layout, path) for path in leftovers(layout)]
    if deep:
        for row in now.rows():
            advance()
            if layout.staged_file(row) not in damaged:
                compared += _deep(settings, row, found, done)
    done.findings += _confirmed(settings, compared, found)
    return done


@dataclass(slots=True)
class _Manifest:
    """The manifest at one moment."""

    store: ManifestStore
    runs: pl.DataFrame
    """The live rows."""
    chips: list[str]
    """Every chip that has a row, even a superseded one."""

    @classmethod
    def read(cls, layout: Layout) -> _Manifest:
        store, rows = ManifestStore(layout), read_view(layout)
        chips = rows["chip_name"].drop_nulls().unique().to_list()
        return cls(store, rows.filter(LIVE), chips)

    def rows(self, run_ids: Collection[str] | None = None) -> Iterator[ManifestRow]:
        """Read the live rows, or those of `run_ids`."""
        return rows_of(self.runs if run_ids is None else self.runs.filter(pl.col("run_id").is_in(list(run_ids))))


def _raw_files(layout: Layout) -> tuple[_Manifest, Scan, list[Finding]]:
    """Read the manifest, scan the raw files and compare the two; what was decided in between is looked at again.

    So a run whose file moved meanwhile is not called missing. If others never rest, what every look found is told.
    """
    now, scan = _Manifest.read(layout), files.scan_csvs(layout.raw_root)
    findings = list(raw_findings(now.store, now.runs, scan))
    for _ in range(LOOKS):
        looked_at = now.store.position
        now.store.refresh()
        if now.store.position == looked_at:
            break
        now, scan = _Manifest.read(layout), files.scan_csvs(layout.raw_root)
        findings = _still(findings, set(raw_findings(now.store, now.runs, scan)))
    return now, scan, findings


def _confirmed(settings: Settings, findings: list[Finding], found: dict[str, FileStat]) -> list[Finding]:
    """Keep the findings that hold when looked at again: another process may have been deciding meanwhile.

    If others never rest, the last look keeps them from deciding while it lasts.
    """
    layout = settings.layout
    for _ in range(LOOKS):
        if not any(finding.level == "damage" for finding in findings):
            return findings
        _let_the_writer_finish(layout)
        try:
            now = _Manifest.read(layout)
            again = _found_again(settings, now, findings, found)
            looked_at = now.store.position
            now.store.refresh()
            rested = now.store.position == looked_at
        except Corrupt:
            return findings
        findings = _still(findings, again)
        if rested:
            return findings
    with contextlib.suppress(LockHeld, Corrupt), manifest_lock(layout).shared(LOCK_PATIENCE_S):
        return _still(findings, _found_again(settings, _Manifest.read(layout), findings, found))
    return findings


def _still(findings: list[Finding], again: set[Finding]) -> list[Finding]:
    """Keep what is found again, or what else is now wrong with the same run or path."""
    runs, paths = {finding.run_id for finding in findings} - {None}, {finding.path for finding in findings}
    same = [finding for finding in findings if finding in again]
    other = {finding for finding in again if finding.run_id in runs or finding.path in paths} - set(same)
    return [*same, *sorted(other, key=lambda finding: (finding.path, finding.kind))]


def _found_again(
    settings: Settings, now: _Manifest, findings: list[Finding], found: dict[str, FileStat]
) -> set[Finding]:
    layout = settings.layout
    rows = list(now.rows({finding.run_id for finding in findings if finding.run_id}))
    places = {layout.staged_file(row) for row in rows}
    places |= {layout.data_root / finding.path for finding in findings if finding.kind.startswith("parquet-")}
    present = sorted(path for path in places if files.exists(path))
    stage = read_stage(layout, places_in(layout, now.store.catalog), present)
    again = {*_row_findings(now.store, rows, stage), *_content_findings(layout, stage)}
    histories = frozenset(finding.path for finding in findings if finding.kind.startswith("history"))
    again |= {*_history_findings(settings, now, Verification(), histories), *_reject_findings(now.store)}
    again |= {leftover(layout, path) for path in leftovers(layout)}
    if any(finding.kind in DEEP_KINDS for finding in findings):
        again |= {finding for row in rows for finding in _deep(settings, row, found, Verification())}
    return again


def _let_the_writer_finish(layout: Layout) -> None:
    """Wait while a process is between placing Parquet and recording it: it then holds the manifest's lock."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    lock = manifest_lock(layout)
    while files.exists(layout.lock_path) and time.monotonic() < deadline:
        try:
            return lock.probe()
        except LockHeld:
            time.sleep(0.01)
    return None


def _stage_findings(
    layout: Layout, now: _Manifest | None, done: Verification, advance: Callable[[], None] = lambda: None
) -> tuple[Mapping[Path, Damaged], list[Finding]]:
    """Read the stage; return its damaged files, and everything that is wrong or differs from the manifest."""
    content = StageContent()
    prints = {row.run_id: fingerprint(row) for row in now.rows()} if now else {}
    place_of = places_in(layout, now.store.catalog) if now else lambda _: None
    for row in live_rows(layout, content, place_of):
        done.staged_files += 1
        advance()
        if prints.get(row.run_id) == fingerprint(row):
            del prints[row.run_id]
        elif now:
            content.take(layout, row)
    for _ in retired_rows(layout, content):
        pass  # only for the damage, which is noted
    rows = _row_findings(now.store, now.rows(prints), content) if now else ()
    return content.damaged, [*_content_findings(layout, content), *rows]


def _content_findings(layout: Layout, stage: StageContent) -> Iterator[Finding]:
    for path, error in stage.damaged.items():
        yield Finding("parquet-damaged", layout.relative(path), error.message)
    for path in stage.strays:
        yield Finding("parquet-stray", layout.relative(path), "is where no run of the manifest belongs")


def _row_findings(store: ManifestStore, live: Iterable[ManifestRow], stage: StageContent) -> Iterator[Finding]:
    layout = store.layout
    known, damaged = set(), set(map(layout.run_of, stage.damaged))
    for row in live:
        known.add(row.run_id)
        staged = stage.live.get(row.run_id)
        if staged is None:
            if row.run_id not in damaged:
                yield missing(store, row)
            continue
        differing = differing_fields(staged, row)
        if differing:
            names = ", ".join(differing)
            yield Finding(
                "parquet-differs",
                layout.staged_name(staged),
                f"its row and the manifest's differ in {names}",
                row.run_id,
            )
    for run_id, row in stage.live.items():
        if run_id not in known:
            path = layout.staged_name(row)
            yield Finding("parquet-orphan", path, "the manifest has no such live run", run_id)


def missing(store: ManifestStore, run: KnownRun | ManifestRow) -> Finding:
    """Report a run without Parquet, and whether its raw file is gone as well, or no longer holds the run."""
    layout, told = store.layout, ""
    if files.is_gone(layout.raw_file(run.source_file)):
        told = f", and so is that raw file: {_way_back(store, run, 'put either back from a backup')}"
    elif not is_at_its_path(store.catalog, run):
        back = "put either back from a backup, then repair once more"
        rejected = store.catalog.notes[run.source_file].outcome == "rejected"  # then no copy takes its place
        told = f", and that raw file no longer holds the run: {back if rejected else _way_back(store, run, back)}"
    return Finding(
        "parquet-missing", layout.staged_name(run), f"the Parquet of {run.source_file} is gone{told}", run.run_id
    )


def _way_back(store: ManifestStore, run: KnownRun | ManifestRow, otherwise: str) -> str:
    """Say how a run comes back from a copy of its raw file, or `otherwise`."""
    copy = copy_of(store, run)
    return f"its copy {copy} takes its place with `ingestd backfill`" if copy else otherwise


def is_at_its_path(catalog: Catalog, run: KnownRun | ManifestRow) -> bool:
    """Tell whether the file at a live run's path was last decided to be that run, not rejected, emptied or another."""
    note = catalog.notes.get(run.source_file)
    return note is None or (note.outcome, note.run_id) == ("occupied", run.run_id)


def _reject_findings(store: ManifestStore) -> Iterator[Finding]:
    layout = store.layout
    rejected = {layout.reject_file(note.source_file): note for note in store.catalog.noted_as("rejected")}
    present = set(files.all_below(layout.rejects_dir, ".json"))
    for path, note in sorted(rejected.items()):
        if path not in present:
            yield Finding("reject-missing", layout.relative(path), "a rejected file has no reject JSON")
        elif not _tells_why(layout, note):
            message = f"does not tell why {note.source_file} is rejected"
            yield Finding("reject-damaged", layout.relative(path), message)
    for path in sorted(present - rejected.keys()):
        yield Finding("reject-stray", layout.relative(path), "this file is not, or no longer, rejected")


def _tells_why(layout: Layout, note: FileNote) -> bool:
    try:
        content = read_reject(layout, note.source_file)
    except (UsageError, Corrupt):
        return False
    said = (content.get("source_file"), content.get("source_sha256"), content.get("code"), content.get("message", ""))
    return said[:3] == (note.source_file, note.source_sha256, note.code) and bool(said[3])


def _history_findings(
    settings: Settings, now: _Manifest, done: Verification, only: frozenset[str] | None = None
) -> Iterator[Finding]:
    """Compare histories with the manifest: all, or `only` these paths relative to the data root."""
    layout, stale = settings.layout, now.store.catalog.stale_chips
    paths = {chip: layout.history_file(chip) for chip in now.chips}
    done.histories += sum(files.exists(path) for path in paths.values())
    looked_at = {
        chip for chip, path in paths.items() if chip not in stale and (only is None or layout.relative(path) in only)
    }
    rows = now.runs.lazy().filter(pl.col("chip_name").is_in(list(looked_at)))
    for chip, text in render_histories(rows, settings.time.local_tz, layout):
        looked_at.remove(chip)
        yield from _compared(settings, chip, paths[chip], text)
    for path in sorted(layout.history_file(chip) for chip in stale):
        if files.is_dir(path) and (only is None or layout.relative(path) in only):
            yield Finding("history-differs", layout.relative(path), "a folder is in its place, so it cannot be written")
    for chip in sorted(looked_at):  # all runs of these were superseded: they need no history
        if files.exists(paths[chip]):
            yield from _compared(settings, chip, paths[chip], EMPTY_HISTORY)
    expected_files = {*paths.values(), *(layout.history_file(chip) for chip in stale)}
    for path in own_histories(layout.histories_dir):
        if path not in expected_files and path.read_bytes() != EMPTY_HISTORY:
            yield Finding("history-extra", layout.relative(path), "the manifest has no run of its chip")


def _compared(settings: Settings, chip: str, path: Path, text: bytes) -> Iterator[Finding]:
    layout, zone = settings.layout, settings.time.local_tz
    with files.as_retry(path):
        actual = b"a folder" if files.is_dir(path) else path.read_bytes() if files.exists(path) else None
    if actual is None:
        yield Finding("history-missing", layout.relative(path), f"chip {chip} has no history")
    elif actual != text and is_of_another_zone(actual, text, zone):
        message = f"its dates and times are not in the zone {zone}: `ingestd chip-histories` writes it again"
        yield Finding("history-zone", layout.relative(path), message)
    elif actual != text:
        message = f"does not say what the manifest says of {chip}"
        yield Finding("history-differs", layout.relative(path), message)


def _deep(settings: Settings, row: ManifestRow, found: dict[str, FileStat], done: Verification) -> Iterator[Finding]:
    """Compare one run's raw file with what is staged: the bytes' hash, every header line, every cell."""
    layout = settings.layout
    status = found.get(row.source_file)
    if status is None or status.stamp != row.stamp:
        return
    path = layout.staged_file(row)
    try:
        read = files.read_raw(layout.raw_file(row.source_file), row.source_size)
        if read is None or read.before != status or read.after != status:
            return  # it changed while we looked: the next verification notes that
        if hashlib.sha256(read.data).hexdigest() != row.source_sha256:
            yield Finding("raw-bytes", row.source_file, "its bytes changed although size and mtime did not", row.run_id)
            return
        staged = read_run(path)
        run = parse_run(read.data, settings.registry)
        done.cells += run.table.num_rows * len(run.header.columns)
        if staged.schema != run.table.schema:
            yield Finding("parquet-cells", layout.relative(path), OTHER_COLUMNS.format(row.source_file), row.run_id)
        elif not same_cells(staged, run.table) or read_header(path) != run.header.text:
            yield Finding("parquet-cells", layout.relative(path), f"differs from {row.source_file}", row.run_id)
    except Reject as error:  # of the very bytes that were staged: the settings are different now
        message = f"cannot be compared with its Parquet: {error.message}; {OTHER_SETTINGS}"
        yield Finding("raw-unparsed", row.source_file, message, row.run_id)
    except Damaged as error:
        if files.exists(path):
            yield Finding("parquet-cells", layout.relative(path), error.message, row.run_id)
    except OSError as error:
        if error.errno != errno.ENOENT:
            why = error.strerror or str(error)
            message = f"cannot be read ({why}): {to_read(why)}"
            yield Finding("raw-unreadable", row.source_file, message, row.run_id)
