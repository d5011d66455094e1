"""`run`, `status`, `tail`: the service, its state and its log."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ingestd.cli.exits import complain_of, is_fault
from ingestd.cli.options import PATHS, AsJson, Chip, with_settings
from ingestd.cli.output import LONG_LIST, amount, duration, note, say, say_json, say_more, say_text
from ingestd.cli.typed import typed
from ingestd.errors import IngestdError, LockHeld, UsageError
from ingestd.words import count

if TYPE_CHECKING:
    from pathlib import Path
    from zoneinfo import ZoneInfo

    from ingestd.service.status_report import StatusReport, WaitingPart
    from ingestd.settings import Settings

commands = typer.Typer()

FOLLOW_S = 0.2
"""How often `tail -f` looks for new lines, in seconds."""

FEW = 5
"""Up to how many pending files `status` lists one by one."""


@commands.command()
@with_settings(*PATHS)
def run(settings: Settings) -> None:
    """Run the service in the foreground.

    It watches 01_raw and stages every run as soon as it is over. If 01_raw is not there yet (a share that is late), the
    service waits for it.

    On SIGTERM, Ctrl-C or when its terminal is closed, it finishes the current run, writes the histories, compacts the
    log and ends. A second SIGTERM or Ctrl-C ends it at once, which is safe. Only one service can run on a data root.
    Every other command but `repair --apply` and `rebuild-manifest` may run beside it.

    Exit codes: 0 stopped, 1 a disk error at the start, another service, or another disk, on this data root, a stop that
    took too long, or an error in ingestd itself (systemd starts it again), 2 a person is needed: a wrong setting, a
    damaged manifest.

    \b
    Example:
      ingestd run --data-root data
    """
    from ingestd.service.daemon import (  # noqa: PLC0415  # loads polars, watchdog and the scheduler
        Exit,
        run_service,
        tell_failure,
    )
    from ingestd.service.logs import configure_logs, to_journal  # noqa: PLC0415  # loads structlog

    logs = configure_logs(
        level=settings.log.level,
        file=settings.layout.log_file,
        stream=sys.stderr,
        journal=to_journal(sys.stderr, os.environ),
        terminal=sys.stderr.isatty(),
        zone=settings.zone,
        max_bytes=None if settings.log.file else int(settings.log.max_mib * 2**20),
        below=settings.layout.stage_root,
        raw_root=settings.layout.raw_root,
        typed=typed,
    )
    try:
        code = int(run_service(settings))
    except LockHeld as error:
        complain_of(error)  # not in the log, which is the holder's
        code = int(Exit.FAILED)
    except UsageError:
        raise
    except IngestdError as error:
        logs.leave_terminal()  # told there once, below, as every command tells it
        code = int(tell_failure(error))
        if sys.stderr.isatty():
            complain_of(error)
    except BaseException as error:
        if not is_fault(error):
            raise
        code = int(tell_failure(error))
    finally:
        logs.close()
    raise typer.Exit(code)


@commands.command()
@with_settings(*PATHS)
def status(settings: Settings, as_json: AsJson = False) -> None:
    """Show the state of the service, and what is waiting.

    It lists the files that wait and why, the last runs, rejects and troubles, and says whether it is safe to power off.
    It works with the service down too.

    Exit codes: 0 all is well, 1 something needs a person (rejects, retries, troubles), 2 could not run, 3 the service
    is not running.

    \b
    Examples:
      ingestd status
      ingestd status --json
    """
    from ingestd.service.status import read_status  # noqa: PLC0415  # loads polars: not for --help

    found = read_status(settings, datetime.now(UTC))
    if as_json:
        say_json({**found.model_dump(mode="json"), "exit_code": int(found.health)})
    else:
        _tell(found, settings.zone)
    raise typer.Exit(int(found.health))


def _tell(found: StatusReport, zone: ZoneInfo) -> None:
    from ingestd.service.state import waits_for, waits_out  # noqa: PLC0415  # loaded by `status` already

    service = found.service
    if service.phase == "down":
        why = service.doing or "new runs wait for it, or for an `ingestd backfill`"
        say(f"is not running: {why}", lead="service   ", style="bold red")
    else:
        told = {words(trouble) for trouble in found.troubles for words in (waits_for, waits_out)}
        doing = "waiting until the trouble below is over" if service.doing in told else service.doing
        said = f" (pid {service.pid} on {service.host}): {doing}" if service.pid else ""
        say(f"{service.phase}{said}", lead="service   ", style="bold green")
        if service.watching and service.watching not in told:
            by = service.watching
            say(by if by.startswith("waiting ") else f"watching {by}", lead="          ")
        if service.changed_config:
            said = f"{service.changed_config} is no longer what the service read at its start"
            say(f"{said}: restart it (`sudo systemctl restart ingestd`)", lead="          ", style="bold yellow")
    answer, style = ("yes", "bold green") if found.safe_to_power_off else ("no", "bold red")
    say(f"safe to power off: {answer} ({found.safe_reason})", lead="power     ", style=style)
    free = "" if found.free_bytes is None else f"; {amount(found.free_bytes)} free"
    without = f" ({found.runs_without_raw_file:,} without a raw file)" if found.runs_without_raw_file else ""
    say(
        f"{count(found.runs, 'run')}{without}, {count(found.log_records, 'record')} in the log{free}",
        lead="manifest  ",
        style="bold",
    )
    for trouble in found.troubles[:LONG_LIST]:
        say(f"{trouble.place}: {trouble.message}", lead="trouble   ", style="bold red")
        say(f"next: {trouble.next_step}", lead="          ")
    say_more(len(found.troubles) - LONG_LIST, lead="          ")
    _tell_waiting(found.waiting)
    for reject in found.rejects[:LONG_LIST]:
        earlier = f"  (run {reject.run_id}, staged from it before, stays live)" if reject.run_id else ""
        say(f"{reject.source_file}  {reject.code}{earlier}", lead="rejected  ", style="bold yellow")
    if found.rejects:
        say_more(len(found.rejects) - LONG_LIST, "`ingestd rejects list`", lead="          ")
        say("`ingestd rejects show FILE` tells why", lead="          ")
    for last in found.last_runs:
        began = last.start_time_utc.astimezone(zone)
        say(f"{last.source_file}  measured {began:%Y-%m-%d %H:%M:%S}", lead="last run  ", style="bold")
        say(last.summary, lead="          ")
    if found.last_runs:
        say(f"times in {zone.key}", lead="          ")


def _tell_waiting(waiting: list[WaitingPart]) -> None:
    """List what waits: first what needs a person or is being measured, last and in brief what is only pending."""
    from ingestd.raw.settling import State  # noqa: PLC0415  # loaded by `status` already
    from ingestd.service.status_report import PENDING, RETRYING  # noqa: PLC0415  # loaded by `status` already

    order = (RETRYING, State.RUNNING, State.QUEUED)
    pending = [file for file in waiting if file.state == PENDING]
    others = [file for file in waiting if file.state != PENDING]
    others.sort(key=lambda file: (order.index(file.state), file.age_s))  # files given up years ago hide no new one
    shown = others[:LONG_LIST] + (pending if len(pending) <= FEW else [])
    for file in shown:
        since = (
            f" for {duration(file.age_s)}"
            if file.state == State.QUEUED
            else f", last change {duration(file.age_s)} ago"
        )
        if file.age_s < 0:
            since = ", dated in the future"
        rows = "" if file.rows is None or file.state != State.RUNNING else f", {count(file.rows, 'row')} so far"
        say(f"{file.source_file}  {file.state}{rows}{since}: {file.reason}", lead="waiting   ", style="bold")
        if file.next_step:
            say(f"next: {file.next_step}", lead="          ")
    say_more(len(others) - LONG_LIST, lead="          ")
    if len(pending) > FEW:
        taken = "over, and not staged yet: the service or the next `ingestd backfill` takes them"
        say(f"{len(pending):,} files  pending: {taken}; `--json` lists all", lead="waiting   ", style="bold")


Follow = Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new lines until Ctrl-C.")]
Lines = Annotated[int, typer.Option("--lines", "-n", min=0, metavar="N", help="Start with the last N lines.")]
Level = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option("--level", help="Only lines of this level or above."),
]


@commands.command()
@with_settings("stage_root", "manifest_path", "local_tz")
def tail(settings: Settings, follow: Follow = False, lines: Lines = 20, level: Level = None, chip: Chip = None) -> None:
    """Show the service's log in readable form.

    One line per decision: local time, what was decided, which file and chip.

    \b
    Examples:
      ingestd tail -f
      ingestd tail -n 100 --level warning
      ingestd tail --chip Biotite3
    """
    from ingestd import files  # noqa: PLC0415  # not for --help
    from ingestd.service.tail import follow_log, read_log, render_line  # noqa: PLC0415  # not for --help

    path = settings.layout.log_file
    if not files.exists(path):
        _tell_of_no_log(path, follow=follow)
    found = (
        follow_log(path, last=lines, level=level, chip=chip, wait=_wait_a_moment)
        if follow
        else read_log(path, last=lines, level=level, chip=chip)
    )
    shown = 0
    for shown, line in enumerate(found, start=1):
        if shown == 1:
            note(f"times in {settings.zone.key}")
        say_text(render_line(line, settings.zone))
    if level is not None and lines and not shown:
        note(f"no line of the log is at level {level} or above")


def _tell_of_no_log(path: Path, *, follow: bool) -> None:
    words = "the service has not logged anything here yet"
    if follow:  # the service may be started afterwards; or this is the wrong place, and nothing would ever come
        note(f"{path}: {words}; waiting for its first line (if a service is running, check --data-root)")
        return
    raise UsageError(
        words,
        place=str(path),
        next_step="start it (`ingestd run`), or check --data-root; a backfill reports on the terminal instead",
    )


def _wait_a_moment() -> bool:
    sys.stdout.flush()
    time.sleep(FOLLOW_S)
    return True
