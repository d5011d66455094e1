"""`verify`, `repair`, `rebuild-manifest`, `explain`, `compact`: whether all is well, and what to do if it is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ingestd.cli import exits, report
from ingestd.cli.options import PATHS, STAGING, AsJson, with_settings
from ingestd.cli.output import LONG_LIST, near, progress, say, say_json, say_more
from ingestd.words import count

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from ingestd.settings import Settings
    from ingestd.upkeep.explain import Story
    from ingestd.upkeep.findings import Finding
    from ingestd.upkeep.repair import Repair
    from ingestd.upkeep.verify import Verification

commands = typer.Typer()

SHOWN_PATHS = 5

SHOWN_OF_A_KIND = 5
"""How many findings of each kind `verify` prints if there are more than `LONG_LIST` in all."""

Deep = Annotated[bool, typer.Option("--deep", help="Read every raw file again; compare every cell and header line.")]
RepairDeep = Annotated[bool, typer.Option("--deep", help="Also mend what only `verify --deep` finds.")]
Apply = Annotated[bool, typer.Option("--apply", help="Carry out the plan. Without it, the plan is only shown.")]
From = Annotated[
    Literal["stage", "raw"],
    typer.Option("--from", help="`stage`: from the rows inside the staged Parquet; `raw`: then stage all files again."),
]
Asked = Annotated[
    str, typer.Argument(metavar="FILE|RUN_ID", help="A raw file's path, or a run id or at least its first 6 digits.")
]


@commands.command()
@with_settings(*PATHS)
def verify(settings: Settings, deep: Deep = False, as_json: AsJson = False) -> None:
    """Check what is staged, and change nothing.

    Compare raw files, manifest, staged Parquet and histories with each other. The service may be running.

    Notes are for your information (a raw file that is gone, a copy, a reject); damage is what `ingestd repair` mends.

    Exit codes: 0 nothing is damaged, 1 something is, 2 could not run.

    \b
    Examples:
      ingestd verify
      ingestd verify --deep --json
    """
    from ingestd.lookup import require_raw_root  # noqa: PLC0415  # not for --help
    from ingestd.upkeep import verify as checks  # noqa: PLC0415  # loads polars: not for --help

    require_raw_root(settings.layout)
    with progress("checking") as show:
        done = checks.verify(settings, deep=deep, on_progress=show)
    code = exits.OK if done.clean else exits.NOT_ALL_WELL
    if as_json:
        say_json({**asdict(done), "clean": done.clean, "exit_code": code})
    else:
        _tell_verification(done, deep=deep)
    raise typer.Exit(code)


def _tell_verification(done: Verification, *, deep: bool) -> None:
    for level, style in (("damage", "bold red"), ("note", "bold")):
        _tell_findings([finding for finding in done.findings if finding.level == level], style)
    histories = count(done.histories, "chip history", "chip histories")
    say(f"{count(done.runs, 'run')}, {count(done.raw_files, 'raw file')}, {histories} checked")
    if deep:
        say(f"{count(done.cells, 'cell')} compared with the raw files")
    if done.clean:
        say("Nothing is damaged.", style="bold green")
    else:
        command = "ingestd repair --deep" if deep else "ingestd repair"
        say(f"Something is damaged. Next: `{command}` shows what it would do.", style="bold red")


def _tell_findings(found: Sequence[Finding], style: str) -> None:
    """List findings by kind; of a long list, the first few of each kind, so that no kind hides the others."""
    by_kind: dict[str, list[Finding]] = {}
    for finding in sorted(found, key=lambda finding: (finding.kind, finding.path)):
        by_kind.setdefault(finding.kind, []).append(finding)
    width = max(map(len, by_kind), default=0)
    each = SHOWN_OF_A_KIND if len(found) > LONG_LIST else LONG_LIST
    for kind, alike in by_kind.items():
        for finding in alike[:each]:
            say(f"{finding.path}: {finding.message}", lead=f"{kind:<{width}}  ", style=style)
        say_more(len(alike) - each, lead=f"{kind:<{width}}  ")


@commands.command()
@with_settings(*STAGING, "history_out")
def repair(settings: Settings, apply: Apply = False, deep: RepairDeep = False, as_json: AsJson = False) -> None:
    """Mend what `ingestd verify` calls damage.

    It shows the plan; with --apply, it carries it out. Nothing is deleted. With --apply, no service may be running.

    What is damaged or belongs to no run is moved to `_manifest/aside/<time>/`. The manifest is restored from what is
    left of it and from the staged Parquet. Missing Parquet is staged again from the raw files. A run that lost both its
    row and its Parquet is staged from its raw file by the next `ingestd backfill`.

    Exit codes: 0 nothing is damaged (any more), 1 damage is left, or the plan waits for --apply, 2 could not run.

    \b
    Examples:
      ingestd repair
      ingestd repair --apply
    """
    from ingestd.service.state import service_lock  # noqa: PLC0415  # loads pydantic: not for --help
    from ingestd.upkeep import repair as mending  # noqa: PLC0415  # loads polars: not for --help

    with _without_service(settings, "`ingestd repair --apply`") if apply else nullcontext():
        done = mending.repair(settings, apply=apply, deep=deep)
    open_damage = done.left or (done.steps and not apply)
    code = exits.COULD_NOT_RUN if done.stopped_by else exits.NOT_ALL_WELL if open_damage else exits.OK
    if as_json:
        stopped = done.stopped_by and report.error_as_json(done.stopped_by)
        say_json({**asdict(replace(done, stopped_by=None)), "stopped_by": stopped, "exit_code": code})
    else:
        _tell_repair(done, deep=deep, beside=not apply and service_lock(settings.layout).holder() is not None)
    raise typer.Exit(code)


@contextmanager
def _without_service(settings: Settings, command: str) -> Iterator[None]:
    """Keep a service from running on this data root during the block, which is the work of `command`.

    Raises:
        UsageError: one is running.
    """
    from ingestd.files import is_dir  # noqa: PLC0415  # not for --help
    from ingestd.service.state import service_lock  # noqa: PLC0415  # loads pydantic: not for --help

    if not is_dir(settings.layout.manifest_path.parent):  # nothing is here, and a mistyped name makes nothing
        yield
        return
    with service_lock(settings.layout, command).held(0.0):
        yield


def _tell_repair(done: Repair, *, deep: bool, beside: bool) -> None:
    """Print what a repair did or would do; `beside`: while a service is running."""
    seen = "" if deep else " that `ingestd verify` sees without --deep"
    if not done.steps and not done.left:
        say(f"Nothing{seen} is damaged; there is nothing to do.", style="bold green")
        return
    if done.steps:
        applied = "Stopped during the last of these:" if done.stopped_by else "Done:"
        say(applied if done.applied else "This is the plan:", style="bold")
    for number, step in enumerate(done.steps, 1):
        say(f"{number}. {step.message}")
        for path in step.paths[:SHOWN_PATHS]:
            say(f"     {path}")
        say_more(len(step.paths) - SHOWN_PATHS, lead="     ")
    for finding in done.left[:LONG_LIST]:
        say(f"{finding.path}: {finding.message}", lead="left  ", style="bold red")
    say_more(len(done.left) - LONG_LIST, lead="left  ")
    if done.more_may_follow:
        say("Other damage may show only once the manifest is restored; --apply then repairs that at once.")
    if not done.applied:
        command = "ingestd repair --apply --deep" if deep else "ingestd repair --apply"
        next_step = f" Next: {'stop the service, then ' if beside else ''}`{command}`." if done.steps else ""
        say(f"Nothing was changed.{next_step}", style="bold")
        return
    if done.aside is not None:
        say(f"What was replaced or did not belong is kept in {near(done.aside)}")
    if done.stopped_by is not None:
        exits.complain_of(done.stopped_by)
    elif not done.left:
        say(f"Nothing{seen} is damaged any more.", style="bold green")
    if done.undecided:
        are = "is" if len(done.undecided) == 1 else "are"
        say(
            f"{count(len(done.undecided), 'raw file')} {are} not staged (any more). "
            "Next: `ingestd backfill`, or start the service.",
            style="bold",
        )


@commands.command()
@with_settings(*STAGING, "history_out")
def rebuild_manifest(settings: Settings, source: From = "stage", as_json: AsJson = False) -> None:
    """Make the manifest again from the stage or raw files.

    It has the same rows as before, except for the time of ingest. The old one is kept in `_manifest/aside/<time>/`. No
    service may be running.

    Exit codes: 0 done, 1 done, but some raw files are rejected or failed, 2 could not run.

    \b
    Example:
      ingestd rebuild-manifest --from stage
    """
    from ingestd.files import is_gone  # noqa: PLC0415  # not for --help
    from ingestd.upkeep.rebuild import rebuild_manifest as rebuild  # noqa: PLC0415  # loads polars: not for --help

    with _without_service(settings, "`ingestd rebuild-manifest`"):
        rows, aside, found = rebuild(settings, from_raw=source == "raw")
    code = exits.OK if found is None else report.exit_code(found)
    if as_json:
        staged = None if found is None else report.as_json(found, settings.layout, code)
        say_json({"rows_from_stage": rows, "staged_again": staged, "exit_code": code})
    else:
        say(f"The manifest was rebuilt from the stage: {count(rows, 'row')}, superseded ones included.", style="bold")
        if not is_gone(aside):
            say(f"The old one is kept in {near(aside)}")
        if found is not None:
            say("Then every raw file was staged again:")
            report.tell(found, settings.layout)
    raise typer.Exit(code)


@commands.command()
@with_settings(*PATHS)
def explain(settings: Settings, asked: Asked, as_json: AsJson = False) -> None:
    """Tell the whole story of one raw file or run.

    It shows the raw file, the decisions about it, its Parquet, its manifest row and its history line.

    \b
    Examples:
      ingestd explain 2026-03-12/IVg2026-03-12_1.csv
      ingestd explain a473efd53460229b3363
    """
    from ingestd.ingest.commit import utc_now  # noqa: PLC0415  # loads polars: not for --help
    from ingestd.upkeep import explain as stories  # noqa: PLC0415  # loads polars: not for --help

    story = stories.explain(settings, asked, utc_now())
    if as_json:
        content = asdict(story)
        content["raw"] = story.raw.as_json()
        content["note"] = story.note.model_dump(mode="json") if story.note else None
        content["rows"] = [row.model_dump(mode="json") for row in story.rows]
        say_json(content)
    else:
        _tell_story(story, settings.zone)


def _tell_story(story: Story, zone: ZoneInfo) -> None:
    say(story.source_file, style="bold")
    say(story.verdict)
    say()
    for what, text in (*_raw_lines(story), *_decision_lines(story, zone), *_run_lines(story, zone)):
        say(text, lead=f"{what:<11}")
    if story.events or story.rows:
        say(f"times in {zone.key}")


def _raw_lines(story: Story) -> Iterator[tuple[str, str]]:
    now = story.raw.content
    if now is not None:
        digest = f", SHA-256 {now.sha256[:16]}…" if now.sha256 else ""
        rows = "" if now.rows is None else f"{count(now.rows, 'row')}, "
        yield "raw file", f"{now.size:,} bytes, {rows}{now.state}{digest}"
    else:
        yield "raw file", story.raw.problem or "not there"


def _decision_lines(story: Story, zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    for event in story.events:
        why = event.get("note") or (event.get("reason") or {}).get("code")
        about = f" {event['source_file']}" if event["source_file"] != story.source_file else ""
        at = datetime.fromisoformat(event["at"])
        yield "event", f"{_local(at, zone)}  #{event['seq']} {event['event']}{about}{f': {why}' if why else ''}"
        for kept in event.get("kept", []):
            yield "", f"the data it replaced is kept in {kept}"
    if story.reject is not None:
        line = f", line {story.reject['line']}" if story.reject.get("line") else ""
        yield "reject", f"{story.reject['code']}{line}: {story.reject['message']}"
        yield "", f"next: {report.first_step(story.reject['next_step'], story.source_file)}"


def _run_lines(story: Story, zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    for row in story.rows:
        state = "live" if row.live else f"superseded by {row.superseded_by}"
        began, came = _local(row.start_time_utc, zone), _local(row.ingested_at_utc, zone)
        yield "row", f"{row.run_id}  {row.proc}  {began} ({row.start_time_origin}), ingested {came}, {state}"
        for warning in row.warnings:
            yield "", f"warning: {warning}"
    for staged in story.staged:
        size = staged.get("problem") or f"{staged['size']:,} bytes"
        yield "parquet", f"{staged['path']}  ({size})"
    for entry in story.history:
        what = entry.get("problem") or f"seq {entry['seq']}: {entry['summary']}"
        yield "history", f"{entry['file']}  {what}"


def _local(moment: datetime, zone: ZoneInfo) -> str:
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M:%S}"


@commands.command()
@with_settings("stage_root", "manifest_path")
def compact(settings: Settings, as_json: AsJson = False) -> None:
    """Compact the write-ahead log into manifest.parquet.

    The service and every backfill also do this by themselves.

    \b
    Example:
      ingestd compact
    """
    from ingestd.ingest.commit import opened  # noqa: PLC0415  # loads polars: not for --help
    from ingestd.lookup import require_manifest  # noqa: PLC0415  # not for --help

    require_manifest(settings.layout)
    with opened(settings) as ingest:
        done = ingest.compact()
    path = settings.layout.manifest_path
    place = near(path)
    if as_json:
        say_json({"records": done.records if done else 0, "rows": done.rows if done else None, "manifest": str(path)})
    elif done is None:
        say(f"{place}: nothing to do, the log holds no record")
    else:
        say(f"{place}: {count(done.records, 'record')} compacted, {count(done.rows, 'row')} in all")
    if ingest.reject_problem is not None:
        raise ingest.reject_problem
