"""Chip histories: for every chip the ordered list of what was measured on it, one CSV per chip."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

import polars as pl

from ingestd import files
from ingestd.errors import Retry, UsageError
from ingestd.histories.cells import join_cells, read_cells, restored, text_cells
from ingestd.histories.runs import in_run_order, local_start, start_time_text
from ingestd.histories.together import write_together
from ingestd.histories.unknown import unknown
from ingestd.layout import HISTORY_SUFFIX, Layout
from ingestd.manifest.table import LIVE
from ingestd.manifest.view import read_view
from ingestd.settings import Settings
from ingestd.words import shown

HISTORY_SCHEMA: Final[dict[str, pl.DataType]] = {
    "seq": pl.Int64(),
    "date": pl.Date(),
    "time_hms": pl.String(),
    "proc": pl.String(),
    "summary": pl.String(),
    "source_file": pl.String(),
    "file_idx": pl.Int64(),
    "start_time": pl.String(),
    "day_folder": pl.String(),
    "has_light": pl.Boolean(),
    "chip_group": pl.String(),
    "chip_number": pl.Int64(),
    "run_id": pl.String(),
    "parquet_path": pl.String(),
}
"""Columns of a history, in order: a contract that plotters read by name and position.

`start_time` is text, so that the header's digits survive; `read_history` gives it as Float64 seconds.
"""

EMPTY_HISTORY: Final = ",".join(HISTORY_SCHEMA).encode() + b"\n"
"""The file of a chip that has no live run any more: the header line only."""

RUNS_TOGETHER: Final = 50_000
"""How many runs' histories are made at once, one chip at least: polars takes time per call and memory per run."""

_ALWAYS: Final = {"seq", "date", "start_time"}
_NEEDED: Final = (
    *("chip_name", "run_id", "source_file", "proc", "date_local", "start_time_utc", "start_time_origin", "file_idx"),
    *("has_light", "summary", "chip_group", "chip_number", "parameters"),
)


@dataclass(frozen=True, slots=True)
class HistoryChange:
    """One history looked at: its chip, its file, how many runs it has, and whether its bytes changed.

    `problem` is why it could not be written: a folder is in its place, say.
    """

    chip: str
    path: Path
    runs: int
    changed: bool
    problem: Retry | None = None

    NOUNS: ClassVar = ("history", "histories")


def history_frame(rows: pl.DataFrame | pl.LazyFrame, tz: str, layout: Layout) -> pl.DataFrame:
    """Make the history of one chip from its manifest rows, in any order; superseded rows are left out.

    Columns are `HISTORY_SCHEMA`; date and time are those of `tz`; `seq` counts from 1 by start time, file index
    (unknown ones last) and source file; a run directly below the raw root has an empty `day_folder`. An unknown text
    is empty, never null.

    Raises:
        UsageError: there is no time zone `tz`.
    """
    return _histories(rows, tz, layout).drop("chip_name")


def require_chip(manifest: pl.DataFrame | pl.LazyFrame, chip_name: str) -> None:
    """Check that the manifest has a run of the chip, superseded ones included.

    Raises:
        UsageError: it has none; the nearest chip names are in the message.
    """
    names = manifest.lazy().select(pl.col("chip_name").drop_nulls().unique()).collect()["chip_name"].to_list()
    if chip_name not in names:
        raise unknown("chip", chip_name, names)


def render_histories(manifest: pl.DataFrame | pl.LazyFrame, tz: str, layout: Layout) -> Iterator[tuple[str, bytes]]:
    """Render the history file of every chip with a live run; the same rows give the same bytes. Format: see `cells`.

    Yields (chip, bytes) in order of chip name, a few chips in memory at a time.
    """
    for by_chip in _cells_by_chip(manifest, tz, layout):
        for chip, cells in by_chip.items():
            yield chip, join_cells(cells)


def write_histories(
    manifest: pl.DataFrame | pl.LazyFrame, chips: Iterable[str] | None, tz: str, layout: Layout
) -> list[HistoryChange]:
    """Bring the history files of `chips` up to date with the manifest; files whose bytes stay the same are not touched.

    Each file is replaced atomically. One whose place refuses has its `problem`, and the others are written. A chip that
    has a history but no live run any more keeps a file with the header line only; one that has neither gets none. With
    `chips` None every chip is meant: those of the manifest, and those that have no live run but a history written by
    ingestd. Changes come in order of chip name.

    Raises:
        UsageError: there is no time zone `tz`.
        Retry: the disk refuses writes, wherever.
    """
    wanted = None if chips is None else set(chips)
    files.remove_leftovers(layout.histories_dir)
    rows = manifest.lazy() if wanted is None else manifest.lazy().filter(pl.col("chip_name").is_in(list(wanted)))
    changes: list[HistoryChange] = []
    for by_chip in _cells_by_chip(rows, tz, layout):
        changes += _write([_History(chip, layout.history_file(chip), cells) for chip, cells in by_chip.items()])
    if wanted is None:
        current = {change.path for change in changes}
        own = own_histories(layout.histories_dir)
        left = [_History(path.name.removesuffix(HISTORY_SUFFIX), path, None) for path in own if path not in current]
    else:
        gone = wanted - {change.chip for change in changes}
        left = [_History(chip, layout.history_file(chip), None) for chip in gone]
    return sorted([*changes, *_write(left)], key=lambda change: change.chip)


def update_histories(settings: Settings, chips: Sequence[str] | None = None) -> list[HistoryChange]:
    """Bring the histories of `chips` (None: of all) up to date with the manifest, as `write_histories` does.

    Other processes may do the same meanwhile: each takes the histories' lock before it reads the manifest, so that no
    history is replaced by an older one. One that may not write to the manifest's folder takes no lock.

    Raises:
        LockHeld: another process held that lock for longer than `manifest.lock_timeout_s`.
        Corrupt: manifest or log is damaged.
        Retry: the disk refuses writes, wherever.
    """
    layout = settings.layout
    lock = files.Lock(layout.histories_lock_path, refusal="another ingestd process ({holder}) is writing histories")
    writable = os.access(layout.histories_lock_path.parent, os.W_OK)
    with lock.held(settings.manifest.lock_timeout_s) if writable else nullcontext():
        return write_histories(read_view(layout, chips), chips, settings.time.local_tz, layout)


def read_history(path: Path) -> pl.DataFrame:
    """Read a history file back: columns and types of `HISTORY_SCHEMA`, but `start_time` as Float64 epoch seconds.

    Texts are as they were before they were made harmless for a spreadsheet.

    Raises:
        UsageError: the file is not a history written by ingestd; the place names the line.
        Retry: it cannot be read.
    """
    with files.as_retry(path):
        data = path.read_bytes()
    wanted = EMPTY_HISTORY.decode().rstrip()
    no_header = _no_history(path, 1, f"the first line is not {wanted}" if data else "it is empty")
    if not data.startswith(EMPTY_HISTORY.rstrip()):  # polars would decompress what begins as a gzip file, say
        raise no_header
    try:
        cells = pl.read_csv(io.BytesIO(data), infer_schema=False)
    except pl.exceptions.PolarsError:
        read_cells(path)  # names the line at fault
        raise _no_history(path, 1, "it is not a CSV of the form ingestd writes") from None
    if cells.columns != list(HISTORY_SCHEMA):
        raise no_header
    texts = [name for name, dtype in HISTORY_SCHEMA.items() if dtype == pl.String() and name != "start_time"]
    typed = cells.with_columns(
        *(restored(pl.col(name).fill_null("")).alias(name) for name in texts),
        *(pl.col(name).cast(pl.Int64, strict=False) for name in ("seq", "file_idx", "chip_number")),
        pl.col("date").str.to_date("%Y-%m-%d", strict=False),
        pl.col("start_time").cast(pl.Float64, strict=False),
        pl.col("has_light").replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean),
    )
    _refuse_lost_cells(path, cells, typed)
    return typed


def _histories(rows: pl.DataFrame | pl.LazyFrame, tz: str, layout: Layout) -> pl.DataFrame:
    start = local_start(tz)
    runs = in_run_order(rows.lazy().filter(LIVE).select(_NEEDED).collect(), "chip_name")
    columns = {
        "seq": pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("chip_name"),
        "date": start.dt.date(),
        "time_hms": start.dt.strftime("%H:%M:%S"),
        "start_time": start_time_text(),
        "day_folder": pl.col("source_file").str.extract(r"(?s)(?:^|/)([^/]+)/[^/]*$").fill_null(""),
        "chip_group": pl.col("chip_group").fill_null(""),
    }
    named = _with_parquet_path(runs, layout).with_columns(**columns)
    return named.select("chip_name", *HISTORY_SCHEMA)


def _cells_by_chip(rows: pl.DataFrame | pl.LazyFrame, tz: str, layout: Layout) -> Iterator[dict[str, pl.DataFrame]]:
    """Make the CSV cells of each chip's history, of several chips at once, in order of chip name."""
    runs = rows.lazy().filter(LIVE)
    for chips in _groups_of_chips(runs):
        histories = _histories(runs.filter(pl.col("chip_name").is_in(chips)), tz, layout)
        cells = text_cells(histories.drop("chip_name")).hstack([histories["chip_name"]])
        parts = cells.partition_by("chip_name", include_key=False, as_dict=True)
        yield {str(chip): part for (chip,), part in parts.items()}


def _groups_of_chips(runs: pl.LazyFrame) -> Iterator[list[str]]:
    counts = runs.filter(pl.col("chip_name").is_not_null()).group_by("chip_name").len().sort("chip_name").collect()
    chips: list[str] = []
    together = 0
    for chip, number in counts.iter_rows():
        if chips and together + number > RUNS_TOGETHER:
            yield chips
            chips, together = [], 0
        chips.append(chip)
        together += number
    if chips:
        yield chips


def _with_parquet_path(runs: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    # One call per folder, not per run: a million runs share a few thousand folders.
    folders = runs.select("proc", "date_local").unique(maintain_order=True)
    names = [layout.staged_name_around_id(proc, day) for proc, day in folders.iter_rows()]
    around = folders.hstack(pl.DataFrame(names, schema={"head": pl.String, "tail": pl.String}, orient="row"))
    joined = runs.join(around, on=["proc", "date_local"], how="left", maintain_order="left")
    return joined.with_columns(pl.concat_str("head", "run_id", "tail").alias("parquet_path")).drop("head", "tail")


class _History(NamedTuple):
    """The history of a chip, to be written: its cells, None if it has no live run."""

    chip: str
    path: Path
    cells: pl.DataFrame | None


def _write(histories: Sequence[_History]) -> list[HistoryChange]:
    changed, problems = write_together(
        (history.path, EMPTY_HISTORY if history.cells is None else join_cells(history.cells))
        for history in histories
        if history.cells is not None or files.exists(history.path)
    )
    return [
        HistoryChange(chip, path, 0 if cells is None else cells.height, path in changed, problems.get(path))
        for chip, path, cells in histories
    ]


def own_histories(directory: Path) -> list[Path]:
    """List the histories ingestd wrote: another program's file of the same name pattern is not ours to judge."""
    found = []
    with files.as_retry(directory):
        for path in sorted(directory.iterdir()) if files.is_dir(directory) else []:
            if path.name.endswith(HISTORY_SUFFIX) and files.is_file(path):
                with path.open("rb") as file:
                    if file.read(len(EMPTY_HISTORY)) == EMPTY_HISTORY:
                        found.append(path)
    return found


def _refuse_lost_cells(path: Path, cells: pl.DataFrame, typed: pl.DataFrame) -> None:
    for name in HISTORY_SCHEMA:
        lost = typed[name].is_null() if name in _ALWAYS else typed[name].is_null() & cells[name].is_not_null()
        if name == "parquet_path":  # the last cell of a line cut short
            lost = cells[name].is_null()
        for row in lost.arg_true().head(1):
            raise _no_history(path, row + 2, f"{shown(cells[name][row] or '')!r} cannot be a {name}")


def _no_history(path: Path, line: int, message: str) -> UsageError:
    return UsageError(
        f"this is not a chip history written by ingestd: {message}",
        place=f"{path}:{line}",
        next_step="write it again with `ingestd chip-histories`",
    )
