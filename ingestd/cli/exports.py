"""`chip-histories`, `export-metadata` and `compare-histories`: what people read, made from the manifest."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ingestd.cli import exits
from ingestd.cli.options import AsJson, Chip, Chips, Day, Proc, a_path, with_settings
from ingestd.cli.output import LONG_LIST, near, say, say_json, say_more
from ingestd.cli.report import error_as_json
from ingestd.words import count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date

    from ingestd.histories.chip import HistoryChange
    from ingestd.histories.metadata import MetadataExport
    from ingestd.settings import Settings

commands = typer.Typer()

OutCsv = Annotated[
    Path | None,
    typer.Option(
        "--out-csv", metavar="FILE", parser=a_path, help="Write one file of all selected runs, not one per day."
    ),
]
Old = Annotated[Path, typer.Argument(metavar="OLD", help="A history, or a folder of *_history.csv.")]
New = Annotated[Path, typer.Argument(metavar="NEW", help="The same for the new side.")]


@commands.command()
@with_settings("stage_root", "manifest_path", "history_out", "local_tz")
def chip_histories(settings: Settings, chip: Chips = None, as_json: AsJson = False) -> None:
    """Write the history of every chip from the manifest.

    With --chip, only the chips named. A file whose content stays the same is not touched.

    \b
    Examples:
      ingestd chip-histories
      ingestd chip-histories --chip Biotite3 --history-out build/histories
    """
    from ingestd import files  # noqa: PLC0415  # not for --help
    from ingestd.histories.blocked import problem_of  # noqa: PLC0415  # not for --help
    from ingestd.histories.chip import require_chip, update_histories  # noqa: PLC0415  # loads polars: not for --help
    from ingestd.lookup import require_manifest  # noqa: PLC0415  # not for --help
    from ingestd.manifest.view import read_view  # noqa: PLC0415  # loads polars: not for --help

    layout = settings.layout
    require_manifest(layout)
    if chip:
        rows = read_view(layout, columns=["chip_name"])
        for name in chip:
            require_chip(rows, name)
    changes = update_histories(settings, chip or None)
    if as_json:
        say_json({"histories": list(map(_as_json, changes))})
    else:
        _tell_files(changes, lambda one: "unchanged" if one.runs or files.exists(one.path) else "no runs")
        say(f"{count(len(changes), 'history', 'histories')}, {sum(change.changed for change in changes)} written")
    if (problem := problem_of(changes)) is not None:
        raise problem


def _tell_files(
    done: Sequence[HistoryChange] | Sequence[MetadataExport], untouched: Callable[[HistoryChange | MetadataExport], str]
) -> None:
    """List files with their state, in a word; of many, those that are blocked and written come first."""
    told = [("blocked" if one.problem else "written" if one.changed else untouched(one), one) for one in done]
    if len(told) > LONG_LIST:
        told.sort(key=lambda item: (item[1].problem is None, not item[1].changed))
    for state, one in told[:LONG_LIST]:
        say(f"{near(one.path)}: {count(one.runs, 'run')}", lead=f"{state:<11}")
    say_more(len(told) - LONG_LIST)


def _as_json(one: HistoryChange | MetadataExport) -> dict[str, object]:
    problem = one.problem and error_as_json(one.problem)
    return asdict(replace(one, problem=None)) | {"problem": problem}


@commands.command()
@with_settings("stage_root", "manifest_path", "local_tz")
def export_metadata(
    settings: Settings,
    *,
    date: Day = None,
    proc: Proc = None,
    chip: Chip = None,
    out_csv: OutCsv = None,
    as_json: AsJson = False,
) -> None:
    """Write every day's metadata.csv.

    It has one row per run and one column per header line. With --out-csv, all selected runs go into that one file. It
    may be neither among the raw files nor among ingestd's own, and its folder must exist unless it is below
    paths.metadata_dir. A day's file always holds the whole day, so --proc and --chip need --out-csv, which may not name
    such a file.

    \b
    Examples:
      ingestd export-metadata
      ingestd export-metadata --date 2026-03-12
      ingestd export-metadata --chip Biotite3 --proc IVg --out-csv biotite3.csv
    """
    from ingestd.histories.blocked import problem_of  # noqa: PLC0415  # not for --help

    exports = write_metadata(settings, date=date, proc=proc, chip=chip, out_csv=out_csv)
    if as_json:
        say_json({"files": list(map(_as_json, exports))})
    else:
        _tell_files(exports, lambda _: "unchanged")
        say(f"{count(len(exports), 'file')}, {sum(one.changed for one in exports)} written")
    if (problem := problem_of(exports)) is not None:
        raise problem


@commands.command()
@with_settings("stage_root", "manifest_path")
def compare_histories(settings: Settings, old: Old, new: New, as_json: AsJson = False) -> None:
    """Compare old histories with new ones.

    For the cut-over from earlier histories: known differences are named and counted, the others are listed, up to 20 of
    each chip (`--json` lists all). Runs that wait as `queued` in the current data root do not count as a difference.

    Exit codes: 0 all differences are explained, 1 some are not, 2 could not compare.

    \b
    Example:
      ingestd compare-histories data/histories data/histories
    """
    from ingestd.histories.compare import compare_histories as compare  # noqa: PLC0415  # loads polars: not for --help
    from ingestd.manifest.store import ManifestStore  # noqa: PLC0415  # loads polars: not for --help

    queued = ManifestStore(settings.layout).catalog.noted_as("queued")
    waiting = {note.source_file: note.outcome for note in queued}
    result = compare(old, new, waiting=waiting)
    code = exits.OK if result.same else exits.NOT_ALL_WELL
    if as_json:
        say_json({**result.as_dict(), "exit_code": code})
    else:
        for line in result.lines():
            say(line)
    raise typer.Exit(code)


def write_metadata(
    settings: Settings,
    *,
    date: date | None = None,
    proc: str | None = None,
    chip: str | None = None,
    out_csv: Path | None = None,
) -> list[MetadataExport]:
    """Write the metadata of every day, or of the runs that the filters leave.

    Raises:
        UsageError: no manifest, no run matches, filters that a day's file does not allow, or a file that would replace
            a raw file or one of ingestd's own.
    """
    from ingestd.histories import metadata  # noqa: PLC0415  # loads polars: not for --help
    from ingestd.lookup import require_manifest  # noqa: PLC0415  # not for --help
    from ingestd.manifest.view import read_view  # noqa: PLC0415  # loads polars: not for --help
    from ingestd.raw_guard import check_export, check_outside_raw  # noqa: PLC0415  # not for --help

    layout = settings.layout
    if out_csv is not None:
        check_export(out_csv.absolute(), "--out-csv", layout)
    require_manifest(layout)
    return metadata.export_metadata(
        read_view(layout),
        tz=settings.time.local_tz,
        directory=layout.metadata_dir,
        date=date,
        proc=proc,
        chip=chip,
        out_csv=out_csv and out_csv.absolute(),
        check=lambda path: check_outside_raw(path, layout),
    )
