"""The Python API: load manifest, runs and histories as frames; stage or read one raw file.

`config` is a config file, by default the one the commands find: `INGESTD_CONFIG`, then `config.toml` in the current
folder, then `/etc/ingestd/config.toml`. All settings come from it, other paths too; only `data_root`, where given,
replaces its own. A program that should read the same place wherever it is started gives `config`. In every path that
is given, `~` is the home folder.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from ingestd import files
from ingestd.errors import Corrupt, Damaged, Reject, RejectCode, Retry, UsageError
from ingestd.histories.blocked import problem_of
from ingestd.histories.chip import history_frame, read_history, require_chip
from ingestd.ingest.commit import opened, utc_now
from ingestd.ingest.traces import read_reject, soon
from ingestd.layout import Layout
from ingestd.lookup import require_manifest, run_id_of, source_file_of
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.table import LIVE, rows_of
from ingestd.manifest.view import read_view
from ingestd.raw.reader import still_lent
from ingestd.raw.run import parse_run
from ingestd.raw.settling import Observation, State, queued
from ingestd.settings import Settings, load_settings
from ingestd.stage.parquet import read_run
from ingestd.stage.run import Failed, Outcome, Waiting, stage_batch
from ingestd.words import shown
from ingestd.writers import read_writers

Place = str | Path | None

LOOKS_FOR_LENT = 3000
"""How many times, a millisecond apart, to check whether pyarrow has let go of what was read."""


def load_manifest(data_root: Place = None, *, config: Place = None, all_versions: bool = False) -> pl.DataFrame:
    """Load the manifest, one row per run: `manifest.parquet` and what the log holds beyond it, at one instant.

    Columns are the fields of `ingestd.manifest.row.ManifestRow` in their order, units in the names, times in UTC; rows
    are in order of start time. Rows that a later edit superseded are left out unless `all_versions`. No lock is taken:
    the service and other commands may be at work.

    Raises:
        UsageError: there is no manifest, or the config file has a mistake.
        Corrupt: manifest or log is damaged or of a newer version.
        Retry: the disk refused.
    """
    return _manifest(_settings(data_root, config).layout, all_versions=all_versions)


def load_run(run_id: str, data_root: Place = None, *, config: Place = None) -> pl.DataFrame:
    """Load the staged rows of one run, in the order of the raw file; columns are those of its procedure.

    The beginning of a `run_id` (6 digits or more) is enough if it names only one run.

    Raises:
        UsageError: no run, or more than one, has that id (near ones are named), or the run was superseded (that which
            counts in its place is named); or as `load_manifest`.
        Corrupt: the staged Parquet is missing or damaged (every page of values has a checksum), or the manifest is.
        Retry: the disk refused.
    """
    layout = _settings(data_root, config).layout
    row = _live_row(layout, run_id)
    while True:
        path = layout.staged_file(row)
        try:
            # Not with polars: it ignores the pages' checksums, so a bit that rotted would give wrong values.
            return _frame(read_run(path))
        except Corrupt:
            row = _live_row(layout, row.run_id)
            if layout.staged_file(row) == path:
                raise  # otherwise an edit has just moved the run to another folder, or superseded it


def load_history(chip: str, data_root: Place = None, *, config: Place = None) -> pl.DataFrame:
    """Load the history of a chip as its CSV has it: columns `ingestd.histories.chip.HISTORY_SCHEMA`, in its order.

    `start_time` is Float64, epoch seconds; dates and times are local.

    Raises:
        UsageError: there is no history of that chip (near names are in the message), or the file is none.
        Retry: it cannot be read.
    """
    layout = _settings(data_root, config).layout
    path = layout.history_file(chip)
    with files.as_retry(path):
        there = files.is_file(path)
    if not there:
        require_chip(_manifest(layout, all_versions=False), chip)
        raise UsageError(
            f"chip {shown(chip)} has runs but no history yet",
            place=str(path),
            next_step="wait a moment if the service is running; else write it: `ingestd chip-histories`",
        )
    return read_history(path)


def build_chip_history(chip: str, data_root: Place = None, *, config: Place = None) -> pl.DataFrame:
    """Make the history of a chip from the manifest as it is now, without reading or writing a CSV.

    Columns are `ingestd.histories.chip.HISTORY_SCHEMA`; `start_time` is text, as the header has it.

    Raises:
        UsageError: the manifest has no run of that chip; near names are in the message.
        Corrupt, Retry: as `load_manifest`.
    """
    settings = _settings(data_root, config)
    runs = _manifest(settings.layout, all_versions=False)
    require_chip(runs, chip)
    return history_frame(runs.filter(chip_name=chip), settings.time.local_tz, settings.layout)


def stage_run(source: str | Path, data_root: Place = None, *, config: Place = None) -> ManifestRow:
    """Stage one finished raw file of the raw root in this process, as `ingestd backfill` would; return its row.

    `source` is its path, or its path relative to the raw root. A file that is staged already is not read again; a copy
    of a staged file gives the row of its original. The chip's history is brought up to date. `manifest.parquet` gets
    the row at the next compaction, by the service, a backfill or `ingestd compact`.

    Raises:
        UsageError: there is no such file below the raw root, or a scan passes over it.
        Reject: its content cannot be staged; that is remembered, as after a backfill.
        Retry: it is not over yet, or the disk refused; try again later.
        LockHeld: another process, such as a backfill, kept the manifest's lock for `manifest.lock_timeout_s`.
        Corrupt: the manifest is damaged, or the JSON of the file's reject is; or the original of a copy is not known.
    """
    settings = _settings(data_root, config)
    name = source_file_of(settings.layout, str(files.in_full(source)))
    with files.as_retry(settings.layout.raw_file(name)):
        why = files.why_passed_over(settings.layout.raw_root, name)
    if why:
        raise UsageError(f"ingestd passes over this file: {why}", place=name, next_step="name a file that a scan finds")
    with opened(settings) as ingest:
        status = _settled_stat(settings, name)
        catalog = ingest.store.catalog
        if not catalog.is_current(name, status.stamp):
            writers = read_writers([status], visible=settings.settle.writers_visible)
            seen = Observation(abs(status.age_s(utc_now())), writers.writer_of(status))
            with _all_let_go():
                (outcome,) = stage_batch([ingest.task_for(name, status, seen)], ingest.context)
            done = ingest.commit([outcome])
            if done.again and not ingest.store.catalog.is_current(name, status.stamp):  # else its row is there
                raise Retry("another process is deciding about it right now", place=name, next_step="try again")
            for undecided in [outcome, *done.failed]:
                _raise_unless_decided(undecided, name)
        note = ingest.store.catalog.notes.get(name)
        if note is not None and note.outcome == "rejected":
            raise _remembered(settings.layout, name)
        if note is not None and note.outcome == "queued":
            raise Retry(queued(note.code).reason, place=name, next_step="stage it when the run is over")
        here = ingest.store.catalog.live_at(name)
        run_id = note.run_id if note is not None and note.run_id else here[0].run_id
        row = ingest.store.full_rows([run_id]).get(run_id)
        if row is None:
            raise Damaged(
                f"it is noted as a copy of run {run_id}, which is not known any more",
                place=name,
                next_step="`touch` the file, and stage it again",
            )
        # Last, since the file may be moved meanwhile; and also if the service staged it, which writes a moment later.
        changes = ingest.refresh_histories()
        if (problem := problem_of(change for change in changes if change.chip == row.chip_name)) is not None:
            raise problem
        return row


def read_and_normalize(path: str | Path, *, config: Place = None) -> pl.DataFrame:
    """Read one raw CSV from anywhere as the frame its staged Parquet would hold; nothing is staged or remembered.

    Columns are those of its procedure, canonical names with units, missing optional ones null; complete rows only.
    Symbolic links are followed.

    Raises:
        Reject: its content cannot be read; code, line and what was expected are in the error.
        Retry: the file cannot be opened.
        UsageError: it is not a regular file, or larger than `stage.max_file_mib`; or the config file has a mistake.
    """
    settings, place = _settings(None, config), files.in_full(path)
    limit = settings.max_file_bytes
    with files.as_retry(place):
        read = files.read_raw(Path(os.path.realpath(place)), limit)  # realpath copes with a loop of links
    if read is None:
        raise UsageError("this is not a regular file", place=str(place), next_step="give the path of a raw CSV")
    if len(read.data) > limit:
        raise UsageError(
            f"the file has more than {limit:,} bytes", place=str(place), next_step="raise stage.max_file_mib"
        )
    with _all_let_go():
        try:
            return _frame(parse_run(read.data, settings.registry).table)
        except Reject as error:
            _in_file(error, place)
            raise


# ---- what the functions above share ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _all_let_go() -> Iterator[None]:
    """Wait after the block until pyarrow has let go of our bytes, a few seconds at most: the caller may exit then."""
    try:
        yield
    finally:
        for _ in range(LOOKS_FOR_LENT):
            if not still_lent():
                break
            time.sleep(0.001)


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()


def _settings(data_root: Place, config: Place) -> Settings:
    root, file = (None if given is None else files.in_full(given) for given in (data_root, config))
    return load_settings(file, {"paths": {"data_root": root}})


def _manifest(layout: Layout, *, all_versions: bool) -> pl.DataFrame:
    require_manifest(layout)
    rows = read_view(layout)
    return rows if all_versions else rows.filter(LIVE)


def _live_row(layout: Layout, run_id: str) -> ManifestRow:
    """Find a run by its id, or the beginning of one.

    Raises:
        UsageError: there is none, there are several, or it was superseded.
    """
    rows = _manifest(layout, all_versions=True)
    (row,) = rows_of(rows.filter(run_id=run_id_of(run_id, rows["run_id"])))
    if not row.live:
        known = row.superseded_by in rows["run_id"]  # a rebuild without the events may not find it out
        raise UsageError(
            f"run {row.run_id} was superseded: another run stands for what was in {shown(row.source_file, 200)}",
            next_step=f"load run {row.superseded_by}" if known else "look for it among the runs of `load_manifest()`",
        )
    return row


def _settled_stat(settings: Settings, name: str) -> files.FileStat:
    path = settings.layout.raw_file(name)
    with files.as_retry(path):
        status = files.stat_of(path.lstat())
    young_s = settings.settle.settle_s - abs(status.age_s(utc_now()))
    if young_s > 0:
        time.sleep(young_s)  # a change in the meantime is noticed when the file is read
    return status


def _raise_unless_decided(outcome: Outcome, name: str) -> None:
    match outcome:
        case Failed(retry=retry):
            raise Retry(retry.message, place=retry.place or name, next_step=retry.next_step)
        case Waiting(verdict=verdict) if verdict.state is not State.QUEUED:
            raise Retry(
                f"{verdict.state.value}: {verdict.reason}", place=name, next_step="stage it when the run is over"
            )


def _remembered(layout: Layout, name: str) -> Reject:
    """Make the error again that a file was rejected with, from its reject JSON.

    Raises:
        Corrupt: the JSON is gone or damaged.
    """
    try:
        content = read_reject(layout, name, until=soon())
    except UsageError:
        place = str(layout.reject_file(name))
        raise Damaged(
            "this reject JSON is gone", place=place, next_step="run `ingestd repair`, which makes it again"
        ) from None
    texts = {key: content.get(key, "") for key in ("expected", "found", "next_step")}
    error = Reject(RejectCode(content["code"]), content["message"], line=content.get("line"), **texts)
    return _in_file(error, layout.raw_file(name))


def _in_file(error: Reject, path: Path) -> Reject:
    """Add the file to the error: in a loop over many files, only the error is seen."""
    error.place = str(path) if error.line is None else f"{path}:{error.line}"
    return error
