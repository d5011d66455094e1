"""The per-day `metadata.csv`: one row per run, one column per header line, for people; ingestd never reads it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, Final

import polars as pl

from ingestd import files
from ingestd.errors import Damaged, Retry, UsageError
from ingestd.histories.cells import render_csv
from ingestd.histories.runs import in_run_order, local_start, start_time_text
from ingestd.histories.together import write_together
from ingestd.histories.unknown import unknown
from ingestd.layout import METADATA_NAME
from ingestd.manifest.table import LIVE
from ingestd.raw.header import START_TIME_LABEL
from ingestd.raw.header_json import KeptHeader, read_header_json
from ingestd.words import shown

FIXED_COLUMNS: Final = ("has_light", "source_file", "start_time", "time_hms")
"""Columns after those of the header lines, always there, in this order."""

_NEEDED: Final = (
    *("run_id", "source_file", "proc", "start_time_utc", "start_time_origin", "file_idx", "has_light", "parameters"),
    *("chip_name", "superseded_by"),
)


@dataclass(frozen=True, slots=True)
class MetadataExport:
    """One file exported: where, of how many runs, and whether its bytes changed.

    `problem` is why it could not be written: a folder is in its place, say.
    """

    path: Path
    runs: int
    changed: bool
    problem: Retry | None = None

    NOUNS: ClassVar = ("file of metadata", "files of metadata")


def metadata_frame(day_rows: pl.DataFrame | pl.LazyFrame, tz: str) -> pl.DataFrame:
    """Make the table of a day's runs from their manifest rows, in any order; superseded rows are left out.

    Rows are in the order of a history. First comes one String column per header parameter, then one per metadata line
    other than `Start time`, each in order of first appearance, values as written in the header, null if a run has no
    such line; then `FIXED_COLUMNS`. A parameter named like a fixed column becomes `<name> (header)`, a metadata line
    named like a parameter or a fixed column `<name> (metadata)`, so no value hides another.

    Raises:
        UsageError: there is no time zone `tz`.
        Corrupt: the header kept in a manifest row is not JSON of the manifest's form.
    """
    start = local_start(tz)
    runs = in_run_order(day_rows.lazy().filter(LIVE).select(_NEEDED).collect())
    parameters: dict[str, list[str | None]] = {}
    metadata: dict[str, list[str | None]] = {}
    for index, (run_id, text) in enumerate(runs.select("run_id", "parameters").iter_rows()):
        header = _header(run_id, text)
        for columns, block in ((parameters, header.parameters), (metadata, header.metadata)):
            for name, value in block.items():
                columns.setdefault(name, [None] * runs.height)[index] = str(value)
    metadata.pop(START_TIME_LABEL, None)
    named: dict[str, list[str | None]] = {}
    for suffix, columns in ((" (header)", parameters), (" (metadata)", metadata)):
        for name, values in columns.items():
            named[_free_name(name, suffix, named)] = values
    fixed = runs.select(
        "has_light",
        "source_file",
        start_time_text().alias("start_time"),
        start.dt.strftime("%H:%M:%S").alias("time_hms"),
    )
    return pl.DataFrame(named, schema=dict.fromkeys(named, pl.String())).hstack(fixed) if named else fixed


def export_metadata(
    manifest: pl.DataFrame | pl.LazyFrame,
    *,
    tz: str,
    directory: Path,
    date: date | None = None,
    proc: str | None = None,
    chip: str | None = None,
    out_csv: Path | None = None,
    check: Callable[[Path], None] = lambda _: None,
) -> list[MetadataExport]:
    """Write metadata tables: a `<YYYY-MM-DD>/metadata.csv` a day in `directory`, or all runs in one file, `out_csv`.

    `date` (in `tz`), `proc` and `chip` keep the runs that match all of them. A day's file always holds the whole day,
    so `proc` and `chip` need `out_csv`. The file of a day that lost its last run, whose start was corrected to another
    day, is written without runs, unless a `date` is given. `check` is given each path before the first is written.
    Files are replaced atomically, and only when their bytes change; none is deleted. A day whose place refuses has its
    `problem`, and the others are written.

    Raises:
        UsageError: a filter that needs `out_csv`, a filter no run matches, or no time zone `tz`.
        Retry: the disk refuses writes, wherever, or `out_csv` cannot be written.
    """
    known = manifest.lazy().select(_NEEDED).with_columns(local_start(tz).dt.date().alias("day")).collect()
    live = known.filter(LIVE)
    runs = _matching(live, {"date": ("day", date), "procedure": ("proc", proc), "chip": ("chip_name", chip)})
    if out_csv is not None:
        check(out_csv)
        return [_export(runs, tz, out_csv)]
    if proc is not None or chip is not None:
        raise UsageError(
            "a day's metadata.csv holds all runs of the day", next_step="give --out-csv FILE with --proc or --chip"
        )
    days = runs.partition_by("day", as_dict=True)
    parts = {directory / str(day) / METADATA_NAME: part for (day,), part in sorted(days.items())}
    if date is None:
        left = sorted(set(known["day"]) - set(live["day"]))
        parts |= {path: live.clear() for day in left if files.exists(path := directory / str(day) / METADATA_NAME)}
    for path in parts:
        check(path)
    exports = _export_days(parts, tz)
    return [export for export in exports if export.runs or export.changed or export.problem]


def _matching(runs: pl.DataFrame, filters: dict[str, tuple[str, Any]]) -> pl.DataFrame:
    """Keep the runs that match all filters, kind -> (column, value); a value of None does not count."""
    given = {kind: (column, value) for kind, (column, value) in filters.items() if value is not None}
    for kind, (column, value) in given.items():
        if runs.filter(pl.col(column) == value).is_empty():
            raise unknown(kind, str(value), map(str, runs[column].drop_nulls().unique()))
    matching = runs.filter(pl.lit(value=True), *(pl.col(column) == value for column, value in given.values()))
    if given and matching.is_empty():
        wanted = ", ".join(f"{kind} {shown(str(value))}" for kind, (_, value) in given.items())
        raise UsageError(
            f"the manifest has no run of {wanted} together, though some of each", next_step="leave one of them out"
        )
    return matching


def _export(rows: pl.DataFrame, tz: str, path: Path) -> MetadataExport:
    data = render_csv(metadata_frame(rows, tz))
    files.remove_leftovers(path.parent)
    return MetadataExport(path, rows.height, files.write_atomic(path, data))


def _export_days(parts: Mapping[Path, pl.DataFrame], tz: str) -> list[MetadataExport]:
    for path in parts:
        with contextlib.suppress(Retry):  # if the place refuses, the write tells
            files.remove_leftovers(path.parent)
    changed, problems = write_together((path, render_csv(metadata_frame(rows, tz))) for path, rows in parts.items())
    return [MetadataExport(path, rows.height, path in changed, problems.get(path)) for path, rows in parts.items()]


def _header(run_id: str, text: str) -> KeptHeader:
    try:
        return read_header_json(text)
    except ValueError as error:
        raise Damaged(
            f"the header kept for run {run_id} is damaged ({error})",
            place="manifest, column parameters",
            next_step="`ingestd repair`",
        ) from error


def _free_name(name: str, suffix: str, taken: Iterable[str]) -> str:
    while name in FIXED_COLUMNS or name in taken:
        name += suffix
    return name
