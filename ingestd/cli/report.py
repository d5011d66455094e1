"""A backfill's report as lines for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from ingestd.backfill.fate import Fate
from ingestd.cli import exits
from ingestd.cli.output import LONG_LIST, duration, near, note, on_terminal, say, say_below, say_more
from ingestd.words import count, quoted

if TYPE_CHECKING:
    from ingestd.backfill.report import FailedFile, RejectedFile, Report, WaitingFile
    from ingestd.errors import IngestdError
    from ingestd.ingest.lost import LostFile
    from ingestd.layout import Layout

STAGED = {
    Fate.INGESTED: "new",
    Fate.UPDATED: "grown",
    Fate.EDITED: "edited",
    Fate.SUPERSEDED: "with another start time",
    Fate.RESTAGED: "staged again",
}
"""Fate of a file whose content was staged -> what the file was, in words."""

SUMS = {
    "moved: same run, new path": (Fate.MOVED,),
    "with the bytes of a run that is staged already: no second row": (Fate.DUPLICATE,),
    "looked at again: same content": (Fate.UNCHANGED,),
    "known already and unchanged: not opened": (Fate.KNOWN,),
    "waiting: not over yet; looked at again next time": (Fate.WAITING, Fate.WAITING_BEFORE),
    "rejected: see above, or `ingestd rejects list`": (Fate.REJECTED,),
    "rejected earlier and not changed since: `ingestd rejects list`": (Fate.REJECTED_BEFORE, Fate.STILL_REJECTED),
    "failed: see above; tried again next time": (Fate.FAILED,),
    "not looked at yet: the same command goes on there": (Fate.LEFT,),
    "lost: the raw file of a run was emptied or overwritten, see above": (Fate.LOST, Fate.LOST_BEFORE),
    "decided meanwhile by another ingestd, or gone since": (Fate.OVERTAKEN,),
}
"""What became of the files that were not staged, in words -> the fates that are counted together there."""

Item = TypeVar("Item")


def exit_code(report: Report) -> int:
    """Choose the exit code of a backfill that was not stopped by a signal."""
    if report.stopped_by is not None:
        return exits.COULD_NOT_RUN
    bad = report.rejected or report.rejected_before or report.failed or report.lost or report.unreachable
    return exits.NOT_ALL_WELL if bad else exits.OK


JSON_KEYS = {
    "exit_code": "the exit code of the command",
    "dry_run": "whether this was a dry run, which only lists what would be done",
    "raw_root": "the folder of raw files",
    "manifest": "the manifest's file",
    "histories_dir": "the folder of the histories",
    "scanned": "how many raw files there are",
    "known": "how many of them were decided before and are unchanged, and so were not opened",
    "to_do": "dry run only: file -> `new`, `changed` or, with `--force`, `unchanged`",
    "staged": "how many files had their content staged",
    "events": "event -> how many decisions of that kind were made",
    "waiting": "files that are not over yet: `source_file`, `state`, `reason` and its kind `code`, `age_s` (since the "
    "last change), `rows`",
    "rejected": "files rejected now: `source_file`, `code`, `message`, `line`, `expected`, `found`, `next_step`",
    "rejected_before": "files rejected earlier and not changed since",
    "failed": "files that could not be staged for now: `source_file`, `message`, `place`, `next_step`",
    "lost": "raw files of runs, emptied or overwritten: `source_file`, `run_id`, `message`, `next_step`, `copy`",
    "warnings": "file staged now -> the warnings about its content, in words",
    "passed_over": "name that was passed over, such as a link or an unreadable folder -> why",
    "unreachable": "the names in `passed_over` that may hide a measurement",
    "histories": "chips whose history was written",
    "left": "how many files were not looked at because the backfill ended early",
    "interrupted": "whether Ctrl-C or SIGTERM ended it early",
    "stopped_by": "null, or what ended it early: `message`, `place`, `next_step`",
}
"""Key of the JSON object that `--json` prints -> its meaning."""


def as_json(report: Report, layout: Layout, code: int, *, dry_run: bool = False) -> dict[str, Any]:
    """Give the report as values for `json.dumps`, with the keys of `JSON_KEYS`."""
    values = {
        "exit_code": code,
        "dry_run": dry_run,
        "raw_root": str(layout.raw_root),
        "manifest": str(layout.manifest_path),
        "histories_dir": str(layout.histories_dir),
        "events": {event.value: number for event, number in sorted(report.events.items())},
        "waiting": [asdict(file) for file in report.waiting],
        "rejected": [{"source_file": file.source_file, **file.reason.model_dump()} for file in report.rejected],
        "failed": [asdict(file) for file in report.failed],
        "lost": [file._asdict() for file in report.lost],
        "warnings": dict(sorted(report.warnings.items())),
        "stopped_by": report.stopped_by and error_as_json(report.stopped_by),
    }
    return {key: values[key] if key in values else getattr(report, key) for key in JSON_KEYS}


def error_as_json(error: IngestdError) -> dict[str, str]:
    """Give what ended a command early as values for `json.dumps`."""
    return {"message": error.message, "place": error.place, "next_step": error.next_step}


def tell(report: Report, layout: Layout, *, histories: bool = True) -> None:
    """Print what a backfill saw and did: what needs a person first, then the sums, then where everything is."""
    from ingestd.files import is_gone  # noqa: PLC0415  # not for --help

    tell_problems(report)
    _list(sorted(report.warnings.items()), _tell_warned)
    say(f"{near(layout.raw_root)}: {count(report.scanned, 'file')}", style="bold")
    for number, words in _sums(report):
        say(f"{number:>8,}  {words}")
    if report.unreachable:
        say(
            f"{count(len(report.unreachable), 'name')} passed over may hide a measurement: see above",
            style="bold yellow",
        )
    if histories:
        say(f"{count(len(report.histories), 'history', 'histories')} written in {near(layout.histories_dir)}")
    if not is_gone(layout.manifest_path):
        say(f"manifest: {near(layout.manifest_path)}")
    tell_stop(report)


def tell_problems(report: Report) -> None:
    """Print the files that were not staged, each with its reason and what to do."""
    from ingestd.raw.settling import State  # noqa: PLC0415  # not for --help

    _list(report.rejected, _tell_rejected, "`ingestd rejects list`")
    _list(report.failed, _tell_failed)
    _list(report.lost, _tell_lost)
    # What is being measured first, then what was queued last: files given up years ago hide neither.
    _list(sorted(report.waiting, key=lambda file: (file.state is State.QUEUED, file.age_s)), _tell_waiting)
    _tell_passed_over(report)


def tell_stop(report: Report) -> None:
    """Print that the backfill ended early, if it did, and why."""
    if report.interrupted:
        note("stopped before the end; the same command goes on from there")
    if report.stopped_by is not None:
        exits.complain_of(report.stopped_by)


def tell_dry_run(report: Report, layout: Layout) -> None:
    """Print what a backfill would look at."""
    _list(sorted(report.to_do.items()), lambda item: say(item[0], lead=f"{item[1]:<10}", style="bold"))
    _tell_passed_over(report)
    say(f"{near(layout.raw_root)}: {count(report.scanned, 'file')}", style="bold")
    kinds = list(report.to_do.values())
    for number, words in (
        (kinds.count("new"), "new"),
        (kinds.count("changed"), "changed since decided"),
        (report.known, "known and unchanged: would not be opened"),
    ):
        say(f"{number:>8,}  {words}")
    if again := kinds.count("unchanged"):
        say(f"{again:>8,}  known and unchanged: would be opened all the same (--force)")
    say("dry run: nothing was written")


def _tell_passed_over(report: Report) -> None:
    _list(
        sorted(report.passed_over.items()),
        lambda item: say(f"{item[0]}: {item[1]}", lead="passed over  ", style="bold yellow"),
    )


def _sums(report: Report) -> Iterator[tuple[int, str]]:
    fates = report.fates
    kinds = ", ".join(f"{fates[fate]:,} {words}" for fate, words in STAGED.items() if fates[fate])
    yield report.staged, f"staged ({kinds})" if kinds else "staged"
    if report.warnings:
        yield len(report.warnings), "of them with warnings: see above, or `ingestd explain FILE`"
    for words, together in SUMS.items():
        if number := sum(fates[fate] for fate in together):
            yield number, words


def _list(items: Sequence[Item], tell_one: Callable[[Item], None], all_of_them: str = "`--json`") -> None:
    for item in items[:LONG_LIST]:
        tell_one(item)
    say_more(len(items) - LONG_LIST, all_of_them)
    if items:
        say()


def _tell_rejected(file: RejectedFile) -> None:
    reason = file.reason
    line = f", line {reason.line}" if reason.line is not None else ""
    say(f"{file.source_file}{line}", lead="rejected  ", style="bold red")
    say_below(f"{reason.message} [{reason.code}]")
    say_below(f"next: {first_step(reason.next_step, file.source_file)}")


def first_step(next_step: str, source_file: str) -> str:
    """Give the next step of a reject in one line; if a table follows, name the command that prints it."""
    step, _, rest = next_step.partition("\n")
    more = f" (`ingestd rejects show {quoted(source_file)}` prints it)" if rest else ""
    return step.removesuffix(":") + more


def _tell_warned(file: tuple[str, list[str]]) -> None:
    source_file, texts = file
    say(source_file, lead="warning   ", style="bold yellow")
    for text in texts:
        say_below(text)


def _tell_failed(file: FailedFile) -> None:
    say(file.source_file, lead="failed    ", style="bold red")
    say_below(file.message)
    say_below(f"next: {file.next_step}" if file.next_step else "next: it is tried again by the next backfill")


def _tell_lost(file: LostFile) -> None:
    say(file.source_file, lead="lost      ", style="bold red")
    say_below(file.message)
    say_below(f"next: {file.next_step}")


def _tell_waiting(file: WaitingFile) -> None:
    # How long it has been waiting differs each time: that is for people, not for a file of output.
    age = f" (for {duration(file.age_s)})" if on_terminal() and file.age_s > 0 else ""
    say(file.source_file, lead=f"{file.state.value:<10}", style="bold yellow")
    say_below(f"{file.reason}{age}")
