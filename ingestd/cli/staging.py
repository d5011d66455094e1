"""`backfill`, `stage-all` and `full-pipeline`: everything in 01_raw that is settled becomes staged runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ingestd.cli import exits, report
from ingestd.cli.exports import write_metadata
from ingestd.cli.options import STAGING, AsJson, with_settings
from ingestd.cli.output import near, progress, say, say_json
from ingestd.errors import Corrupt, Retry
from ingestd.words import count

if TYPE_CHECKING:
    from ingestd.backfill.report import Report
    from ingestd.manifest.record import Record
    from ingestd.settings import Settings

commands = typer.Typer()

Force = Annotated[bool, typer.Option("--force", help="Stage again what is already staged, from the same raw files.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would be looked at; open and write nothing.")]


@commands.command()
@with_settings(*STAGING, "history_out")
def backfill(settings: Settings, dry_run: DryRun = False, force: Force = False, as_json: AsJson = False) -> None:
    """Stage every finished run that is not staged yet.

    Then write the histories that changed and compact the log. Files that wait, were rejected or failed are listed with
    the reason and what to do. A second backfill looks only at what is new or changed. Ctrl-C (or SIGTERM) finishes the
    current files first, so what was staged is in the manifest.

    Exit codes: 0 all good (files may still wait), 1 some files are rejected, failed, lost their measurement or could
    not be reached, 2 could not run, 130 stopped by Ctrl-C, 143 by SIGTERM.

    \b
    Examples:
      ingestd backfill
      ingestd backfill --dry-run
      ingestd backfill --data-root data --workers 2 --json
    """
    _stage(settings, dry_run=dry_run, force=force, as_json=as_json)


@commands.command()
@with_settings(*STAGING)
def stage_all(settings: Settings, dry_run: DryRun = False, force: Force = False, as_json: AsJson = False) -> None:
    """Do what backfill does, but write no histories.

    The next `ingestd backfill` or `ingestd chip-histories` writes them.

    Exit codes as for `ingestd backfill`.

    \b
    Example:
      ingestd stage-all --raw-root data/01_raw --stage-root data/02_stage
    """
    _stage(settings, dry_run=dry_run, force=force, as_json=as_json, histories=False)


def _stage(settings: Settings, *, dry_run: bool, force: bool, as_json: bool, histories: bool = True) -> NoReturn:
    if dry_run:
        _dry_run(settings, force=force, as_json=as_json)
    with exits.StopRequest().listening() as stop:
        found = run(settings, stop, force=force, histories=histories)
    code = stop.exit_code or report.exit_code(found)
    if as_json:
        say_json(report.as_json(found, settings.layout, code))
    else:
        report.tell(found, settings.layout, histories=histories)
    raise typer.Exit(code)


@commands.command()
@with_settings(*STAGING, "history_out")
def full_pipeline(settings: Settings, force: Force = False, as_json: AsJson = False) -> None:
    """Do what backfill does, and export metadata.

    All histories and every day's metadata.csv are brought up to date, even if they were deleted.

    Exit codes as for `ingestd backfill`.

    \b
    Example:
      ingestd full-pipeline --local-tz America/Santiago
    """
    with exits.StopRequest().listening() as stop:
        found = run(settings, stop, force=force)
        days = [] if found.stopped_by or stop.asked() else _bring_up_to_date(settings, found)
    code = stop.exit_code or report.exit_code(found)
    if as_json:
        say_json(report.as_json(found, settings.layout, code) | {"metadata": days})
    else:
        report.tell(found, settings.layout)
        if days or found.stopped_by is None:
            say(f"metadata of {count(len(days), 'day')} written in {near(settings.layout.metadata_dir)}")
    raise typer.Exit(code)


def _bring_up_to_date(settings: Settings, found: Report) -> list[str]:
    """Write all histories and metadata files that are missing or out of date; return the days written.

    What keeps one from being written is noted in the report, which is told all the same.
    """
    from ingestd.histories.blocked import problem_of  # noqa: PLC0415  # not for --help
    from ingestd.histories.chip import update_histories  # noqa: PLC0415  # loads polars: not for --help

    try:
        changes = update_histories(settings)
        found.histories = sorted({*found.histories, *(change.chip for change in changes if change.changed)})
        found.stopped_by = problem_of(changes)
        exports = write_metadata(settings)
        found.stopped_by = found.stopped_by or problem_of(exports)
        return [export.path.parent.name for export in exports if export.changed]
    except (Retry, Corrupt) as error:
        found.stopped_by = found.stopped_by or error
        return []


def _dry_run(settings: Settings, *, force: bool, as_json: bool) -> NoReturn:
    from ingestd.backfill.run import dry_run  # noqa: PLC0415  # loads polars: not for --help
    from ingestd.lookup import require_raw_root  # noqa: PLC0415  # not for --help

    require_raw_root(settings.layout)
    found = dry_run(settings, force=force)
    if as_json:
        say_json(report.as_json(found, settings.layout, exits.OK, dry_run=True))
    else:
        report.tell_dry_run(found, settings.layout)
    raise typer.Exit(exits.OK)


def run(
    settings: Settings,
    stop: exits.StopRequest,
    *,
    force: bool = False,
    histories: bool = True,
    only: frozenset[str] | None = None,
    on_record: Callable[[Record], None] = lambda _: None,
) -> Report:
    """Run a backfill, with a progress bar on a terminal; `stop` ends it early."""
    from ingestd.backfill.run import Options, backfill  # noqa: PLC0415  # loads polars: not for --help
    from ingestd.lookup import require_raw_root  # noqa: PLC0415  # not for --help

    require_raw_root(settings.layout)
    with progress("staging") as show:
        options = Options(
            force=force, histories=histories, only=only, stop=stop.asked, on_progress=show, on_record=on_record
        )
        return backfill(settings, options)
