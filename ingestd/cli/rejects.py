"""`rejects list`, `rejects show` and `rejects retry`: the files whose content cannot be staged."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingestd.cli import exits, report
from ingestd.cli.options import STAGING, AsJson, with_settings
from ingestd.cli.output import LONG_LIST, cell_width, near, say, say_below, say_json, say_table, say_verbatim
from ingestd.cli.staging import run
from ingestd.cli.typed import command
from ingestd.errors import Corrupt, RejectCode, UsageError
from ingestd.words import count, quoted, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ingestd.backfill.report import Report
    from ingestd.layout import Layout
    from ingestd.manifest.catalog import Catalog
    from ingestd.settings import Settings

commands = typer.Typer()
rejects = typer.Typer(no_args_is_help=True, help="List, explain and retry rejected files.")
commands.add_typer(rejects, name="rejects")

BEFORE_CARET = 60
AFTER_CARET = 40
"""How much of the offending line is shown around the fault, in characters."""

LONGEST_RAW_LINE = 1 << 20

UNKNOWN = "unknown"
"""The code of a reject whose JSON does not tell it."""

File = Annotated[str, typer.Argument(metavar="FILE", help="The raw file: a path, or its path below the raw root.")]
Files = Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="The raw files, named as for `show`.")]
All = Annotated[bool, typer.Option("--all", help="Retry every rejected file.")]


@rejects.command("list")
@with_settings("raw_root", "stage_root", "manifest_path")
def list_rejects(settings: Settings, as_json: AsJson = False) -> None:
    """List every rejected file.

    One line each: file, reject code, line, what is wrong. Those whose file is gone are only counted.

    \b
    Examples:
      ingestd rejects list
      ingestd rejects list --json
    """
    from ingestd.ingest.traces import soon  # noqa: PLC0415  # loads pydantic: not for --help
    from ingestd.lookup import raw_file_is_gone  # noqa: PLC0415  # not for --help

    layout, names = settings.layout, _rejected(_catalog(settings))
    gone = [name for name in names if raw_file_is_gone(layout, name)]
    there = sorted(set(names) - set(gone))
    until = soon()
    found = [_reject(layout, name, until) for name in there]
    if any(one["code"] == UNKNOWN for one in found):
        still = frozenset(_rejected(_catalog(settings)))  # some may have been staged or forgotten while we looked
        found = [one for one in found if one["source_file"] in still]
    if as_json:
        say_json({"rejects": found, "gone": gone})
        return
    if found:
        rows = [[one["source_file"], one["code"], str(one.get("line") or "-"), one["message"]] for one in found]
        say_table(["FILE", "CODE", "LINE", "WHAT IS WRONG"], rows)
    else:
        say("no file is rejected")
    more = " more" if found else ""
    if len(gone) == 1:
        say(f"one{more} rejected file is gone; to forget it: `ingestd rejects retry {quoted(gone[0])}`")
    elif gone:
        say(f"{len(gone):,}{more} rejected files are gone; to forget them: `ingestd rejects retry --all`")


@rejects.command("show")
@with_settings("raw_root", "stage_root", "manifest_path")
def show_reject(settings: Settings, file: File, as_json: AsJson = False) -> None:
    """Show why a file is rejected.

    What is wrong, on which line, what was expected and found, and what to do next.

    \b
    Example:
      ingestd rejects show 2026-03-12/IV2026-03-12_3.csv
    """
    from ingestd.ingest.traces import soon  # noqa: PLC0415  # loads pydantic: not for --help
    from ingestd.lookup import raw_file_is_gone  # noqa: PLC0415  # not for --help

    layout = settings.layout
    reject = _reject(layout, _named(layout, file, _catalog(settings)), soon())
    gone = raw_file_is_gone(layout, reject["source_file"])
    if as_json:
        say_json(reject | {"gone": gone})
        return
    line = reject.get("line")
    path = near(layout.raw_file(reject["source_file"]))
    say(f"{path}{f', line {line}' if line else ''}", style="bold")
    say(f"rejected: {reject['code']}", style="bold red")
    say_below(reject["message"], indent=2)
    binary = _is_binary(reject)
    told = reject | {"found": f"binary data, {count(reject['source_size'], 'byte')}"} if binary else reject
    for key in ("expected", "found"):
        if told.get(key):
            say(told[key], lead=f"  {key + ':':<10}")
    if gone:
        say("  (the file is gone: it was deleted, moved, renamed or put behind a link)")
        say(f"next: put it back, corrected, or forget it: `ingestd rejects retry {quoted(reject['source_file'])}`")
        return
    if not binary:
        _show_line(layout, reject)
    step, _, table = (reject.get("next_step") or "correct the file").partition("\n")
    say_below(f"next: {step}", indent=0)
    if table:
        say_verbatim(table)
    if reject["code"] == RejectCode.NOT_PYMEASURE:  # no edit and no setting makes it a measurement
        return
    say()
    say_below(
        "When the file changes, the service looks at it again at once; without one, the next `ingestd backfill` does.",
        indent=0,
    )
    if "ingestd rejects retry" not in step:
        say("After a change of settings, restart the service if one is running; then:")
        say(f"  {command('rejects retry', reject['source_file'])}")


def _is_binary(reject: dict[str, Any]) -> bool:
    """Tell whether the first line of a file not from PyMeasure is no text: escaped bytes, or not UTF-8."""
    found = reject.get("found", "")
    return reject["code"] == RejectCode.NOT_PYMEASURE and ("\ufffd" in found or "\\x" in found)


@rejects.command("retry")
@with_settings(*STAGING, "history_out")
def retry_rejects(settings: Settings, files: Files = None, every: All = False, as_json: AsJson = False) -> None:
    """Try to stage rejected files again.

    Use it after a change of settings or an upgrade. A file that changed needs no retry: it is looked at again anyway.
    The reject of a file that is gone is forgotten.

    Exit codes as for `ingestd backfill`, but only for these files.

    \b
    Examples:
      ingestd rejects retry 2026-03-12/IV2026-03-12_3.csv
      ingestd rejects retry --all
    """
    from ingestd.ingest.commit import opened  # noqa: PLC0415  # loads polars: not for --help
    from ingestd.lookup import raw_file_is_gone, require_raw_root  # noqa: PLC0415  # not for --help

    if bool(files) == every:
        raise UsageError("which files are meant?", next_step="name them, or give --all (and not both)")
    require_raw_root(settings.layout)
    catalog = _catalog(settings)
    names = _rejected(catalog) if every else sorted({_named(settings.layout, file, catalog) for file in files or ()})
    decided: dict[str, str] = {}
    with exits.StopRequest().listening() as stop:
        with opened(settings) as ingest:
            ingest.forget([name for name in names if raw_file_is_gone(settings.layout, name)])
        found = run(
            settings,
            stop,
            force=True,  # the files themselves may be unchanged
            only=frozenset(names),
            on_record=lambda record: decided.update({record.source_file: record.event.value}),
        )
    _keep_only(found, frozenset(names))
    code = stop.exit_code or report.exit_code(found)
    states = _states(settings, found, names, decided)
    if as_json:
        say_json(report.as_json(found, settings.layout, code) | {"retried": states})
        raise typer.Exit(code)
    report.tell_problems(found)
    told = {"rejected", "failed", *(file.state.value for file in found.waiting)}
    others = [(name, state) for name, state in states.items() if state not in told]
    for name, state in others[:LONG_LIST]:
        say(name, lead=f"{state:<10}")
    hidden = Counter(state for _, state in others[LONG_LIST:])  # asked again, `--json` would not have them any more
    for state, number in hidden.items():
        say(f"... and {number:,} more", lead=f"{state:<10}")
    tried = sum(state not in {"failed", "not tried"} for state in states.values())
    say(f"{count(tried, 'file')} retried, {found.staged} staged")
    report.tell_stop(found)
    raise typer.Exit(code)


def _keep_only(found: Report, names: Collection[str]) -> None:
    """Drop from a report what is not about these files."""
    found.waiting = [file for file in found.waiting if file.source_file in names]
    found.rejected_before = []
    found.passed_over = {}
    found.unreachable = []


def _states(settings: Settings, found: Report, names: Sequence[str], decided: dict[str, str]) -> dict[str, str]:
    """Say in a word what became of each file: the decision about it, or why there is none."""
    from ingestd.lookup import raw_file_is_gone  # noqa: PLC0415  # not for --help

    undecided = {file.source_file: "failed" for file in found.failed}
    undecided |= {file.source_file: file.state.value for file in found.waiting}
    absent = {name: "gone" for name in names if raw_file_is_gone(settings.layout, name)}
    return {name: decided.get(name) or undecided.get(name) or absent.get(name, "not tried") for name in names}


def _catalog(settings: Settings) -> Catalog:
    from ingestd.lookup import require_manifest  # noqa: PLC0415  # not for --help
    from ingestd.manifest.store import ManifestStore  # noqa: PLC0415  # loads polars: not for --help

    require_manifest(settings.layout)
    return ManifestStore(settings.layout).catalog


def _rejected(catalog: Catalog) -> list[str]:
    return sorted(note.source_file for note in catalog.noted_as("rejected"))


def _named(layout: Layout, given: str, catalog: Catalog) -> str:
    """Find the rejected file a person means.

    Raises:
        UsageError: it is not rejected; the message says what it is instead, or names near ones.
    """
    from ingestd.lookup import near_files, refuse_folder, source_file_of  # noqa: PLC0415  # not for --help

    known = _rejected(catalog)
    try:
        name = source_file_of(layout, given, known)
    except UsageError:
        near = near_files(given, known)
        hint = f"did you mean {near}? " if near else ""
        next_step = "`ingestd rejects list` lists those that are, `ingestd explain FILE` says what became of any other"
        raise UsageError(
            "this file is not among the rejects", place=shown(given, 200), next_step=hint + next_step
        ) from None
    if name in known:
        return name
    refuse_folder(layout, name)
    raise UsageError(
        f"this file is not rejected: {_standing(catalog, name)}",
        place=shown(name, 200),
        next_step=f"`ingestd explain {quoted(name)}`",
    )


def _standing(catalog: Catalog, name: str) -> str:
    """Say what is known about a raw file that is there and not rejected."""
    note = catalog.notes.get(name)
    if note is not None and note.outcome == "duplicate":
        return f"it is a copy of run {note.run_id}"
    if note is not None and note.outcome == "queued":
        return "it has no complete row yet"
    runs = catalog.live_at(name)
    return f"it is staged as run {runs[0].run_id}" if runs else "it has not been staged yet"


def _reject(layout: Layout, name: str, until: float) -> dict[str, Any]:
    """Read what is recorded about a reject; after a crash its JSON may be missing for longer than `until`."""
    from ingestd.ingest.traces import read_reject  # noqa: PLC0415  # loads pydantic: not for --help

    try:
        return read_reject(layout, name, until=until)
    except (UsageError, Corrupt):
        return {
            "source_file": name,
            "code": UNKNOWN,
            "message": "its reject JSON is missing or damaged",
            "next_step": f"`ingestd rejects retry {quoted(name)}`",
        }


# ---- the offending line ---------------------------------------------------------------------------------------------


def _show_line(layout: Layout, reject: dict[str, Any]) -> None:
    """Print the offending line of the raw file with a mark below the fault, if file, line and fault are there."""
    number = reject.get("line")
    if not number:
        return
    from ingestd.files import sha256_of  # noqa: PLC0415  # not for --help

    path = layout.raw_file(reject["source_file"])
    try:
        status = path.lstat()
        text, stamp = _line(path, number), (status.st_size, status.st_mtime_ns)
        touched = stamp != (reject.get("source_size"), reject.get("source_mtime_ns"))
        changed = touched and sha256_of(path) != reject.get("source_sha256")
    except OSError as error:
        say(f"  (the file cannot be read now: {error.strerror})")
        return
    if changed:
        say("  (the file has changed since; the service or the next backfill looks at it again)")
        return
    if text is None:
        return
    before, fault, after = _around(text, reject.get("found", ""))
    label = f"{number:>6} | "
    say()
    say_verbatim(f"{label}{before}{fault}{after}")
    if fault:
        margin = " " * (cell_width(label) - 2) + "| "
        say_verbatim(margin + " " * cell_width(before) + "^" * max(1, cell_width(fault)))
    say()


def _line(path: Path, number: int) -> str | None:
    from ingestd.files import open_raw  # noqa: PLC0415  # not for --help

    at = 1
    with os.fdopen(open_raw(path), "rb") as file:
        for piece in iter(lambda: file.readline(LONGEST_RAW_LINE), b""):
            if at == number:
                return piece.rstrip(b"\r\n").decode("utf-8", "replace")
            at += piece.endswith(b"\n")  # a longer line comes in several pieces
    return None


def _around(text: str, found: str) -> tuple[str, str, str]:
    """Split a line into what precedes the fault, the fault and what follows, escaped and cut for reading.

    A fault that is the whole line, or whose text occurs in it more than once, is not marked.
    """
    if not found or text.count(found) != 1 or found == text.strip():
        return shown(text, BEFORE_CARET + AFTER_CARET), "", ""
    at = text.find(found)
    before, after = text[:at], text[at + len(found) :]
    cut = "…" + before[-BEFORE_CARET:] if len(before) > BEFORE_CARET else before
    return shown(cut, 500), shown(found, 500), shown(after, AFTER_CARET)
